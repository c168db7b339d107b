//! `bake`: its own options, and the options of the build that each target stands for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rgraph_bake::{Overrides, Target};
use rgraph_ir::op::NetworkMode;
use rgraph_ir::request::{Entitlements, Secret};

use super::build::BuildOptions;
use super::context::{ContextSpec, FileSpec, NamedContext, context_name};
use super::error::OptionsError;
use super::{SshOption, Terminals, csv, entitlements};
use crate::args::{BakeArgs, BuildArgs, Environment, ResourceArgs, SharedArgs};

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
    /// Where they are, when that is not the working folder: a repository or a URL.
    pub remote: Option<ContextSpec>,
    /// `BAKE_CMD_CONTEXT`.
    pub command_context: String,
    /// Paths are from the folder of their file.
    pub relative_paths: bool,
    /// What a repository with the files is fetched with.
    pub remote_secrets: BTreeMap<String, Secret>,
    /// The same over ssh.
    pub remote_ssh: Option<SshOption>,
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
    shared: SharedArgs,
}

impl BakeOptions {
    /// The one conversion.
    pub fn new(
        mut raw: BakeArgs,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<Self, OptionsError> {
        let (remote, command_context) = remote(&mut raw.targets)?;
        let mode = mode(&raw)?;
        let call = match (raw.shared.check, raw.shared.call.take()) {
            (true, Some(_)) => {
                let text = "`--check` and `--call` exclude each other";
                return Err(OptionsError::Conflict(text.to_owned()));
            }
            (true, None) => Some("check".to_owned()),
            (false, call) => call,
        };
        let mut lines = std::mem::take(&mut raw.set);
        let flags = [
            ("push=true", raw.shared.push),
            ("load=true", raw.shared.load),
            ("no-cache=true", raw.shared.no_cache),
        ];
        lines.extend(flags.iter().filter(|(_, on)| *on).map(|(key, _)| format!("*.{key}")));
        lines.extend(call.map(|c| format!("*.call={c}")));
        for (kind, text) in [("sbom", &raw.shared.sbom), ("provenance", &raw.shared.provenance)] {
            lines.extend(text.as_deref().map(|t| format!("*.attest={}", attest(kind, t))));
        }
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
        let relative_paths = switch(env, "BUILDX_BAKE_FILE_RELATIVE_PATHS")?;
        let mut files = std::mem::take(&mut raw.file);
        if files.is_empty() {
            files = of_environment(env);
        }
        let targets = std::mem::take(&mut raw.targets);
        let common = BuildOptions::new(plain(&raw.shared), env, terminals)?;
        let common = BuildOptions {
            metadata_file: raw.shared.metadata_file.take(),
            allow: grants.steps.clone(),
            ..common
        };
        let remote_ssh = agent(env)?;
        let remote_secrets = match &remote {
            Some(ContextSpec::Git(url)) => git_secrets(env, url),
            _ => BTreeMap::new(),
        };
        Ok(Self {
            files,
            remote,
            command_context,
            relative_paths,
            remote_secrets,
            remote_ssh,
            targets,
            overrides,
            vars,
            mode,
            grants,
            no_environment,
            common,
            shared: raw.shared,
        })
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
                    let name = context_name(name).unwrap_or_else(|| name.clone());
                    drop(linked.insert(name, NamedContext::Build(other.to_owned())))
                }
                None => {
                    let value = value.strip_prefix("cwd://").unwrap_or(value);
                    contexts.push(format!("{name}={value}"));
                }
            }
        }
        let common = plain(&self.shared);
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
            attest: entries(&t.attest),
            no_cache_filter: t.no_cache_filter.clone().unwrap_or_default(),
            cache_from: entries(&t.cache_from),
            cache_to: entries(&t.cache_to),
            network: t.network.clone(),
            add_host: lines(&t.extra_hosts),
            ulimit: t.ulimits.clone().unwrap_or_default(),
            shm_size: t.shm_size.clone(),
            shared: SharedArgs {
                no_cache: t.no_cache == Some(true),
                call: t.call.clone(),
                ..common.shared
            },
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
            ..common
        };
        let mut out = BuildOptions::new(raw, env, terminals)?;
        self.check_entitlements(t, out.network == Some(NetworkMode::Host))?;
        // That a file asks for the host's network is no grant.
        out.allow = self.grants.steps.clone();
        out.build_contexts.extend(linked);
        if t.pull == Some(true) && self.shared.pull.is_none() {
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
    let remote =
        ContextSpec::parse(context.as_ref()).is_ok_and(|c| !matches!(c, ContextSpec::Folder(_)));
    match dockerfile {
        "" | "Dockerfile" => FileSpec::Default,
        path if remote => FileSpec::Path(PathBuf::from(path)),
        path => FileSpec::Path(Path::new(context).join(path)),
    }
}

/// The flags that are the same for every target.
fn plain(shared: &SharedArgs) -> BuildArgs {
    BuildArgs {
        context: ".".into(),
        shared: SharedArgs {
            pull: shared.pull,
            offline: shared.offline,
            jobs: shared.jobs.clone(),
            timeout: shared.timeout.clone(),
            progress: shared.progress.clone(),
            quiet: shared.quiet,
            registry: shared.registry.clone(),
            ..SharedArgs::default()
        },
        ..BuildArgs::default()
    }
}

/// A repository or URL in front of the targets, and what it says for `BAKE_CMD_CONTEXT`.
fn remote(targets: &mut Vec<String>) -> Result<(Option<ContextSpec>, String), OptionsError> {
    let mut next = || -> Result<Option<(ContextSpec, String)>, OptionsError> {
        let Some(first) = targets.first() else { return Ok(None) };
        let is_url = first.contains("://") || first.starts_with("git@");
        if !is_url && !first.starts_with("github.com/") {
            return Ok(None);
        }
        match ContextSpec::parse(first.as_ref())? {
            found @ (ContextSpec::Git(_) | ContextSpec::Http(_)) => {
                Ok(Some((found, targets.remove(0))))
            }
            ContextSpec::Folder(_) | ContextSpec::Stdin => {
                Err(OptionsError::value("TARGET", first, "it is no URL of a bake file"))
            }
        }
    };
    let Some((from, _)) = next()? else { return Ok((None, "cwd://".to_owned())) };
    let context = next()?.map_or_else(|| "cwd://".to_owned(), |(_, url)| url);
    Ok((Some(from), context))
}

/// The fields of `--sbom` and `--provenance`.
fn attest(kind: &str, text: &str) -> String {
    match csv::switch(Some(text)) {
        Ok(true) => format!("type={kind}"),
        Ok(false) => format!("type={kind},disabled=true"),
        Err(_) => format!("type={kind},{text}"),
    }
}

fn switch(env: &Environment, name: &'static str) -> Result<bool, OptionsError> {
    let text = env.var(name).and_then(|v| v.to_str()).unwrap_or_default().trim();
    match text {
        "" => Ok(false),
        text => csv::switch(Some(text)).map_err(|why| OptionsError::value(name, text, why)),
    }
}

/// `BUILDX_BAKE_FILE`: files with `:` or `BUILDX_BAKE_PATH_SEPARATOR` between them.
fn of_environment(env: &Environment) -> Vec<PathBuf> {
    let text = |name: &str| env.var(name).and_then(|v| v.to_str()).unwrap_or_default();
    let between = match text("BUILDX_BAKE_PATH_SEPARATOR") {
        "" => ":",
        own => own,
    };
    let files = text("BUILDX_BAKE_FILE").split(between).map(str::trim);
    files.filter(|f| !f.is_empty()).map(PathBuf::from).collect()
}

/// `BUILDX_BAKE_GIT_SSH`: the socket of the agent, or the key, that a repository with the files is fetched with.
fn agent(env: &Environment) -> Result<Option<SshOption>, OptionsError> {
    let line = match env.var("BUILDX_BAKE_GIT_SSH").and_then(|v| v.to_str()) {
        Some(path) if !path.is_empty() => format!("default={path}"),
        _ if env.ssh_auth_sock.is_some() => "default".to_owned(),
        _ => return Ok(None),
    };
    Ok(super::agents(&[line], env)?.remove("default"))
}

/// `BUILDX_BAKE_GIT_AUTH_TOKEN` and `BUILDX_BAKE_GIT_AUTH_HEADER`, for the host of the URL alone.
fn git_secrets(env: &Environment, url: &str) -> BTreeMap<String, Secret> {
    let Some(host) = host_of(url) else { return BTreeMap::new() };
    let secret = |name: &str| {
        let value = env.var(&format!("BUILDX_BAKE_{name}"))?;
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(value).to_vec();
        (!bytes.is_empty()).then(|| (format!("{name}.{host}"), Secret::new(bytes)))
    };
    ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"].into_iter().filter_map(secret).collect()
}

/// `host[:port]` of a URL over HTTP.
fn host_of(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or(url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#']).next()?;
    Some(host.rsplit_once('@').map_or(host, |(_, host)| host))
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
