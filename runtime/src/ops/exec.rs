//! `RUN`: a process on a snapshot, in a sandbox. Its overlay's upper directory becomes the layer.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rgraph_ir::op::{
    CacheMount, CacheSharing, ExecOp, InputIndex, MountKind, ProxyEnv, SecretEnv, SecretMount,
    SecurityMode, SshMount,
};
use rgraph_ir::{SnapshotId, limits};
use rgraph_solver::{Stream, Task, TaskCx, TaskError, Tree};
use rgraph_store::KeyLock;
use rustix::fs::{Mode, OFlags};

use super::agent::AgentProxy;
use crate::cache::flight::waiting;
use crate::sandbox::{
    Dns, Input, MountSource, Outcome, SandboxMount, SandboxMountKind, SandboxSpec, Security,
    Stopped, Stream as SandboxStream,
};
use crate::snapshot::{Scratch, SnapshotError};
use crate::worker::LocalWorker;

/// Why a step could not be run, apart from the step itself.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// `--secret` is missing.
    #[error("secret `{id}` is required and was not given: add --secret id={id},src=FILE")]
    NoSecret {
        /// Its name.
        id: String,
    },
    /// `--ssh` is missing.
    #[error("ssh agent `{id}` is required and was not given: add --ssh {id}")]
    NoSsh {
        /// Its name.
        id: String,
    },
    /// A secret for a variable that no variable can hold.
    #[error("secret `{id}` cannot be a variable: it holds a NUL byte or is not UTF-8")]
    SecretText {
        /// Its name.
        id: String,
    },
    /// A secret larger than allowed.
    #[error("secret `{id}` is larger than {max} bytes", max = limits::MAX_SECRET)]
    SecretSize {
        /// Its name.
        id: String,
    },
    /// A device cannot be given.
    #[error(transparent)]
    Device(#[from] super::devices::DeviceError),
    /// The step's program never ran.
    #[error(transparent)]
    NotStarted(#[from] crate::sandbox::InitError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// A folder or file of the host that the step needs.
    #[error("cannot prepare `{path}`")]
    Prepare {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be run (exit code 126 or 127).
    #[error("{reason} (exit code: {code})")]
    Program {
        /// What the child said.
        reason: crate::sandbox::InitError,
        /// 126 or 127.
        code: i32,
    },
}

/// What lives as long as the step.
#[derive(Default)]
struct Held {
    fds: Vec<OwnedFd>,
    locks: Vec<KeyLock>,
    agents: Vec<AgentProxy>,
    scratch: Vec<Scratch>,
}

/// Pause before a step is tried again, and the longest: each is twice the one before.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs a step, again on a clean layer when it failed by itself and the caller wants that.
pub fn run(
    w: &LocalWorker<'_>,
    op: &ExecOp,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<Vec<Tree>, TaskError> {
    let retries = w.request.retries;
    let mut pause = PAUSE;
    for n in 1..=retries {
        let failed = match run_once(w, op, task, cx) {
            Err(
                e
                @ (TaskError::Exit { .. } | TaskError::Signal { .. } | TaskError::TimedOut { .. }),
            ) => e,
            done => return done,
        };
        let line = format!("{failed}; trying again on a clean layer ({n} of {retries})\n");
        cx.log(Stream::Stderr, line.as_bytes());
        let until = Instant::now() + pause;
        while Instant::now() < until {
            cx.check()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    run_once(w, op, task, cx)
}

fn run_once(
    w: &LocalWorker<'_>,
    op: &ExecOp,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<Vec<Tree>, TaskError> {
    let root: Option<SnapshotId> = match op.root {
        Some(i) => Some(w.as_snapshot(task.inputs[i.at()], cx)?),
        None => None,
    };
    let reaches = super::services::reach(w, op, task, cx)?;
    let layer = w.begin_layer(root, cx)?;
    let mut held = Held::default();
    let mut spec = spec(w, op, task, cx, &layer, &mut held)?;
    spec.reaches = reaches;
    cx.check()?;
    let running =
        w.runner()?.launch(&spec, std::mem::take(&mut held.fds)).map_err(sandbox_error)?;
    let deadline = w.request.step_timeout.and_then(|t| Instant::now().checked_add(t));
    let finished = running
        .wait(cx.cancel, deadline, &mut |stream, bytes| {
            let stream = match stream {
                SandboxStream::Stdout => Stream::Stdout,
                SandboxStream::Stderr => Stream::Stderr,
            };
            cx.log(stream, bytes);
        })
        .map_err(sandbox_error)?;
    match (finished.stopped, w.request.step_timeout) {
        (Some(Stopped::TimedOut), Some(limit)) => return Err(TaskError::TimedOut { limit }),
        (Some(_), _) => return Err(TaskError::Cancelled),
        (None, _) => {}
    }
    let why = finished.hit.map(|hit| super::limits::words(hit, &w.request.resources));
    match finished.outcome {
        // What it gave is what the same step gives without the limit, or it would have failed.
        Outcome::Exited(0) => why.into_iter().for_each(|why| cx.warn(why)),
        Outcome::Exited(code) => return Err(TaskError::Exit { code, why }),
        Outcome::Signalled(signal) => return Err(TaskError::Signal { signal, why }),
        Outcome::NotStarted(reason) => {
            return Err(TaskError::failed(match reason.exit_code() {
                Some(code) => ExecError::Program { reason, code },
                None => ExecError::NotStarted(reason),
            }));
        }
    }
    drop(held);
    Ok(vec![Tree::Snapshot(layer.commit(&task.meta.name)?)])
}

fn sandbox_error(e: crate::sandbox::SandboxError) -> TaskError {
    TaskError::failed(ExecError::Sandbox(e))
}

fn spec(
    w: &LocalWorker<'_>,
    op: &ExecOp,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
    layer: &crate::snapshot::LayerInProgress<'_>,
    held: &mut Held,
) -> Result<SandboxSpec, TaskError> {
    let rootfs =
        layer.rootfs(w.mount_points(), cx, &mut held.fds).map_err(SnapshotError::into_task)?;
    let mut env = op.env.to_strings();
    if let Some(p) = &op.proxy_env {
        env.extend(
            proxies(p)
                .into_iter()
                .filter(|(k, _)| op.env.get(k).is_none())
                .map(|(k, v)| format!("{k}={v}")),
        );
    }
    for SecretEnv { id, name, required } in &op.secret_env {
        match w.request.secrets.get(id) {
            Some(s) => {
                let text = std::str::from_utf8(s.expose()).ok().filter(|t| !t.contains('\0'));
                let text = text
                    .ok_or_else(|| TaskError::failed(ExecError::SecretText { id: id.clone() }))?;
                env.push(format!("{name}={text}"));
            }
            None if *required => {
                return Err(TaskError::failed(ExecError::NoSecret { id: id.clone() }));
            }
            None => {}
        }
    }
    let mut mounts = Vec::new();
    for (n, m) in op.mounts.iter().enumerate() {
        if let Some(kind) = mount(w, m, n, task, cx, held)? {
            mounts.push(SandboxMount { dest: m.dest.clone(), kind });
        }
    }
    let devices = super::devices::of_step(&w.request.devices, &op.devices, &|text| cx.warn(text))
        .map_err(|e| TaskError::failed(ExecError::Device(e)))?;
    devices.set(&mut env);
    mounts.extend(devices.mounts);
    Ok(SandboxSpec {
        input: Input::Null,
        args: op.args.clone(),
        env,
        cwd: op.cwd.clone(),
        user: op.user.clone(),
        hostname: op.hostname.clone().unwrap_or_default(),
        rootfs,
        mounts,
        network: super::network::of_step(w, op.network, cx)?,
        serves: None,
        reaches: Vec::new(),
        security: match op.security {
            SecurityMode::Sandbox => Security::Sandbox,
            SecurityMode::Insecure => Security::Insecure,
        },
        groups: devices.groups,
        extra_hosts: super::limits::hosts(&op.extra_hosts),
        ulimits: super::limits::of_each(&op.ulimits),
        limits: super::limits::of_step(&w.request.resources, op.cgroup_parent.as_deref()),
        processes: super::limits::processes(&w.request.resources),
        shm_size: w.request.shm_size.unwrap_or(0),
        dns: Dns::default(),
        init: false,
        no_new_privileges: false,
        grace: SandboxSpec::GRACE,
    })
}

/// Both spellings of every proxy variable that is set.
fn proxies(p: &ProxyEnv) -> Vec<(String, String)> {
    let ProxyEnv { http, https, ftp, no, all } = p;
    [
        ("http_proxy", http),
        ("https_proxy", https),
        ("ftp_proxy", ftp),
        ("no_proxy", no),
        ("all_proxy", all),
    ]
    .into_iter()
    .filter(|(_, v)| !v.is_empty())
    .flat_map(|(k, v)| [(k.to_uppercase(), v.clone()), (k.to_owned(), v.clone())])
    .collect()
}

fn mount(
    w: &LocalWorker<'_>,
    m: &rgraph_ir::op::Mount,
    n: usize,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
    held: &mut Held,
) -> Result<Option<SandboxMountKind>, TaskError> {
    Ok(Some(match &m.kind {
        MountKind::Bind { from, selector, readonly } => {
            let source = tree_source(w, *from, !readonly, task, cx, held)?;
            SandboxMountKind::Bind { source, selector: selector.clone(), readonly: *readonly }
        }
        MountKind::Cache(c) => cache(w, c, task, cx, held)?,
        MountKind::Tmpfs { size } => SandboxMountKind::Tmpfs { size: *size },
        MountKind::Secret(SecretMount { id, uid, gid, mode, required }) => {
            match w.request.secrets.get(id) {
                Some(s) => {
                    if s.expose().len() as u64 > limits::MAX_SECRET {
                        return Err(TaskError::failed(ExecError::SecretSize { id: id.clone() }));
                    }
                    let data = held.fds.len();
                    held.fds.push(memory_file(s.expose()).map_err(|source| {
                        TaskError::failed(ExecError::Prepare { path: m.dest.clone(), source })
                    })?);
                    SandboxMountKind::File { data, mode: *mode, uid: *uid, gid: *gid }
                }
                None if *required => {
                    return Err(TaskError::failed(ExecError::NoSecret { id: id.clone() }));
                }
                None => return Ok(None),
            }
        }
        MountKind::Ssh(SshMount { id, uid, gid, mode, required }) => {
            let id = if id.is_empty() { "default" } else { id };
            match w.request.ssh.get(id) {
                Some(s) => {
                    let p = w.store.prepare(w.lease()).map_err(TaskError::failed)?;
                    let proxy = AgentProxy::start(
                        p.fs(),
                        "agent",
                        &s.socket,
                        (*uid, *gid),
                        *mode,
                        w.host.owners,
                    )
                    .map_err(|source| {
                        TaskError::failed(ExecError::Prepare { path: m.dest.clone(), source })
                    })?;
                    let source = proxy.path.clone();
                    held.agents.push(proxy);
                    held.scratch.push(Scratch::Folder { _prepared: p });
                    SandboxMountKind::Socket { source }
                }
                None if *required => {
                    return Err(TaskError::failed(ExecError::NoSsh { id: id.to_owned() }));
                }
                None => {
                    tracing::debug!(mount = n, id, "optional ssh mount without an agent");
                    return Ok(None);
                }
            }
        }
    }))
}

/// A tree as a mount. With `write`, what is written goes to a scratch directory and is thrown away.
fn tree_source(
    w: &LocalWorker<'_>,
    from: Option<InputIndex>,
    write: bool,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
    held: &mut Held,
) -> Result<MountSource, TaskError> {
    let id = match from {
        Some(i) => Some(w.as_snapshot(task.inputs[i.at()], cx)?),
        None => None,
    };
    let (source, scratch) =
        w.snapshots.source(id, write, cx, &mut held.fds).map_err(SnapshotError::into_task)?;
    held.scratch.extend(scratch);
    Ok(source)
}

/// A folder that outlives the build.
fn cache(
    w: &LocalWorker<'_>,
    c: &CacheMount,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
    held: &mut Held,
) -> Result<SandboxMountKind, TaskError> {
    let failed = |e: rgraph_store::StoreError| TaskError::failed(e);
    let seed = match c.from {
        Some(i) => Some(w.as_snapshot(task.inputs[i.at()], cx)?),
        None => None,
    };
    // As the Dockerfile has it: the op's is behind a slash.
    let written = c.id.strip_prefix('/').unwrap_or(&c.id);
    // Another seed is another cache, as in BuildKit.
    let base = match seed {
        Some(id) => format!("{written}\0{id}\0{}", c.selector),
        None => written.to_owned(),
    };
    let lock_name = |id: &str| format!("cache-mount-{id}");
    let mut id = base.clone();
    match c.sharing {
        CacheSharing::Shared => {}
        CacheSharing::Locked => {
            let lock = w.store.key_lock(&lock_name(&id), &mut |wait| {
                if wait.first {
                    let what = format!("it has the cache mount {written}");
                    cx.log(Stream::Stderr, waiting(&what, wait).as_bytes());
                }
                !cx.cancel.is_cancelled()
            });
            match lock {
                Err(rgraph_store::StoreError::Cancelled) => return Err(TaskError::Cancelled),
                lock => held.locks.push(lock.map_err(failed)?),
            }
        }
        CacheSharing::Private => {
            let mut n = 0;
            let lock = loop {
                id = if n == 0 { base.clone() } else { format!("{base}\0{n}") };
                match w.store.try_key_lock(&lock_name(&id)).map_err(failed)? {
                    Some(lock) => break lock,
                    None => n += 1,
                }
            };
            held.locks.push(lock);
        }
    }
    let dir = w.store.cache_mount(&id).map_err(failed)?;
    if let Some(seed) = seed {
        fill(w, &dir, seed, &c.selector, cx)?;
    }
    let selector = "/".to_owned();
    Ok(SandboxMountKind::Bind { source: MountSource::Path(dir), selector, readonly: c.readonly })
}

/// Fills a new cache folder from a tree; one that has anything in it stays as it is.
fn fill(
    w: &LocalWorker<'_>,
    dir: &PathBuf,
    seed: SnapshotId,
    from: &str,
    cx: &TaskCx<'_>,
) -> Result<(), TaskError> {
    let prepare =
        |source| TaskError::failed(ExecError::Prepare { path: "cache mount".to_owned(), source });
    let _one = w
        .store
        .key_lock(&format!("seed-{}", dir.display()), &mut |_| true)
        .map_err(TaskError::failed)?;
    if std::fs::read_dir(dir).map_err(prepare)?.next().is_some() {
        return Ok(());
    }
    let tree = w.read_tree(Tree::Snapshot(seed), cx)?;
    let to =
        rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| prepare(e.into()))?;
    let source = crate::tree::copy::Source {
        root: std::os::fd::AsFd::as_fd(&tree.root),
        ignore: None,
        as_root: false,
    };
    let cancelled = || cx.cancel.is_cancelled();
    let opts = crate::tree::copy::CopyOptions::contents(w.host.owners, &cancelled);
    let place = crate::tree::resolve::resolve(source.root, std::ffi::OsStr::new(from), true, None)
        .map_err(TaskError::failed)?;
    if let Some(st) = place.stat {
        // The folder itself takes the seed's mode and owner.
        let recorded = w.host.owners.recorded_at(&place.parent, &place.name).map_err(prepare)?;
        let (uid, gid) = recorded.unwrap_or((st.st_uid, st.st_gid));
        w.host.owners.give(&to, uid, gid).map_err(prepare)?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(st.st_mode & 0o7777))
            .map_err(|e| prepare(e.into()))?;
    }
    crate::tree::copy::copy(&source, from, std::os::fd::AsFd::as_fd(&to), "/", &opts)
        .map_err(TaskError::failed)
}

/// A file that exists only in memory.
fn memory_file(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("rgraph", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    Ok(OwnedFd::from(file))
}
