//! Output files: whole under their name and durable, or not there. What a kill leaves has no name
//! where the file system can do that.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Tells this process's temporary names apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Writes `path` through `write`. An older file stays until the new one is whole and synced. A link
/// is followed; a device or pipe (`/dev/null`, `/dev/stdout`) is written to and never replaced.
///
/// # Errors
/// Those of `write`, and those of the file as `failed` makes them.
pub fn write_whole<E>(
    path: &Path,
    failed: &dyn Fn(io::Error) -> E,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let path = &real(path);
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(m) if !m.is_file() => {
            let file = File::options().write(true).open(path).map_err(failed)?;
            let mut out = BufWriter::with_capacity(256 << 10, file);
            write(&mut out)?;
            return out.flush().map_err(failed);
        }
        _ => {}
    }
    let name = path.file_name().ok_or_else(|| failed(io::Error::other("it is not a file name")))?;
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    // Nobody else's temporary name: processes of other containers have the same ids.
    let unique = jiff::Timestamp::now().as_nanosecond();
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let tmp = dir.join(format!(
        ".{}.{:x}-{unique:x}-{n}.tmp",
        name.to_string_lossy(),
        std::process::id()
    ));
    let (file, named) = open_nameless(dir, &tmp).map_err(failed)?;
    let mut removed = Removed(named.then_some(tmp.as_path()));
    let mut out = BufWriter::with_capacity(256 << 10, file);
    write(&mut out)?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)?;
    if !named {
        let fd = format!("/proc/self/fd/{}", out.get_ref().as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, &fd, rustix::fs::CWD, &tmp, AtFlags::SYMLINK_FOLLOW)
            .map_err(|e| failed(e.into()))?;
        removed.0 = Some(&tmp);
    }
    std::fs::rename(&tmp, path).map_err(failed)?;
    removed.0 = None;
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed)
}

/// Where a link leads; a path that leads nowhere is itself.
fn real(path: &Path) -> PathBuf {
    let link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    if link { std::fs::canonicalize(path).unwrap_or(path.to_owned()) } else { path.to_owned() }
}

/// Where a path leads, though nothing need be there yet: absolute, links followed as far as it exists.
/// Two spellings of one place give one path.
pub fn real_place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    let mut existing = path.as_path();
    loop {
        if let Ok(real) = existing.canonicalize() {
            let mut out = real;
            for part in rest.into_iter().rev() {
                match part {
                    Component::ParentDir => drop(out.pop()),
                    part => out.push(part),
                }
            }
            return out;
        }
        match (existing.parent(), existing.components().next_back()) {
            (Some(parent), Some(last)) => {
                rest.push(last);
                existing = parent;
            }
            _ => return path,
        }
    }
}

/// A file without a name; true: with the name `tmp`, where the file system has no other.
fn open_nameless(dir: &Path, tmp: &Path) -> io::Result<(File, bool)> {
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
        Ok(fd) => {
            // Without /proc it could not be given a name later.
            let linkable =
                std::fs::symlink_metadata(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()));
            if linkable.is_ok() {
                return Ok((File::from(fd), false));
            }
        }
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        Err(e) => return Err(e.into()),
    }
    Ok((File::options().write(true).create_new(true).open(tmp)?, true))
}

/// Removes a temporary file that was not renamed.
struct Removed<'a>(Option<&'a Path>);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(e) = std::fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), error = %e, "temporary file not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt as _;

    fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
        write_whole(path, &|e| e, &mut |out| out.write_all(bytes))
    }

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        put(&path, b"old").unwrap();
        let failing = write_whole(&path, &|e| e, &mut |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(failing.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        put(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");
        assert!(put(dir.path(), b"x").is_err());
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        put(Path::new("/dev/null"), b"x").unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        put(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn two_spellings_are_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", base.join("l")).unwrap();
        std::os::unix::fs::symlink("nowhere", base.join("dangling")).unwrap();
        for (path, want) in [
            ("a/new", "a/new"),
            ("./a//new/", "a/new"),
            ("l/new", "a/new"),
            ("l/b/../new", "a/new"),
            ("a/none/../new", "a/new"),
            ("a/none/deep/../../new", "a/new"),
            ("l/b", "a/b"),
            ("dangling", "dangling"),
            ("dangling/x", "dangling/x"),
        ] {
            assert_eq!(real_place(&dir.path().join(path)), base.join(want), "{path}");
        }
        assert!(real_place(Path::new("x")).is_absolute());
    }
}
