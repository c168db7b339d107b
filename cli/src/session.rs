//! What every command that touches the world opens: store, host, registries, signals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rgraph_image::layer::Owners;
use rgraph_image::registry::{CredentialStore, Proxies, RegistryConfig};
use rgraph_ir::request::SshSource;
use rgraph_runtime::fetch::git::SshAccess;
use rgraph_runtime::fetch::registry::LazyRegistry;
use rgraph_runtime::host::{Host, Snapshotter};
use rgraph_runtime::ssh::KeyAgent;
use rgraph_solver::CancelToken;
use rgraph_store::{Lease, OpenOptions, Prepared, Store};

use crate::args::Environment;
use crate::options::{Config, SshOption, StateDirs};
use crate::report::{CliError, ErrorKind};

/// Gets the rights that building needs. Call before any other thread exists.
pub fn enter_host(env: &Environment) -> Result<Host, CliError> {
    let asked = env.snapshotter.as_deref().map(str::parse::<Snapshotter>).transpose();
    let asked = asked.map_err(|e| CliError::usage(format!("RGRAPH_SNAPSHOTTER: {e}")))?;
    let mut host = Host::enter().map_err(|e| {
        let failed = CliError::failed(e.to_string());
        let failed = match e.help() {
            Some(help) => failed.help(help),
            None => failed,
        };
        match std::error::Error::source(&e) {
            Some(why) => failed.because(rgraph_runtime::report(why)),
            None => failed,
        }
    })?;
    host.choice.asked = asked;
    Ok(host)
}

/// Opens the state root for writing.
pub fn open_store(root: &Path) -> Result<Store, CliError> {
    Store::open(root, OpenOptions::default()).map_err(|e| store_error(&e))
}

/// Sees that the owners of files in the state root are kept as this process keeps them.
pub fn claim(host: &Host, root: &Path) -> Result<(), CliError> {
    // One that is not there yet is made, to be marked before anything is in it.
    let store = match host.owners {
        Owners::Recorded => Some(open_store(root)?),
        Owners::Kernel => None,
    };
    let snapshots = store.map_or_else(PathBuf::new, |s| s.layout().snapshots());
    host.claim(root, &snapshots).map_err(|e| {
        let help = e.help();
        let failed = CliError::failed(e.to_string()).help(help);
        match std::error::Error::source(&e) {
            Some(why) => failed.because(rgraph_runtime::report(why)),
            None => failed,
        }
    })
}

/// A store's error as the user reads it.
pub fn store_error(e: &rgraph_store::StoreError) -> CliError {
    CliError {
        source: std::error::Error::source(e).map(|s| rgraph_runtime::report(s).into()),
        ..CliError::failed(e.to_string())
    }
}

/// The config file.
pub fn config(dirs: &StateDirs) -> Result<Config, CliError> {
    Config::load(dirs.config.as_deref()).map_err(|e| CliError::failed(rgraph_runtime::report(&e)))
}

/// Registries as configured by flags, environment and the config file; nothing is opened before the
/// first question.
pub fn registries(env: &Environment, config: &Config, insecure: &[String]) -> LazyRegistry {
    LazyRegistry::new(registry_config(env, config, insecure))
}

/// The settings of [`registries`].
pub fn registry_config(env: &Environment, config: &Config, insecure: &[String]) -> RegistryConfig {
    let files = env.auth_files();
    let mut out = RegistryConfig {
        hosts: config.hosts(),
        credentials: CredentialStore { files, ..CredentialStore::default() },
        user_agent: concat!("rgraph/", env!("CARGO_PKG_VERSION")).to_owned(),
        proxies: Proxies {
            http: env.http_proxy.clone(),
            https: env.https_proxy.clone(),
            no_proxy: env.no_proxy.clone(),
        },
        ..RegistryConfig::default()
    };
    insecure.iter().for_each(|host| out.allow_insecure(host));
    out
}

/// The agents of `--ssh`: the caller's, and those of this process that serve keys from files. Dropping
/// it ends the latter.
pub struct Agents {
    sources: BTreeMap<String, SshSource>,
    _own: Vec<(KeyAgent, Prepared, Lease)>,
}

impl Agents {
    /// Starts what is needed. Their sockets lie in private folders of the store.
    pub fn start(store: &Store, wanted: &BTreeMap<String, SshOption>) -> Result<Self, CliError> {
        let (mut sources, mut own) = (BTreeMap::new(), Vec::new());
        for (id, option) in wanted {
            let source = match option {
                SshOption::Agent(source) => source.clone(),
                SshOption::Keys(files) => {
                    let lease = store.lease().map_err(|e| store_error(&e))?;
                    let folder = store.prepare(&lease).map_err(|e| store_error(&e))?;
                    let agent = KeyAgent::start(folder.fs(), files.keys.clone()).map_err(|e| {
                        CliError::failed(format!("cannot start an agent for `--ssh {id}`"))
                            .because(e)
                    })?;
                    let socket = agent.socket().to_owned();
                    own.push((agent, folder, lease));
                    SshSource { socket }
                }
            };
            sources.insert(id.clone(), source);
        }
        Ok(Self { sources, _own: own })
    }

    /// Where each of them listens.
    pub fn sources(&self) -> &BTreeMap<String, SshSource> {
        &self.sources
    }
}

/// How repositories are fetched by ssh: with the agent that `--ssh default` gives, from hosts that the
/// caller knows.
pub fn ssh_access(env: &Environment, agents: &BTreeMap<String, SshSource>) -> SshAccess {
    SshAccess {
        agent: agents.get("default").map(|a| a.socket.clone()),
        known_hosts: env.home.iter().map(|h| h.join(".ssh/known_hosts")).collect(),
    }
}

/// Turns the first SIGINT or SIGTERM into a cancelled build, and ends at once with the second. The
/// default watches nothing.
#[derive(Default)]
pub struct Signals {
    got: Arc<AtomicI32>,
}

impl Signals {
    /// Blocks both signals in this thread and all it starts from now on, and waits for them in one
    /// thread. Call before any other thread exists.
    pub fn watch(cancel: &CancelToken) -> Self {
        let got = Arc::new(AtomicI32::new(0));
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        if set.thread_block().is_ok() {
            let (got, cancel) = (got.clone(), cancel.clone());
            std::thread::spawn(move || {
                while let Ok(signal) = set.wait() {
                    if got.swap(signal as i32, Ordering::SeqCst) != 0 {
                        end_now(signal);
                    }
                    cancel.cancel();
                }
            });
        }
        Self { got }
    }

    /// How the command ends when a signal came.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self.got.load(Ordering::SeqCst) {
            0 => None,
            n if n == Signal::SIGTERM as i32 => Some(ErrorKind::Terminated),
            _ => Some(ErrorKind::Interrupted),
        }
    }
}

/// Cancels a build when its time is over.
pub struct Alarm {
    /// Dropped: nobody is to be woken any more.
    _quiet: Option<mpsc::Sender<()>>,
    rang: Arc<AtomicBool>,
}

impl Alarm {
    /// Rings after `limit`; `None`: never.
    pub fn set(limit: Option<Duration>, cancel: &CancelToken) -> Self {
        let rang = Arc::new(AtomicBool::new(false));
        let quiet = limit.map(|limit| {
            let (quiet, waits) = mpsc::channel::<()>();
            let (rang, cancel) = (rang.clone(), cancel.clone());
            std::thread::spawn(move || {
                if let Err(mpsc::RecvTimeoutError::Timeout) = waits.recv_timeout(limit) {
                    rang.store(true, Ordering::SeqCst);
                    cancel.cancel();
                }
            });
            quiet
        });
        Self { _quiet: quiet, rang }
    }

    /// The build was cancelled by it.
    pub fn rang(&self) -> bool {
        self.rang.load(Ordering::SeqCst)
    }
}

#[expect(clippy::disallowed_methods, reason = "a second signal means: do not clean up, end")]
fn end_now(signal: Signal) -> ! {
    std::process::exit(128 + signal as i32)
}
