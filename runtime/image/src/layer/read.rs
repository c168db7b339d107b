//! A hostile layer tar into an empty overlay upper folder.
//!
//! Whiteouts become the marks of overlayfs, so that layers are unpacked once and stacked by the
//! kernel. Nothing outside the folder is touched whatever the members say: parents are resolved
//! by handle beneath it (`resolve.rs`), links are made but followed only inside the merged tree.

use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::fs::{self, Meta};
use super::overlay::{Found, is_overlay_xattr};
use super::owner::Owners;
pub use super::put::UnpackStats;
use super::put::{DirMeta, Put, clean, split};
use super::resolve::{Place, Upper, join};
use super::whiteout::make_whiteout;
use super::{AUFS, LayerError, OPAQUE, WHITEOUT};
use crate::tar::{Kind, Member, TarReader};

/// The layers below one that is being unpacked.
#[derive(Clone, Copy)]
pub enum Below<'a> {
    /// Their folders, top first; none for the bottom layer.
    Known(&'a [PathBuf]),
    /// They are unpacked at the same time. Called once, and may wait: when a member cannot be placed
    /// without them, at the latest when all members are in place. An error ends the unpacking.
    Later(&'a (dyn Fn() -> io::Result<Vec<PathBuf>> + Sync)),
}

/// How a layer is unpacked.
#[derive(Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// The layers below.
    pub below: Below<'a>,
    /// Marks are written for mounts with `userxattr` (rootless).
    pub userxattr: bool,
    /// Owners that do not exist in this user's map are left out instead of failing.
    pub ignore_owner: bool,
    /// Where owners are kept, of the layers below too.
    pub owners: Owners,
    /// Most bytes of file content.
    pub max_content: u64,
}

impl Default for UnpackOptions<'_> {
    fn default() -> Self {
        Self {
            below: Below::Known(&[]),
            userxattr: false,
            ignore_owner: false,
            owners: Owners::Kernel,
            max_content: u64::MAX,
        }
    }
}

struct Unpack<'a> {
    upper: Upper<'a>,
    put: Put,
}

/// Unpacks the uncompressed `tar` into the empty folder `dest` and reads it to its end. After an
/// error the folder holds a part and must be thrown away.
pub fn unpack_layer(
    tar: impl Read,
    dest: &Path,
    opts: &UnpackOptions<'_>,
) -> Result<UnpackStats, LayerError> {
    unpack(TarReader::new(tar), dest, opts)
}

/// As [`unpack_layer`].
pub(super) fn unpack(
    mut tar: TarReader<impl BufRead>,
    dest: &Path,
    opts: &UnpackOptions<'_>,
) -> Result<UnpackStats, LayerError> {
    let name = dest.as_os_str().as_encoded_bytes();
    let root = fs::open_root(dest).map_err(LayerError::io("open", name))?;
    let mut un = Unpack {
        upper: Upper::new(root, opts.below, opts.userxattr, opts.owners),
        put: Put::new(opts.ignore_owner, opts.owners, opts.max_content).fresh(),
    };
    while let Some(m) = tar.next_member()? {
        un.put.stats.members += 1;
        un.member(&m, &mut tar)?;
    }
    tar.drain()?;
    un.root_meta()?;
    let Unpack { upper, mut put } = un;
    put.finish(|path| upper.open_dir(path))?;
    Ok(put.stats)
}

impl Unpack<'_> {
    /// The root is as below unless the layer said otherwise.
    fn root_meta(&mut self) -> Result<(), LayerError> {
        if self.put.describes(b"") {
            return Ok(());
        }
        let lowers = self.upper.lowers()?;
        let below = if lowers.all().is_empty() {
            DirMeta::plain()
        } else {
            let (m, xattrs) = lowers.dir_meta(0, b"").map_err(LayerError::io("read", b"/"))?;
            let (mode, uid, gid, mtime) = (m.mode, m.uid, m.gid, m.mtime);
            DirMeta { mode, uid, gid, mtime, xattrs }
        };
        self.put.later(b"", below)
    }

    fn member<R: BufRead>(&mut self, m: &Member, tar: &mut TarReader<R>) -> Result<(), LayerError> {
        let path = clean(&m.path)?;
        if path.is_empty() {
            if m.kind != Kind::Dir {
                return Err(LayerError::refused(&m.path, "the root is a folder"));
            }
            return self.put.later(b"", DirMeta::of(m));
        }
        let (parent, name) = split(&path);
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if name == OPAQUE {
                return self.opaque(parent);
            }
            if name.starts_with(AUFS) {
                return Ok(());
            }
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(LayerError::refused(&m.path, "a whiteout of no name"));
            }
            return self.whiteout(parent, hidden);
        }
        for part in parent.split(|b| *b == b'/') {
            if part.starts_with(AUFS) {
                return Ok(());
            }
            if part.starts_with(WHITEOUT) {
                return Err(LayerError::refused(&m.path, "a whiteout is no folder"));
            }
        }
        let place = self.upper.dir(parent, &mut self.put)?;
        if m.kind == Kind::Hardlink {
            return self.hardlink(m, &place, name);
        }
        let old = self.put.member(place.dir.as_fd(), name, m, tar)?;
        self.replaced(m, &place, name, old.as_ref())?;
        if m.kind == Kind::Dir {
            self.put.later(&join(&place.path, name), DirMeta::of(m))?;
        }
        Ok(())
    }

    /// Book-keeping after `m` took the place of `old`.
    fn replaced(
        &mut self,
        m: &Member,
        place: &Place,
        name: &[u8],
        old: Option<&Meta>,
    ) -> Result<(), LayerError> {
        let Some(old) = old else { return Ok(()) };
        if m.kind == Kind::Dir && !old.is_dir() {
            // What the earlier member hid stays hidden.
            let fd = fs::open_dir(&place.dir, name).map_err(LayerError::io("open", &m.path))?;
            self.upper.set_opaque(&fd, &m.path)?;
        }
        if m.kind != Kind::Dir && old.is_dir() {
            self.upper.forget_places();
            self.put.forget(&join(&place.path, name));
        }
        Ok(())
    }

    fn opaque(&mut self, parent: &[u8]) -> Result<(), LayerError> {
        self.put.stats.whiteouts += 1;
        let place = self.upper.dir(parent, &mut self.put)?;
        if place.path.is_empty() {
            return self.opaque_root();
        }
        let fd = self.upper.open_dir(&place.path).map_err(LayerError::io("open", parent))?;
        self.upper.set_opaque(&fd, parent)
    }

    /// The kernel does not look at the mark on an upper's root, so all names below are deleted one
    /// by one.
    fn opaque_root(&mut self) -> Result<(), LayerError> {
        let lowers = self.upper.lowers()?;
        let mut names = std::collections::BTreeSet::new();
        for layer in lowers.all() {
            let dir = lowers.file(layer, b"").map_err(LayerError::io("open", b"/"))?;
            names.extend(fs::list(dir).map_err(LayerError::io("list", b"/"))?);
        }
        for name in names {
            self.whiteout(b"", name.to_bytes())?;
        }
        Ok(())
    }

    /// A whiteout hides what is below this layer, never what the layer itself has.
    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), LayerError> {
        let place = self.upper.dir(parent, &mut self.put)?;
        let path = join(&place.path, name);
        let err = |what| LayerError::io(what, &path);
        self.put.stats.whiteouts += 1;
        match fs::exists_at(&place.dir, name).map_err(err("look at"))? {
            Some(m) if m.is_dir() => {
                let fd = fs::open_dir(&place.dir, name).map_err(err("open"))?;
                self.upper.set_opaque(&fd, &path)
            }
            Some(_) => Ok(()),
            None => {
                // Where nothing is to be hidden the mark would show as a name without a file.
                if self.upper.below(&place.path, name)?.kind().is_none() {
                    return Ok(());
                }
                make_whiteout(&place.dir, name).map_err(err("delete"))
            }
        }
    }

    fn hardlink(&mut self, m: &Member, place: &Place, name: &[u8]) -> Result<(), LayerError> {
        let target = clean(&m.link)?;
        if target.is_empty() {
            return Err(LayerError::refused(&m.path, "it is a hard link to the root"));
        }
        let (parent, base) = split(&target);
        let from = self.upper.dir(parent, &mut self.put)?;
        let err = |what| LayerError::io(what, &m.path);
        let full = join(&from.path, base);
        if full == join(&place.path, name) {
            return Err(LayerError::refused(&m.path, "it is a hard link to itself"));
        }
        match fs::exists_at(&from.dir, base).map_err(err("look at the target of"))? {
            Some(t) if t.is_dir() => {
                return Err(LayerError::refused(&m.path, "it is a hard link to a folder"));
            }
            Some(t) if t.is_whiteout() => {
                return Err(LayerError::refused(&m.path, "the target of its link is deleted"));
            }
            Some(_) => {}
            None => self.copy_up(m, &from, base, &full)?,
        }
        let old = self.put.make_room(place.dir.as_fd(), name, m)?;
        fs::link(&from.dir, base, &place.dir, name).map_err(err("link"))?;
        self.replaced(m, place, name, old.as_ref())
    }

    /// Brings a file of the layers below into this one, as overlayfs does when it is linked to.
    fn copy_up(
        &mut self,
        m: &Member,
        to: &Place,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), LayerError> {
        let err = |what| LayerError::io(what, path);
        let lowers = self.upper.lowers()?;
        let missing = || LayerError::refused(&m.path, "the target of its link does not exist");
        let Found::Some(layer, meta) = self.upper.below(&to.path, name)? else {
            return Err(missing());
        };
        let mut copy = Member::new(path.to_vec(), Kind::File);
        copy.mode = meta.mode;
        (copy.uid, copy.gid, copy.mtime) = (meta.uid, meta.gid, meta.mtime);
        let mut empty = TarReader::new(io::empty());
        match meta.kind {
            Some(Kind::File) => {}
            Some(Kind::Symlink) => {
                copy.kind = Kind::Symlink;
                copy.link = lowers.link(layer, path).map_err(err("read"))?;
                self.put.member(to.dir.as_fd(), name, &copy, &mut empty)?;
                return Ok(());
            }
            _ => {
                return Err(LayerError::refused(
                    &m.path,
                    "it is a hard link to a folder, device or pipe of a layer below",
                ));
            }
        }
        let source = lowers.file(layer, path).map_err(err("open"))?;
        copy.xattrs = fs::xattrs(&source).map_err(err("read"))?;
        copy.xattrs.retain(|(n, _)| !is_overlay_xattr(n));
        copy.size = meta.size;
        // The one writer of files reads from a tar: this is one of a single member.
        let mut file = std::fs::File::from(source);
        let head = single_header(&copy).map_err(LayerError::Write)?;
        let mut one = TarReader::new(head.as_slice().chain(&mut file));
        let found = one.next_member()?.unwrap_or(copy);
        self.put.member(to.dir.as_fd(), name, &found, &mut one)?;
        Ok(())
    }
}

fn single_header(m: &Member) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    crate::tar::TarWriter::new(&mut head).begin(m)?;
    Ok(head)
}
