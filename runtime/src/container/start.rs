//! Starts a container's process: the sandbox of a RUN step, whose upper directory stays.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rgraph_ir::request::NetworkFallback;
use rgraph_store::{Lease, Store};
use rgraph_sys::channel;

use super::protocol::{Attach, CHARGE, Charge, End, PORT};
use super::{
    Bound, Connection, ContainerError, Containers, Held, NetworkChoice, Record, Settings, State,
    at, ports,
};
use crate::host::{Host, Snapshotter};
use crate::ops::network;
use crate::sandbox::{
    Connecting, MountSource, Network, Rootfs, Runner, SandboxError, SandboxMount, SandboxMountKind,
    SandboxSpec, Starting, Union, fill_mount_points,
};
use crate::snapshot::{LayerProvider, Snapshots, copy_root_attributes};
use crate::volumes::Volumes;

/// What a start needs.
pub struct Start<'a> {
    /// The store.
    pub store: &'a Store,
    /// What the host allows.
    pub host: &'a Host,
    /// Keeps the layers while they are mounted.
    pub lease: &'a Lease,
    /// Where layers come from that the store lacks.
    pub provider: &'a dyn LayerProvider,
    /// What stands in for a private network where there is none.
    pub network_fallback: NetworkFallback,
    /// Height and width of the terminal, characters.
    pub size: (u16, u16),
    /// Told what a person should know.
    pub warn: &'a dyn Fn(String),
}

/// A supervisor that waits for its container. It is called early, and gets ready while the container's
/// record and image are looked after. Dropped, it ends, and nothing has been changed.
pub struct StartingSupervisor {
    process: Starting,
    network: NetworkChoice,
}

impl StartingSupervisor {
    /// Starts one for a container with this network. One that leads nowhere changes nothing of the host's,
    /// and is made while all else is got ready.
    ///
    /// # Errors
    /// There is no process, or none that can start containers.
    pub fn call(network: NetworkChoice) -> Result<Self, ContainerError> {
        let process = Starting::call(super::supervisor::ARGV0)?;
        match network {
            NetworkChoice::None => match process.isolate() {
                Ok(()) => Ok(Self { process, network }),
                Err(e) => Err(gone(process, e)),
            },
            NetworkChoice::Host | NetworkChoice::Default => Ok(Self { process, network }),
        }
    }

    /// Has it make a network possible. That may change the host, so the container is held by now.
    fn promise(self) -> Result<PromisedSupervisor, ContainerError> {
        let Self { process, network } = self;
        let network = match network {
            NetworkChoice::Host => Promised::Host,
            NetworkChoice::None => Promised::None,
            NetworkChoice::Default => match process.connect() {
                Ok(asked) => Promised::Private(asked),
                Err(e) => return Err(gone(process, e)),
            },
        };
        Ok(PromisedSupervisor { process, network })
    }
}

/// Why it cannot be asked any more: if it said so, in its own words.
fn gone(process: Starting, e: SandboxError) -> ContainerError {
    process.ready().err().unwrap_or(e).into()
}

/// One that was asked for what its container needs.
struct PromisedSupervisor {
    process: Starting,
    network: Promised,
}

/// A network in the making.
enum Promised {
    Host,
    None,
    Private(Connecting),
}

impl PromisedSupervisor {
    /// Waits until it can start the container, with this network.
    fn ready(self, s: &Start<'_>) -> Result<(Runner, Network), ContainerError> {
        let runner = self.process.ready()?;
        let network = match self.network {
            Promised::Host => Network::Host,
            Promised::None => Network::None,
            Promised::Private(asked) => {
                network::instead(asked.done()?, s.network_fallback, s.warn)?
            }
        };
        Ok((runner, network))
    }
}

/// Gives a container to a supervisor, which starts it. How that goes, and how it ends, comes from the
/// connection; `attach` is what else comes and goes there.
///
/// # Errors
/// The supervisor is gone, or has nothing to start; the container is then noted as one that could not be
/// started, or removed.
pub fn start(
    s: &Start<'_>,
    containers: &Containers<'_>,
    held: Held,
    supervisor: StartingSupervisor,
    attach: Attach,
) -> Result<Connection, ContainerError> {
    match prepare(s, containers, &held.record, supervisor) {
        Ok(prepared) => hand_over(s, containers, held, attach, prepared),
        Err(e) => {
            containers.give_up(held)?;
            Err(e)
        }
    }
}

/// Why a container has no root that ended like this before it began: whether the kernel lays its layers
/// over each other is known only once it was tried. `None`: it is not for that.
pub fn without_overlayfs(s: &Start<'_>, end: &End) -> Option<ContainerError> {
    let decided = || Snapshots::new(s.store, s.host, s.provider, s.lease).decided().clone();
    let decided = end.no_root.then(decided)?;
    let other = decided.snapshotter != Snapshotter::Overlayfs;
    other.then_some(ContainerError::NoOverlayfs(decided))
}

/// What the supervisor is given.
struct Prepared {
    spec: SandboxSpec,
    runner: Runner,
    bound: Vec<Bound>,
    sockets: Vec<OwnedFd>,
}

fn prepare(
    s: &Start<'_>,
    containers: &Containers<'_>,
    record: &Record,
    supervisor: StartingSupervisor,
) -> Result<Prepared, ContainerError> {
    // First of all: nothing has been made yet when a port is busy.
    let (mut bound, mut sockets) = ports::bind(&record.settings.ports)?;
    let folder = containers.folder(record);
    let snapshots = Snapshots::new(s.store, s.host, s.provider, s.lease);
    let lowers = match record.base() {
        Some(id) => snapshots.stacked(id, None)?,
        None => Vec::new(),
    };
    // A container's changes stay in its upper folder while it runs and after. Whether the kernel can do
    // that is not tried here: the supervisor does it, and says so (`without_overlayfs`).
    if s.host.choice.asked.is_some_and(|asked| asked != Snapshotter::Overlayfs)
        && !lowers.is_empty()
    {
        return Err(ContainerError::NoOverlayfs(snapshots.decided().clone()));
    }
    let supervisor = supervisor.promise()?;
    let (upper, work) = (folder.join("fs"), folder.join("work"));
    if record.state == State::Created
        && let Some(top) = lowers.first()
    {
        // The merged root shows the upper's own mode and owner.
        copy_root_attributes(top, &upper, s.host.owners).map_err(at("set up", &upper))?;
    }
    let volumes = Volumes::new(s.store);
    volumes.attach(&record.settings.volumes, s.host.owners, &|| match record.base() {
        Some(id) => Ok(Some(snapshots.mount_read_only(id, None)?)),
        None => Ok(None),
    })?;
    // What the kernel left there is of no use to another mount. Whoever made it anew may have been killed
    // before it was there.
    let is_new = match fs::read_dir(&work) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(at("read", &work)(e)),
    };
    if !is_new {
        super::remove_tree(&work)
            .and_then(|()| fs::create_dir(&work))
            .map_err(at("make anew", &work))?;
    }
    let (runner, network) = supervisor.ready(s)?;
    if network != Network::Private && !bound.is_empty() {
        (s.warn)("ports are not published: the container has no network of its own".to_owned());
        (bound, sockets) = (Vec::new(), Vec::new());
    }
    let below = s.store.fixed_tree("mount-points", s.lease, fill_mount_points).ok();
    let rootfs = {
        let (userxattr, owners) = (s.host.userxattr, s.host.owners);
        let union = Union::Kernel;
        Rootfs { lowers, upper, work, union, userxattr, owners, below }
    };
    let mut spec = spec(&record.settings, record.short(), rootfs, network);
    spec.mounts.extend(mounts(&record.settings, &volumes));
    Ok(Prepared { spec, runner, bound, sockets })
}

fn hand_over(
    s: &Start<'_>,
    containers: &Containers<'_>,
    held: Held,
    attach: Attach,
    prepared: Prepared,
) -> Result<Connection, ContainerError> {
    let Prepared { spec, runner, bound, sockets } = prepared;
    let folder = containers.folder(&held.record);
    let Held { mut record, lock } = held;
    record.bound = bound;
    let (file, lock) = lock.hand_over();
    let charge = Charge { record, spec, folder, lock, size: s.size, attach };
    let bytes = serde_json::to_vec(&charge).map_err(SandboxError::Encode)?;
    let parcel = channel::parcel(&bytes).map_err(ContainerError::Talk)?;
    let control = runner.let_go();
    channel::send(&control, CHARGE, &[file.as_fd(), parcel.as_fd()])
        .map_err(ContainerError::Talk)?;
    // Any number of them: one after the other.
    for socket in &sockets {
        channel::send(&control, PORT, &[socket.as_fd()]).map_err(ContainerError::Talk)?;
    }
    Ok(Connection::new(control))
}

/// Volumes and memory.
fn mounts(s: &Settings, volumes: &Volumes<'_>) -> Vec<SandboxMount> {
    let kept = s.volumes.iter().map(|v| {
        let source = MountSource::Path(volumes.data(&v.name));
        let (selector, readonly) = ("/".to_owned(), v.readonly);
        (v.dest.clone(), SandboxMountKind::Bind { source, selector, readonly })
    });
    let memory = s.tmpfs.iter().map(|t| (t.dest.clone(), SandboxMountKind::Tmpfs { size: t.size }));
    kept.chain(memory).map(|(dest, kind)| SandboxMount { dest, kind }).collect()
}

fn spec(s: &Settings, short: &str, rootfs: Rootfs, network: Network) -> SandboxSpec {
    let own_name = || match s.network {
        NetworkChoice::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        NetworkChoice::Default | NetworkChoice::None => short.to_owned(),
    };
    let hostname = if s.hostname.is_empty() { own_name() } else { s.hostname.clone() };
    let mut env = s.env.clone();
    if !env.iter().any(|v| v.starts_with("HOSTNAME=")) {
        env.push(format!("HOSTNAME={hostname}"));
    }
    let mounts = s.binds.iter().map(|b| {
        let (source, selector) = MountSource::of_host(&b.source);
        let kind = SandboxMountKind::Bind { source, selector, readonly: b.readonly };
        SandboxMount { dest: b.dest.clone(), kind }
    });
    SandboxSpec {
        env,
        cwd: s.cwd.clone(),
        user: s.user.clone(),
        hostname,
        extra_hosts: s.extra_hosts.clone(),
        ulimits: s.ulimits.clone(),
        shm_size: s.shm_size,
        limits: s.limits.clone(),
        init: s.init,
        mounts: mounts.collect(),
        network,
        ..SandboxSpec::new(rootfs, s.args.clone())
    }
}
