//! The options of `build` and `graph`.

mod call;
mod checks;
mod outputs;
mod platforms;
mod timeouts;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rgraph_frontend::ServiceOption;
use rgraph_ir::attest::Attestations;
use rgraph_ir::op::{HostIp, NetworkMode, Ulimit};
use rgraph_ir::request::{CacheFrom, CacheTo, Entitlements, OutputSpec, Resources, Secret, Squash};
use rgraph_ir::{Platform, Ttl};

use self::call::call;
use self::checks::{legacy, refuse_later};
use self::outputs::outputs;
use self::platforms::platforms;
use self::values::{build_args, labels};
use super::context::{ContextSpec, FileSpec, NamedContext, named};
use super::error::OptionsError;
use super::lock::default_path;
use super::output::normal_tag;
use super::{
    ProgressMode, Pull, SshOption, Terminals, agents, attestations, cache_from, cache_to,
    entitlements, host, insecure_registries, network, resources, secrets, services, shm_size,
    ulimit,
};

use crate::args::{BuildArgs, Environment, GraphArgs, GraphFormat};

pub use self::call::Call;
pub use self::platforms::Platforms;
pub use self::timeouts::Timeouts;

/// A build as asked for, typed.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Where files come from.
    pub context: ContextSpec,
    /// The Dockerfile.
    pub file: FileSpec,
    /// The stage; `None`: the last.
    pub target: Option<String>,
    /// Further stages, each built beside the first.
    pub more_targets: Vec<String>,
    /// `ARG` values. A name without a value that the environment does not have is not here.
    pub build_args: BTreeMap<String, String>,
    /// Labels; the last of equal names counts.
    pub labels: BTreeMap<String, String>,
    /// Further contexts by name.
    pub build_contexts: BTreeMap<String, NamedContext>,
    /// What it is built for.
    pub platforms: Platforms,
    /// Names of the result, written out with tag.
    pub tags: Vec<String>,
    /// Where results go; empty: the local image store.
    pub outputs: Vec<OutputSpec>,
    /// Labels of bases are the result's too.
    pub inherit_labels: bool,
    /// Which layers become one.
    pub squash: Squash,
    /// Images do not tell how they were made.
    pub omit_history: bool,
    /// What is said of results.
    pub attest: Attestations,
    /// Caches to read.
    pub cache_from: Vec<CacheFrom>,
    /// Caches to write.
    pub cache_to: Vec<CacheTo>,
    /// Secrets by id, read.
    pub secrets: BTreeMap<String, Secret>,
    /// Agents by id.
    pub ssh: BTreeMap<String, SshOption>,
    /// No cache is asked.
    pub no_cache: bool,
    /// No cache is asked for these stages.
    pub no_cache_filter: Vec<String>,
    /// Network of steps that say nothing themselves; `None`: not given.
    pub network: Option<NetworkMode>,
    /// What the caller grants. `--network host` grants `network.host`.
    pub allow: Entitlements,
    /// Folders of device specs; empty: those of the config, or the usual ones.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Lines of `/etc/hosts`, in order.
    pub add_hosts: Vec<HostIp>,
    /// Containers beside steps, in order.
    pub services: Vec<ServiceOption>,
    /// Limits of every step.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Parent control group.
    pub cgroup_parent: Option<String>,
    /// Limits of every step.
    pub resources: Resources,
    /// When base images are asked for again.
    pub pull: Pull,
    /// No network for sources.
    pub offline: bool,
    /// The lock file that bases are taken from.
    pub locked: Option<PathBuf>,
    /// No cached result that is older is used.
    pub cache_ttl: Option<Ttl>,
    /// Most layers of an image. A graph that is only looked at may have any number.
    pub max_layers: usize,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// Log lines under a running step of the live view.
    pub tty_log_lines: usize,
    /// File for facts about the result.
    pub metadata_file: Option<PathBuf>,
    /// File for the image id.
    pub iidfile: Option<PathBuf>,
    /// What is asked of the Dockerfile.
    pub call: Call,
    /// Steps at once; `None`: by the machine.
    pub jobs: Option<usize>,
    /// Times after which a step or the build is ended.
    pub timeouts: Timeouts,
    /// How often a failed `RUN` is tried again.
    pub retries: u32,
    /// Seconds since 1970 that replace "now" in the image.
    pub source_date_epoch: Option<i64>,
    /// Registries over plain HTTP or with an unknown certificate.
    pub insecure_registries: Vec<String>,
    /// Said once, before the build.
    pub warnings: Vec<String>,
}

/// A graph as asked for.
#[derive(Debug, Clone)]
pub struct GraphOptions {
    /// The build it is the graph of.
    pub build: BuildOptions,
    /// How it is written.
    pub format: GraphFormat,
    /// What the cache holds is marked.
    pub cached: bool,
}

impl GraphOptions {
    /// The one conversion for `graph`.
    pub fn new(
        raw: GraphArgs,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<Self, OptionsError> {
        let build = BuildOptions {
            max_layers: usize::MAX,
            ..BuildOptions::read(raw.build, env, terminals)?
        };
        if raw.format == GraphFormat::Llb && !build.services.is_empty() {
            let text = "LLB knows no services: leave out `--service`, or choose another `--format`";
            return Err(OptionsError::Conflict(text.to_owned()));
        }
        Ok(Self { build, format: raw.format, cached: raw.cached })
    }
}

/// The platform of this machine.
pub fn host_platform() -> Platform {
    Platform::new("linux", std::env::consts::ARCH)
}

impl BuildOptions {
    /// The one conversion for `build`.
    pub fn new(
        raw: BuildArgs,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<Self, OptionsError> {
        let options = Self::read(raw, env, terminals)?;
        options.check_network()?;
        Ok(options)
    }

    /// Checks words first and reads secrets last, so that wrong use reads nothing.
    fn read(raw: BuildArgs, env: &Environment, terminals: Terminals) -> Result<Self, OptionsError> {
        let (build_args, source_date_epoch) = build_args(&raw.build_arg, env)?;
        let network = raw.network.as_deref().map(network).transpose()?;
        let mut allow = entitlements(&raw.allow)?;
        allow.network_host |= network == Some(NetworkMode::Host);
        let mut tags = Vec::new();
        for text in &raw.tag {
            let tag = normal_tag("--tag", text)?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let mut targets = raw.target.iter().filter(|t| !t.is_empty()).cloned();
        let mut options = Self {
            context: ContextSpec::parse(&raw.context)?,
            file: FileSpec::parse(raw.file.clone())?,
            target: targets.next(),
            more_targets: targets.collect(),
            build_args,
            labels: labels(&raw.label)?,
            build_contexts: raw.build_context.iter().map(|l| named(l)).collect::<Result<_, _>>()?,
            platforms: platforms(&raw)?,
            outputs: outputs(&raw, &tags, terminals)?,
            inherit_labels: raw.inherit_labels.unwrap_or(true),
            squash: match raw.squash.as_deref() {
                None | Some("false" | "0") => Squash::No,
                Some("true" | "1") => Squash::Own,
                Some("all") => Squash::All,
                Some(other) => {
                    let known = ["true", "false", "all"];
                    return Err(OptionsError::word("--squash", other, "value", &known));
                }
            },
            omit_history: raw.omit_history.unwrap_or(false),
            attest: attestations(
                &raw.attest,
                raw.shared.provenance.as_deref(),
                raw.shared.sbom.as_deref(),
            )?,
            tags,
            cache_from: cache_from(&raw.cache_from)?,
            cache_to: raw.cache_to.iter().map(|l| cache_to(l)).collect::<Result<_, _>>()?,
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            no_cache: raw.shared.no_cache,
            no_cache_filter: raw
                .no_cache_filter
                .iter()
                .flat_map(|l| l.split(','))
                .map(|s| s.trim().to_owned())
                .filter(|s| !s.is_empty())
                .collect(),
            network,
            allow,
            services: services(&raw.service, env)?,
            cdi_spec_dirs: raw.cdi_spec_dir.clone(),
            add_hosts: raw.add_host.iter().map(|h| host(h)).collect::<Result<_, _>>()?,
            ulimits: raw.ulimit.iter().map(|u| ulimit(u)).collect::<Result<_, _>>()?,
            shm_size: raw.shm_size.as_deref().map(shm_size).transpose()?.flatten(),
            cgroup_parent: raw.cgroup_parent.clone().filter(|p| !p.is_empty()),
            resources: resources(&raw.resources)?,
            pull: raw.shared.pull.map(Pull::from).unwrap_or_default(),
            offline: raw.shared.offline,
            locked: None,
            cache_ttl: raw
                .cache_ttl
                .as_deref()
                .map(|t| {
                    t.parse().map_err(|e: rgraph_ir::ttl::TtlError| {
                        OptionsError::value("--cache-ttl", t, e.to_string())
                    })
                })
                .transpose()?,
            max_layers: rgraph_ir::limits::MAX_LAYERS,
            progress: ProgressMode::choose(
                raw.shared.quiet,
                raw.shared.progress.as_deref(),
                env,
                terminals.stderr,
            )?,
            tty_log_lines: match env.tty_log_lines.as_deref() {
                None => 6,
                Some(n) => n.parse().ok().filter(|n| *n <= 100).ok_or_else(|| {
                    OptionsError::value("BUILDKIT_TTY_LOG_LINES", n, "expected a number up to 100")
                })?,
            },
            metadata_file: raw.shared.metadata_file.clone(),
            iidfile: raw.iidfile.clone(),
            call: call(&raw)?,
            jobs: raw
                .shared
                .jobs
                .as_deref()
                .map(|n| {
                    n.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| {
                        OptionsError::value("--jobs", n, "expected a number from 1 to 4096")
                    })
                })
                .transpose()?,
            timeouts: Timeouts::read(&raw.shared.timeout)?,
            retries: match raw.retry.as_deref() {
                None => 0,
                Some(n) => n.parse().ok().filter(|n| *n <= 100).ok_or_else(|| {
                    OptionsError::value("--retry", n, "expected a number up to 100")
                })?,
            },
            source_date_epoch,
            insecure_registries: insecure_registries(&raw.shared.registry.insecure_registry, env)?,
            warnings: legacy(&raw),
        };
        options.insecure_outputs();
        options.timestamp(raw.timestamp.as_deref())?;
        options.attest_outputs()?;
        options.check()?;
        options.check_files()?;
        options.check_targets()?;
        refuse_later(&raw)?;
        let secrets = secrets(&raw.secret, env)?;
        let ssh = agents(&raw.ssh, env)?;
        let beside = || default_path(&options.file, &options.context);
        let locked = raw.locked.map(|p| if p.is_empty() { beside() } else { p.into() });
        Ok(Self { secrets, ssh, locked, ..options })
    }
}
