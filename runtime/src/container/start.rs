//! Starts a container's process: the sandbox of a RUN step, whose upper directory stays.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rgraph_ir::request::NetworkFallback;
use rgraph_store::{Lease, Store};
use rgraph_sys::{channel, terminal};

use super::{ContainerError, Containers, Held, NetworkChoice, Settings, State, at, now};
use crate::host::Host;
use crate::ops::network;
use crate::sandbox::{
    Input, MountSource, Network, Rootfs, Runner, Running, SandboxError, SandboxMount,
    SandboxMountKind, SandboxSpec, fill_mount_points,
};
use crate::snapshot::{LayerProvider, Snapshots};

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

/// A container that has a process.
pub struct Started {
    /// Its process. It ends with this value.
    pub running: Running,
    /// The near side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// What is written here is its standard input.
    pub input: Option<OwnedFd>,
    /// Whoever made it; to be kept until it has ended.
    pub runner: Runner,
}

/// Starts it, and notes that it runs.
///
/// # Errors
/// There could be no process. That the program cannot be run comes from waiting for it.
pub fn start(
    s: &Start<'_>,
    containers: &Containers<'_>,
    held: &mut Held,
) -> Result<Started, ContainerError> {
    let folder = containers.folder(&held.record);
    let snapshots = Snapshots::new(s.store, s.host, s.provider, s.lease);
    let lowers = match held.record.base() {
        Some(id) => snapshots.lowers(id, None)?,
        None => Vec::new(),
    };
    let (upper, work) = (folder.join("fs"), folder.join("work"));
    if held.record.state == State::Created
        && let Some(top) = lowers.first()
    {
        // The merged root shows the upper's own mode and owner.
        let like = fs::metadata(top).map_err(at("look at", top))?;
        std::os::unix::fs::chown(&upper, Some(like.uid()), Some(like.gid()))
            .and_then(|()| {
                fs::set_permissions(&upper, fs::Permissions::from_mode(like.mode() & 0o7777))
            })
            .map_err(at("set up", &upper))?;
    }
    let runner = Runner::start()?;
    let network = match held.record.settings.network {
        NetworkChoice::Host => Network::Host,
        NetworkChoice::None => Network::None,
        NetworkChoice::Default => network::instead(runner.connect()?, s.network_fallback, s.warn)?,
    };
    let below = s.store.fixed_tree("mount-points", s.lease, fill_mount_points).ok();
    let rootfs = Rootfs { lowers, upper, work, userxattr: s.host.userxattr, below };
    let settings = &held.record.settings;
    let talk = |e| SandboxError::Talk("prepare the streams of the container", e);
    let (mut fds, mut near, mut input) = (Vec::new(), None, Input::Null);
    if settings.terminal {
        let (ours, theirs) = channel::pair().map_err(talk)?;
        fds.push(theirs);
        near = Some(ours);
        input = Input::Terminal { socket: 0, rows: s.size.0, columns: s.size.1 };
    } else if settings.open_input {
        let (read, write) = channel::pipe().map_err(talk)?;
        fds.push(read);
        near = Some(write);
        input = Input::Pipe(0);
    }
    let spec = spec(settings, held.record.short(), rootfs, network, input);
    let running = runner.launch(&spec, fds)?;
    let pid = running.pidfd().number().unwrap_or(0);
    containers.note(held, State::Running { pid, since: now() })?;
    let (terminal, input) = match near {
        Some(socket) if settings_terminal(input) => {
            // Nothing comes when it could not be made; its end says why.
            let far = channel::receive(&socket).map_err(talk)?;
            (far.and_then(|(_, fds)| fds.into_iter().next()), None)
        }
        near => (None, near),
    };
    if let Some(t) = &terminal {
        terminal::resize(t.as_fd(), s.size.0, s.size.1).map_err(talk)?;
    }
    Ok(Started { running, terminal, input, runner })
}

fn settings_terminal(input: Input) -> bool {
    matches!(input, Input::Terminal { .. })
}

fn spec(s: &Settings, short: &str, rootfs: Rootfs, network: Network, input: Input) -> SandboxSpec {
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
        // A file is found in its folder.
        let (tree, selector) = match (b.source.is_dir(), b.source.parent(), b.source.file_name()) {
            (false, Some(dir), Some(name)) => (dir, format!("/{}", name.to_string_lossy())),
            _ => (b.source.as_path(), "/".to_owned()),
        };
        let source = MountSource::Path(tree.to_owned());
        let kind = SandboxMountKind::Bind { source, selector, readonly: b.readonly };
        SandboxMount { dest: b.dest.clone(), kind }
    });
    SandboxSpec {
        input,
        env,
        cwd: s.cwd.clone(),
        user: s.user.clone(),
        hostname,
        mounts: mounts.collect(),
        network,
        ..SandboxSpec::new(rootfs, s.args.clone())
    }
}
