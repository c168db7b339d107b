//! An image of one layer from an archive of a root file system.

use std::fs::File;
use std::io::Read;

use rgraph_image::layer::{UnpackOptions, decompress, unpack_layer};
use rgraph_image::tar::TarError;
use rgraph_ir::plan::TargetBase;
use rgraph_ir::{Edge, HistoryEntry, Target, VertexId};
use rgraph_solver::CancelToken;
use rgraph_solver::backend::BuiltImage;
use rgraph_store::{NewSnapshot, Store};
use rustix::event::{PollFd, PollFlags, poll};

use crate::export::{ExportError, keep_new};
use crate::fetch::image::{ImageFetcher, PullPolicy};
use crate::host::Host;
use crate::snapshot::Snapshots;

/// What to import.
pub struct Import<'a> {
    /// The archive: a tar, plain or compressed.
    pub from: &'a mut dyn Read,
    /// Settings of the image.
    pub config: rgraph_ir::image_config::ImageConfig,
    /// Text in its history.
    pub comment: String,
    /// Names, written out with tag.
    pub names: Vec<String>,
}

/// Imports an archive into the store.
pub fn import(
    store: &Store,
    host: &Host,
    cancel: &CancelToken,
    what: Import<'_>,
) -> Result<BuiltImage, ExportError> {
    let lease = store.lease()?;
    let prepared = store.prepare(&lease)?;
    let failed = |e| match cancel.is_cancelled() {
        true => ExportError::Cancelled,
        false => ExportError::Import(e),
    };
    let plain = decompress(what.from).map_err(|e| failed(TarError::Io(e).into()))?;
    // An archive of a root file system is no layer: `.wh.` names are refused by it, and a stream
    // that is no tar at all is told as such.
    let stats = unpack_layer(
        plain,
        prepared.fs(),
        &UnpackOptions {
            userxattr: host.userxattr,
            owners: host.owners,
            ..UnpackOptions::default()
        },
    )
    .map_err(failed)?;
    if stats.members == 0 {
        return Err(ExportError::Unsupported("an import of an empty archive".to_owned()));
    }
    let top = store.commit(
        prepared,
        NewSnapshot { parent: None, layer: None, description: "import".to_owned() },
    )?;
    let target = Target {
        stage: String::new(),
        platform: what.config.platform.clone(),
        // The one layer; no graph stands behind it.
        root: Some(Edge::main(VertexId(0))),
        history: vec![HistoryEntry {
            created_by: String::new(),
            comment: what.comment.into(),
            author: None,
            layer: Some(Edge::main(VertexId(0))),
            span: None,
        }],
        config: what.config,
        base: TargetBase::default(),
    };
    let images = ImageFetcher::new(store, None, PullPolicy::Never, cancel);
    let snapshots = Snapshots::new(store, host, &images, &lease);
    keep_new(&snapshots, &images, &target, top, what.names, cancel)
}

/// Reads a file or pipe until the build is to stop: a pipe that nobody writes to does not keep a
/// signal from ending the command.
pub struct Interruptible {
    file: File,
    cancel: CancelToken,
}

impl Interruptible {
    /// Reads `file`, in either blocking mode.
    pub fn new(file: File, cancel: &CancelToken) -> Self {
        Self { file, cancel: cancel.clone() }
    }

    /// Opens an archive by path.
    pub fn open(path: &std::path::Path, cancel: &CancelToken) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        if file.metadata()?.is_dir() {
            return Err(std::io::Error::other("it is a folder"));
        }
        Ok(Self::new(file, cancel))
    }
}

impl Read for Interruptible {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        const LOOK: rustix::fs::Timespec = rustix::fs::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        loop {
            if self.cancel.is_cancelled() {
                return Err(std::io::Error::other("canceled"));
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
            match self.file.read(buf) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_silent_pipe_does_not_hold_a_cancelled_import() {
        let (read, mut write) = std::io::pipe().unwrap();
        let cancel = CancelToken::new();
        let mut from = Interruptible::new(File::from(std::os::fd::OwnedFd::from(read)), &cancel);
        write.write_all(b"ab").unwrap();
        let mut buf = [0; 8];
        assert_eq!(from.read(&mut buf).unwrap(), 2);
        cancel.cancel();
        assert!(from.read(&mut buf).is_err());
        drop(write);
    }
}
