//! Bake files on disk to builds: found, read, resolved, and held to what the caller granted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rgraph_bake::{Definition, File, Inputs, Resolved, Target};
use rgraph_ir::limits::MAX_BAKE_FILES;
use rgraph_ir::request::{
    ArchiveOutput, CachePlace, CacheSource, CacheStore, CacheTo, Dest, OutputSpec,
};
use rgraph_ir::{Diagnostic, SourceMap};
use rgraph_runtime::export::real_place as real;

use crate::args::Environment;
use crate::load;
use crate::options::{
    BakeOptions, BuildOptions, ContextSpec, FileSpec, NamedContext, Terminals, host_platform,
};
use crate::pipeline::CompileError;
use crate::report::{CliError, ErrorKind};
use crate::units::Unit;

/// Where bake files are looked for, in the order in which they are merged.
const NAMES: [&str; 8] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];

/// The file that a definition of this folder begins with, for records.
pub fn first_file() -> PathBuf {
    let found = NAMES.iter().map(Path::new).find(|p| p.exists());
    found.unwrap_or(Path::new(NAMES[5])).to_owned()
}

/// Reads the definition.
pub fn definition(opts: &BakeOptions, env: &Environment) -> Result<Definition, CompileError> {
    let files = files(opts)?;
    let of_env = |name: &str| env.var(name).and_then(|v| v.to_str()).map(str::to_owned);
    let lookup = |name: &str| match opts.vars.get(name) {
        None if !opts.no_environment => of_env(name),
        given => given.cloned(),
    };
    let mut environment: Vec<(String, String)> = Vec::new();
    if !opts.no_environment {
        environment.extend(env.texts().map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
    // Only compose files have it.
    if let Some(text) = read(Path::new(".env"))? {
        let all = rgraph_bake::dotenv(&text, &lookup).map_err(CliError::failed)?;
        let known: BTreeSet<String> = environment.iter().map(|(k, _)| k.clone()).collect();
        environment.extend(all.into_iter().filter(|(k, _)| !known.contains(k)));
    }
    let inputs = Inputs {
        lookup: &lookup,
        environment: &environment,
        local_platform: host_platform().to_string(),
        now: jiff::Timestamp::now().as_second(),
    };
    let mut sources = SourceMap::default();
    rgraph_bake::load(&files, &inputs, &mut sources).map_err(|d| CompileError::Text(d, sources))
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    load::bake_text(path).map_err(|e| CliError::failed(rgraph_runtime::report(&e)))
}

fn files(opts: &BakeOptions) -> Result<Vec<File>, CliError> {
    if opts.files.len() > MAX_BAKE_FILES {
        return Err(CliError::failed(format!("more than {MAX_BAKE_FILES} bake files are given")));
    }
    let mut out = Vec::new();
    let mut add = |path: &Path, must: bool| -> Result<(), CliError> {
        let name = path.display().to_string();
        match read(path)? {
            Some(text) => out.push(File { name, text: Arc::from(text) }),
            None if must => {
                return Err(CliError::failed(format!("there is no bake file `{name}`")));
            }
            None => {}
        }
        Ok(())
    };
    if !opts.files.is_empty() {
        for path in &opts.files {
            let text = path.to_string_lossy();
            add(text.strip_prefix("cwd://").map_or(path.as_path(), Path::new), true)?;
        }
        return Ok(out);
    }
    for name in NAMES {
        add(Path::new(name), false)?;
    }
    if out.is_empty() {
        let looked = NAMES.join(", ");
        return Err(CliError::failed("there is no bake file in this folder")
            .help(format!("looked for {looked}; `-f FILE` names another")));
    }
    Ok(out)
}

/// The targets that are asked for.
pub fn resolve(
    opts: &BakeOptions,
    all: &Definition,
    env: &Environment,
) -> Result<Resolved, CliError> {
    let failed = |d: Diagnostic| {
        let e = CliError::failed(d.message);
        match d.help {
            Some(help) => e.help(help),
            None => e,
        }
    };
    let mut out = all.resolve(&opts.targets, &opts.overrides).map_err(failed)?;
    if let Some(epoch) = env.source_date_epoch.as_ref().filter(|e| !e.is_empty()) {
        for t in out.targets.values_mut() {
            t.args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| epoch.clone());
        }
    }
    Ok(out)
}

/// The builds of the targets, those that others need first.
pub fn builds(
    opts: &BakeOptions,
    resolved: &Resolved,
    env: &Environment,
    terminals: Terminals,
) -> Result<Vec<Unit>, CliError> {
    let guard = Guard::new(opts)?;
    let mut out = Vec::new();
    for t in resolved.in_order() {
        let about =
            |e: CliError| CliError { message: format!("target `{}`: {}", t.name, e.message), ..e };
        guard.check_before(t).map_err(about)?;
        // Wrong use of the file is no wrong use of the command line.
        let build = opts.build(t, env, terminals).map_err(|e| {
            let e = CliError::from(e);
            about(CliError { kind: ErrorKind::Failed, ..e })
        })?;
        guard.check(&build).map_err(about)?;
        out.push(Unit { name: t.name.clone(), opts: build, wanted: !t.linked });
    }
    apart(&out)?;
    Ok(out)
}

/// Nothing is written below a folder that a result fills: a link in the result would lead it anywhere.
fn apart(units: &[Unit]) -> Result<(), CliError> {
    let outputs = || units.iter().flat_map(|u| u.opts.outputs.iter().map(move |o| (u, o)));
    let filled: Vec<PathBuf> = outputs()
        .filter_map(|(_, o)| match o {
            OutputSpec::Local { dest, .. } => Some(real(dest)),
            _ => None,
        })
        .collect();
    let caches = units.iter().flat_map(|u| u.opts.cache_to.iter().map(move |c| (u, c)));
    let places = outputs().filter_map(|(u, o)| Some((u, place(o)?)));
    let caches = caches.filter_map(|(u, c)| Some((u, cache_folder(c)?)));
    for (unit, path) in places.chain(caches) {
        let led = real(path);
        if let Some(folder) = filled.iter().find(|f| led != **f && led.starts_with(f)) {
            let (path, folder) = (path.display(), folder.display());
            let message = format!("target `{}` writes `{path}` into `{folder}`", unit.name);
            return Err(CliError::failed(format!("{message}, which a result fills"))
                .help("what is in a result could lead it elsewhere: give it a place beside"));
        }
    }
    Ok(())
}

/// Where an output is written; `None`: no file or folder.
fn place(output: &OutputSpec) -> Option<&Path> {
    match output {
        OutputSpec::Local { dest: path, .. }
        | OutputSpec::Tar { dest: Dest::Path(path), .. }
        | OutputSpec::Oci(ArchiveOutput { dest: Dest::Path(path), .. })
        | OutputSpec::Docker(ArchiveOutput { dest: Dest::Path(path), .. }) => Some(path),
        OutputSpec::Tar { dest: Dest::Stdout, .. }
        | OutputSpec::Oci(_)
        | OutputSpec::Docker(_)
        | OutputSpec::Image(_)
        | OutputSpec::Registry(_)
        | OutputSpec::CacheOnly => None,
    }
}

fn cache_folder(cache: &CacheTo) -> Option<&Path> {
    match cache {
        CacheTo::Store(CacheStore { place: CachePlace::Local { dir, .. }, .. }) => Some(dir),
        _ => None,
    }
}

/// The folders that targets may touch: the working folder, what is granted, and what the command line
/// itself names.
struct Guard {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    ssh: bool,
}

impl Guard {
    fn new(opts: &BakeOptions) -> Result<Self, CliError> {
        let here = std::env::current_dir()
            .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
        let folders = |granted: &[PathBuf], set: Vec<String>| {
            let set = set.into_iter().map(PathBuf::from);
            let all = granted.iter().cloned().chain([here.clone()]).chain(set);
            all.map(|p| real(&p)).collect::<Vec<_>>()
        };
        let (read, write) = opts.overrides.paths();
        let (read, write) = (folders(&opts.grants.read, read), folders(&opts.grants.write, write));
        Ok(Self { read, write, ssh: opts.grants.ssh || opts.overrides.gives_agent() })
    }

    fn may_read(&self, path: &Path) -> Result<(), CliError> {
        allowed(path, &self.read, "reads", "fs.read")
    }

    fn may_write(&self, path: &Path) -> Result<(), CliError> {
        allowed(path, &self.write, "writes", "fs.write")
    }

    /// What is read already when flags are understood.
    fn check_before(&self, t: &Target) -> Result<(), CliError> {
        for s in t.secrets.iter().flatten().filter(|s| !s.src.is_empty()) {
            self.may_read(Path::new(&s.src))?;
        }
        for s in t.ssh.iter().flatten() {
            if s.paths.is_empty() && !self.ssh {
                return Err(CliError::failed("it uses your ssh agent")
                    .help("add `--allow ssh` if you trust this file with it"));
            }
            s.paths.iter().try_for_each(|p| self.may_read(Path::new(p)))?;
        }
        let caches = t.cache_from.iter().chain(&t.cache_to).flatten();
        for (key, value) in caches.flat_map(|e| &e.0) {
            if key.to_ascii_lowercase().ends_with("key") {
                self.may_read(Path::new(value))?;
            }
        }
        Ok(())
    }

    /// Everything else.
    fn check(&self, build: &BuildOptions) -> Result<(), CliError> {
        if let ContextSpec::Folder(folder) = &build.context {
            self.may_read(folder)?;
            match &build.file {
                FileSpec::Path(path) => self.may_read(path)?,
                FileSpec::Default | FileSpec::Stdin | FileSpec::Inline(_) => {}
            }
        } else if let FileSpec::Path(path) = &build.file
            && path.is_absolute()
        {
            self.may_read(path)?;
        }
        for context in build.build_contexts.values() {
            match context {
                NamedContext::Folder(path) | NamedContext::OciLayout { dir: path, .. } => {
                    self.may_read(path)?;
                }
                NamedContext::Image(_)
                | NamedContext::Http(_)
                | NamedContext::Git(_)
                | NamedContext::Target(_)
                | NamedContext::Build(_) => {}
            }
        }
        for cache in &build.cache_from {
            if let CacheSource::Local { dir, .. } = &cache.source {
                self.may_read(dir)?;
            }
        }
        let outputs = build.outputs.iter().filter_map(place);
        let mut written = build.cache_to.iter().filter_map(cache_folder).chain(outputs);
        written.try_for_each(|path| self.may_write(path))
    }
}

fn allowed(path: &Path, folders: &[PathBuf], verb: &str, name: &str) -> Result<(), CliError> {
    let led = real(path);
    if folders.iter().any(|f| led.starts_with(f)) {
        return Ok(());
    }
    let path = path.display();
    Err(CliError::failed(format!("it {verb} `{path}`, which is outside of this folder"))
        .help(format!("add `--allow {name}={path}` if you trust this file with it")))
}
