//! Why something with a container went wrong.

use std::io;
use std::path::{Path, PathBuf};

use rgraph_store::StoreError;

use super::PortError;

/// Why a container could not be made, found or run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image.
    #[error(transparent)]
    Image(#[from] crate::images::ImagesError),
    /// The layers of the image.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// Its changes could not be kept apart from the image.
    #[error("containers need overlayfs ({0})")]
    NoOverlayfs(crate::host::Decided),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// Its volumes.
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    /// Its ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Its network.
    #[error(transparent)]
    Network(#[from] crate::ops::network::NetworkError),
    /// The new image.
    #[error(transparent)]
    Export(#[from] crate::export::ExportError),
    /// A layer could not be written or read.
    #[error("cannot copy the changes of the container")]
    Layer(#[source] rgraph_image::layer::LayerError),
    /// A file of the container.
    #[error("cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is written of one cannot be understood.
    #[error(
        "the record of container {id} is damaged: save what you need from `{0}`, then remove that \
         folder",
        folder.display()
    )]
    Damaged {
        /// Which.
        id: String,
        /// Its files.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Nothing is called so.
    #[error("no such container: {0}")]
    NotFound(String),
    /// Several ids begin so.
    #[error("container id `{0}` is ambiguous: give more digits of it")]
    Ambiguous(String),
    /// The name is another container's.
    #[error(
        "conflict: the container name \"/{name}\" is already in use by container \"{id}\": remove \
         or rename that container, or choose another name"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// It must not run for that.
    #[error("container {0} is running: stop it first, or add `--force` (`-f`)")]
    Running(String),
    /// It must run for that.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The supervisor cannot do what it was asked for.
    #[error("the container cannot do that: {0}")]
    Refused(String),
    /// The supervisor and this process do not understand each other.
    #[error("cannot talk to the supervisor of the container")]
    Talk(#[source] io::Error),
    /// The supervisor was killed, and so was the container.
    #[error("the supervisor of the container was killed, and the container with it")]
    SupervisorDied,
}

pub(crate) fn at<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ContainerError + 'a {
    move |source| ContainerError::Io { what, path: path.to_owned(), source }
}
