//! Copies from one tree into another, with the rules of BuildKit's copy (its `fsutil/copy`): folders
//! merge, files replace files, links are copied as links, times are kept, hard links within one copy
//! stay hard links.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rgraph_image::layer::Owners;
use rgraph_ir::op::FileMode;
use rgraph_ir::pattern::PatternSet;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::earlier::{Earlier, Look};
use super::resolve::{NewDir, Place, chown, make_dirs, resolve};
use super::{TreeError, open_dir};

/// A tree that is read.
pub struct Source<'a> {
    /// Its root.
    pub root: BorrowedFd<'a>,
    /// What the ignore file hides, relative to the root.
    pub ignore: Option<&'a PatternSet>,
    /// Files count as root's, whoever owns them (a caller's folder).
    pub as_root: bool,
}

/// How to copy.
pub struct CopyOptions<'a> {
    /// New owner and group; `None`: kept.
    pub owner: Option<(u32, u32)>,
    /// New permissions; `None`: kept.
    pub mode: Option<&'a FileMode>,
    /// New times; `None`: kept.
    pub time: Option<Timestamps>,
    /// Only these, relative to the source.
    pub include: Option<&'a PatternSet>,
    /// Not these, relative to the source.
    pub exclude: Option<&'a PatternSet>,
    /// Of a folder, the content is copied.
    pub dir_contents: bool,
    /// A link at the source is followed.
    pub follow: bool,
    /// Device nodes are refused.
    pub no_devices: bool,
    /// Files that need not be copied.
    pub earlier: Option<&'a Earlier>,
    /// Where owners are kept, in both trees.
    pub owners: Owners,
    /// Polled often; true ends the copy.
    pub cancelled: &'a dyn Fn() -> bool,
}

impl<'a> CopyOptions<'a> {
    /// All that a folder holds, as it is.
    pub fn contents(owners: Owners, cancelled: &'a dyn Fn() -> bool) -> Self {
        Self {
            owner: None,
            mode: None,
            time: None,
            include: None,
            exclude: None,
            dir_contents: true,
            follow: true,
            no_devices: false,
            earlier: None,
            owners,
            cancelled,
        }
    }
}

/// ns since 1970 as both times of a file.
pub fn times(ns: i64) -> Timestamps {
    let t =
        Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: t, last_modification: t }
}

/// Copies `src` of `from` to `dest` of `to`. `dest` ending in `/` or `/.` is a folder, made when
/// missing.
pub fn copy(
    from: &Source<'_>,
    src: &str,
    to: BorrowedFd<'_>,
    dest: &str,
    opts: &CopyOptions<'_>,
) -> Result<(), TreeError> {
    let source = resolve(from.root, OsStr::new(src), opts.follow, None)?;
    let Some(mut stat) = source.stat else {
        return Err(TreeError::NotFound { path: src.to_owned() });
    };
    if from.hides_for_sure(&source.real, source.is_dir()) {
        return Err(TreeError::NotFound { path: src.to_owned() });
    }
    if let Some(owner) = opts
        .owners
        .recorded_at(&source.parent, &source.name)
        .map_err(TreeError::std("look at", src))?
    {
        (stat.st_uid, stat.st_gid) = owner;
    }
    let new_dir = NewDir {
        mode: match opts.mode {
            Some(FileMode::Bits(b)) => *b,
            _ => 0o755,
        },
        owner: opts.owner,
        time: opts.time.clone(),
        owners: opts.owners,
    };
    let into_dir = dest.ends_with('/') || dest.ends_with("/.");
    if into_dir {
        make_dirs(to, OsStr::new(dest), &new_dir)?;
    }
    let mut place = resolve(to, OsStr::new(dest), true, Some(&new_dir))?;
    let is_dir = source.is_dir();
    let below =
        (!opts.dir_contents && is_dir && place.stat.is_some()) || (!is_dir && place.is_dir());
    if below {
        let base = src.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        if !matches!(base, "" | "." | "..") {
            let parent = place.open_dir()?;
            let stat = match rustix::fs::statat(&parent, base, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(s) => Some(s),
                Err(Errno::NOENT) => None,
                Err(e) => return Err(TreeError::io("look at", dest)(e)),
            };
            let real = format!("{}/{base}", place.real);
            let mut raw = place.raw;
            raw.push("/");
            raw.push(base);
            place = Place { parent, name: base.into(), stat, real, raw };
        }
    }
    if opts.dir_contents && is_dir && place.stat.is_none() {
        make_dirs(to, OsStr::new(dest), &new_dir)?;
        place = resolve(to, OsStr::new(dest), true, None)?;
    }
    let mut copier = Copier {
        from,
        opts,
        to,
        links: HashMap::new(),
        base: place.parent,
        base_touched: false,
        pending: Vec::new(),
        buffer: Vec::new(),
    };
    let top = Entry { dir: source.parent.as_fd(), name: &source.name, stat, real: &source.real };
    copier.entry(&top, "", &place.name, true, &place.raw)
}

impl Source<'_> {
    /// True when the ignore file hides this path and nothing below it can be shown again.
    pub(crate) fn hides_for_sure(&self, real: &str, dir: bool) -> bool {
        let Some(ignore) = self.ignore else { return false };
        !real.is_empty() && ignore.matches_or_parent(real) && !(dir && ignore.may_free_below(real))
    }

    fn hides(&self, real: &str) -> bool {
        !real.is_empty() && self.ignore.is_some_and(|i| i.matches_or_parent(real))
    }
}

/// Something in the source tree.
struct Entry<'a> {
    dir: BorrowedFd<'a>,
    name: &'a OsStr,
    stat: Stat,
    real: &'a str,
}

/// A folder of the source that will exist in the destination only if something below it is copied.
struct PendingDir {
    stat: Stat,
    source: OwnedFd,
    name: OsString,
    shown: OsString,
    /// The folder of the destination, once it is there. Those above are there too then.
    made: Option<OwnedFd>,
    /// It is in the layer for sure.
    touched: bool,
}

struct Copier<'a> {
    from: &'a Source<'a>,
    opts: &'a CopyOptions<'a>,
    to: BorrowedFd<'a>,
    /// Files with several names: (device, inode) to the first copy's path in `to`. No handles: a
    /// tree may have more such files than a process may have open.
    links: HashMap<(u64, u64), OsString>,
    /// The folder in which the copy begins.
    base: OwnedFd,
    /// It is in the layer for sure.
    base_touched: bool,
    /// The folders on the way from there, outermost first.
    pending: Vec<PendingDir>,
    /// For the bytes of small files.
    buffer: Vec<u8>,
}

/// Up to this size a file is read and written by one call each.
const SMALL: usize = 64 << 10;

impl Copier<'_> {
    fn entry(
        &mut self,
        e: &Entry<'_>,
        rel: &str,
        name: &OsStr,
        top: bool,
        shown: &OsStr,
    ) -> Result<(), TreeError> {
        if (self.opts.cancelled)() {
            return Err(TreeError::Cancelled);
        }
        let kind = FileType::from_raw_mode(e.stat.st_mode);
        let wanted = self.wanted(e.real, rel);
        if kind == FileType::Directory {
            return self.folder(e, rel, name, top, shown, wanted);
        }
        // A socket is no content: nobody listens on a copy.
        if !wanted || kind == FileType::Socket {
            return Ok(());
        }
        if self.opts.no_devices && matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
        {
            return Err(TreeError::Device { path: shown.to_string_lossy().into_owned() });
        }
        self.make_pending()?;
        if kind == FileType::RegularFile {
            return self.file(e, name, shown);
        }
        self.clear(name, shown)?;
        let parent = self.parent();
        match kind {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(e.dir, e.name, Vec::new())
                    .map_err(TreeError::io("read link", shown))?;
                rustix::fs::symlinkat(&target, parent, name)
                    .map_err(TreeError::io("make link", shown))?;
                let (uid, gid) = self.owner(&e.stat);
                chown(parent, name, (uid, gid), self.opts.owners)
                    .map_err(TreeError::io("chown", shown))?;
                self.time(e, name, shown)
            }
            kind => {
                let mode = Mode::from_raw_mode(self.mode(&e.stat)?);
                rustix::fs::mknodat(parent, name, kind, mode, e.stat.st_rdev)
                    .map_err(TreeError::io("make device", shown))?;
                let (uid, gid) = self.owner(&e.stat);
                chown(parent, name, (uid, gid), self.opts.owners)
                    .map_err(TreeError::io("chown", shown))?;
                // Whoever writes here too may have put a link in its place.
                rgraph_image::layer::chmod_at(parent, name, mode.as_raw_mode())
                    .map_err(TreeError::std("chmod", shown))?;
                self.time(e, name, shown)
            }
        }
    }

    /// The folder of the destination that what is copied now goes into; all of [`Self::pending`] is
    /// made.
    fn parent(&self) -> BorrowedFd<'_> {
        let made = self.pending.last().and_then(|p| p.made.as_ref());
        made.unwrap_or(&self.base).as_fd()
    }

    /// Removes what stands at `name`, if it is no folder.
    fn clear(&self, name: &OsStr, shown: &OsStr) -> Result<(), TreeError> {
        let parent = self.parent();
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => {
                Err(TreeError::WrongKind {
                    what: "a folder by a file",
                    path: shown.to_string_lossy().into_owned(),
                })
            }
            Ok(_) => rustix::fs::unlinkat(parent, name, AtFlags::empty())
                .map_err(TreeError::io("replace", shown)),
            Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(TreeError::io("look at", shown)(err)),
        }
    }

    /// True when patterns let this path through. Folders that are not wanted may still be entered.
    fn wanted(&self, real: &str, rel: &str) -> bool {
        if self.from.hides(real) {
            return false;
        }
        if rel.is_empty() {
            return true;
        }
        self.opts.include.is_none_or(|i| i.matches_or_parent(rel))
            && !self.opts.exclude.is_some_and(|x| x.matches_or_parent(rel))
    }

    fn folder(
        &mut self,
        e: &Entry<'_>,
        rel: &str,
        name: &OsStr,
        top: bool,
        shown: &OsStr,
        wanted: bool,
    ) -> Result<(), TreeError> {
        let dead = |set: Option<&PatternSet>, path: &str| {
            set.is_some_and(|s| {
                !path.is_empty() && s.matches_or_parent(path) && !s.may_free_below(path)
            })
        };
        if dead(self.from.ignore, e.real) || dead(self.opts.exclude, rel) {
            return Ok(());
        }
        let source = open_dir(e.dir, e.name).map_err(TreeError::io("open", e.real))?;
        let existed =
            top && rustix::fs::statat(&self.base, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.pending.push(PendingDir {
            stat: e.stat,
            source: source.try_clone().map_err(TreeError::std("open", shown))?,
            name: name.to_owned(),
            shown: shown.to_owned(),
            made: None,
            touched: false,
        });
        let mut made_now = false;
        if wanted {
            self.make_pending()?;
            made_now = true;
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&source).map_err(TreeError::io("read", e.real))? {
            let entry = entry.map_err(TreeError::io("read", e.real))?;
            let n = entry.file_name().to_bytes();
            if n != b"." && n != b".." {
                names.push(OsStr::from_bytes(n).to_owned());
            }
        }
        names.sort();
        for n in names {
            let text = n.to_string_lossy();
            let join =
                |a: &str| if a.is_empty() { text.to_string() } else { format!("{a}/{text}") };
            let mut stat = rustix::fs::statat(&source, &n, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(TreeError::io("look at", join(e.real)))?;
            let real = join(e.real);
            match self.opts.owners.recorded_at(&source, &n) {
                Ok(None) => {}
                Ok(Some(owner)) => (stat.st_uid, stat.st_gid) = owner,
                // It may be somebody else's, and closed to this user.
                Err(_) if self.from.hides_for_sure(&real, is_dir(&stat)) => continue,
                Err(e) => return Err(TreeError::std("look at", &real)(e)),
            }
            let child = Entry { dir: source.as_fd(), name: &n, stat, real: &real };
            let mut below = shown.to_owned();
            below.push("/");
            below.push(&n);
            self.entry(&child, &join(rel), &n, false, &below)?;
        }
        let done = self.pending.pop().expect("pushed above");
        // Times last: copying into the folder changed them. A folder that was there already keeps
        // its owner and mode at the top of the copy, and takes the source's below it.
        if let Some(dir) = &done.made {
            if !existed {
                self.attributes(e, &source, dir, shown)?;
            } else if made_now {
                rustix::fs::futimens(dir, &self.times(&e.stat))
                    .map_err(TreeError::io("set times of", shown))?;
            }
        }
        Ok(())
    }

    /// Makes every folder on the way that is still missing.
    fn make_pending(&mut self) -> Result<(), TreeError> {
        for i in 0..self.pending.len() {
            let p = &self.pending[i];
            if p.made.is_some() {
                continue;
            }
            let up = i.checked_sub(1).and_then(|up| self.pending[up].made.as_ref());
            let up = up.unwrap_or(&self.base);
            let open = || open_dir(up, &p.name).map_err(TreeError::io("open", &p.shown));
            let dir = match rustix::fs::statat(up, &p.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => open()?,
                Ok(_) => {
                    return Err(TreeError::WrongKind {
                        what: "a file by a folder",
                        path: p.shown.to_string_lossy().into_owned(),
                    });
                }
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(up, &p.name, Mode::from_raw_mode(0o700))
                        .map_err(TreeError::io("make folder", &p.shown))?;
                    let dir = open()?;
                    let e = Entry {
                        dir: p.source.as_fd(),
                        name: OsStr::new("."),
                        stat: p.stat,
                        real: "",
                    };
                    self.attributes(&e, &p.source, &dir, &p.shown)?;
                    dir
                }
                Err(err) => return Err(TreeError::io("look at", &p.shown)(err)),
            };
            self.pending[i].made = Some(dir);
        }
        Ok(())
    }

    fn file(&mut self, e: &Entry<'_>, name: &OsStr, shown: &OsStr) -> Result<(), TreeError> {
        let id = (e.stat.st_dev, e.stat.st_ino);
        if e.stat.st_nlink > 1
            && let Some(first) = self.links.get(&id)
        {
            self.clear(name, shown)?;
            let first = resolve(self.to, first, false, None)?;
            let (from, to) = (&first.parent, self.parent());
            return rustix::fs::linkat(from, &first.name, to, name, AtFlags::empty())
                .map_err(TreeError::io("link", shown));
        }
        if let Some(earlier) = self.opts.earlier
            && e.stat.st_nlink == 1
            && earlier.takes(e.real, shown, &self.look(&e.stat)?)
        {
            return self.touch_parent(shown);
        }
        // NONBLOCK: what was a file a moment ago may be a FIFO now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(e.dir, e.name, flags, Mode::empty())
            .map_err(TreeError::io("open", e.real))?;
        let opened = rustix::fs::fstat(&source).map_err(TreeError::io("look at", e.real))?;
        if FileType::from_raw_mode(opened.st_mode) != FileType::RegularFile {
            return Err(TreeError::Io {
                verb: "copy",
                path: e.real.to_owned(),
                source: io::Error::other("it changed while it was read"),
            });
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(self.parent(), name, flags, Mode::from_raw_mode(0o600));
        let target = match create() {
            Err(Errno::EXIST) => {
                self.clear(name, shown)?;
                create()
            }
            made => made,
        };
        let target = target.map_err(TreeError::io("create", shown))?;
        let size = opened.st_size as u64;
        if size >= SMALL as u64 {
            copy_bytes(&source, &target, size).map_err(TreeError::std("copy", shown))?;
        } else {
            self.buffer.resize(SMALL, 0);
            copy_small(&source, &target, size, &mut self.buffer)
                .map_err(TreeError::io("copy", shown))?;
        }
        self.attributes(e, &source, &target, shown)?;
        if e.stat.st_nlink > 1 {
            self.links.insert(id, shown.to_owned());
        }
        Ok(())
    }

    /// Owner, then mode (chown clears setuid), then xattrs (capabilities after chown), then times.
    fn attributes(
        &self,
        e: &Entry<'_>,
        source: &OwnedFd,
        target: &OwnedFd,
        shown: &OsStr,
    ) -> Result<(), TreeError> {
        let (uid, gid) = self.owner(&e.stat);
        self.opts.owners.give(target, uid, gid).map_err(TreeError::std("chown", shown))?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(self.mode(&e.stat)?))
            .map_err(TreeError::io("chmod", shown))?;
        copy_xattrs(source, target, e.stat.st_mode, self.opts.owners)
            .map_err(TreeError::io("copy attributes of", shown))?;
        rustix::fs::futimens(target, &self.times(&e.stat))
            .map_err(TreeError::io("set times of", shown))
    }

    /// What the copy of a file will look like.
    fn look(&self, stat: &Stat) -> Result<Look, TreeError> {
        let time = self.times(stat).last_modification;
        Ok(Look {
            size: stat.st_size,
            mode: self.mode(stat)?,
            owner: self.owner(stat),
            time: (time.tv_sec, time.tv_nsec),
        })
    }

    /// Sees to it that the folder that is copied into is in the layer, though nothing is made in it yet.
    fn touch_parent(&mut self, shown: &OsStr) -> Result<(), TreeError> {
        let touched = match self.pending.last_mut() {
            Some(dir) => &mut dir.touched,
            None => &mut self.base_touched,
        };
        if std::mem::replace(touched, true) {
            return Ok(());
        }
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        rustix::fs::futimens(
            self.parent(),
            &Timestamps { last_access: now, last_modification: now },
        )
        .map_err(TreeError::io("set times of the folder of", shown))
    }

    fn times(&self, stat: &Stat) -> Timestamps {
        self.opts.time.clone().unwrap_or_else(|| kept_times(stat))
    }

    fn time(&self, e: &Entry<'_>, name: &OsStr, shown: &OsStr) -> Result<(), TreeError> {
        let t = self.times(&e.stat);
        rustix::fs::utimensat(self.parent(), name, &t, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(TreeError::io("set times of", shown))
    }

    fn owner(&self, stat: &Stat) -> (u32, u32) {
        match self.opts.owner {
            Some(o) => o,
            None if self.from.as_root => (0, 0),
            None => (stat.st_uid, stat.st_gid),
        }
    }

    fn mode(&self, stat: &Stat) -> Result<u32, TreeError> {
        let old = stat.st_mode & 0o7777;
        Ok(match self.opts.mode {
            Some(m) => m.apply(old, is_dir(stat))?,
            None => old,
        })
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn kept_times(stat: &Stat) -> Timestamps {
    let t = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: t, last_modification: t }
}

/// Copies all bytes: by sharing extents where the file system can, else inside the kernel, else by
/// hand.
pub fn copy_bytes(source: &OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    if size == 0 {
        // Files of /proc and the like say 0 and have content all the same.
        return by_hand(source, target);
    }
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let mut done = 0u64;
    loop {
        match rustix::fs::copy_file_range(source, None, target, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF)
                if done == 0 =>
            {
                return by_hand(source, target);
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Copies a file that said to have `size` bytes, fewer than `buffer` holds. The file may have grown.
fn copy_small(
    source: &OwnedFd,
    target: &OwnedFd,
    size: u64,
    buffer: &mut [u8],
) -> rustix::io::Result<()> {
    loop {
        let n = match rustix::io::read(source, &mut *buffer) {
            Err(Errno::INTR) => continue,
            n => n?,
        };
        let mut left = &buffer[..n];
        while !left.is_empty() {
            match rustix::io::write(target, left) {
                Err(Errno::INTR) => {}
                written => left = &left[written?..],
            }
        }
        // A file on a disk gives less than was asked for at its end only; those of /proc and the like
        // say 0 and have content all the same.
        if n == 0 || n as u64 == size {
            return Ok(());
        }
    }
}

fn by_hand(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let mut from = std::fs::File::from(source.try_clone()?);
    let mut to = std::fs::File::from(target.try_clone()?);
    io::copy(&mut from, &mut to).map(drop)
}

/// Copies extended attributes but the ones of overlayfs and of the host's security modules. A file
/// system that has none is no error.
fn copy_xattrs(
    source: &OwnedFd,
    target: &OwnedFd,
    mode: u32,
    owners: Owners,
) -> rustix::io::Result<()> {
    let skip: [&[u8]; 4] = [b"trusted.", b"user.overlay.", b"security.selinux", b"system."];
    xattrs(source, target, &|name| {
        !skip.iter().any(|p| name.starts_with(p)) && !owners.is_record(name, mode)
    })
}

/// Copies every extended attribute, those of overlayfs too: a layer's directory made again.
pub fn copy_all_xattrs(source: &OwnedFd, target: &OwnedFd) -> rustix::io::Result<()> {
    xattrs(source, target, &|_| true)
}

fn xattrs(
    source: &OwnedFd,
    target: &OwnedFd,
    want: &dyn Fn(&[u8]) -> bool,
) -> rustix::io::Result<()> {
    let mut names = [0u8; 256];
    if let Ok(0) = rustix::fs::flistxattr(source, &mut names[..]) {
        return Ok(());
    }
    let mut names = vec![0u8; 1024];
    let n = loop {
        match rustix::fs::flistxattr(source, &mut names[..]) {
            Ok(n) => break n,
            Err(Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 4, 0),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => return Ok(()),
            Err(e) => return Err(e),
        }
    };
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty() && want(n)) {
        let mut value = vec![0u8; 65536];
        let name = OsStr::from_bytes(name);
        let len = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        match rustix::fs::fsetxattr(target, name, &value[..len], rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn copy_all(
        from: &std::path::Path,
        to: &std::path::Path,
        src: &str,
        dest: &str,
    ) -> Result<(), TreeError> {
        let (from, to) = (std::fs::File::open(from).unwrap(), std::fs::File::open(to).unwrap());
        let opts = CopyOptions {
            owner: None,
            mode: None,
            time: None,
            include: None,
            exclude: None,
            dir_contents: true,
            follow: true,
            no_devices: false,
            earlier: None,
            owners: Owners::Kernel,
            cancelled: &|| false,
        };
        let source = Source { root: from.as_fd(), ignore: None, as_root: false };
        copy(&source, src, to.as_fd(), dest, &opts)
    }

    #[test]
    fn more_hard_links_than_descriptors_stay_links() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
        std::fs::create_dir_all(from.join("d")).unwrap();
        std::fs::create_dir(&to).unwrap();
        let n = 1100;
        for i in 0..n {
            // Names that are no text, too.
            let name = [b"d/\xff".as_slice(), i.to_string().as_bytes()].concat();
            let first = from.join(OsStr::from_bytes(&name));
            std::fs::write(&first, i.to_string()).unwrap();
            std::fs::hard_link(&first, from.join(format!("z{i}"))).unwrap();
        }
        copy_all(&from, &to, "/", "/sub").unwrap();
        for i in [0, n - 1] {
            let z = std::fs::metadata(to.join(format!("sub/z{i}"))).unwrap();
            let name = [b"sub/d/\xff".as_slice(), i.to_string().as_bytes()].concat();
            assert_eq!(
                z.ino(),
                std::fs::metadata(to.join(OsStr::from_bytes(&name))).unwrap().ino()
            );
            assert_eq!(z.nlink(), 2);
        }
    }

    #[test]
    fn a_socket_replaces_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("s")).unwrap();
        std::fs::write(to.join("s"), "file").unwrap();
        copy_all(&from, &to, "/", "/").unwrap();
        assert_eq!(std::fs::read(to.join("s")).unwrap(), b"file");
    }
}
