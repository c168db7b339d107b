//! An overlay upper folder as a layer tar, in one pass and without the merged mount.
//!
//! Members come depth first, sorted by name. A folder that the upper only holds because something
//! below it changed is written when something below it is, and else when its metadata differs from
//! the lower's: a copied-up folder that equals its lower adds nothing. The root itself is left out.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::device;
use super::fs::{self, Meta, Xattrs};
use super::overlay::{Lowers, is_overlay_xattr, opaque_name};
use super::owner::Owners;
use super::{LayerError, OPAQUE, WHITEOUT};
use crate::tar::{Kind, Member, Mtime, TarWriter, show};

/// Where a layer's content is.
#[derive(Debug, Clone, Copy)]
pub struct LayerSource<'a> {
    /// The upper folder; nobody writes to it meanwhile.
    pub upper: &'a Path,
    /// The folders it was mounted over, top first, for telling which folders changed. Empty: each
    /// folder counts as new.
    pub lowers: &'a [PathBuf],
}

/// How a layer is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerWriteOptions {
    /// Times later than this many seconds since 1970 become it.
    pub clamp_mtime: Option<i64>,
    /// All times become this many seconds since 1970.
    pub mtime: Option<i64>,
    /// The upper was written by a mount with `userxattr` (rootless).
    pub userxattr: bool,
    /// Where owners are kept.
    pub owners: Owners,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Members, whiteouts included. 0: the layer is empty.
    pub members: u64,
    /// Whiteouts and opaque marks.
    pub whiteouts: u64,
    /// Bytes of file content.
    pub content: u64,
    /// Bytes of the tar.
    pub size: u64,
}

struct Frame {
    dir: OwnedFd,
    names: std::vec::IntoIter<CString>,
    /// Length of the path of this folder, its slash included.
    path_len: usize,
    /// Its header, as long as nothing called for it.
    pending: Option<Member>,
    /// The lowers whose folder is merged below this one.
    live: Vec<usize>,
}

struct Walk<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    opts: &'a LayerWriteOptions,
    lowers: Lowers,
    links: HashMap<(u64, u64), Vec<u8>>,
    stack: Vec<Frame>,
    stats: LayerStats,
    buf: Vec<u8>,
}

/// Writes the uncompressed tar of `src` to `out`.
pub fn write_layer(
    src: &LayerSource<'_>,
    opts: &LayerWriteOptions,
    out: &mut dyn Write,
) -> Result<LayerStats, LayerError> {
    let mut walk = Walk::new(opts, out);
    walk.tree(b"", src)?;
    walk.finish()
}

/// A folder of a tar, whatever lies below it.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its name; empty: the root of the tar.
    pub name: &'a str,
    /// What is in it; `None`: nothing.
    pub source: Option<LayerSource<'a>>,
    /// Further files in it, for its owner alone, by name.
    pub files: &'a [(String, Vec<u8>)],
}

/// Writes several folders as one tar. `time`: of what is in no folder, seconds since 1970.
pub fn write_parts(
    parts: &[Part<'_>],
    time: i64,
    opts: &LayerWriteOptions,
    out: &mut dyn Write,
) -> Result<LayerStats, LayerError> {
    let mut walk = Walk::new(opts, out);
    let mtime = Mtime { secs: time, nanos: 0 };
    for part in parts {
        let mut prefix = part.name.as_bytes().to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
            let mut m = Member::new(prefix.clone(), Kind::Dir);
            (m.mode, m.mtime) = (0o755, mtime);
            walk.emit(&m)?;
        }
        if let Some(source) = &part.source {
            walk.tree(&prefix, source)?;
        }
        for (name, bytes) in part.files {
            let mut m = Member::new([&prefix, name.as_bytes()].concat(), Kind::File);
            (m.mode, m.mtime, m.size) = (0o600, mtime, bytes.len() as u64);
            walk.emit(&m)?;
            walk.tar.data(bytes).map_err(LayerError::Write)?;
        }
    }
    walk.finish()
}

/// Writes the uncompressed tar of what stands at `name` of a folder, and of all below it, to `out`.
/// In the tar it is called `shown`. A folder that nothing is merged with: a mount, a copy.
pub fn write_entry(
    parent: OwnedFd,
    name: &[u8],
    shown: &[u8],
    opts: &LayerWriteOptions,
    out: &mut dyn Write,
) -> Result<LayerStats, LayerError> {
    let mut walk = Walk::new(opts, out);
    walk.lowers = Lowers::open(&[], opts.userxattr, opts.owners)?;
    let names = Vec::new().into_iter();
    walk.stack = vec![Frame { dir: parent, names, path_len: 0, pending: None, live: Vec::new() }];
    let mut path = shown.to_vec();
    walk.entry(name, &mut path)?;
    walk.below(path)?;
    walk.finish()
}

impl<'a> Walk<'a> {
    fn new(opts: &'a LayerWriteOptions, out: &'a mut dyn Write) -> Self {
        Self {
            tar: TarWriter::new(out),
            opts,
            lowers: Lowers::default(),
            links: HashMap::new(),
            stack: Vec::new(),
            stats: LayerStats::default(),
            buf: vec![0; 256 << 10],
        }
    }

    /// Writes what is in a folder; each name in the tar begins with `prefix`.
    fn tree(&mut self, prefix: &[u8], src: &LayerSource<'_>) -> Result<(), LayerError> {
        let dir = fs::open_root(src.upper)
            .map_err(LayerError::io("open", src.upper.as_os_str().as_encoded_bytes()))?;
        let names = fs::list(&dir).map_err(LayerError::io("list", b"/"))?.into_iter();
        self.lowers = Lowers::open(src.lowers, self.opts.userxattr, self.opts.owners)?;
        let live = self.lowers.all();
        let path_len = prefix.len();
        self.stack = vec![Frame { dir, names, path_len, pending: None, live }];
        // Two file systems may number their files alike.
        self.links.clear();
        self.below(prefix.to_vec())
    }

    fn finish(self) -> Result<LayerStats, LayerError> {
        let size = self.tar.finish().map_err(LayerError::Write)?;
        Ok(LayerStats { size, ..self.stats })
    }
}

impl Walk<'_> {
    /// Writes what is left of the folders on the stack; `path` is that of the top one.
    fn below(&mut self, mut path: Vec<u8>) -> Result<(), LayerError> {
        while let Some(top) = self.stack.last_mut() {
            path.truncate(top.path_len);
            let Some(name) = top.names.next() else {
                self.stack.pop();
                continue;
            };
            path.extend_from_slice(name.to_bytes());
            self.entry(name.to_bytes(), &mut path)?;
        }
        Ok(())
    }

    fn top(&self) -> &Frame {
        self.stack.last().expect("the loop runs while there is a frame")
    }

    fn entry(&mut self, name: &[u8], path: &mut Vec<u8>) -> Result<(), LayerError> {
        let mut meta = fs::stat_at(&self.top().dir, name).map_err(LayerError::io("read", path))?;
        let Some(kind) = meta.kind.or(meta.is_whiteout().then_some(Kind::Char)) else {
            return Ok(());
        };
        if name.starts_with(WHITEOUT) {
            return Err(LayerError::refused(
                path,
                "a name that starts with `.wh.` means a deletion in a layer",
            ));
        }
        if meta.is_whiteout() {
            let at = path.len() - name.len();
            let mark = [&path[..at], WHITEOUT, name].concat();
            return self.mark(mark);
        }
        if kind == Kind::Dir {
            return self.dir(name, path);
        }
        let owner = self.opts.owners.recorded_at(&self.top().dir, name);
        if let Some(owner) = owner.map_err(LayerError::io("read", path))? {
            (meta.uid, meta.gid) = owner;
        }
        if meta.nlink > 1 {
            if let Some(first) = self.links.get(&(meta.dev, meta.ino)) {
                let mut m = self.header(path.clone(), Kind::Hardlink, &meta, Vec::new());
                m.link.clone_from(first);
                return self.emit(&m);
            }
            self.links.insert((meta.dev, meta.ino), path.clone());
        }
        if kind == Kind::File {
            return self.file(name, path);
        }
        let xattrs = fs::xattrs_at(&self.top().dir, name).map_err(LayerError::io("read", path))?;
        let mut m = self.header(path.clone(), kind, &meta, xattrs);
        if kind == Kind::Symlink {
            m.link = fs::readlink(&self.top().dir, name).map_err(LayerError::io("read", path))?;
        }
        self.emit(&m)
    }

    fn dir(&mut self, name: &[u8], path: &mut Vec<u8>) -> Result<(), LayerError> {
        let dir = fs::open_dir(&self.top().dir, name).map_err(LayerError::io("open", path))?;
        let meta = self.stat(&dir).map_err(LayerError::io("read", path))?;
        let xattrs = fs::xattrs(&dir).map_err(LayerError::io("read", path))?;
        let has = |name: &str| xattrs.iter().find(|(n, _)| n == name.as_bytes());
        for attribute in ["trusted.overlay.redirect", "user.overlay.redirect"] {
            if has(attribute).is_some() {
                return Err(LayerError::Overlay { path: show(path), attribute });
            }
        }
        let opaque = has(opaque_name(self.opts.userxattr)).is_some_and(|(_, v)| v == b"y");
        let live = if opaque {
            Vec::new()
        } else {
            self.lowers
                .merge(&self.top().live, path)
                .map_err(LayerError::io("read the lower's", path))?
        };
        let same = match live.first() {
            None => false,
            Some(layer) => {
                let (lower, lower_xattrs) = self
                    .lowers
                    .dir_meta(*layer, path)
                    .map_err(LayerError::io("read the lower's", path))?;
                let own = xattrs.iter().filter(|(n, _)| self.is_content(n, Kind::Dir));
                (lower.mode, lower.uid, lower.gid, lower.mtime)
                    == (meta.mode, meta.uid, meta.gid, meta.mtime)
                    && own.eq(&lower_xattrs)
            }
        };
        let names = fs::list(&dir).map_err(LayerError::io("list", path))?.into_iter();
        path.push(b'/');
        let header = self.header(path.clone(), Kind::Dir, &meta, xattrs);
        let mut frame = Frame { dir, names, path_len: path.len(), pending: None, live };
        if same {
            frame.pending = Some(header);
        } else {
            self.emit(&header)?;
            if opaque {
                self.mark([path.as_slice(), OPAQUE].concat())?;
            }
        }
        self.stack.push(frame);
        Ok(())
    }

    fn file(&mut self, name: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let fd = fs::open_file(&self.top().dir, name).map_err(LayerError::io("open", path))?;
        // What was opened is what counts, not what the name was a moment ago.
        let meta = self.stat(&fd).map_err(LayerError::io("read", path))?;
        if meta.kind != Some(Kind::File) {
            return Err(LayerError::Changed(show(path)));
        }
        let mut xattrs = fs::xattrs(&fd).map_err(LayerError::io("read", path))?;
        for attribute in ["trusted.overlay.metacopy", "user.overlay.metacopy"] {
            if xattrs.iter().any(|(n, _)| n == attribute.as_bytes()) {
                return Err(LayerError::Overlay { path: show(path), attribute });
            }
        }
        if let Some((kind, major, minor)) = device::take(&mut xattrs) {
            let mut m = self.header(path.to_vec(), kind, &meta, xattrs);
            (m.dev_major, m.dev_minor) = (major, minor);
            return self.emit(&m);
        }
        let mut m = self.header(path.to_vec(), Kind::File, &meta, xattrs);
        m.size = meta.size;
        self.emit(&m)?;
        let mut left = meta.size;
        while left > 0 {
            let want = self.buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = fs::read(&fd, &mut self.buf[..want]).map_err(LayerError::io("read", path))?;
            if n == 0 {
                return Err(LayerError::Changed(show(path)));
            }
            self.tar.data(&self.buf[..n]).map_err(LayerError::Write)?;
            left -= n as u64;
        }
        self.stats.content += meta.size;
        Ok(())
    }

    /// What is known about an open file, its recorded owner included.
    fn stat(&self, fd: &OwnedFd) -> std::io::Result<Meta> {
        let mut meta = fs::stat(fd)?;
        if let Some(owner) = self.opts.owners.recorded(fd)? {
            (meta.uid, meta.gid) = owner;
        }
        Ok(meta)
    }

    /// False for the attributes that overlayfs and records of owners use.
    fn is_content(&self, attribute: &[u8], kind: Kind) -> bool {
        let mode = match kind {
            Kind::Dir => 0o040_000,
            Kind::File => 0o100_000,
            _ => 0,
        };
        !is_overlay_xattr(attribute) && !self.opts.owners.is_record(attribute, mode)
    }

    fn header(&self, path: Vec<u8>, kind: Kind, meta: &Meta, mut xattrs: Xattrs) -> Member {
        let on_disk = meta.kind.unwrap_or(kind);
        xattrs.retain(|(n, _)| self.is_content(n, on_disk));
        let at = |secs| Mtime { secs, nanos: 0 };
        let mtime = match (self.opts.mtime, self.opts.clamp_mtime) {
            (Some(time), _) => at(time),
            (None, Some(epoch)) => meta.mtime.min(at(epoch)),
            (None, None) => meta.mtime,
        };
        let mut m = Member::new(path, kind);
        m.mode = meta.mode;
        m.uid = meta.uid;
        m.gid = meta.gid;
        m.mtime = mtime;
        if matches!(kind, Kind::Char | Kind::Block) {
            m.dev_major = meta.major;
            m.dev_minor = meta.minor;
        }
        m.xattrs = xattrs;
        m
    }

    /// An empty file that says something about its name.
    fn mark(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        self.stats.whiteouts += 1;
        self.emit(&Member::new(path, Kind::File))
    }

    /// Writes a header, and before it those of parents that waited for a reason.
    fn emit(&mut self, m: &Member) -> Result<(), LayerError> {
        let first = self.stack.iter().rposition(|f| f.pending.is_none()).map_or(0, |i| i + 1);
        for frame in &mut self.stack[first..] {
            if let Some(parent) = frame.pending.take() {
                self.tar.begin(&parent).map_err(LayerError::Write)?;
                self.stats.members += 1;
            }
        }
        self.tar.begin(m).map_err(LayerError::Write)?;
        self.stats.members += 1;
        Ok(())
    }
}
