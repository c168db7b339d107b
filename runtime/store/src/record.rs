//! The files beside the objects from which the index can be made again. Written by rename, never
//! synced on their own; only repair reads them. Their structs are a storage format: a change needs
//! a new [`RECORD_FORMAT`].

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rgraph_ir::{
    BlobDigest, CacheKey, ConfigDigest, DiffId, ManifestDigest, SnapshotId, TreeDigest,
};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layer::{BlobRef, LayerInfo};
use crate::store::Store;

/// The number in each file.
///
/// 2: a result says how long its step took; cache mounts have a file.
pub(crate) const RECORD_FORMAT: u32 = 2;

/// `snapshots/<id>/record.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotFile {
    pub(crate) format: u32,
    pub(crate) id: u64,
    /// The boot it was made in, hex.
    pub(crate) boot: String,
    pub(crate) parent: Option<u64>,
    pub(crate) description: String,
    pub(crate) layer: Option<LayerFile>,
}

/// The layer in a [`SnapshotFile`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerFile {
    pub(crate) diff_id: DiffId,
    pub(crate) tar_size: Option<u64>,
    pub(crate) blobs: Vec<BlobFile>,
}

/// One form of a layer in a [`LayerFile`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BlobFile {
    pub(crate) digest: BlobDigest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

/// `snapshots/<id>/result.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResultFile {
    pub(crate) format: u32,
    pub(crate) key: CacheKey,
    pub(crate) canonical: CacheKey,
    /// A blake3 digest without a type of its own; [`TreeDigest`] lends its text form.
    pub(crate) op: TreeDigest,
    pub(crate) tree: Option<TreeDigest>,
    pub(crate) outputs: Vec<u64>,
    pub(crate) slot: String,
    /// The recipe's bytes in hex.
    pub(crate) recipe: String,
    /// Seconds since 1970; 0, and not written: nobody knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) created: i64,
    /// How long the step ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) took_ms: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// `cache-mounts/<dir>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CacheMountFile {
    pub(crate) format: u32,
    /// What the folder's name is the hash of.
    pub(crate) id: String,
}

/// `refs/<hash>`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RefFile {
    pub(crate) format: u32,
    pub(crate) name: String,
    pub(crate) manifest: ManifestDigest,
}

/// `refs/image-<manifest>`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    pub(crate) format: u32,
    pub(crate) manifest: ManifestDigest,
    pub(crate) config: ConfigDigest,
    pub(crate) platform: String,
    pub(crate) size: u64,
    pub(crate) created: Option<String>,
    pub(crate) layers: Vec<DiffId>,
    pub(crate) snapshot: Option<u64>,
}

impl ImageFile {
    /// Says the same, in whatever format it was written.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let Self { format: _, manifest, config, platform, size, created, layers, snapshot } = self;
        *manifest == other.manifest
            && *config == other.config
            && *platform == other.platform
            && *size == other.size
            && *created == other.created
            && *layers == other.layers
            && *snapshot == other.snapshot
    }
}

/// Bytes as hex digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// The bytes of [`to_hex`].
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|p| p[0] << 4 | p[1]).collect())
}

impl Store {
    pub(crate) fn snapshot_file(
        &self,
        id: SnapshotId,
        parent: Option<SnapshotId>,
        description: &str,
        layer: Option<&LayerInfo>,
    ) -> SnapshotFile {
        let blob = |b: &BlobRef| BlobFile {
            digest: b.digest,
            size: b.size,
            media_type: b.media_type.clone(),
        };
        SnapshotFile {
            format: RECORD_FORMAT,
            id: id.0,
            boot: to_hex(&self.boot_id()),
            parent: parent.map(|p| p.0),
            description: description.to_owned(),
            layer: layer.map(|l| LayerFile {
                diff_id: l.diff_id,
                tar_size: l.tar_size,
                blobs: l.blob.iter().map(blob).collect(),
            }),
        }
    }

    /// Writes a record as `path`, whole or not at all; `sync` before it gets its name.
    pub(crate) fn write_record<T: Serialize>(&self, path: &Path, v: &T, sync: bool) -> Result<()> {
        // Locked like a blob in progress, or a cleaner would take it for a left-over.
        let (mut file, tmp) = self.create_locked(&self.layout().tmp())?;
        let mut write = || -> std::io::Result<()> {
            let data = serde_json::to_vec(v).map_err(std::io::Error::other)?;
            file.write_all(&data)?;
            if sync {
                file.sync_data()?;
            } else {
                // ext4 writes data out at once when a rename replaces a file (some milliseconds).
                // Without a sync the old record is no better than none.
                let _ = fs::remove_file(path);
            }
            fs::rename(&tmp, path)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&tmp);
            self.layout().err("write", path, e)
        })
    }
}

/// Writes a record over an older one that is not longer, by one call: no new inode, which is the
/// dear part of a small file. False: it is longer, or not there.
pub(crate) fn overwrite_record<T: Serialize>(path: &Path, v: &T) -> std::io::Result<bool> {
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
    let data = serde_json::to_vec(v).map_err(std::io::Error::other)?;
    let open = fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let file = match open {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        f => f?,
    };
    if file.metadata()?.len() > data.len() as u64 {
        return Ok(false);
    }
    file.write_all_at(&data, 0)?;
    Ok(true)
}

#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

/// Reads a record of this format or an older one; anything else is no record.
pub(crate) fn read_record<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    parse(&read(path)?)
}

/// As [`read_record`], of a file that has every byte as it was written.
pub(crate) fn read_whole_record<T: for<'de> Deserialize<'de> + Serialize>(
    path: &Path,
) -> Option<T> {
    let data = read(path)?;
    let record = parse(&data)?;
    (serde_json::to_vec(&record).ok()? == data).then_some(record)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    const MAX_RECORD: u64 = 64 << 20;
    let mut data = Vec::new();
    let f = crate::layout::open_nofollow(path).ok()?;
    f.take(MAX_RECORD).read_to_end(&mut data).ok()?;
    Some(data)
}

fn parse<T: for<'de> Deserialize<'de>>(data: &[u8]) -> Option<T> {
    let AnyFormat { format } = serde_json::from_slice(data).ok()?;
    if !(1..=RECORD_FORMAT).contains(&format) {
        return None;
    }
    serde_json::from_slice(data).ok()
}
