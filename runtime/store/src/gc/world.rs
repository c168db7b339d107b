//! Everything in the index that says what needs what, read at once, and what follows from it.

use std::collections::{HashMap, HashSet};

use rgraph_ir::SnapshotId;

use crate::entry::{Entry, Kind};
use crate::index::{Connection, bytes32, opt_bytes32, opt_size, size};
use crate::lease::Holds;
use crate::mounts::spoken;

/// A snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snap {
    pub(crate) id: u64,
    pub(crate) parent: Option<u64>,
    pub(crate) diff: Option<[u8; 32]>,
    pub(crate) on_disk: bool,
    pub(crate) size: Option<u64>,
    pub(crate) description: String,
    pub(crate) created: i64,
}

/// A cache result.
#[derive(Debug, Clone)]
pub(crate) struct Res {
    pub(crate) key: [u8; 32],
    pub(crate) outputs: Vec<u64>,
    pub(crate) used: i64,
    /// Its last use in the order of uses.
    pub(crate) tick: i64,
    pub(crate) took_ms: Option<u64>,
}

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct Img {
    pub(crate) manifest: [u8; 32],
    config: [u8; 32],
    layers: Vec<[u8; 32]>,
    snapshot: Option<u64>,
    /// When it came.
    added: i64,
}

/// A cache mount.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) dir: String,
    pub(crate) id: String,
    pub(crate) size: Option<u64>,
    pub(crate) created: i64,
    pub(crate) used: i64,
    pub(crate) tick: i64,
}

impl Mount {
    pub(crate) fn entry(&self, size: u64, in_use: bool) -> Entry {
        let (name, which) = spoken(&self.id);
        Entry {
            id: name.to_owned(),
            kind: Kind::CacheMount,
            size,
            created: self.created,
            used: Some(self.used),
            parents: Vec::new(),
            description: match which {
                None => format!("cache mount {name}"),
                Some(_) => format!("cache mount {name} (one of several of that id)"),
            },
            in_use,
            shared: false,
            reclaimable: !in_use,
        }
    }
}

/// All rows that matter.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) snaps: HashMap<u64, Snap>,
    /// Digest to (seq, size).
    pub(crate) blobs: HashMap<[u8; 32], (u64, u64)>,
    pub(crate) links: HashMap<[u8; 32], Vec<[u8; 32]>>,
    pub(crate) layers: HashMap<[u8; 32], Vec<[u8; 32]>>,
    pub(crate) results: Vec<Res>,
    pub(crate) images: Vec<Img>,
    pub(crate) tags: HashSet<[u8; 32]>,
    /// What registries said that names mean.
    pub(crate) remote: HashSet<[u8; 32]>,
    pub(crate) mounts: Vec<Mount>,
    /// The number of the last use.
    pub(crate) tick: i64,
    /// What the clock says.
    pub(crate) now: i64,
}

impl World {
    pub(crate) fn read(c: &Connection) -> rusqlite::Result<Self> {
        let mut w = Self::default();
        (w.tick, w.now) = c.query_row(
            "SELECT (SELECT ifnull(max(value), 0) FROM meta WHERE name = 'tick'), unixepoch()",
            [],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )?;
        let mut s = c.prepare(
            "SELECT id, parent, diff_id, on_disk, size, description, created FROM snapshots",
        )?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let snap = Snap {
                id: size(r, 0)?,
                parent: opt_size(r, 1)?,
                diff: opt_bytes32(r, 2)?,
                on_disk: r.get(3)?,
                size: opt_size(r, 4)?,
                description: r.get(5)?,
                created: r.get(6)?,
            };
            w.snaps.insert(snap.id, snap);
        }
        let mut s = c.prepare("SELECT digest, seq, size FROM blobs")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.blobs.insert(bytes32(r, 0)?, (size(r, 1)?, size(r, 2)?));
        }
        for (sql, map) in [
            ("SELECT parent, child FROM blob_links", &mut w.links),
            ("SELECT diff_id, digest FROM layer_blobs", &mut w.layers),
        ] {
            let mut s = c.prepare(sql)?;
            let mut rows = s.query([])?;
            while let Some(r) = rows.next()? {
                map.entry(bytes32(r, 0)?).or_default().push(bytes32(r, 1)?);
            }
        }
        let mut s =
            c.prepare("SELECT key, outputs, used, tick, took_ms FROM results ORDER BY seq")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let packed: Vec<u8> = r.get(1)?;
            let outputs =
                packed.as_chunks::<8>().0.iter().map(|c| u64::from_be_bytes(*c)).collect();
            w.results.push(Res {
                key: bytes32(r, 0)?,
                outputs,
                used: r.get(2)?,
                tick: r.get(3)?,
                took_ms: opt_size(r, 4)?,
            });
        }
        let mut s = c.prepare("SELECT manifest, config, layers, snapshot, added FROM images")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let layers: Vec<u8> = r.get(2)?;
            w.images.push(Img {
                manifest: bytes32(r, 0)?,
                config: bytes32(r, 1)?,
                layers: layers.as_chunks::<32>().0.to_vec(),
                snapshot: opt_size(r, 3)?,
                added: r.get(4)?,
            });
        }
        let mut s = c.prepare("SELECT manifest FROM tags")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.tags.insert(bytes32(r, 0)?);
        }
        let mut s = c.prepare("SELECT manifest FROM remote_tags")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.remote.insert(bytes32(r, 0)?);
        }
        let mut s =
            c.prepare("SELECT dir, id, size, created, used, tick FROM cache_mounts ORDER BY dir")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.mounts.push(Mount {
                dir: r.get(0)?,
                id: r.get(1)?,
                size: opt_size(r, 2)?,
                created: r.get(3)?,
                used: r.get(4)?,
                tick: r.get(5)?,
            });
        }
        Ok(w)
    }

    /// An image of a snapshot, under a tag.
    #[cfg(test)]
    pub(crate) fn add_image(&mut self, manifest: [u8; 32], snapshot: u64) {
        let snapshot = Some(snapshot);
        self.images.push(Img { manifest, config: [0; 32], layers: Vec::new(), snapshot, added: 0 });
        self.tags.insert(manifest);
    }

    /// Seconds since a moment. A moment that is yet to come was no more than now.
    pub(crate) fn idle(&self, then: i64) -> u64 {
        u64::try_from(self.now.saturating_sub(then)).unwrap_or(0)
    }

    /// A result whose outputs all have a row.
    pub(crate) fn complete(&self, r: &Res) -> bool {
        r.outputs.iter().all(|o| self.snaps.contains_key(o))
    }

    /// A layer's bytes can be had, here or from where they came.
    pub(crate) fn has_form(&self, id: u64) -> bool {
        let diff = self.snaps.get(&id).and_then(|s| s.diff);
        diff.and_then(|d| self.layers.get(&d)).is_some_and(|blobs| !blobs.is_empty())
    }

    /// Blobs of a layer that have to be kept with it. Its plain tar is none of them where a folder
    /// gives the same tar again: it was made for some archive.
    pub(crate) fn layer_blobs(&self, s: &Snap) -> impl Iterator<Item = &[u8; 32]> {
        let diff = s.diff;
        let again = s.on_disk;
        let blobs = diff.and_then(|d| self.layers.get(&d)).into_iter().flatten();
        blobs.filter(move |b| !(again && Some(**b) == diff))
    }
}

/// What is needed by something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) snaps: HashSet<u64>,
    pub(crate) blobs: HashSet<[u8; 32]>,
    pub(crate) diffs: HashSet<[u8; 32]>,
    pub(crate) results: HashSet<[u8; 32]>,
    pub(crate) images: HashSet<[u8; 32]>,
}

impl Live {
    /// A snapshot and what it lies on.
    pub(crate) fn snap(&mut self, w: &World, id: u64) {
        let mut next = Some(id);
        while let Some(s) = next.and_then(|id| w.snaps.get(&id)) {
            if !self.snaps.insert(s.id) {
                return;
            }
            self.diffs.extend(s.diff);
            for b in w.layer_blobs(s) {
                self.blob(w, *b);
            }
            next = s.parent;
        }
    }

    /// A blob and what it names.
    pub(crate) fn blob(&mut self, w: &World, d: [u8; 32]) {
        let mut todo = vec![d];
        while let Some(d) = todo.pop() {
            if self.blobs.insert(d) {
                todo.extend(w.links.get(&d).into_iter().flatten());
            }
        }
    }

    fn image(&mut self, w: &World, i: &Img) {
        self.images.insert(i.manifest);
        self.blob(w, i.manifest);
        self.blob(w, i.config);
        let snap = i.snapshot.filter(|s| w.snaps.contains_key(s));
        if let Some(s) = snap {
            self.snap(w, s);
        }
        for d in &i.layers {
            // Without folders only the bytes are left of them.
            if self.diffs.insert(*d) || snap.is_none() {
                for b in w.layers.get(d).into_iter().flatten() {
                    self.blob(w, *b);
                }
            }
        }
    }

    /// What live builds hold.
    pub(crate) fn holds(&mut self, w: &World, holds: &[Holds]) {
        for h in holds {
            for id in w.snaps.keys().filter(|id| **id > h.after_snapshot) {
                self.snap(w, *id);
            }
            for SnapshotId(id) in &h.snapshots {
                self.snap(w, *id);
            }
            for (d, _) in w.blobs.iter().filter(|(_, (seq, _))| *seq > h.after_blob) {
                self.blob(w, *d);
            }
            for d in &h.blobs {
                self.blob(w, *d.as_bytes());
            }
        }
    }

    /// What tags and images keep. Images without a name count too, unless they have been here for
    /// `untagged` seconds and no live build has them.
    pub(crate) fn images(&mut self, w: &World, held: &Self, untagged: Option<u64>) {
        for t in &w.tags {
            self.blob(w, *t);
        }
        // Bases, with what was fetched of them: images without a name.
        for t in w.remote.iter().filter(|_| untagged.is_none()) {
            self.blob(w, *t);
        }
        for i in &w.images {
            let may_go = untagged.is_some_and(|age| w.idle(i.added) >= age);
            let named = [&self.blobs, &held.blobs].iter().any(|b| b.contains(&i.manifest));
            if !may_go || named {
                self.image(w, i);
            }
        }
    }

    /// What the other needs too.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.snaps.extend(&other.snaps);
        self.blobs.extend(&other.blobs);
        self.diffs.extend(&other.diffs);
        self.results.extend(&other.results);
        self.images.extend(&other.images);
    }
}
