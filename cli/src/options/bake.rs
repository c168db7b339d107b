//! `bake`: its own options, and the options of the build that each target stands for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rgraph_bake::{Overrides, Target};
use rgraph_ir::op::NetworkMode;
use rgraph_ir::request::Entitlements;

use super::build::BuildOptions;
use super::context::{FileSpec, NamedContext};
use super::error::OptionsError;
use super::{Terminals, csv, entitlements};
use crate::args::{BakeArgs, BuildArgs, Environment, ResourceArgs};

/// What is done with the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BakeMode {
    /// It is built.
    Build,
    /// It is printed, resolved.
    Print,
    /// Its targets are listed.
    Targets {
        /// As JSON.
        json: bool,
    },
    /// Its variables are listed.
    Variables {
        /// As JSON.
        json: bool,
    },
}

/// What the caller lets targets do. The file itself grants nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Beyond plain steps.
    pub steps: Entitlements,
    /// The caller's agent.
    pub ssh: bool,
    /// Folders that may be read beside the working folder.
    pub read: Vec<PathBuf>,
    /// Folders that may be written beside the working folder.
    pub write: Vec<PathBuf>,
}

/// A bake as asked for.
pub struct BakeOptions {
    /// The files; none: those that are found.
    pub files: Vec<PathBuf>,
    /// Targets, groups, patterns.
    pub targets: Vec<String>,
    /// `--set`, and flags that stand for it.
    pub overrides: Overrides,
    /// `--var`.
    pub vars: BTreeMap<String, String>,
    /// What is done.
    pub mode: BakeMode,
    /// What targets may do.
    pub grants: Grants,
    /// No variable is taken from the environment.
    pub no_environment: bool,
    /// What all builds have in common: no target, no output.
    pub common: BuildOptions,
    raw: BakeArgs,
}

impl BakeOptions {
    /// The one conversion.
    pub fn new(
        mut raw: BakeArgs,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<Self, OptionsError> {
        for (flag, value) in [("--sbom", &raw.sbom), ("--provenance", &raw.provenance)] {
            if value.as_deref().is_some_and(|v| v != "false") {
                return Err(OptionsError::Unsupported(format!("`{flag}`")));
            }
        }
        if raw.targets.first().is_some_and(|t| t.contains("://")) {
            return Err(OptionsError::Unsupported("a bake file by URL".to_owned()));
        }
        let mode = mode(&raw)?;
        let call = match (raw.check, raw.call.take()) {
            (true, Some(_)) => {
                let text = "`--check` and `--call` exclude each other";
                return Err(OptionsError::Conflict(text.to_owned()));
            }
            (true, None) => Some("check".to_owned()),
            (false, call) => call,
        };
        let mut lines = std::mem::take(&mut raw.set);
        let flags =
            [("push=true", raw.push), ("load=true", raw.load), ("no-cache=true", raw.no_cache)];
        lines.extend(flags.iter().filter(|(_, on)| *on).map(|(key, _)| format!("*.{key}")));
        lines.extend(call.map(|c| format!("*.call={c}")));
        let no_environment = match env.var("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP") {
            Some(text) => csv::switch(text.to_str()).unwrap_or(false),
            None => false,
        };
        let lookup = |name: &str| match no_environment {
            true => None,
            false => env.var(name).and_then(|v| v.to_str()).map(str::to_owned),
        };
        let overrides = Overrides::parse(&lines, &lookup)
            .map_err(|why| OptionsError::Conflict(format!("--set {why}")))?;
        let mut vars = BTreeMap::new();
        for line in &raw.var {
            match line.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    vars.insert(name.to_owned(), value.to_owned());
                }
                _ => return Err(OptionsError::value("--var", line, "expected NAME=VALUE")),
            }
        }
        let grants = grants(&raw.allow)?;
        let files = std::mem::take(&mut raw.file);
        let targets = std::mem::take(&mut raw.targets);
        let common = BuildOptions::new(plain(&raw), env, terminals)?;
        let common = BuildOptions {
            metadata_file: raw.metadata_file.take(),
            allow: grants.steps.clone(),
            ..common
        };
        Ok(Self { files, targets, overrides, vars, mode, grants, no_environment, common, raw })
    }

    /// The build that a target stands for.
    ///
    /// # Errors
    /// What is wrong with an attribute, in the words of the flag that it is.
    pub fn build(
        &self,
        t: &Target,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<BuildOptions, OptionsError> {
        let wrong = |text: &str| Err(OptionsError::Conflict(text.to_owned()));
        let context = t.context.clone().unwrap_or_else(|| ".".to_owned());
        let dockerfile = t.dockerfile.as_deref().unwrap_or_default();
        if context == "-" || dockerfile == "-" {
            return wrong("stdin is no context and no Dockerfile of a target");
        }
        let disabled = |v: &rgraph_bake::Entry| {
            v.0.get("disabled").is_some_and(|d| csv::switch(Some(d)) == Ok(true))
        };
        if t.attest.iter().flatten().any(|a| !disabled(a)) {
            return Err(OptionsError::Unsupported("`attest`".to_owned()));
        }
        let lines = |m: &BTreeMap<String, String>| {
            m.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
        };
        let entries = |l: &Option<Vec<rgraph_bake::Entry>>| {
            l.iter().flatten().map(rgraph_bake::Entry::line).collect::<Vec<_>>()
        };
        let (mut contexts, mut linked) = (Vec::new(), BTreeMap::new());
        for (name, value) in &t.contexts {
            match value.strip_prefix("target:") {
                Some(other) => {
                    drop(linked.insert(name.clone(), NamedContext::Build(other.to_owned())))
                }
                None => {
                    let value = value.strip_prefix("cwd://").unwrap_or(value);
                    contexts.push(format!("{name}={value}"));
                }
            }
        }
        let resource = |name: &str| t.resources.get(name).cloned();
        let raw = BuildArgs {
            context: context.clone().into(),
            target: t.target.clone().into_iter().collect(),
            build_arg: lines(&t.args),
            build_context: contexts,
            label: lines(&t.labels),
            platform: t.platforms.clone().unwrap_or_default(),
            secret: t.secrets.iter().flatten().map(rgraph_bake::Secret::line).collect(),
            ssh: t.ssh.iter().flatten().map(rgraph_bake::Ssh::line).collect(),
            tag: t.tags.clone().unwrap_or_default(),
            output: entries(&t.outputs),
            annotation: t.annotations.clone().unwrap_or_default(),
            no_cache: t.no_cache == Some(true),
            no_cache_filter: t.no_cache_filter.clone().unwrap_or_default(),
            cache_from: entries(&t.cache_from),
            cache_to: entries(&t.cache_to),
            network: t.network.clone(),
            add_host: lines(&t.extra_hosts),
            ulimit: t.ulimits.clone().unwrap_or_default(),
            shm_size: t.shm_size.clone(),
            call: t.call.clone(),
            resources: ResourceArgs {
                memory: resource("memory"),
                memory_swap: resource("memory-swap"),
                cpu_shares: resource("cpu-shares"),
                cpu_period: resource("cpu-period"),
                cpu_quota: resource("cpu-quota"),
                cpuset_cpus: resource("cpuset-cpus"),
                cpuset_mems: resource("cpuset-mems"),
                ..ResourceArgs::default()
            },
            ..plain(&self.raw)
        };
        let mut out = BuildOptions::new(raw, env, terminals)?;
        self.check_entitlements(t, out.network == Some(NetworkMode::Host))?;
        // That a file asks for the host's network is no grant.
        out.allow = self.grants.steps.clone();
        out.build_contexts.extend(linked);
        if t.pull == Some(true) && self.raw.pull.is_none() {
            out.pull = super::Pull::Always;
        }
        out.file = file(t, &context, dockerfile);
        // What was told once need not be told for each target.
        out.warnings.clear();
        Ok(out)
    }

    /// What a target says it needs, the caller must have granted.
    fn check_entitlements(&self, t: &Target, host: bool) -> Result<(), OptionsError> {
        let host = host.then_some("network.host");
        let all = t.entitlements.iter().flatten().map(String::as_str).chain(host);
        for name in all {
            let wanted = entitlements(&[name.to_owned()])?;
            let steps = &self.grants.steps;
            let missing = (wanted.network_host && !steps.network_host)
                || (wanted.security_insecure && !steps.security_insecure)
                || (wanted.devices.is_some() && steps.devices.is_none());
            if missing {
                return Err(OptionsError::Missing {
                    what: format!("it wants {name}, which is not granted"),
                    help: Some(format!("add `--allow {name}` if you trust this file with it")),
                });
            }
        }
        Ok(())
    }
}

/// The Dockerfile of a target lies in its context, unless its path says otherwise.
fn file(t: &Target, context: &str, dockerfile: &str) -> FileSpec {
    if let Some(text) = &t.dockerfile_inline {
        return FileSpec::Inline(text.clone());
    }
    if let Some(path) = dockerfile.strip_prefix("cwd://") {
        return FileSpec::Path(PathBuf::from(path));
    }
    let remote = super::ContextSpec::parse(context.as_ref())
        .is_ok_and(|c| !matches!(c, super::ContextSpec::Folder(_)));
    match dockerfile {
        "" | "Dockerfile" => FileSpec::Default,
        path if remote => FileSpec::Path(PathBuf::from(path)),
        path => FileSpec::Path(Path::new(context).join(path)),
    }
}

/// The flags that are the same for every target.
fn plain(raw: &BakeArgs) -> BuildArgs {
    BuildArgs {
        context: ".".into(),
        pull: raw.pull,
        offline: raw.offline,
        jobs: raw.jobs.clone(),
        timeout: raw.timeout.clone(),
        progress: raw.progress.clone(),
        quiet: raw.quiet,
        registry: crate::args::RegistryArgs {
            insecure_registry: raw.registry.insecure_registry.clone(),
        },
        ..BuildArgs::default()
    }
}

fn mode(raw: &BakeArgs) -> Result<BakeMode, OptionsError> {
    const FLAG: &str = "--list";
    let Some(text) = raw.list.as_deref() else {
        return Ok(if raw.print { BakeMode::Print } else { BakeMode::Build });
    };
    if raw.print {
        let text = "`--print` and `--list` exclude each other";
        return Err(OptionsError::Conflict(text.to_owned()));
    }
    let (mut what, mut json) = (String::new(), false);
    for (key, value) in csv::pairs(text).map_err(|why| OptionsError::value(FLAG, text, why))? {
        match (key.as_str(), value.as_deref()) {
            ("type", Some(v)) => what = v.to_owned(),
            ("format", Some("json")) => json = true,
            ("format", Some("table")) => json = false,
            (word, None) => what = word.to_owned(),
            _ => return Err(OptionsError::word(FLAG, text, "key", &["type", "format"])),
        }
    }
    match what.as_str() {
        "targets" => Ok(BakeMode::Targets { json }),
        "variables" => Ok(BakeMode::Variables { json }),
        _ => Err(OptionsError::word(FLAG, text, "list", &["targets", "variables"])),
    }
}

fn grants(lines: &[String]) -> Result<Grants, OptionsError> {
    let mut out = Grants::default();
    let mut steps = Vec::new();
    for line in lines {
        match line.split_once('=') {
            Some(("fs", path)) => {
                out.read.push(path.into());
                out.write.push(path.into());
            }
            Some(("fs.read", path)) => out.read.push(path.into()),
            Some(("fs.write", path)) => out.write.push(path.into()),
            None if line == "ssh" => out.ssh = true,
            _ => steps.push(line.clone()),
        }
    }
    // `*` is everywhere.
    for path in out.read.iter_mut().chain(&mut out.write).filter(|p| p.as_os_str() == "*") {
        *path = PathBuf::from("/");
    }
    out.steps = entitlements(&steps)?;
    Ok(out)
}
