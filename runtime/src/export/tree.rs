//! Results as files: a folder or one tar.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rgraph_image::layer::{LayerSource, LayerWriteOptions, Part, write_parts};
use rgraph_ir::Platform;
use rgraph_ir::request::{Dest, FilesForm};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Built, ExportError, Exporter, write_whole};
use crate::tree::copy::{CopyOptions, Source, copy, times};

impl Exporter<'_> {
    /// The files of every target, into `dest`; of several platforms, each into a folder of its own.
    pub(super) fn local(
        &self,
        built: &[Built<'_>],
        dest: &Path,
        form: &FilesForm,
    ) -> Result<(), ExportError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source: io::Error| ExportError::Write { path, source }
        };
        let split = form.split.unwrap_or(built.len() > 1);
        for b in built {
            let dest = if split { dest.join(folder(&b.target.platform)) } else { dest.to_owned() };
            std::fs::create_dir_all(&dest).map_err(failed(&dest))?;
            let to = File::open(&dest).map_err(failed(&dest))?;
            let from = match b.top {
                Some(top) => Some(self.snapshots.mount_read_only(top, None)?),
                None => None,
            };
            let said = self.statements(b, from.as_ref().map(AsFd::as_fd), &form.prefix)?;
            if let Some(from) = &from {
                self.copy_out(from.as_fd(), to.as_fd())?;
            }
            for (name, bytes) in said {
                let name = statement_name(&name, b, built.len() > 1 && !split);
                replace(&to, &name, &bytes).map_err(failed(&dest.join(&name)))?;
            }
            rustix::fs::syncfs(&to).map_err(|e| failed(&dest)(e.into()))?;
            self.say(&format!("copied files to {}", dest.display()));
        }
        Ok(())
    }

    fn copy_out(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), ExportError> {
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let cancelled = || self.cancel.is_cancelled();
        let time = self.export.source_date_epoch.map(|s| times(s.saturating_mul(1_000_000_000)));
        let all = CopyOptions::contents(self.host.owners, &cancelled);
        let opts = CopyOptions { owner: Some(me), time, ..all };
        copy(&Source { root: from, ignore: None, as_root: false }, "/", to, "/", &opts)?;
        Ok(())
    }

    /// The files of every target as one tar; of several platforms, each in a folder of its own.
    pub(super) fn tar(
        &self,
        built: &[Built<'_>],
        dest: &Dest,
        form: &FilesForm,
    ) -> Result<(), ExportError> {
        let several = built.len() > 1;
        let split = form.split.unwrap_or(several);
        if several && !split {
            return Err(ExportError::Unsupported(
                "`platform-split=false` for a tar of several platforms".to_owned(),
            ));
        }
        let mut roots = Vec::new();
        for b in built {
            let root = match b.top {
                Some(top) => Some(self.snapshots.mount_read_only(top, None)?),
                None => None,
            };
            let said = self.statements(b, root.as_ref().map(AsFd::as_fd), &form.prefix)?;
            // The merged view as a directory: every file of it is "new".
            let path =
                root.as_ref().map(|r| PathBuf::from(format!("/proc/self/fd/{}", r.as_raw_fd())));
            let name = if split { folder(&b.target.platform) } else { String::new() };
            roots.push((name, root, path, said));
        }
        let parts: Vec<Part<'_>> = roots
            .iter()
            .map(|(name, _, path, said)| Part {
                name,
                source: path.as_deref().map(|upper| LayerSource { upper, lowers: &[] }),
                files: said,
            })
            .collect();
        let mtime = self.export.source_date_epoch;
        let now = i64::try_from(self.clock.now().0 / 1_000_000_000).unwrap_or(0);
        let (userxattr, owners) = (self.host.userxattr, self.host.owners);
        let opts = LayerWriteOptions { clamp_mtime: None, mtime, userxattr, owners };
        self.write_output(dest, &mut |out| {
            write_parts(&parts, mtime.unwrap_or(now), &opts, out)?;
            Ok(())
        })
    }

    /// Writes an output file: whole under its name and durable, or not at all.
    pub(crate) fn write_output(
        &self,
        dest: &Dest,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let path = match dest {
            Dest::Stdout => {
                let told = Told { inner: io::stdout().lock(), bytes: 0 };
                let mut out = BufWriter::with_capacity(256 << 10, told);
                if let Err(e) = write(&mut out) {
                    // Without what was not passed on yet.
                    let (told, _) = out.into_parts();
                    return Err(match told.bytes {
                        0 => e,
                        _ => ExportError::Begun(Box::new(e)),
                    });
                }
                return out
                    .flush()
                    .map_err(|source| ExportError::Write { path: "-".into(), source });
            }
            Dest::Path(p) => p,
        };
        let failed = |source| ExportError::Write { path: path.display().to_string(), source };
        write_whole(path, &failed, write)
    }
}

/// Counts what is written.
struct Told<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Told<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// `linux_arm64`, `linux_arm_v7`.
fn folder(p: &Platform) -> String {
    p.to_string().replace('/', "_")
}

/// Statements about several platforms in one folder are told apart: `provenance.linux_amd64.json`.
fn statement_name(name: &str, b: &Built<'_>, apart: bool) -> String {
    if !apart {
        return name.to_owned();
    }
    let platform = folder(&b.target.platform);
    match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}.{platform}.{extension}"),
        None => format!("{name}.{platform}"),
    }
}

/// Writes a file in a folder, for its owner alone. What stood there before goes.
fn replace(dir: &File, name: &str, bytes: &[u8]) -> io::Result<()> {
    // One of each call: several threads may write into one folder.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let tmp = format!(".{name}.{}-{n}.tmp", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Left by an earlier process of the same number.
    let _ = rustix::fs::unlinkat(dir, &tmp, AtFlags::empty());
    let file = rustix::fs::openat(dir, &tmp, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file)
        .write_all(bytes)
        .and_then(|()| Ok(rustix::fs::renameat(dir, &tmp, dir, name)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir, &tmp, AtFlags::empty());
    }
    written
}
