//! Layers laid over each other by the program `fuse-overlayfs`, where the kernel does not do it.
//!
//! The mount is made here, detached like overlayfs's own, and the program only answers for it. It ends
//! with the mount. What it writes into the upper folder is made overlayfs's form afterwards
//! ([`to_overlayfs_form`]).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rgraph_image::layer::{MergedLayers, make_whiteout};
use rgraph_sys::mount::{self, AttrFlags, MountError};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, XattrFlags};

use crate::tree::exact::{drop_overlays_xattrs, times};
use crate::tree::{TreeError, open_dir};

/// Where the program is looked for: steps and images have no say in it.
const PROGRAMS: [&str; 3] = [
    "/usr/local/bin/fuse-overlayfs",
    "/usr/bin/fuse-overlayfs",
    "/run/current-system/sw/bin/fuse-overlayfs",
];
const DEVICE: &str = "/dev/fuse";
/// How long the program may take to see that its mount is gone.
const END: Duration = Duration::from_secs(30);
/// Most of what it says that is told.
const MAX_TEXT: u64 = 4 << 10;

/// Why there is no such mount.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// No program.
    #[error("the program is not installed")]
    NoProgram,
    /// No device.
    #[error("{DEVICE} cannot be opened: {0}")]
    Device(io::Error),
    /// A path that its options have no form for.
    #[error("it cannot be told of the path `{}`", .0.display())]
    Path(PathBuf),
    /// The kernel.
    #[error("{error}: {}", error.source)]
    Mount {
        /// What it said.
        error: MountError,
    },
    /// The program.
    #[error("{0}")]
    Program(String),
    /// A file system on which a deletion cannot be marked as the program marks it.
    #[error("the file system of the state root keeps no whiteouts: {0}")]
    Whiteouts(io::Error),
}

impl FuseError {
    /// What to do; empty: nothing is known to help.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoProgram => "install it (`apt-get install fuse-overlayfs`)",
            Self::Device(_) => {
                "make it usable (as root: `modprobe fuse; chmod 666 /dev/fuse`; in a container \
                 `--device /dev/fuse`)"
            }
            Self::Path(_) | Self::Whiteouts(_) => "use another state root (`--root DIR`)",
            Self::Mount { .. } | Self::Program(_) => "",
        }
    }
}

/// The folders of a mount.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// Read-only, the top one first.
    pub lowers: &'a [PathBuf],
    /// Where changes go, and a folder for the program beside it; `None`: nothing is written.
    pub upper: Option<(&'a Path, &'a Path)>,
}

/// A mount and the program that answers for it. Both end with this.
#[derive(Debug)]
pub struct FuseMount {
    /// Taken when it ends.
    mount: Option<OwnedFd>,
    program: Child,
    said: File,
}

impl FuseMount {
    /// Mounts the folders, detached, and waits until they can be seen.
    pub fn start(layers: &Layers<'_>) -> Result<Self, FuseError> {
        let path = PROGRAMS.iter().find(|p| Path::new(p).exists()).ok_or(FuseError::NoProgram)?;
        let options = options(layers)?;
        if let Some((_, work)) = layers.upper {
            can_delete(work).map_err(FuseError::Whiteouts)?;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(DEVICE, flags, Mode::empty())
            .map_err(|e| FuseError::Device(e.into()))?;
        let number = device.as_raw_fd().to_string();
        let mount = mount::filesystem(
            "fuse",
            &[
                ("fd", Some(&number)),
                ("rootmode", Some("40000")),
                ("user_id", Some("0")),
                ("group_id", Some("0")),
                ("default_permissions", None),
                ("allow_other", None),
            ],
            AttrFlags::empty(),
        )
        .map_err(|error| FuseError::Mount { error })?;
        let failed = |e: io::Error| FuseError::Program(format!("cannot start {path}: {e}"));
        let said = rustix::fs::memfd_create("fuse", rustix::fs::MemfdFlags::CLOEXEC);
        let said = File::from(said.map_err(|e| failed(e.into()))?);
        // The device is its standard input: a descriptor that is open for this program alone.
        let program = Command::new(path)
            .args(["-f", "-o"])
            .arg(options)
            .arg("/dev/fd/0")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(device))
            .stdout(Stdio::null())
            .stderr(said.try_clone().map_err(failed)?)
            // A key that ends the build must not end this before the steps.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut started = Self { mount: Some(mount), program, said };
        // Waits for the program's first answer; it fails when the program has ended.
        match first_answer(started.mount()) {
            Ok(()) => Ok(started),
            Err(e) => Err(started.failure(&e.to_string())),
        }
    }

    /// Another handle of the mount. It can be attached once, by whichever.
    pub fn mount_again(&self) -> Result<OwnedFd, MountError> {
        self.mount().try_clone().map_err(|e| MountError::of_handle("fuse-overlayfs", e))
    }

    fn mount(&self) -> &OwnedFd {
        self.mount.as_ref().expect("taken only when it ends")
    }

    /// Ends it, when nobody else holds the mount: all that was written is in the upper folder then.
    pub fn end(mut self) -> Result<(), FuseError> {
        drop(self.mount.take());
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match self.program.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failure(&status.to_string())),
                Ok(None) if start.elapsed() < END => std::thread::sleep(pause),
                Ok(None) => return Err(self.failure("it does not end")),
                Err(e) => return Err(self.failure(&e.to_string())),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn failure(&mut self, what: &str) -> FuseError {
        let mut text = Vec::new();
        // What it said is a help only.
        let read = self
            .said
            .rewind()
            .and_then(|()| (&mut self.said).take(MAX_TEXT).read_to_end(&mut text).map(drop));
        drop(read);
        let text = String::from_utf8_lossy(&text);
        FuseError::Program(format!("fuse-overlayfs: {what} {}", text.trim()))
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        // It has ended, or nobody wants what it would still write.
        drop(self.mount.take());
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Whether a file of these folders has several names. The program takes them for one file that is written
/// by whichever name, but keeps what was written under one name only.
pub(crate) fn has_several_names(lowers: &[PathBuf]) -> io::Result<bool> {
    fn look(dir: &OwnedFd) -> io::Result<bool> {
        for name in rgraph_sys::tree::names(dir)? {
            let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let found = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => stat.st_nlink > 1,
                FileType::Directory => look(&open_dir(dir, &name)?)?,
                _ => false,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for lower in lowers {
        if look(&rustix::fs::open(lower, flags, Mode::empty())?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn first_answer(root: &OwnedFd) -> io::Result<()> {
    // The mount's own handle is for walking only.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(rustix::fs::openat(root, ".", flags, Mode::empty())?)? {
        drop(entry?);
    }
    Ok(())
}

fn options(layers: &Layers<'_>) -> Result<OsString, FuseError> {
    let mut out = OsString::new();
    let mut add = |before: &str, path: &Path| {
        let bytes = path.as_os_str().as_bytes();
        if bytes.iter().any(|b| matches!(b, b',' | b':' | b'\\' | b'"')) {
            return Err(FuseError::Path(path.to_owned()));
        }
        out.push(before);
        out.push(path);
        Ok(())
    };
    for (n, lower) in layers.lowers.iter().enumerate() {
        add(if n == 0 { "lowerdir=" } else { ":" }, lower)?;
    }
    if let Some((upper, work)) = layers.upper {
        add(",upperdir=", upper)?;
        add(",workdir=", work)?;
        // What a crash leaves is thrown away anyway, and the step's own syncs cost nothing.
        out.push(",volatile");
    }
    Ok(out)
}

/// Whether devices without a number can be made, which mean deletions to the program too.
fn can_delete(work: &Path) -> io::Result<()> {
    let name = work.join("whiteout");
    let kind = FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &name, kind, Mode::empty(), 0)?;
    std::fs::remove_file(&name)
}

/// What says that a folder hides all below it.
const OPAQUE: [&str; 3] =
    ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"];

/// Makes what the program wrote into `upper` what overlayfs would have: deletions and opaque folders are
/// marked in its way, and only where `below` shows something.
pub(crate) fn to_overlayfs_form(
    upper: &Path,
    below: &MergedLayers,
    userxattr: bool,
) -> Result<(), TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir =
        rustix::fs::open(upper, flags, Mode::empty()).map_err(TreeError::io("open", "layer"))?;
    let own = if userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    Marks { below, own }.folder(&dir, Path::new("")).map(drop)
}

struct Marks<'a> {
    below: &'a MergedLayers,
    own: &'static str,
}

impl Marks<'_> {
    /// True: the folder was said to hide what is below it.
    fn folder(&self, dir: &OwnedFd, place: &Path) -> Result<bool, TreeError> {
        let shown = place.to_string_lossy();
        let stat = rustix::fs::fstat(dir).map_err(TreeError::io("look at", &*shown))?;
        let mut opaque = OPAQUE
            .iter()
            .any(|name| matches!(rustix::fs::fgetxattr(dir, *name, &mut [0u8; 2][..]), Ok(1)));
        let names = rgraph_sys::tree::names(dir).map_err(TreeError::std("read", &*shown))?;
        let mut changed = false;
        for name in names {
            let path = place.join(&name);
            let shown = path.to_string_lossy();
            if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
                changed = true;
                let mark = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(TreeError::io("look at", &*shown))?;
                rustix::fs::unlinkat(dir, &name, AtFlags::empty())
                    .map_err(TreeError::io("remove", &*shown))?;
                let is_file = FileType::from_raw_mode(mark.st_mode) == FileType::RegularFile;
                if hidden == b".wh..opq" {
                    opaque = true;
                } else if is_file && !hidden.is_empty() {
                    // How it marks deletions where it could make no devices.
                    make_whiteout(dir, hidden).map_err(TreeError::std("delete", &*shown))?;
                }
                continue;
            }
            let handle = rgraph_sys::tree::entry(dir, &name, rgraph_sys::tree::As::Handle)
                .map_err(TreeError::std("open", &*shown))?;
            let kind = rustix::fs::fstat(&handle).map_err(TreeError::io("look at", &*shown))?;
            let mut hides = false;
            if FileType::from_raw_mode(kind.st_mode) == FileType::Directory {
                let inner = open_dir(dir, &name).map_err(TreeError::io("open", &*shown))?;
                hides = self.folder(&inner, &path)?
                    && self.below.shows(&path).map_err(TreeError::std("look at", &*shown))?;
            }
            drop_overlays_xattrs(&handle, &shown)?;
            if hides {
                let inner = open_dir(dir, &name).map_err(TreeError::io("open", &*shown))?;
                rustix::fs::fsetxattr(&inner, self.own, b"y", XattrFlags::empty())
                    .map_err(TreeError::io("mark", &*shown))?;
            }
        }
        if changed {
            rustix::fs::futimens(dir, &times(&stat))
                .map_err(TreeError::io("set times of", &*shown))?;
        }
        Ok(opaque)
    }
}
