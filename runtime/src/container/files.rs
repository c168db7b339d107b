//! The files of a container from outside: `cp` and `export`.
//!
//! Nothing of a container is found by the host's meaning of a path: every walk starts from a handle
//! of its root, or of what is mounted in it, and reads links itself. To read, the layers are put
//! together anew, whether it runs or not, so that nothing of its `/proc` or memory is in the way. To
//! write into one that runs, its own root is taken, which its supervisor opens: what is put below a
//! mounted overlay behind its back need not be seen.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rgraph_image::layer::{
    ArchiveOptions, LayerError, LayerSource, LayerWriteOptions, unpack_archive, write_entry,
    write_layer,
};
use rgraph_store::StoreError;
use rgraph_sys::mount::{Attr, AttrFlags, MountError, OverlaySpec, overlay, set_attr};

use super::{ContainerError, Containers, Held, Record};
use crate::host::Host;
use crate::snapshot::{SnapshotError, Snapshots};
use crate::tree::copy::{CopyOptions, Source, copy};
use crate::tree::resolve::{Place, resolve};
use crate::tree::{TreeError, open_dir};
use crate::volumes::Volumes;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layers of its image.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The layers could not be put together.
    #[error("cannot mount the files of the container")]
    Mount(#[source] MountError),
    /// Its root.
    #[error("cannot reach the files of the container")]
    Reach(#[source] std::io::Error),
    /// A folder of the caller, or one that is mounted in the container.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An archive could not be written or read.
    #[error("cannot copy the archive")]
    Archive(#[source] LayerError),
    /// Nothing stands there.
    #[error("no such file or folder: {0}")]
    Missing(String),
    /// There is no folder to copy into.
    #[error("no such folder: {0}")]
    NoFolder(String),
    /// A folder would take the place of a file.
    #[error("cannot copy a folder to `{0}`, which is a file")]
    OverFile(String),
    /// It is mounted so that nobody writes.
    #[error("`{0}` is mounted read-only in the container")]
    ReadOnly(String),
}

/// Where containers, their layers and what is mounted in them are found.
pub struct Reach<'a> {
    /// Containers.
    pub containers: &'a Containers<'a>,
    /// Layers.
    pub snapshots: &'a Snapshots<'a>,
    /// What the host allows.
    pub host: &'a Host,
}

/// The files of one container.
pub struct Files<'a> {
    reach: &'a Reach<'a>,
    root: OwnedFd,
    mounts: Vec<Mounted>,
    /// Nobody starts it meanwhile.
    _held: Option<Held>,
}

/// A folder or file that is mounted in a container that is looked at from outside.
struct Mounted {
    dest: String,
    source: PathBuf,
    readonly: bool,
}

/// How to copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Copying {
    /// Owners are kept; else they are root in the container, and the caller outside.
    pub keep_owners: bool,
    /// A link at the source is followed.
    pub follow: bool,
}

impl<'a> Files<'a> {
    /// To read, whether it runs or not.
    ///
    /// # Errors
    /// The layers are gone or cannot be mounted.
    pub fn read(reach: &'a Reach<'a>, record: &Record) -> Result<Self, FilesError> {
        let folder = reach.containers.folder(record);
        let mut lowers = vec![folder.join("fs")];
        if let Some(base) = record.base() {
            lowers.extend(reach.snapshots.lowers(base, None)?);
        }
        let userxattr = reach.host.userxattr;
        let spec = OverlaySpec { lowers: &lowers, upper: None, volatile: false, userxattr };
        let root = overlay(&spec).and_then(without_devices).map_err(FilesError::Mount)?;
        Ok(Self { reach, root, mounts: mounts(reach, record), _held: None })
    }

    /// To write too.
    ///
    /// # Errors
    /// As [`Self::read`]; that of talking to its supervisor.
    pub fn write(reach: &'a Reach<'a>, record: Record) -> Result<Self, FilesError> {
        if let Some(root) = reach.containers.connect(&record)?.map_or(Ok(None), |c| c.root())? {
            return Ok(Self { reach, root, mounts: Vec::new(), _held: None });
        }
        let held = reach.containers.hold(&record)?;
        let folder = reach.containers.folder(&held.record);
        let lowers = match held.record.base() {
            Some(base) => reach.snapshots.lowers(base, None)?,
            None => Vec::new(),
        };
        let (fs, work) = (folder.join("fs"), folder.join("work"));
        // What the kernel left there is of no use to another mount.
        super::remove_tree(&work)
            .and_then(|()| std::fs::create_dir(&work))
            .map_err(super::at("make anew", &work))?;
        let root = overlay(&OverlaySpec {
            lowers: &lowers,
            upper: Some((&fs, &work)),
            volatile: false,
            userxattr: reach.host.userxattr,
        })
        .and_then(without_devices)
        .map_err(FilesError::Mount)?;
        Ok(Self { reach, root, mounts: mounts(reach, &held.record), _held: Some(held) })
    }

    /// The tree in which a path of the container lies, and the path there.
    fn find(
        &self,
        path: &str,
        follow: bool,
        write: bool,
    ) -> Result<(OwnedFd, String, Place), FilesError> {
        let missing = || FilesError::Missing(path.to_owned());
        let look =
            |root: BorrowedFd<'_>, at: &str| match resolve(root, OsStr::new(at), follow, None) {
                Err(TreeError::NotFound { .. }) => Err(missing()),
                place => Ok(place?),
            };
        // What is mounted hides what is below it: the way is gone as far as it leads there.
        let path = &straight(path);
        let mut at = path.clone();
        if let Some((m, rest)) = self.mounted(&at) {
            return self.inside(m, &rest, write, &look);
        }
        let place = look(self.root.as_fd(), &at);
        if let Ok(place) = &place {
            at = format!("/{}", place.real);
            if let Some((m, rest)) = self.mounted(&at) {
                return self.inside(m, &rest, write, &look);
            }
        }
        let root = self.root.try_clone().map_err(FilesError::Reach)?;
        Ok((root, path.to_owned(), place?))
    }

    /// The innermost mount on the way of a path.
    fn mounted(&self, path: &str) -> Option<(&Mounted, String)> {
        let on_the_way = |m: &Mounted| {
            let rest = path.strip_prefix(m.dest.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
        };
        let all = self.mounts.iter().filter_map(|m| Some((m, on_the_way(m)?)));
        all.max_by_key(|(m, _)| m.dest.len())
    }

    fn inside(
        &self,
        m: &Mounted,
        rest: &str,
        write: bool,
        look: &dyn Fn(BorrowedFd<'_>, &str) -> Result<Place, FilesError>,
    ) -> Result<(OwnedFd, String, Place), FilesError> {
        if write && m.readonly {
            return Err(FilesError::ReadOnly(m.dest.clone()));
        }
        // A file is found in its folder.
        let (dir, path) = match (m.source.is_dir(), m.source.parent(), m.source.file_name()) {
            (false, Some(dir), Some(name)) => (dir, name.to_string_lossy().into_owned()),
            _ => (m.source.as_path(), rest.to_owned()),
        };
        let root = folder(dir)?;
        let place = look(root.as_fd(), &path)?;
        Ok((root, path, place))
    }

    /// Copies `path` out of the container to `dest` of the caller, an absolute path.
    ///
    /// # Errors
    /// Nothing stands there, or it cannot be copied.
    pub fn copy_out(&self, path: &str, dest: &Path, how: Copying) -> Result<(), FilesError> {
        let follow = how.follow || path.ends_with('/');
        let (root, at, place) = self.find(path, follow, false)?;
        present(&place, path)?;
        let host = folder(Path::new("/"))?;
        let shown = dest.display().to_string();
        let to = fits(host.as_fd(), &shown, place.is_dir())?;
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let opts = CopyOptions {
            owner: (!how.keep_owners).then_some(me),
            dir_contents: contents(path),
            follow,
            // With the right numbers one is the host's disk, open to whom the container says.
            no_devices: true,
            ..CopyOptions::contents(self.reach.host.owners, &|| false)
        };
        let source = Source { root: root.as_fd(), ignore: None, as_root: false };
        Ok(copy(&source, &plain(&at), host.as_fd(), &to, &opts)?)
    }

    /// Writes an archive of `path`, named by its last part.
    ///
    /// # Errors
    /// Nothing stands there, or it cannot be read or written.
    pub fn archive_out(
        &self,
        path: &str,
        how: Copying,
        out: &mut dyn Write,
    ) -> Result<(), FilesError> {
        let (_, _, place) = self.find(path, how.follow || path.ends_with('/'), false)?;
        present(&place, path)?;
        let shown = match path.trim_end_matches('/').rsplit('/').next() {
            Some("" | "." | "..") | None => ".",
            Some(name) => name,
        };
        let options = LayerWriteOptions {
            userxattr: self.reach.host.userxattr,
            owners: self.reach.host.owners,
            ..LayerWriteOptions::default()
        };
        write_entry(place.parent, place.name.as_bytes(), shown.as_bytes(), &options, out)
            .map(drop)
            .map_err(FilesError::Archive)
    }

    /// Copies `source` of the caller, an absolute path, to `path` in the container.
    ///
    /// # Errors
    /// Nothing stands there, or it cannot be copied.
    pub fn copy_in(&self, source: &Path, path: &str, how: Copying) -> Result<(), FilesError> {
        let host = folder(Path::new("/"))?;
        let shown = source.as_os_str().to_string_lossy().into_owned();
        let follow = how.follow || shown.ends_with('/');
        let from = match resolve(host.as_fd(), source.as_os_str(), follow, None) {
            Err(TreeError::NotFound { .. }) => return Err(FilesError::Missing(shown)),
            place => place?,
        };
        present(&from, &shown)?;
        let (root, at) = self.destination(path)?;
        let to = fits(root.as_fd(), &at, from.is_dir())?;
        let opts = CopyOptions {
            dir_contents: contents(&shown),
            follow,
            ..CopyOptions::contents(self.reach.host.owners, &|| false)
        };
        let source = Source { root: host.as_fd(), ignore: None, as_root: !how.keep_owners };
        Ok(copy(&source, &plain(&shown), root.as_fd(), &to, &opts)?)
    }

    /// Unpacks an archive into the folder `path` of the container.
    ///
    /// # Errors
    /// There is no such folder, or it is no archive.
    pub fn archive_in(
        &self,
        from: &mut dyn Read,
        path: &str,
        how: Copying,
    ) -> Result<(), FilesError> {
        let (root, at) = self.destination(path)?;
        let there = resolve(root.as_fd(), OsStr::new(&at), true, None);
        if !matches!(&there, Ok(place) if place.is_dir()) {
            return Err(FilesError::NoFolder(path.to_owned()));
        }
        let owner = (!how.keep_owners).then_some((0, 0));
        let owners = self.reach.host.owners;
        let options = ArchiveOptions { owner, owners, ..ArchiveOptions::default() };
        unpack_archive(from, root.as_fd(), at.as_bytes(), &options)
            .map(drop)
            .map_err(FilesError::Archive)
    }

    /// Where something is put: the tree and the path in it, links followed as far as there is one.
    fn destination(&self, path: &str) -> Result<(OwnedFd, String), FilesError> {
        match self.find(path, true, true) {
            Ok((root, at, _)) => Ok((root, at)),
            Err(FilesError::Missing(path)) => Err(FilesError::NoFolder(path)),
            Err(e) => Err(e),
        }
    }

    /// Writes all files of the container as one archive, without what is mounted in it.
    ///
    /// # Errors
    /// That of reading or writing.
    pub fn export(&self, out: &mut dyn Write) -> Result<(), LayerError> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()));
        let source = LayerSource { upper: &path, lowers: &[] };
        let options = LayerWriteOptions {
            userxattr: self.reach.host.userxattr,
            owners: self.reach.host.owners,
            ..LayerWriteOptions::default()
        };
        write_layer(&source, &options, out).map(drop)
    }
}

fn mounts(reach: &Reach<'_>, record: &Record) -> Vec<Mounted> {
    let bind = |b: &super::Bind| {
        let (dest, source) = (b.dest.clone(), b.source.clone());
        Mounted { dest, source, readonly: b.readonly }
    };
    let volumes = Volumes::new(reach.containers.store);
    let volume = |v: &super::VolumeMount| {
        let (dest, source) = (v.dest.clone(), volumes.data(&v.name));
        Mounted { dest, source, readonly: v.readonly }
    };
    let kept = record.settings.volumes.iter().map(volume);
    record.settings.binds.iter().map(bind).chain(kept).collect()
}

fn folder(path: &Path) -> Result<OwnedFd, FilesError> {
    let opened = open_dir(rustix::fs::CWD, path.as_os_str());
    opened.map_err(|e| FilesError::Open { path: path.to_owned(), source: e.into() })
}

/// Of a folder what is in it is meant, not the folder.
fn contents(path: &str) -> bool {
    path.ends_with("/.") || path == "."
}

/// The path from the root on, without what goes back on itself; links are not looked at, as Docker does
/// not. What its end says stays.
fn straight(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = match path {
        p if p.ends_with("/.") && !parts.is_empty() => "/.",
        p if p.ends_with('/') && !parts.is_empty() => "/",
        _ => "",
    };
    format!("/{}{end}", parts.join("/"))
}

/// The path without what its end says about it.
fn plain(path: &str) -> String {
    let path = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    if path.is_empty() { "/".to_owned() } else { path.to_owned() }
}

/// What the container calls a device is none for who reads it from outside.
fn without_devices(mount: OwnedFd) -> Result<OwnedFd, MountError> {
    set_attr(&mount, false, Attr { set: AttrFlags::NODEV, ..Attr::default() })?;
    Ok(mount)
}

fn present(place: &Place, path: &str) -> Result<(), FilesError> {
    match place.stat {
        Some(_) => Ok(()),
        None => Err(FilesError::Missing(path.to_owned())),
    }
}

/// Where in `root` a copy to `dest` goes, by the rules of `docker cp`: the folder around it must be
/// there.
fn fits(root: BorrowedFd<'_>, dest: &str, dir: bool) -> Result<String, FilesError> {
    let no_folder = || FilesError::NoFolder(dest.to_owned());
    let place = match resolve(root, OsStr::new(dest), true, None) {
        Err(TreeError::NotFound { .. }) => return Err(no_folder()),
        place => place?,
    };
    let as_folder = dest.ends_with('/') || dest.ends_with("/.");
    match (place.stat.is_some(), place.is_dir()) {
        (false, _) if as_folder && !dir => Err(no_folder()),
        (true, false) if as_folder || dir => Err(FilesError::OverFile(dest.to_owned())),
        _ => Ok(plain(dest)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_the_end_of_a_path_says() {
        for (path, of, want) in [
            ("/a/b/.", true, "/a/b"),
            ("/a/b/", false, "/a/b"),
            ("/a/b", false, "/a/b"),
            ("/", false, "/"),
            ("/.", true, "/"),
        ] {
            assert_eq!((contents(path), plain(path).as_str()), (of, want), "{path}");
        }
    }

    #[test]
    fn ways_back_are_not_gone() {
        for (path, want) in [
            ("/a/b", "/a/b"),
            ("a/./b//c/", "/a/b/c/"),
            ("/vol/../x/.", "/x/."),
            ("/../../x", "/x"),
            ("/vol/..", "/"),
            ("/", "/"),
            ("/.", "/"),
            ("", "/"),
        ] {
            assert_eq!(straight(path), want, "{path}");
        }
    }

    #[test]
    fn where_a_copy_goes() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir(tmp.path().join("dir")).unwrap();
        std::fs::write(tmp.path().join("file"), "").unwrap();
        let root = File::open(tmp.path()).unwrap();
        for (dest, dir, ok) in [
            ("/file", false, true),
            ("/file", true, false),
            ("/file/", false, false),
            ("/dir/", false, true),
            ("/dir/", true, true),
            ("/new", false, true),
            ("/new", true, true),
            ("/new/", false, false),
            ("/new/", true, true),
            ("/no/new", false, false),
        ] {
            let got = fits(root.as_fd(), dest, dir);
            assert_eq!(got.is_ok(), ok, "{dest} {dir}: {got:?}");
        }
    }
}
