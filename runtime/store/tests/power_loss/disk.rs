//! A file system in memory, made of operations.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

/// The root folder's number; others are given in order.
pub const ROOT: u32 = 0;

/// One thing asked of the file system.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new file or folder, without a name yet.
    New { ino: u32, folder: bool },
    /// A name for it.
    Link { dir: u32, name: String, ino: u32 },
    /// A name taken away.
    Unlink { dir: u32, name: String },
    /// A name moved: both or neither.
    Rename { from: (u32, String), to: (u32, String), ino: u32 },
    /// Bytes.
    Write { ino: u32, at: usize, data: Vec<u8> },
    /// A length.
    Resize { ino: u32, len: usize },
    /// `fsync` or `fdatasync` of a file or folder.
    Sync { ino: u32 },
    /// `syncfs`.
    SyncAll,
    /// A line on stdout.
    Said(String),
}

impl Op {
    /// After it something is on the disk for sure.
    pub fn is_sync(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::SyncAll | Self::Said(_))
    }

    /// Whose sync makes it last.
    fn owners(&self) -> Vec<u32> {
        match self {
            Self::Link { dir, .. } | Self::Unlink { dir, .. } => vec![*dir],
            Self::Rename { from, to, .. } => vec![from.0, to.0],
            Self::Write { ino, .. } | Self::Resize { ino, .. } => vec![*ino],
            Self::New { .. } | Self::Sync { .. } | Self::SyncAll | Self::Said(_) => Vec::new(),
        }
    }
}

/// What of the operations not synced reaches the disk.
#[derive(Debug, Clone, Copy)]
pub enum Keep {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// Each by chance, from this seed.
    Some(u64),
}

/// Folders and files.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    folders: HashMap<u32, BTreeMap<String, u32>>,
    files: HashMap<u32, Vec<u8>>,
}

impl Disk {
    /// The disk after a power loss behind `ops`.
    pub fn after(ops: &[Op], keep: Keep) -> Self {
        let mut synced: HashSet<u32> = HashSet::new();
        let mut all = false;
        let mut lasting = vec![false; ops.len()];
        for (n, op) in ops.iter().enumerate().rev() {
            match op {
                Op::Sync { ino } => drop(synced.insert(*ino)),
                Op::SyncAll => all = true,
                _ => {}
            }
            lasting[n] = all || op.owners().iter().any(|o| synced.contains(o));
        }
        let mut disk = Self::default();
        disk.folders.insert(ROOT, BTreeMap::new());
        let mut random = match keep {
            Keep::Some(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            _ => 1,
        };
        for (op, lasts) in ops.iter().zip(lasting) {
            // xorshift
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let kept = match keep {
                Keep::None => false,
                Keep::All => true,
                Keep::Some(_) => random & 1 == 0,
            };
            if lasts || kept || matches!(op, Op::New { .. }) {
                disk.apply(op);
            }
        }
        disk
    }

    /// Does it.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::New { ino, folder: true } => drop(self.folders.insert(*ino, BTreeMap::new())),
            Op::New { ino, folder: false } => drop(self.files.insert(*ino, Vec::new())),
            Op::Link { dir, name, ino } => {
                self.folders.entry(*dir).or_default().insert(name.clone(), *ino);
            }
            Op::Unlink { dir, name } => {
                self.folders.entry(*dir).or_default().remove(name);
            }
            Op::Rename { from, to, ino } => {
                let source = self.folders.entry(from.0).or_default();
                if source.get(&from.1) == Some(ino) {
                    source.remove(&from.1);
                }
                self.folders.entry(to.0).or_default().insert(to.1.clone(), *ino);
            }
            Op::Write { ino, at, data } => {
                let file = self.files.entry(*ino).or_default();
                let end = at + data.len();
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(data);
            }
            Op::Resize { ino, len } => self.files.entry(*ino).or_default().resize(*len, 0),
            Op::Sync { .. } | Op::SyncAll | Op::Said(_) => {}
        }
    }

    /// What a path leads to; components are below the root.
    pub fn find(&self, path: &str) -> Option<u32> {
        path.split('/')
            .filter(|c| !c.is_empty())
            .try_fold(ROOT, |dir, name| self.folders.get(&dir)?.get(name).copied())
    }

    /// Bytes of a file.
    pub fn len(&self, ino: u32) -> usize {
        self.files.get(&ino).map_or(0, Vec::len)
    }

    /// Makes it real.
    pub fn write(&self, to: &Path) {
        self.write_folder(ROOT, to, &mut HashSet::new());
    }

    fn write_folder(&self, ino: u32, to: &Path, above: &mut HashSet<u32>) {
        fs::create_dir(to).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
        // A folder moved by half could lie in itself, or twice.
        if !above.insert(ino) {
            return;
        }
        for (name, ino) in self.folders.get(&ino).into_iter().flatten() {
            let to = to.join(name);
            if self.folders.contains_key(ino) {
                self.write_folder(*ino, &to, above);
            } else if !name.ends_with("-shm") {
                // SQLite makes its shared memory again.
                fs::write(&to, self.files.get(ino).map_or(&[][..], Vec::as_slice)).unwrap();
            }
        }
        above.remove(&ino);
    }
}
