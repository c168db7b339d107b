//! Volumes: folders of files that outlive the containers they are mounted in.
//!
//! ```text
//! volumes/<name>/volume.json  what it is
//! volumes/<name>/_data        its files
//! ```
//! A volume is in use while the record of a container names it, whether that runs or not. What changes
//! the list of volumes holds one lock of the store. A container that starts makes what it names and is
//! not there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rgraph_image::layer::Owners;
use rgraph_store::{KeyLock, Store, StoreError};
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::container::{ContainerError, Containers, VolumeMount};
use crate::snapshot::Mounted;
use crate::tree::copy::{CopyOptions, Source, copy};
use crate::tree::resolve::{chown, resolve};
use crate::tree::{TreeError, open_dir};

/// Why a volume could not be made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The containers that may use it.
    #[error("cannot tell who uses the volume")]
    Containers(#[source] Box<ContainerError>),
    /// Its files.
    #[error("cannot fill volume {name}")]
    Fill {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A file of its own.
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
    /// Nothing is called so.
    #[error("no such volume: {0}")]
    NotFound(String),
    /// A container needs it.
    #[error("volume {name} is in use by container {container}: remove that first")]
    InUse {
        /// Which.
        name: String,
        /// Whose.
        container: String,
    },
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { what, path: path.to_owned(), source }
}

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Nobody gave it its name.
    #[serde(default)]
    pub anonymous: bool,
}

/// The volumes of a store.
pub struct Volumes<'a> {
    store: &'a Store,
    dir: PathBuf,
}

/// A name that nobody gave: 64 hex digits.
///
/// # Errors
/// The kernel has no random numbers.
pub fn random_name() -> io::Result<String> {
    let mut bytes = [0; 32];
    crate::random(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

impl<'a> Volumes<'a> {
    /// A view of them.
    pub fn new(store: &'a Store) -> Self {
        Self { store, dir: folder_of(store.layout().root()) }
    }

    /// Where the files of a volume are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("_data")
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at("read", &self.dir))?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let path = entry.map_err(at("read", &self.dir))?.path();
            out.extend(read(&path)?);
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    /// A volume by its whole name.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`].
    pub fn find(&self, name: &str) -> Result<Volume, VolumeError> {
        read(&self.dir.join(name))?.ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// Makes a volume; one that is there stays as it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(&self, volume: Volume) -> Result<Volume, VolumeError> {
        let _one = self.lock()?;
        self.create_locked(volume)
    }

    fn lock(&self) -> Result<KeyLock, VolumeError> {
        Ok(self.store.key_lock("volumes", &mut |_| true)?)
    }

    fn create_locked(&self, volume: Volume) -> Result<Volume, VolumeError> {
        let folder = self.dir.join(&volume.name);
        if let Some(there) = read(&folder)? {
            return Ok(there);
        }
        let data = folder.join("_data");
        fs::create_dir_all(&data).map_err(at("create", &data))?;
        let path = folder.join("volume.json");
        let tmp = folder.join("volume.new");
        let text = serde_json::to_vec(&volume).expect("always serialises");
        fs::write(&tmp, text).and_then(|()| fs::rename(&tmp, &path)).map_err(at("write", &path))?;
        Ok(volume)
    }

    /// Removes a volume that nobody uses, with its files.
    ///
    /// # Errors
    /// [`VolumeError::InUse`], or something cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let _one = self.lock()?;
        self.find(name)?;
        if let Some(container) = self.users(name)?.into_iter().next() {
            return Err(VolumeError::InUse { name: name.to_owned(), container });
        }
        remove_folder(&self.dir.join(name))
    }

    /// Names of the containers that use a volume.
    ///
    /// # Errors
    /// The containers cannot be read.
    pub fn users(&self, name: &str) -> Result<Vec<String>, VolumeError> {
        let all = Containers::new(self.store).list();
        let all = all.map_err(|e| VolumeError::Containers(Box::new(e)))?;
        let uses = |r: &crate::container::Record| r.settings.volumes.iter().any(|v| v.name == name);
        Ok(all.into_iter().filter(uses).map(|r| r.name).collect())
    }

    /// Makes what a container names and is not there. An empty volume takes what its image has in its
    /// place, with owners and modes; `image` is the root of that, `None`: it has no files.
    ///
    /// # Errors
    /// It cannot be made or filled.
    pub fn attach(
        &self,
        mounts: &[VolumeMount],
        owners: Owners,
        image: &dyn Fn() -> Result<Option<Mounted>, ContainerError>,
    ) -> Result<(), ContainerError> {
        if mounts.is_empty() {
            return Ok(());
        }
        let _one = self.lock()?;
        let mut root = None;
        for m in mounts {
            let created = jiff::Timestamp::now().as_second();
            let (name, anonymous) = (m.name.clone(), m.anonymous);
            self.create_locked(Volume { name, created, anonymous, labels: BTreeMap::new() })?;
            let data = self.data(&m.name);
            let mut files = fs::read_dir(&data).map_err(at("read", &data))?;
            if !m.copy || files.next().is_some() {
                continue;
            }
            if root.is_none() {
                root = Some(image()?);
            }
            if let Some(Some(root)) = &root {
                fill(root, &m.dest, &data, owners)
                    .map_err(|source| VolumeError::Fill { name: m.name.clone(), source })?;
            }
        }
        Ok(())
    }
}

/// Copies what an image has at a path into the folder of a volume.
fn fill(image: &OwnedFd, path: &str, data: &Path, owners: Owners) -> Result<(), TreeError> {
    let place = match resolve(image.as_fd(), OsStr::new(path), true, None) {
        Err(TreeError::NotFound { .. }) => return Ok(()),
        place => place?,
    };
    let Some(like) = place.stat.filter(|_| place.is_dir()) else { return Ok(()) };
    let to = open_dir(rustix::fs::CWD, data.as_os_str()).map_err(TreeError::io("open", data))?;
    let source = Source { root: image.as_fd(), ignore: None, as_root: false };
    copy(&source, path, to.as_fd(), "/", &CopyOptions::contents(owners, &|| false))?;
    // The folder is the image's too.
    let own = (like.st_uid, like.st_gid);
    let own = owners.recorded_at(&place.parent, &*place.name).map(|o| o.unwrap_or(own));
    let own = own.map_err(TreeError::std("look at", path))?;
    chown(to.as_fd(), OsStr::new("."), own, owners)
        .and_then(|()| rustix::fs::fchmod(&to, Mode::from_raw_mode(like.st_mode & 0o7777)))
        .map_err(TreeError::io("set up", data))
}

/// The folder of all volumes in a state root.
pub(crate) fn folder_of(root: &Path) -> PathBuf {
    root.join("volumes")
}

/// What is known of the volume in a folder; `None`: none is there.
fn read(folder: &Path) -> Result<Option<Volume>, VolumeError> {
    let path = folder.join("volume.json");
    let text = match fs::read(&path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        text => text.map_err(at("read", &path))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| at("understand", &path)(e.into()))
}

/// Removes the folder of a volume.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), VolumeError> {
    // Without this it is nobody's any more, whatever happens next.
    let path = folder.join("volume.json");
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &path)(e)),
        _ => {}
    }
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at("remove", folder)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use rustix::fs::OFlags;

    #[test]
    fn what_the_image_has_is_copied_with_its_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let (image, data) = (tmp.path().join("image"), tmp.path().join("data"));
        fs::create_dir_all(image.join("var/lib/db/sub")).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(image.join("var/lib/db/sub/f"), "x").unwrap();
        fs::set_permissions(image.join("var/lib/db"), fs::Permissions::from_mode(0o1770)).unwrap();
        std::os::unix::fs::symlink("/var/lib/db", image.join("db")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&image, flags, Mode::empty()).unwrap();
        fill(&root, "/none", &data, Owners::Kernel).unwrap();
        fill(&root, "/db", &data, Owners::Kernel).unwrap();
        assert_eq!(fs::read_to_string(data.join("sub/f")).unwrap(), "x");
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o1770);
    }
}
