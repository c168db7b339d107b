//! `rgraph run`: a new container.

use std::error::Error;
use std::io::Read;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use rgraph_ir::image_config::ContainerConfig;
use rgraph_runtime::container::{
    Attach, Connection, ContainerError, Containers, New, Protocol, Publish, Settings, Start,
    StartingSupervisor, VolumeMount, hosts, limits, start, ulimits,
};
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::images::{self, World};
use rgraph_runtime::snapshot::LayerProvider;
use rgraph_runtime::volumes::random_name;
use rgraph_store::{BlobRef, ImageRow, Part};
use rgraph_sys::terminal;

use super::attach::{Forward, Manner, follow, not_begun, outcome, until_begun};
use super::{Context, container_error};
use crate::args::RunArgs;
use crate::commands::inspect::native;
use crate::commands::{images_error, note, print, tag};
use crate::options::{NamedVolume, RunOptions, host_platform};
use crate::report::CliError;
use crate::session::{self, store_error};

/// What `PATH` is when the image says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the command. Its end is the program's.
pub fn run(cx: &Context, args: RunArgs) -> Result<(), CliError> {
    let cwd = std::env::current_dir()
        .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
    let opts = RunOptions::new(args, &cx.env, &cwd)?;
    if opts.tty && opts.interactive && !opts.detach && !cx.terminals.stdin {
        return Err(CliError::failed("the input device is not a TTY")
            .help("leave `-t` out when standard input is a pipe or a file"));
    }
    let forward = Forward::watch(&cx.cancel);
    let Some(Begun { connection, id, folder }) = begin(cx, &opts, &forward)? else {
        return Ok(());
    };
    if opts.detach {
        return print(format!("{id}\n").as_bytes());
    }
    if cx.cancel.is_cancelled() {
        connection.signal(Signal::SIGKILL as i32).map_err(|e| container_error(&e))?;
    }
    let manner = Manner {
        input: opts.interactive,
        terminal: opts.tty,
        signals: opts.sig_proxy,
        keys: opts.detach_keys.clone(),
    };
    outcome(follow(connection, Some(&folder), manner, &forward)?)
}

/// A container whose program runs.
struct Begun {
    connection: Connection,
    id: String,
    folder: PathBuf,
}

/// Makes the container and starts it; `None`: it ended well before it began. The store is closed again
/// while the program runs: what it stands on is kept by its own folder.
fn begin(cx: &Context, opts: &RunOptions, forward: &Forward) -> Result<Option<Begun>, CliError> {
    let host = cx.host()?;
    let failed = |e: ContainerError| container_error(&e);
    let supervisor = StartingSupervisor::call(opts.network).map_err(failed)?;
    let store = session::open_store(cx.root())?;
    let config = session::config(&cx.dirs)?;
    let registries = session::registries(&cx.env, &config, &opts.insecure_registries);
    let fetcher = ImageFetcher::new(&store, Some(&registries), PullPolicy::Missing, &cx.cancel);
    let cancel = &cx.cancel;
    let world = World { store: &store, host, images: &fetcher, cancel };
    let lease = store.lease().map_err(|e| store_error(&e))?;
    let image = image(&world, opts, forward)?;
    let settings = images::config(&store, &image).map_err(|e| images_error(&e))?.into_ir().config;
    let settings = resolve(opts, settings)?;
    let containers = Containers::new(&store);
    let image_name = opts.image.text.clone();
    let new = New { name: opts.name.clone(), image: image_name, settings, remove: opts.rm };
    let held = containers.create(new, &image).map_err(failed)?;
    let (id, folder) = (held.record.id.clone(), containers.folder(&held.record));
    let begin = Start {
        store: &store,
        host,
        lease: &lease,
        provider: &Attentive { forward, provider: &fetcher },
        network_fallback: config.network_fallback(),
        size: terminal::size(std::io::stdin()).unwrap_or((24, 80)),
        warn: &|text| note(&format!("warning: {text}")),
    };
    let attach = Attach { input: opts.interactive && !opts.detach, output: !opts.detach };
    let connection = start(&begin, &containers, held, supervisor, attach).map_err(failed)?;
    match until_begun(&connection, Some(forward))? {
        None => Ok(Some(Begun { connection, id, folder })),
        Some(end) => not_begun(&begin, end).map(|()| None),
    }
}

/// Whoever fetches hears of signals.
struct Attentive<'a> {
    forward: &'a Forward,
    provider: &'a dyn LayerProvider,
}

impl LayerProvider for Attentive<'_> {
    fn open(
        &self,
        blob: &BlobRef,
        front: Option<Part>,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn Error + Send + Sync>> {
        self.forward.listen();
        self.provider.open(blob, front)
    }

    fn distrust(&self, blob: &BlobRef, why: &str) -> bool {
        self.provider.distrust(blob, why)
    }
}

/// The image, which is fetched when the store lacks it.
fn image(world: &World<'_>, opts: &RunOptions, forward: &Forward) -> Result<ImageRow, CliError> {
    let failed = |e: images::ImagesError| images_error(&e);
    let top = match (tag::find(world.store, &opts.image), &opts.image.reference) {
        (Err(e), Some(name)) if e.message.starts_with(tag::NO_SUCH_IMAGE) => {
            note(&format!("Unable to find image '{}' locally", name.familiar()));
            forward.listen();
            images::pull(world, name, &host_platform(), &|_, _| {}).map_err(failed)?;
            tag::find(world.store, &opts.image)?
        }
        (found, _) => found?,
    };
    let rows = images::rows(world.store, top).map_err(failed)?;
    Ok(native(&rows).clone())
}

/// What runs: the image's settings with the caller's.
fn resolve(opts: &RunOptions, mut image: ContainerConfig) -> Result<Settings, CliError> {
    let own = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let (entrypoint, words) = match opts.entrypoint.as_deref() {
        // Arguments of the image's are for its own program.
        Some(program) => {
            let program = (!program.is_empty()).then(|| vec![program.to_owned()]);
            (program.unwrap_or_default(), opts.words.clone())
        }
        None => {
            let words = own(&opts.words).or(image.cmd.take()).unwrap_or_default();
            (image.entrypoint.take().unwrap_or_default(), words)
        }
    };
    let args: Vec<String> = entrypoint.into_iter().chain(words).collect();
    if args.is_empty() {
        return Err(CliError::failed("no command specified")
            .help("the image names no program: give one after its name"));
    }
    let mut defaults = vec![("PATH", PATH)];
    if opts.tty {
        defaults.push(("TERM", "xterm"));
    }
    for (key, value) in defaults {
        if !image.env.iter().any(|(k, _)| k == key) {
            image.env_set(key, value);
        }
    }
    for (key, value) in &opts.env {
        image.env_set(key, value);
    }
    let volumes = volumes(opts, &image)?;
    let ports = published(opts, &image);
    let cwd = opts.workdir.clone().unwrap_or(image.working_dir);
    Ok(Settings {
        args,
        env: image.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user: opts.user.clone().unwrap_or(image.user),
        hostname: opts.hostname.clone(),
        extra_hosts: hosts(&opts.add_hosts),
        ulimits: ulimits(&opts.ulimits),
        shm_size: opts.shm_size.unwrap_or_default(),
        network: opts.network,
        binds: opts.mounts.binds.clone(),
        volumes,
        tmpfs: opts.mounts.tmpfs.clone(),
        ports,
        terminal: opts.tty,
        open_input: opts.interactive,
        input_once: !opts.detach,
        init: opts.init,
        limits: limits(&opts.resources, opts.cgroup_parent.as_deref()),
        stop_signal: opts.stop_signal.clone().or(image.stop_signal).unwrap_or_default(),
    })
}

/// The volumes asked for, and one for each `VOLUME` of the image that nothing else is mounted on.
fn volumes(opts: &RunOptions, image: &ContainerConfig) -> Result<Vec<VolumeMount>, CliError> {
    let bare = |path: &str| path.trim_end_matches('/').to_owned();
    let taken: Vec<String> = opts.mounts.targets().map(bare).collect();
    let own = image.volumes.iter().filter(|v| !taken.contains(&bare(v)) && !bare(v).is_empty());
    let own =
        own.map(|dest| NamedVolume { name: None, dest: dest.clone(), readonly: false, copy: true });
    let all = opts.mounts.volumes.iter().cloned().chain(own);
    all.map(|v| {
        let anonymous = v.name.is_none();
        let name = match v.name {
            Some(name) => name,
            None => random_name()
                .map_err(|e| CliError::failed("no name is found for a volume").because(e))?,
        };
        let NamedVolume { dest, readonly, copy, .. } = v;
        Ok(VolumeMount { name, dest, readonly, anonymous, copy })
    })
    .collect()
}

/// The ports asked for, and with `-P` those that the image names.
fn published(opts: &RunOptions, image: &ContainerConfig) -> Vec<Publish> {
    let mut all = opts.ports.clone();
    if opts.all_ports {
        for line in &image.exposed_ports {
            let (port, name) = line.split_once('/').unwrap_or((line, "tcp"));
            let protocol = match name {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => {
                    note(&format!("warning: port {line} is not published: {name} is not yet"));
                    continue;
                }
            };
            let Ok(container) = port.parse() else { continue };
            if all.iter().all(|p| (p.container, p.protocol) != (container, protocol)) {
                all.push(Publish { ip: None, host: 0, container, protocol });
            }
        }
    }
    all
}
