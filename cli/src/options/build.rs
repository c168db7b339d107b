//! The options of `build` and `graph`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rgraph_frontend::ServiceOption;
use rgraph_ir::attest::Attestations;
use rgraph_ir::op::{HostIp, NetworkMode, Ulimit};
use rgraph_ir::request::{
    CacheFrom, CacheTo, Dest, Entitlements, ImageOutput, OutputSpec, Resources, Secret, Squash,
    SshSource,
};
use rgraph_ir::{Platform, Reference, Ttl};

use super::context::{ContextSpec, FileSpec, NamedContext, named};
use super::error::OptionsError;
use super::lock::default_path;
use super::output::{normal_tag, parse_output};
use super::{
    ProgressMode, Pull, Terminals, agents, attestations, cache_from, cache_to, entitlements, host,
    insecure_registries, network, resources, secrets, services, shm_size, ulimit,
};
use crate::args::{BuildArgs, Environment, GraphArgs, GraphFormat};

/// What is asked of the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Call {
    /// Its result.
    #[default]
    Build,
    /// Its warnings.
    Check {
        /// As JSON.
        json: bool,
    },
    /// Its arguments and secrets.
    Outline {
        /// As JSON.
        json: bool,
    },
    /// Its stages.
    Targets {
        /// As JSON.
        json: bool,
    },
}

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
    /// Platforms in the order given; empty: this machine's.
    pub platforms: Vec<Platform>,
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
    pub ssh: BTreeMap<String, SshSource>,
    /// No cache is asked.
    pub no_cache: bool,
    /// No cache is asked for these stages.
    pub no_cache_filter: Vec<String>,
    /// Network of steps that say nothing themselves; `None`: not given.
    pub network: Option<NetworkMode>,
    /// What the caller grants. `--network host` grants `network.host`.
    pub allow: Entitlements,
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

/// Times after which something is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Each `RUN`.
    pub step: Option<Duration>,
    /// The whole build.
    pub build: Option<Duration>,
}

impl Timeouts {
    fn read(texts: &[String]) -> Result<Self, OptionsError> {
        let mut out = Self::default();
        for text in texts {
            let (slot, time) = match text.split_once('=') {
                None => (&mut out.step, text.as_str()),
                Some(("step", time)) => (&mut out.step, time),
                Some(("build", time)) => (&mut out.build, time),
                Some((what, _)) => {
                    return Err(OptionsError::word("--timeout", what, "part", &["step", "build"]));
                }
            };
            let time: Option<Ttl> = time.parse().ok().filter(|t| *t > Ttl::seconds(0));
            *slot = Some(time.map(Ttl::duration).ok_or_else(|| {
                OptionsError::value("--timeout", text, "expected a time such as 90s or 1h30m")
            })?);
        }
        Ok(out)
    }
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
        let tags = raw.tag.iter().map(|t| normal_tag("--tag", t)).collect::<Result<Vec<_>, _>>()?;
        let mut targets = raw.target.iter().filter(|t| !t.is_empty()).cloned();
        let mut options = Self {
            context: ContextSpec::parse(&raw.context)?,
            file: FileSpec::parse(raw.file.clone())?,
            target: targets.next(),
            more_targets: targets.collect(),
            build_args,
            labels: labels(&raw.label)?,
            build_contexts: raw.build_context.iter().map(|l| named(l)).collect::<Result<_, _>>()?,
            platforms: platforms(&raw.platform)?,
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
            attest: attestations(&raw.attest, raw.provenance.as_deref(), raw.sbom.as_deref())?,
            tags,
            cache_from: cache_from(&raw.cache_from)?,
            cache_to: raw.cache_to.iter().map(|l| cache_to(l)).collect::<Result<_, _>>()?,
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            no_cache: raw.no_cache,
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
            add_hosts: raw.add_host.iter().map(|h| host(h)).collect::<Result<_, _>>()?,
            ulimits: raw.ulimit.iter().map(|u| ulimit(u)).collect::<Result<_, _>>()?,
            shm_size: raw.shm_size.as_deref().map(shm_size).transpose()?.flatten(),
            cgroup_parent: raw.cgroup_parent.clone().filter(|p| !p.is_empty()),
            resources: resources(&raw.resources)?,
            pull: raw.pull.map(Pull::from).unwrap_or_default(),
            offline: raw.offline,
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
                raw.quiet,
                raw.progress.as_deref(),
                env,
                terminals.stderr,
            )?,
            tty_log_lines: match env.tty_log_lines.as_deref() {
                None => 6,
                Some(n) => n.parse().ok().filter(|n| *n <= 100).ok_or_else(|| {
                    OptionsError::value("BUILDKIT_TTY_LOG_LINES", n, "expected a number up to 100")
                })?,
            },
            metadata_file: raw.metadata_file.clone(),
            iidfile: raw.iidfile.clone(),
            call: call(&raw)?,
            jobs: raw
                .jobs
                .as_deref()
                .map(|n| {
                    n.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| {
                        OptionsError::value("--jobs", n, "expected a number from 1 to 4096")
                    })
                })
                .transpose()?,
            timeouts: Timeouts::read(&raw.timeout)?,
            retries: match raw.retry.as_deref() {
                None => 0,
                Some(n) => n.parse().ok().filter(|n| *n <= 100).ok_or_else(|| {
                    OptionsError::value("--retry", n, "expected a number up to 100")
                })?,
            },
            source_date_epoch,
            insecure_registries: insecure_registries(&raw.registry.insecure_registry, env)?,
            warnings: legacy(&raw),
        };
        options.insecure_outputs();
        options.timestamp(raw.timestamp.as_deref())?;
        options.attest_outputs()?;
        options.check()?;
        options.check_targets()?;
        refuse_later(&raw)?;
        let secrets = secrets(&raw.secret, env)?;
        let ssh = agents(&raw.ssh, env)?;
        let beside = || default_path(&options.file, &options.context);
        let locked = raw.locked.map(|p| if p.is_empty() { beside() } else { p.into() });
        Ok(Self { secrets, ssh, locked, ..options })
    }

    /// What a build without a network cannot do. A graph alone may ask for it.
    fn check_network(&self) -> Result<(), OptionsError> {
        let conflict = |text: &str| Err(OptionsError::Conflict(text.to_owned()));
        let pushes = |o: &OutputSpec| match o {
            OutputSpec::Registry(_) => true,
            OutputSpec::Image(i) => i.push,
            _ => false,
        };
        match self.pull {
            _ if !self.offline => Ok(()),
            Pull::Always | Pull::Newer => conflict(
                "`--offline` uses no network, and `--pull` asks registries: give one of them",
            ),
            _ if self.outputs.iter().any(pushes) => {
                conflict("`--offline` uses no network, and a push needs it: give one of them")
            }
            Pull::Missing | Pull::Never => Ok(()),
        }
    }

    /// `registry.insecure=true` is about the hosts of that output's names.
    fn insecure_outputs(&mut self) {
        for o in &self.outputs {
            let (OutputSpec::Image(i) | OutputSpec::Registry(i)) = o else { continue };
            let names = if i.names.is_empty() { &self.tags } else { &i.names };
            let hosts =
                names.iter().filter_map(|n| n.parse::<Reference>().ok()).map(|r| r.registry);
            self.insecure_registries.extend(hosts.filter(|_| i.insecure));
        }
    }

    /// `--timestamp` is `SOURCE_DATE_EPOCH` for the image alone: no step sees it.
    fn timestamp(&mut self, seconds: Option<&str>) -> Result<(), OptionsError> {
        let Some(text) = seconds else { return Ok(()) };
        let seconds = text.parse().map_err(|_| {
            OptionsError::value("--timestamp", text, "expected a number of seconds since 1970")
        })?;
        self.source_date_epoch = Some(seconds);
        for o in &mut self.outputs {
            match o {
                OutputSpec::Oci(a) | OutputSpec::Docker(a) => a.layers.rewrite_timestamp = true,
                OutputSpec::Image(i) | OutputSpec::Registry(i) => i.layers.rewrite_timestamp = true,
                OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => {}
            }
        }
        Ok(())
    }

    /// Statements about an image are entries of an OCI index.
    fn attest_outputs(&mut self) -> Result<(), OptionsError> {
        if !self.attest.any() {
            return Ok(());
        }
        for o in &mut self.outputs {
            let layers = match o {
                // Its manifests are for readers of OCI layouts anyway.
                OutputSpec::Docker(a) => {
                    a.layers.oci_media_types = true;
                    continue;
                }
                OutputSpec::Oci(a) => &a.layers,
                OutputSpec::Image(i) | OutputSpec::Registry(i) => &i.layers,
                OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => {
                    continue;
                }
            };
            if !layers.oci_media_types {
                return Err(OptionsError::Conflict(
                    "`--attest` needs `oci-mediatypes=true`: Docker's media types have no index \
                     of statements"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// What several targets cannot have in common.
    fn check_targets(&self) -> Result<(), OptionsError> {
        let count = 1 + self.more_targets.len();
        if count == 1 {
            return Ok(());
        }
        let conflict = |text: String| Err(OptionsError::Conflict(text));
        let all: Vec<&String> = self.target.iter().chain(&self.more_targets).collect();
        if let Some(twice) = all.iter().enumerate().find(|(i, t)| all[..*i].contains(t)) {
            return conflict(format!("`--target {}` is given twice", twice.1));
        }
        if !self.tags.is_empty() && self.tags.len() != count {
            return conflict(format!(
                "{count} targets need as many `-t`, each for the target in its place, or none"
            ));
        }
        let one_file = |o: &OutputSpec| match o {
            OutputSpec::Oci(_) | OutputSpec::Docker(_) | OutputSpec::Tar { .. } => true,
            OutputSpec::Image(i) | OutputSpec::Registry(i) => !i.names.is_empty(),
            OutputSpec::Local { .. } | OutputSpec::CacheOnly => false,
        };
        if self.outputs.iter().any(one_file) {
            return conflict(
                "several targets do not fit into one archive or name: use `-o DIR`, `-t`, or \
                 `rgraph bake`"
                    .to_owned(),
            );
        }
        if self.iidfile.is_some() {
            return conflict("`--iidfile` is for one target; `--metadata-file` has all".to_owned());
        }
        if self.call != Call::Build {
            return conflict("`--check` and `--call` are for one target".to_owned());
        }
        Ok(())
    }

    /// What goes wrong only together.
    fn check(&self) -> Result<(), OptionsError> {
        let conflict = |text: &str| Err(OptionsError::Conflict(text.to_owned()));
        if self.context == ContextSpec::Stdin && self.file == FileSpec::Stdin {
            return conflict("stdin cannot be the context and the Dockerfile (`-f -`) at once");
        }
        let to_stdout = |o: &&OutputSpec| match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) => a.dest == Dest::Stdout,
            OutputSpec::Tar { dest, .. } => *dest == Dest::Stdout,
            _ => false,
        };
        match self.outputs.iter().filter(to_stdout).count() {
            0 => Ok(()),
            1 if self.progress == ProgressMode::Quiet => {
                conflict("stdout cannot take the archive and the image id of `--quiet` at once")
            }
            1 => Ok(()),
            _ => conflict("stdout cannot take two outputs: give one of them a `dest`"),
        }
    }
}

fn build_args(
    lines: &[String],
    env: &Environment,
) -> Result<(BTreeMap<String, String>, Option<i64>), OptionsError> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let mut args = BTreeMap::new();
    for line in lines {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => match env.var(line) {
                None => (line.as_str(), None),
                Some(v) => {
                    let text = v.to_str().map(str::to_owned).ok_or_else(|| {
                        OptionsError::value("--build-arg", line, "the variable is not UTF-8")
                    })?;
                    (line.as_str(), Some(text))
                }
            },
        };
        if name.is_empty() {
            return Err(OptionsError::value("--build-arg", line, "the name is missing"));
        }
        if let Some(value) = value {
            args.insert(name.to_owned(), value);
        }
    }
    let (from, text) = match (args.get(EPOCH), &env.source_date_epoch) {
        (Some(arg), _) => ("--build-arg", Some(arg.clone())),
        (None, Some(e)) => (EPOCH, Some(e.clone())),
        (None, None) => (EPOCH, None),
    };
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok((args, None)) };
    // A context or a stage has a time of its own; which there are the Dockerfile says.
    let named = text == "context" || from != EPOCH && is_name(&text);
    let seconds = match text.parse() {
        Ok(seconds) => Some(seconds),
        Err(_) if named => None,
        Err(_) => {
            let why = format!("`{EPOCH}` is a number of seconds since 1970, or `context`");
            return Err(OptionsError::value(from, &text, why));
        }
    };
    args.insert(EPOCH.to_owned(), text);
    Ok((args, seconds))
}

/// Whether a stage may be called so.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn labels(lines: &[String]) -> Result<BTreeMap<String, String>, OptionsError> {
    lines
        .iter()
        .map(|l| {
            let (name, value) = l.split_once('=').unwrap_or((l, ""));
            if name.is_empty() {
                return Err(OptionsError::value("--label", l, "the name is missing"));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

fn platforms(lines: &[String]) -> Result<Vec<Platform>, OptionsError> {
    let mut out = Vec::new();
    for word in lines.iter().flat_map(|l| l.split(',')).map(str::trim) {
        let p = match word {
            "local" => host_platform(),
            w => w.parse::<Platform>().map_err(|e| {
                OptionsError::value("--platform", w, e.why).with_help("such as `linux/amd64`")
            })?,
        };
        if !out.contains(&p) {
            out.push(p);
        }
    }
    Ok(out)
}

fn outputs(
    raw: &BuildArgs,
    tags: &[String],
    terminals: Terminals,
) -> Result<Vec<OutputSpec>, OptionsError> {
    let read = |l: &String| parse_output(l, terminals.stdout);
    let mut outputs = raw.output.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let plain = |push| ImageOutput { push, ..ImageOutput::default() };
    if raw.push {
        let mut pushed = false;
        for o in &mut outputs {
            match o {
                OutputSpec::Image(i) | OutputSpec::Registry(i) => {
                    i.push = true;
                    pushed = true;
                }
                _ => {}
            }
        }
        if !pushed {
            outputs.push(OutputSpec::Registry(plain(true)));
        }
    }
    if raw.load && !outputs.iter().any(|o| matches!(o, OutputSpec::Image(_))) {
        outputs.push(OutputSpec::Image(plain(false)));
    }
    for o in &outputs {
        if let OutputSpec::Image(i) | OutputSpec::Registry(i) = o
            && i.push
            && i.names.is_empty()
            && tags.is_empty()
        {
            return Err(OptionsError::Conflict(
                "a push needs a name: add `-t REGISTRY/NAME:TAG`".to_owned(),
            ));
        }
    }
    let mut annotations = Vec::new();
    for text in &raw.annotation {
        annotations.extend(super::annotation::flag(text)?);
    }
    if annotations.is_empty() {
        return Ok(outputs);
    }
    if outputs.is_empty() {
        outputs.push(OutputSpec::Image(plain(false)));
    }
    for o in &mut outputs {
        let all = match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) => &mut a.annotations,
            OutputSpec::Image(i) | OutputSpec::Registry(i) => &mut i.annotations,
            OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => continue,
        };
        all.0.extend(annotations.iter().cloned());
    }
    Ok(outputs)
}

fn call(raw: &BuildArgs) -> Result<Call, OptionsError> {
    const FLAG: &str = "--call";
    let Some(text) = raw.call.as_deref() else {
        return Ok(if raw.check { Call::Check { json: false } } else { Call::Build });
    };
    if raw.check {
        return Err(OptionsError::Conflict("`--check` and `--call` exclude each other".to_owned()));
    }
    let mut words = text.split(',');
    let method = words.next().unwrap_or_default();
    let mut json = false;
    for w in words {
        match w {
            "format=json" => json = true,
            "format=text" | "format=table" => json = false,
            w => {
                return Err(OptionsError::word(FLAG, w, "option", &["format=json", "format=text"]));
            }
        }
    }
    match method.strip_prefix("subrequest:").unwrap_or(method) {
        "" | "build" => Ok(Call::Build),
        "check" | "lint" => Ok(Call::Check { json }),
        "outline" => Ok(Call::Outline { json }),
        "targets" => Ok(Call::Targets { json }),
        m => Err(OptionsError::word(FLAG, m, "method", &["build", "check", "outline", "targets"])),
    }
}

/// Names every flag that has no meaning here, in one warning.
fn legacy(raw: &BuildArgs) -> Vec<String> {
    let l = &raw.legacy;
    let given = [
        ("--rm", &l.rm),
        ("--force-rm", &l.force_rm),
        ("--compress", &l.compress),
        ("--disable-content-trust", &l.disable_content_trust),
        ("--isolation", &l.isolation),
        ("--builder", &l.builder),
    ];
    let names: Vec<_> =
        given.iter().filter(|(_, v)| v.is_some()).map(|(n, _)| format!("`{n}`")).collect();
    match names.as_slice() {
        [] => Vec::new(),
        [one] => vec![format!("{one} has no meaning here and is ignored")],
        many => vec![format!("{} have no meaning here and are ignored", many.join(", "))],
    }
}

/// Refuses by name what is not built yet and would change the result.
fn refuse_later(raw: &BuildArgs) -> Result<(), OptionsError> {
    let r = &raw.refused;
    let given = [
        // Annotations of a base are never the result's, as in BuildKit.
        ("--inherit-annotations", raw.inherit_annotations == Some(true)),
        ("--layers", raw.layers.is_some()),
        ("--debug-on-error", raw.debug_on_error),
        ("--security-opt", !r.security_opt.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(OptionsError::Unsupported(format!("`{name}`"))),
        None => Ok(()),
    }
}
