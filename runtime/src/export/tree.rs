//! Results as files: a folder or one tar.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rgraph_image::layer::{LayerSource, LayerWriteOptions, write_layer};
use rgraph_ir::Platform;
use rgraph_ir::request::Dest;

use super::{Built, ExportError, Exporter, write_whole};
use crate::tree::copy::{CopyOptions, Source, copy};

impl Exporter<'_> {
    /// The files of every target, into `dest`; of several platforms, each into a folder of its own.
    pub(super) fn local(&self, built: &[Built<'_>], dest: &Path) -> Result<(), ExportError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source: io::Error| ExportError::Write { path, source }
        };
        for b in built {
            let dest = if built.len() > 1 {
                dest.join(folder(&b.target.platform))
            } else {
                dest.to_owned()
            };
            std::fs::create_dir_all(&dest).map_err(failed(&dest))?;
            let Some(top) = b.top else { continue };
            let to = File::open(&dest).map_err(failed(&dest))?;
            let from = self.snapshots.mount_read_only(top, None)?;
            let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let cancelled = || self.cancel.is_cancelled();
            let opts = CopyOptions { owner: Some(me), ..CopyOptions::contents(&cancelled) };
            copy(
                &Source { root: from.as_fd(), ignore: None, as_root: false },
                "/",
                to.as_fd(),
                "/",
                &opts,
            )?;
            rustix::fs::syncfs(&to).map_err(|e| failed(&dest)(e.into()))?;
            self.say(&format!("copied files to {}", dest.display()));
        }
        Ok(())
    }

    /// The files of every target as one tar.
    pub(super) fn tar(&self, built: &[Built<'_>], dest: &Dest) -> Result<(), ExportError> {
        if built.len() > 1 {
            return Err(ExportError::Unsupported("`type=tar` of several platforms".to_owned()));
        }
        self.write_output(dest, &mut |out| {
            let Some(top) = built.first().and_then(|b| b.top) else {
                return out
                    .write_all(&[0; 1024])
                    .map_err(|source| ExportError::Write { path: "-".into(), source });
            };
            let root = self.snapshots.mount_read_only(top, None)?;
            // The merged view as a directory: every file of it is "new".
            let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
            let source = LayerSource { upper: &path, lowers: &[] };
            let clamp_mtime = self.request.source_date_epoch;
            write_layer(
                &source,
                &LayerWriteOptions { clamp_mtime, userxattr: self.host.userxattr },
                out,
            )?;
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
                let mut out = BufWriter::with_capacity(256 << 10, io::stdout().lock());
                write(&mut out)?;
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

/// `linux_arm64`, `linux_arm_v7`.
fn folder(p: &Platform) -> String {
    p.to_string().replace('/', "_")
}
