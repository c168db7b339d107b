//! Containers: a folder each, below `containers/` in the state root.
//!
//! ```text
//! containers/<id>/record.json  what it is and how it ended; replaced by rename
//! containers/<id>/name         its name, when it is another than the record's
//! containers/<id>/holds        what gc keeps for it (the form of a lease's file)
//! containers/<id>/fs, work     overlay's upper directory on the image's layers
//! containers/<id>/log, log.1   what it printed
//! containers/<id>/control      while it runs: the socket of its supervisor
//! ```
//! A container runs while its [`supervisor`] holds its lock in the store. Locks die with their process,
//! so a record that says "running" without one is of a container that was killed with its supervisor, or
//! ran when the machine went down: no process id has to be believed.

mod client;
mod commit;
mod diff;
mod error;
mod files;
mod folder;
pub mod log;
mod names;
mod ports;
mod processes;
mod protocol;
mod record;
mod size;
mod start;
mod supervisor;
mod usage;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rgraph_ir::ManifestDigest;
use rgraph_store::{ImageRow, KeyLock, Store};
use serde::{Deserialize, Serialize};

use self::folder::{
    RECORD, discard, holds, modified, now, read_record, remove_folder, remove_tree,
    remove_with_volumes, write_record,
};
pub use crate::ops::limits::{hosts, of_each as ulimits, of_step as limits};
pub use crate::sandbox::Limits;
use crate::sandbox::{self, ExtraHost, Ulimit};
pub use client::{Connection, Waited};
pub use commit::{Commit, commit};
pub use diff::{Change, changes};
pub use error::ContainerError;
pub(crate) use error::at;
pub use files::{Copying, Files, FilesError, Reach};
pub use ports::{Bound, PortError, Protocol, Publish};
pub use processes::{Clock, Process, processes};
pub use protocol::{Attach, End, Event, Exec, Word};
pub use record::{New, Origin, Record, State};
pub use size::{blocks_below, bytes_below, changed_bytes};
pub use start::{Start, StartingSupervisor, start, without_overlayfs};
pub use supervisor::supervisor_main_if_asked;
pub use usage::{Usage, usage};

/// What runs in a container, as it was asked for and as its image says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working folder.
    pub cwd: String,
    /// As [`crate::sandbox::SandboxSpec::user`].
    pub user: String,
    /// Host name; empty: the beginning of the id, or the host's with its network.
    pub hostname: String,
    /// Lines added to `/etc/hosts`.
    #[serde(default)]
    pub extra_hosts: Vec<ExtraHost>,
    /// Limits of each process.
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes; 0: the usual.
    #[serde(default)]
    pub shm_size: u64,
    /// Network.
    pub network: NetworkChoice,
    /// Folders and files of the host.
    pub binds: Vec<Bind>,
    /// Volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// Memory.
    #[serde(default)]
    pub tmpfs: Vec<TmpfsMount>,
    /// Ports on the host.
    #[serde(default)]
    pub ports: Vec<Publish>,
    /// A terminal is its three streams.
    pub terminal: bool,
    /// Its standard input is not closed at once.
    pub open_input: bool,
    /// Its standard input ends with that of the first one who is attached.
    #[serde(default)]
    pub input_once: bool,
    /// The signal that asks it to end, as the image or the caller has it; empty: SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    /// Limits of all its processes together.
    #[serde(default)]
    pub limits: Limits,
    /// Process 1 is one of ours, which waits for orphans and passes signals on to the program.
    #[serde(default)]
    pub init: bool,
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkChoice {
    /// Its own, with a way out.
    Default,
    /// The host's.
    Host,
    /// Its own, with loopback only.
    None,
}

/// A folder or file of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub dest: String,
    /// No writes.
    pub readonly: bool,
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// Absolute path in the container.
    pub dest: String,
    /// No writes.
    pub readonly: bool,
    /// It was made for this container alone.
    pub anonymous: bool,
    /// When it is empty it takes what the image has in its place.
    pub copy: bool,
}

/// Memory in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Absolute path in the container.
    pub dest: String,
    /// Limit in bytes; 0: the kernel's default.
    pub size: u64,
}

/// The containers of a store.
pub struct Containers<'a> {
    store: &'a Store,
    dir: PathBuf,
}

/// A container that nobody else starts or removes meanwhile.
pub struct Held {
    /// Its record.
    pub record: Record,
    lock: KeyLock,
}

impl<'a> Containers<'a> {
    /// A view of them.
    pub fn new(store: &'a Store) -> Self {
        Self { store, dir: store.layout().root().join("containers") }
    }

    /// The folder of a container.
    pub fn folder(&self, record: &Record) -> PathBuf {
        self.dir.join(&record.id)
    }

    /// All containers, newest first.
    ///
    /// # Errors
    /// The folder cannot be read. A folder without a record is one in the making, and left out, as
    /// are those whose record is damaged.
    pub fn list(&self) -> Result<Vec<Record>, ContainerError> {
        Ok(self.list_with_damaged()?.0)
    }

    /// As [`Self::list`]; and what is wrong with the records that cannot be understood: a loss of
    /// power may have cut them, and says nothing of the other containers.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn list_with_damaged(&self) -> Result<(Vec<Record>, Vec<ContainerError>), ContainerError> {
        let (mut out, mut damaged) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((out, damaged)),
            r => r.map_err(at("read", &self.dir))?,
        };
        for entry in entries {
            let dir = entry.map_err(at("read", &self.dir))?.path();
            match self.read(&dir) {
                Ok(record) => out.extend(record),
                Err(e @ ContainerError::Damaged { .. }) => damaged.push(e),
                Err(e) => return Err(e),
            }
        }
        out.sort_by(|a, b| {
            (b.created, b.nanos).cmp(&(a.created, a.nanos)).then_with(|| a.id.cmp(&b.id))
        });
        Ok((out, damaged))
    }

    /// The record of a folder, with the truth about whether it runs.
    fn read(&self, dir: &Path) -> Result<Option<Record>, ContainerError> {
        let Some(record) = read_record(dir)? else { return Ok(None) };
        let State::Running { .. } = record.state else { return Ok(Some(record)) };
        if self.store.key_lock_is_held(&lock_name(&record.id))? {
            return Ok(Some(record));
        }
        // It may have ended between the two looks: the record then says how.
        Ok(read_record(dir)?.map(|mut record| {
            if let State::Running { .. } = record.state {
                let at = modified(&dir.join(RECORD));
                record.state = State::Exited { code: 137, at };
            }
            record
        }))
    }

    /// A container by name, id, or the beginning of an id.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`], [`ContainerError::Ambiguous`].
    pub fn find(&self, word: &str) -> Result<Record, ContainerError> {
        let name = word.strip_prefix('/').unwrap_or(word);
        let (all, damaged) = self.list_with_damaged()?;
        if let Some(r) = all.iter().find(|r| r.name == name || r.id == word) {
            return Ok(r.clone());
        }
        let mut by_id = all.into_iter().filter(|r| !word.is_empty() && r.id.starts_with(word));
        match (by_id.next(), by_id.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => {
                let meant = |e: &ContainerError| match e {
                    ContainerError::Damaged { id, .. } => !word.is_empty() && id.starts_with(word),
                    _ => false,
                };
                let none = || ContainerError::NotFound(word.to_owned());
                Err(damaged.into_iter().find(meant).unwrap_or_else(none))
            }
            _ => Err(ContainerError::Ambiguous(word.to_owned())),
        }
    }

    /// Makes one of an image; nothing runs yet. A lease of this store must be held.
    ///
    /// # Errors
    /// [`ContainerError::NameInUse`], or that the folder cannot be made.
    pub fn create(&self, new: New, image: &ImageRow) -> Result<Held, ContainerError> {
        let mut random = [0; 32];
        crate::random(&mut random).map_err(at("read", Path::new("/dev/urandom")))?;
        let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let lock = self.store.key_lock(&lock_name(&id), &mut |_| true)?;
        let _one = self.store.key_lock("container-names", &mut |_| true)?;
        self.sweep()?;
        let mut all = self.list()?;
        all.retain(|r| !self.is_left_over(r));
        let taken = |name: &str| all.iter().find(|r| r.name == name);
        let name = match new.name {
            Some(name) => match taken(&name) {
                Some(r) => return Err(ContainerError::NameInUse { name, id: r.id.clone() }),
                None => name,
            },
            None => names::free(&random, |n| taken(n).is_some()),
        };
        let made = jiff::Timestamp::now();
        let record = Record {
            id,
            name,
            created: made.as_second(),
            nanos: u32::try_from(made.subsec_nanosecond()).unwrap_or(0),
            image: Origin {
                name: new.image,
                config: image.config.hex(),
                manifest: image.manifest.hex(),
                snapshot: image.snapshot.map(|s| s.0),
            },
            settings: new.settings,
            state: State::Created,
            bound: Vec::new(),
            remove: new.remove,
        };
        let dir = self.folder(&record);
        for part in ["fs", "work"] {
            let dir = dir.join(part);
            fs::create_dir_all(&dir).map_err(at("create", &dir))?;
        }
        let held = holds(image);
        let path = dir.join("holds");
        fs::write(&path, held).map_err(at("write", &path))?;
        write_record(&self.folder(&record), &record)?;
        Ok(Held { record, lock })
    }

    /// Removes a container that was to go when it ended, and whose supervisor could not see to it, or
    /// never came to be.
    fn is_left_over(&self, record: &Record) -> bool {
        let runs = matches!(record.state, State::Running { .. });
        // Whatever is in the way is in the way of the next one too; one that is being made is held.
        !runs && record.remove && self.hold(record).and_then(|h| self.remove(h)).is_ok()
    }

    /// Removes folders without a record: somebody was killed who made or removed a container.
    fn sweep(&self) -> Result<(), ContainerError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            r => r.map_err(at("read", &self.dir))?,
        };
        // Only when it is known to be missing: a disk that fails now and then is no reason to remove.
        let unrecorded = |dir: &Path| matches!(dir.join(RECORD).try_exists(), Ok(false));
        for entry in entries {
            let dir = entry.map_err(at("read", &self.dir))?.path();
            let Some(id) = dir.file_name().and_then(|n| n.to_str()) else { continue };
            if !dir.is_dir() || !unrecorded(&dir) {
                continue;
            }
            // Whoever is at it has the lock. Looked at again: it may have been made meanwhile.
            let lock = self.store.try_key_lock(&lock_name(id))?;
            if lock.is_some() && unrecorded(&dir) {
                // What stays is tried again at the next `run`, and must not end this one.
                let _ = remove_tree(&dir);
            }
        }
        Ok(())
    }

    /// Gives it another name, whether it runs or not.
    ///
    /// # Errors
    /// [`ContainerError::NameInUse`], or the name cannot be written down.
    pub fn rename(&self, record: &Record, name: &str) -> Result<(), ContainerError> {
        let _one = self.store.key_lock("container-names", &mut |_| true)?;
        if let Some(r) = self.list()?.into_iter().find(|r| r.name == name) {
            return Err(ContainerError::NameInUse { name: name.to_owned(), id: r.id });
        }
        let path = self.folder(record).join("name");
        let tmp = path.with_extension("new");
        fs::write(&tmp, name).and_then(|()| fs::rename(&tmp, &path)).map_err(at("write", &path))
    }

    /// Removes it; what lies in it goes with it.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(&self, held: Held) -> Result<(), ContainerError> {
        let removed = match held.record.remove {
            true => remove_with_volumes(&self.folder(&held.record), &held.record),
            false => remove_folder(&self.folder(&held.record)),
        };
        drop(held.lock);
        removed
    }

    /// As [`Self::remove`], and its volumes without a name go too.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_all(&self, mut held: Held) -> Result<(), ContainerError> {
        held.record.remove = true;
        self.remove(held)
    }

    /// It could not be started.
    fn give_up(&self, mut held: Held) -> Result<(), ContainerError> {
        if held.record.remove {
            return self.remove(held);
        }
        held.record.state = State::Exited { code: 125, at: now() };
        write_record(&self.folder(&held.record), &held.record)
    }

    /// Takes a container that does not run.
    ///
    /// # Errors
    /// [`ContainerError::Running`], or [`ContainerError::NotFound`]: it went meanwhile.
    pub fn hold(&self, record: &Record) -> Result<Held, ContainerError> {
        match self.store.try_key_lock(&lock_name(&record.id))? {
            Some(lock) => self.held(record, lock)?.ok_or_else(|| {
                let name = record.name.clone();
                ContainerError::NotFound(name)
            }),
            None => Err(ContainerError::Running(record.short().to_owned())),
        }
    }

    /// As [`Self::hold`], for a start: one that somebody else starts or ends just now is waited for. `None`:
    /// it runs.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]: it went meanwhile.
    pub fn hold_unless_running(&self, record: &Record) -> Result<Option<Held>, ContainerError> {
        loop {
            match self.hold(record) {
                Err(ContainerError::Running(_)) => {}
                held => return held.map(Some),
            }
            match self.read(&self.folder(record))? {
                Some(Record { state: State::Running { .. }, .. }) => return Ok(None),
                _ => std::thread::sleep(BETWEEN_LOOKS),
            }
        }
    }

    /// With the lock: the record as it is now; `None`: it is gone. Of one whose supervisor was killed the
    /// last process may be dying still: that is waited for.
    fn held(&self, record: &Record, lock: KeyLock) -> Result<Option<Held>, ContainerError> {
        let folder = self.folder(record);
        let Some(mut record) = read_record(&folder)? else { return Ok(None) };
        if let State::Running { pid, born, .. } = record.state {
            let at = modified(&folder.join(RECORD));
            let give_up = Instant::now() + DYING;
            while rgraph_sys::spawn::began(pid) == Some(born) && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(1));
            }
            sandbox::sweep_groups(&record.settings.limits);
            record.state = State::Exited { code: 137, at };
            write_record(&folder, &record)?;
        }
        Ok(Some(Held { record, lock }))
    }

    /// As [`Self::hold`]; one that runs, or is being started, is killed first. Removed by its supervisor
    /// meanwhile: `None`.
    ///
    /// # Errors
    /// The signal cannot be sent, or the store's lock not be taken.
    pub fn seize(&self, record: &Record) -> Result<Option<Held>, ContainerError> {
        loop {
            if let Some(lock) = self.store.try_key_lock(&lock_name(&record.id))? {
                return self.held(record, lock);
            }
            // By the socket, not by the record, which says that it runs only once it does.
            match Connection::open(&self.folder(record))? {
                Some(supervisor) => {
                    supervisor.signal(KILL)?;
                    supervisor.answer()?;
                    supervisor.end(None)?;
                }
                // Somebody is about to start it or to remove it, or what was killed still dies.
                None => std::thread::sleep(BETWEEN_LOOKS),
            }
        }
    }

    /// Talks to the supervisor of a container; `None`: it does not run.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn connect(&self, record: &Record) -> Result<Option<Connection>, ContainerError> {
        match record.state {
            State::Running { .. } => Connection::open(&self.folder(record)),
            State::Created | State::Exited { .. } => Ok(None),
        }
    }

    /// Containers of any of these images.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn using(&self, images: &[ManifestDigest]) -> Result<Vec<Record>, ContainerError> {
        let mut all = self.list()?;
        all.retain(|r| images.iter().any(|m| m.hex() == r.image.manifest));
        Ok(all)
    }

    /// The image of a container, as the store has it.
    ///
    /// # Errors
    /// It is gone.
    pub fn image(&self, record: &Record) -> Result<ImageRow, ContainerError> {
        let gone = || ContainerError::NotFound(format!("image {}", record.image.config));
        let manifest = ManifestDigest::from_hex(&record.image.manifest).map_err(|_| gone())?;
        self.store.image_record(&manifest)?.ok_or_else(gone)
    }
}

/// SIGKILL.
const KILL: i32 = 9;
/// Between two looks at a lock that somebody has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);
/// The longest that the processes of a killed container may take to go.
const DYING: Duration = Duration::from_secs(10);

fn lock_name(id: &str) -> String {
    format!("container-{id}")
}
