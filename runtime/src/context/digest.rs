//! Reading files and putting the digest together.
//!
//! The encoding is injective: every text has its length in front, every list its count. A change of
//! it must change [`DOMAIN`].

use std::os::fd::OwnedFd;

use rayon::prelude::*;
use rgraph_ir::TreeDigest;
use rustix::fs::{AtFlags, OFlags, Statx, statx};
use rustix::io::Errno;

use super::resolve::{Tree, WANT, is_absent};
use super::stat_cache::{FileDigest, Stamp, StatCache};
use super::walk::{Content, Entry, Kind, xattrs};
use super::{ContextError, ListedEntry, Scan};

/// Names the encoding.
const DOMAIN: &[u8] = b"rgraph tree 2";

/// How much encoding is gathered before it is hashed.
const FLUSH: usize = 1 << 20;

/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;
/// Files above this are hashed by several threads.
const LARGE: u64 = 8 << 20;

/// Fills in the digest of every file: from the cache, or by reading, many at once.
pub(super) fn hash_files<'e>(
    tree: &Tree<'_>,
    entries: impl Iterator<Item = &'e mut Entry>,
    cache: Option<&dyn StatCache>,
) -> Result<(), ContextError> {
    let mut unread: Vec<_> = entries.filter(|e| e.content == Content::Unread).collect();
    if let Some(cache) = cache {
        let stamps: Vec<Stamp> = unread.iter().map(|e| e.stamp).collect();
        for (e, known) in unread.iter_mut().zip(cache.lookup_all(&stamps)) {
            if let Some(digest) = known {
                e.content = Content::File(digest);
            }
        }
        unread.retain(|e| e.content == Content::Unread);
    }
    match unread.len() {
        // The first use of the pool starts its threads, which a context that did not change can spare.
        0 | 1 => unread.into_iter().try_for_each(|e| hash_file(tree, e, cache)),
        _ => unread.into_par_iter().try_for_each(|e| hash_file(tree, e, cache)),
    }
}

/// Reads one file from one handle. A file that never rests counts as it was read last, and is not
/// remembered.
fn hash_file(
    tree: &Tree<'_>,
    e: &mut Entry,
    cache: Option<&dyn StatCache>,
) -> Result<(), ContextError> {
    for _ in 0..TRIES {
        let read_at = cache.map(StatCache::now);
        let read = || -> Result<Option<(Statx, Statx, FileDigest)>, Errno> {
            // Should a pipe or terminal have taken the file's place, the open must not wait.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let fd = tree.open(&e.path, flags)?;
            let before = statx(&fd, "", AtFlags::EMPTY_PATH, WANT)?;
            if Kind::of(&before) != Kind::File {
                return Ok(None);
            }
            let digest = read_all(&fd, before.stx_size)?;
            Ok(Some((before, statx(&fd, "", AtFlags::EMPTY_PATH, WANT)?, digest)))
        };
        let (before, after, digest) = match read() {
            Ok(Some(read)) => read,
            Ok(None) => {
                e.content = Content::Gone;
                return Ok(());
            }
            Err(err) if is_absent(err) => {
                e.content = Content::Gone;
                return Ok(());
            }
            Err(err) => return Err(ContextError::read(&e.path, err)),
        };
        // What the handle says belongs to the bytes, what the walk said may not.
        e.stamp = Stamp::of(&after);
        e.mode = u32::from(after.stx_mode) & 0o7777;
        (e.uid, e.gid) = (after.stx_uid, after.stx_gid);
        e.content = Content::File(digest);
        if Stamp::of(&before) == e.stamp {
            if let (Some(cache), Some(at)) = (cache, read_at)
                && e.stamp.is_settled(at)
            {
                cache.record(e.stamp, digest);
            }
            return Ok(());
        }
    }
    Ok(())
}

fn read_all(fd: &OwnedFd, size: u64) -> Result<FileDigest, Errno> {
    let large = size > LARGE;
    let room = if large { 4 << 20 } else { size.clamp(512, 128 << 10) as usize + 1 };
    let mut buf = vec![0u8; room];
    let mut h = blake3::Hasher::new();
    let mut len = 0u64;
    loop {
        let n = match rustix::io::read(fd, &mut buf[..]) {
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        if n == 0 {
            break;
        }
        len += n as u64;
        if large {
            h.update_rayon(&buf[..n]);
        } else {
            h.update(&buf[..n]);
        }
    }
    // After the bytes their count, so that attributes cannot be taken for content.
    h.update(&xattrs(fd, false)?);
    h.update(&len.to_le_bytes());
    Ok(FileDigest(*h.finalize().as_bytes()))
}

fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

impl Scan {
    /// Names all that was picked, by content.
    pub fn digest(&self) -> TreeDigest {
        let mut h = blake3::Hasher::new();
        let mut out = DOMAIN.to_vec();
        out.extend([u8::from(self.owner), u8::from(self.mode)]);
        for picks in &self.parts {
            out.extend((picks.len() as u64).to_le_bytes());
            for pick in picks {
                match &pick.name {
                    Some(name) => {
                        out.push(1);
                        put(&mut out, name);
                    }
                    None => out.push(0),
                }
                out.extend((pick.entries.len() as u64).to_le_bytes());
                for (i, e) in pick.entries.iter().enumerate() {
                    // The top one's name is said above, where it counts.
                    put(&mut out, if i == 0 { b"" } else { &e.path[e.below..] });
                    self.encode(e, &mut out);
                    if out.len() > FLUSH {
                        h.update_rayon(&out);
                        out.clear();
                    }
                }
            }
        }
        h.update_rayon(&out);
        TreeDigest::from_bytes(*h.finalize().as_bytes())
    }

    fn encode(&self, e: &Entry, out: &mut Vec<u8>) {
        out.push(match e.kind {
            Kind::File => b'f',
            Kind::Dir => b'd',
            Kind::Symlink => b'l',
            Kind::Fifo => b'p',
            Kind::Socket => b's',
            Kind::CharDevice => b'c',
            Kind::BlockDevice => b'b',
        });
        if self.mode && e.kind != Kind::Symlink {
            out.extend(e.mode.to_le_bytes());
        }
        if self.owner {
            out.extend(e.uid.to_le_bytes());
            out.extend(e.gid.to_le_bytes());
        }
        match &e.content {
            Content::None => {}
            Content::Dir(xattrs) => put(out, xattrs),
            Content::Link(to) => put(out, to),
            Content::Device(major, minor) => {
                out.extend(major.to_le_bytes());
                out.extend(minor.to_le_bytes());
            }
            Content::File(d) => {
                out.push(if e.twin.is_some() { 2 } else { 1 });
                out.extend(d.0);
                if let Some(twin) = &e.twin {
                    put(out, &twin[e.below.min(twin.len())..]);
                }
            }
            Content::Unread | Content::Gone => out.push(0),
        }
    }

    /// What was picked, in the order of the digest. A selected path that picked nothing has no
    /// entry.
    pub fn entries(&self) -> Vec<ListedEntry> {
        let entries = self.parts.iter().flatten().flat_map(|p| &p.entries);
        entries
            .map(|e| {
                let mut out = DOMAIN.to_vec();
                self.encode(e, &mut out);
                let size = if e.kind == Kind::File { e.stamp.size } else { 0 };
                let path = [b"/", e.path.as_slice()].concat();
                ListedEntry { path, kind: e.kind, size, digest: TreeDigest::of(&out) }
            })
            .collect()
    }
}
