//! Images and the names that keep them: rows over blobs of manifests, configs and layers.

use std::sync::atomic::Ordering;

use rgraph_ir::{BlobDigest, ConfigDigest, DiffId, ManifestDigest, SnapshotId};

use crate::error::Result;
use crate::index::{
    self, OptionalExtension as _, Row, bytes32, full_sync, int, opt_size, params, size, sql,
};
use crate::record::{ImageFile, RECORD_FORMAT, RefFile};
use crate::store::Store;

/// What a tag is to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// A manifest, or an index whose manifests were [linked](Store::link_blobs).
    pub manifest: ManifestDigest,
}

/// A tag in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// The full name.
    pub name: String,
    /// What it means.
    pub manifest: ManifestDigest,
    /// Seconds since 1970, as the clock stood.
    pub updated: i64,
}

/// An image in the store. Its manifest and config are blobs; its layers may be blobs, snapshots or
/// both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The manifest.
    pub manifest: ManifestDigest,
    /// The config; Docker's image id.
    pub config: ConfigDigest,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Bytes of all layers as they count for people.
    pub size: u64,
    /// The config's time, as text.
    pub created: Option<String>,
    /// The layers, bottom first.
    pub layers: Vec<DiffId>,
    /// The root file system.
    pub snapshot: Option<SnapshotId>,
}

const COLUMNS: &str = "manifest, config, platform, size, created, layers, snapshot";

fn image(r: &Row<'_>) -> rusqlite::Result<ImageRow> {
    let layers: Vec<u8> = r.get(5)?;
    Ok(ImageRow {
        manifest: ManifestDigest::from_bytes(bytes32(r, 0)?),
        config: ConfigDigest::from_bytes(bytes32(r, 1)?),
        platform: r.get(2)?,
        size: size(r, 3)?,
        created: r.get(4)?,
        layers: layers.as_chunks::<32>().0.iter().map(|c| DiffId::from_bytes(*c)).collect(),
        snapshot: opt_size(r, 6)?.map(SnapshotId),
    })
}

fn tag(r: &Row<'_>) -> rusqlite::Result<TagRow> {
    Ok(TagRow {
        name: r.get(0)?,
        manifest: ManifestDigest::from_bytes(bytes32(r, 1)?),
        updated: r.get(2)?,
    })
}

impl Store {
    /// Moves a tag, durably: after this returns, a power loss keeps it, and with it every row
    /// written before. The bytes it needs are the caller's to [make durable](Store::make_durable)
    /// first. A tag that means this already costs nothing when this handle wrote nothing either.
    pub fn tag(&self, name: &str, image: &ImageRef) -> Result<()> {
        self.need_write()?;
        let known = self.resolve_tag(name)?.is_some_and(|t| t.manifest == image.manifest);
        let alone = self.remote_tag(name)?.is_none_or(|m| m == image.manifest);
        if known && alone && !self.unsynced.load(Ordering::Relaxed) {
            return Ok(());
        }
        let file =
            RefFile { format: RECORD_FORMAT, name: name.to_owned(), manifest: image.manifest };
        let mut session = self.session()?;
        let path = self.layout().ref_file(name);
        let mut written = Ok(());
        full_sync(session.conn(), |c| {
            let t = index::write(c)?;
            // Now that others cannot write: of several that move one tag, row and file are of the
            // same.
            written = self.write_record(&path, &file, true);
            if written.is_err() {
                return Ok(());
            }
            t.execute(
                "INSERT INTO tags(name, manifest) VALUES(?1, ?2)
                 ON CONFLICT(name) DO UPDATE SET manifest = ?2, updated = unixepoch()",
                params![name, image.manifest.as_bytes()],
            )?;
            // The name has its meaning from here now.
            t.execute("DELETE FROM remote_tags WHERE name = ?1", params![name])?;
            t.commit()
        })
        .map_err(sql(self.layout(), "record a tag"))?;
        written?;
        self.unsynced.store(false, Ordering::Relaxed);
        self.checkpoint_if_long(&mut session)
    }

    /// Removes a tag, and what its registry said of that name. `false`: there was none.
    pub fn untag(&self, name: &str) -> Result<bool> {
        self.need_write()?;
        let mut session = self.session()?;
        let path = self.layout().ref_file(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.layout().err("remove", &path, e));
            }
            _ => {}
        }
        full_sync(session.conn(), |c| {
            let t = index::write(c)?;
            let n = t.execute("DELETE FROM tags WHERE name = ?1", params![name])?;
            t.execute("DELETE FROM remote_tags WHERE name = ?1", params![name])?;
            t.commit()?;
            Ok(n > 0)
        })
        .map_err(sql(self.layout(), "remove a tag"))
    }

    /// What a tag means.
    pub fn resolve_tag(&self, name: &str) -> Result<Option<TagRow>> {
        self.read("look up a tag", |c| {
            c.prepare_cached("SELECT name, manifest, updated FROM tags WHERE name = ?1")?
                .query_row(params![name], tag)
                .optional()
        })
    }

    /// All tags by name.
    pub fn tags(&self) -> Result<Vec<TagRow>> {
        self.read("list tags", |c| {
            c.prepare_cached("SELECT name, manifest, updated FROM tags ORDER BY name")?
                .query_map([], tag)?
                .collect()
        })
    }

    /// Records an image. Writes nothing when it is known as it is.
    pub fn put_image(&self, i: &ImageRow) -> Result<()> {
        if self.image_record(&i.manifest)?.as_ref() == Some(i) {
            return Ok(());
        }
        let layers: Vec<u8> = i.layers.iter().flat_map(|d| *d.as_bytes()).collect();
        self.write("record an image", |t| {
            t.prepare_cached(
                "INSERT OR REPLACE INTO
                   images(manifest, config, platform, size, created, layers, snapshot)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                i.manifest.as_bytes(),
                i.config.as_bytes(),
                i.platform,
                int(i.size),
                i.created,
                layers,
                i.snapshot.map(|s| int(s.0)),
            ])?;
            let path = self.layout().image_file(&i.manifest);
            Ok(self.write_record(&path, &self.image_file_of(i), false)?)
        })?;
        self.hold_blob(&i.manifest.into())
    }

    /// What repair's copy of an image says.
    pub(crate) fn image_file_of(&self, i: &ImageRow) -> ImageFile {
        ImageFile {
            format: RECORD_FORMAT,
            manifest: i.manifest,
            config: i.config,
            platform: i.platform.clone(),
            size: i.size,
            created: i.created.clone(),
            layers: i.layers.clone(),
            snapshot: i.snapshot.map(|s| s.0),
        }
    }

    /// The image of a manifest. Its snapshot may be gone ([`Store::snapshot`] tells).
    pub fn image_record(&self, m: &ManifestDigest) -> Result<Option<ImageRow>> {
        let session = self.session()?;
        let found = session.read("look up an image", |c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM images WHERE manifest = ?1"))?
                .query_row(params![m.as_bytes()], image)
                .optional()
        })?;
        if found.is_some() {
            self.hold_blob(&(*m).into())?;
        }
        Ok(found)
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<ImageRow>> {
        self.read("list images", |c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM images ORDER BY added DESC, manifest"
            ))?
            .query_map([], image)?
            .collect()
        })
    }

    /// Forgets an image; what only it needed goes with the next [`Store::gc`]. `false`: there was
    /// none. Its tags are the caller's to remove first.
    pub fn forget_image(&self, m: &ManifestDigest) -> Result<bool> {
        self.need_write()?;
        let path = self.layout().image_file(m);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.layout().err("remove", &path, e));
            }
            _ => {}
        }
        self.write("forget an image", |t| {
            Ok(t.execute("DELETE FROM images WHERE manifest = ?1", params![m.as_bytes()])? > 0)
        })
    }

    /// What a name meant when its registry was last asked: an index, or a manifest. It counts more
    /// than the tag of that name, which [`Store::tag`] sees to.
    pub fn remote_tag(&self, name: &str) -> Result<Option<ManifestDigest>> {
        self.read("look up a remote tag", |c| {
            c.prepare_cached("SELECT manifest FROM remote_tags WHERE name = ?1 AND platform = ''")?
                .query_row(params![name], |r| bytes32(r, 0))
                .optional()
        })
        .map(|o| o.map(ManifestDigest::from_bytes))
    }

    /// Remembers that. Writes nothing when it is known.
    pub fn put_remote_tag(&self, name: &str, m: &ManifestDigest) -> Result<()> {
        if self.remote_tag(name)? == Some(*m) {
            return Ok(());
        }
        self.write("record a remote tag", |t| {
            t.execute(
                "INSERT OR REPLACE INTO remote_tags(name, platform, manifest) VALUES(?1, '', ?2)",
                params![name, m.as_bytes()],
            )?;
            Ok(())
        })
    }

    /// The blobs linked below `parent`.
    pub fn linked_blobs(&self, parent: &BlobDigest) -> Result<Vec<BlobDigest>> {
        self.read("look up links", |c| {
            c.prepare_cached("SELECT child FROM blob_links WHERE parent = ?1 ORDER BY child")?
                .query_map(params![parent.as_bytes()], |r| {
                    bytes32(r, 0).map(BlobDigest::from_bytes)
                })?
                .collect()
        })
    }
}
