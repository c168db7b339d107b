//! The union of directories, whatever their number.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{AttrFlags, Context, MountError, clone_path, read_only};

/// The most lower directories the kernel takes in one overlay.
pub const MAX_LOWERS: usize = 500;

/// The parts of an overlay.
#[derive(Debug, Clone, Copy)]
pub struct OverlaySpec<'a> {
    /// Read-only directories, the **top** layer first.
    pub lowers: &'a [PathBuf],
    /// Where changes go, and the kernel's scratch directory beside it; `None`: read-only. The
    /// latter must be empty: one that a volatile overlay has used is refused by the kernel.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// No syncs at all for the upper directory: right for what is thrown away after a crash.
    pub volatile: bool,
    /// Keep overlay's marks in `user.*` attributes, as a user namespace must.
    pub userxattr: bool,
}

/// Mounts the union of the directories, detached.
///
/// overlayfs itself wants two lowers, or a lower and an upper. The cases below that are answered
/// with a bind of the single directory (read-only when it is a lower), so that callers need not
/// know. Inode and device numbers then are those of the directory itself.
///
/// # Errors
/// [`MountError`], with the kernel's sentence. No directory at all, or more than [`MAX_LOWERS`],
/// is `InvalidInput`.
pub fn overlay(layers: &OverlaySpec<'_>) -> Result<OwnedFd, MountError> {
    let refuse = |why| {
        MountError::new("mount overlay", "", io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    match (layers.lowers, layers.upper) {
        ([], None) => Err(refuse("no directory given")),
        ([], Some((upper, _))) => clone_path(upper, false),
        ([only], None) => read_only(only),
        (lowers, _) if lowers.len() > MAX_LOWERS => Err(refuse("more than 500 lower directories")),
        (lowers, upper) => union(lowers, upper, layers),
    }
}

fn union(
    lowers: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    spec: &OverlaySpec<'_>,
) -> Result<OwnedFd, MountError> {
    let fs = Context::open("overlay")?;
    for dir in lowers {
        fs.string("lowerdir+", dir.as_os_str())?;
    }
    if let Some((upper, work)) = upper {
        fs.string("upperdir", &unescaped(upper))?;
        fs.string("workdir", &unescaped(work))?;
        if spec.volatile {
            fs.flag("volatile")?;
        }
    }
    if spec.userxattr {
        // The kernel forces the safe values of the options below itself, and refuses to be told.
        fs.flag("userxattr")?;
    } else {
        // Distributions change these defaults; each would make the upper say less than the tree.
        for (key, value) in [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off")] {
            fs.string(key, OsStr::new(value))?;
        }
    }
    fs.finish(AttrFlags::empty()).map_err(|mut e| {
        let used = |work: &Path| work.join("work/incompat/volatile").exists();
        if e.kernel.is_none() && upper.is_some_and(|(_, work)| used(work)) {
            e.kernel = Some("the work directory was used for a volatile overlay before".into());
        }
        e
    })
}

/// `upperdir` and `workdir` have backslashes taken out of them by the kernel, `lowerdir+` has not.
fn unescaped(path: &Path) -> std::ffi::OsString {
    let bytes = path.as_os_str().as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    for &b in bytes {
        if b == b'\\' {
            out.push(b'\\');
        }
        out.push(b);
    }
    std::ffi::OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::fs;

    /// These need the right to mount; without it the test says so where nobody can miss it.
    fn root() -> bool {
        let may = rustix::process::geteuid().is_root();
        if !may {
            eprintln!("\n*** SKIPPED, NOT TESTED: mounting needs root ***\n");
        }
        may
    }

    fn read(tree: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
        let fd = rustix::fs::openat(tree, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buf = [0; 64];
        let n = rustix::io::read(&fd, &mut buf[..])?;
        Ok(buf[..n].to_vec())
    }

    fn write(tree: &OwnedFd, name: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(tree, name, flags, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&fd, b"new")?;
        Ok(())
    }

    /// Three directories `a`, `b`, `c` with a file `who` each, and `u`, `w`; all below a name that
    /// mount option strings would trip over.
    fn trees() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("odd,:=\\ \"name");
        for d in ["a", "b", "c", "u", "w"] {
            fs::create_dir_all(base.join(d)).unwrap();
        }
        for d in ["a", "b", "c"] {
            fs::write(base.join(d).join("who"), d).unwrap();
            fs::write(base.join(d).join(format!("only-{d}")), d).unwrap();
        }
        (dir, move |d| base.join(d))
    }

    #[test]
    fn union_shows_the_first_lower_on_top_and_writes_go_to_the_upper() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let lowers = [at("a"), at("b"), at("c")];
        let upper = (at("u"), at("w"));
        let spec = OverlaySpec {
            lowers: &lowers,
            upper: Some((&upper.0, &upper.1)),
            volatile: true,
            userxattr: false,
        };
        let tree = overlay(&spec).unwrap();
        assert_eq!(read(&tree, "who").unwrap(), b"a");
        assert_eq!(read(&tree, "only-c").unwrap(), b"c");
        write(&tree, "fresh").unwrap();
        assert_eq!(fs::read(at("u").join("fresh")).unwrap(), b"new");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("odd,"), "a detached mount must have no place: {mounts}");
    }

    #[test]
    fn without_upper_nothing_can_be_written() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        for lowers in [vec![at("b")], vec![at("b"), at("c")]] {
            let spec =
                OverlaySpec { lowers: &lowers, upper: None, volatile: false, userxattr: false };
            let tree = overlay(&spec).unwrap();
            assert_eq!(read(&tree, "who").unwrap(), b"b");
            let err = write(&tree, "fresh").unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::ReadOnlyFilesystem, "{} lowers", lowers.len());
        }
    }

    #[test]
    fn a_work_directory_serves_one_volatile_overlay() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let lowers = [at("a")];
        let upper = (at("u"), at("w"));
        let spec = OverlaySpec {
            lowers: &lowers,
            upper: Some((&upper.0, &upper.1)),
            volatile: true,
            userxattr: false,
        };
        drop(overlay(&spec).unwrap());
        let err = overlay(&spec).unwrap_err();
        assert!(err.to_string().contains("volatile overlay before"), "{err}");
    }

    #[test]
    fn no_lower_is_the_upper_itself() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let upper = (at("u"), at("w"));
        let spec = OverlaySpec {
            lowers: &[],
            upper: Some((&upper.0, &upper.1)),
            volatile: true,
            userxattr: false,
        };
        let tree = overlay(&spec).unwrap();
        write(&tree, "fresh").unwrap();
        assert_eq!(fs::read(at("u").join("fresh")).unwrap(), b"new");
    }

    #[test]
    fn errors_carry_the_kernels_sentence() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let lowers = [at("a"), at("missing")];
        let spec = OverlaySpec { lowers: &lowers, upper: None, volatile: false, userxattr: false };
        let err = overlay(&spec).unwrap_err();
        assert_eq!(err.source.kind(), io::ErrorKind::NotFound);
        assert!(err.to_string().contains("missing"), "{err}");

        // Not a directory for the work folder: overlayfs says so itself.
        let lowers = [at("a")];
        let upper = (at("u"), at("a").join("who"));
        let spec = OverlaySpec {
            lowers: &lowers,
            upper: Some((&upper.0, &upper.1)),
            volatile: false,
            userxattr: false,
        };
        let err = overlay(&spec).unwrap_err();
        assert!(err.kernel.is_some(), "{err:?}");
    }

    #[test]
    fn impossible_specs_are_refused_before_the_kernel_sees_them() {
        let many = vec![PathBuf::from("/nowhere"); MAX_LOWERS + 1];
        for lowers in [&[][..], &many[..]] {
            let spec = OverlaySpec { lowers, upper: None, volatile: false, userxattr: false };
            assert_eq!(overlay(&spec).unwrap_err().source.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
