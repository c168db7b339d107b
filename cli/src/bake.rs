//! Bake files on disk to builds: found, read, resolved, and held to what the caller granted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rgraph_bake::{Definition, File, Inputs, Overrides, Resolved, Target};
use rgraph_ir::limits::MAX_BAKE_FILES;
use rgraph_ir::{Diagnostic, SourceMap};

use crate::args::Environment;
use crate::load;
use crate::options::{BakeOptions, ContextSpec, Terminals, host_platform};
use crate::pipeline::CompileError;
use crate::report::CliError;
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
    all: &Definition,
    resolved: &Resolved,
    env: &Environment,
    terminals: Terminals,
) -> Result<Vec<Unit>, CliError> {
    // What the command line sets is the caller's own word.
    let unset = all.resolve(&opts.targets, &Overrides::default()).unwrap_or_default();
    let of_file = Paths::of(unset.targets.values());
    let guard = Guard::new(opts)?;
    let mut out = Vec::new();
    for t in resolved.in_order() {
        let about =
            |e: CliError| CliError { message: format!("target `{}`: {}", t.name, e.message), ..e };
        let paths = Paths::of([t]);
        guard.check(&paths, &of_file).map_err(about)?;
        // Wrong use of the file is no wrong use of the command line.
        let build = opts.build(t, env, terminals).map_err(|e| {
            let e = CliError::from(e);
            about(CliError { kind: crate::report::ErrorKind::Failed, ..e })
        })?;
        out.push(Unit { name: t.name.clone(), opts: build, wanted: !t.linked });
    }
    Ok(out)
}

/// What targets touch outside of the build itself.
#[derive(Default)]
struct Paths {
    read: BTreeSet<String>,
    written: BTreeSet<String>,
    agent: bool,
}

impl Paths {
    fn of<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Self {
        let mut out = Self::default();
        for t in targets {
            let context = t.context.clone().unwrap_or_else(|| ".".to_owned());
            let folder = |text: &str| {
                matches!(ContextSpec::parse(text.as_ref()), Ok(ContextSpec::Folder(_)))
            };
            if folder(&context) {
                let dockerfile = t.dockerfile.clone().unwrap_or_default();
                if t.dockerfile_inline.is_none() {
                    let path = match dockerfile.strip_prefix("cwd://") {
                        Some(path) => PathBuf::from(path),
                        None => Path::new(&context).join(dockerfile),
                    };
                    out.read.insert(path.display().to_string());
                }
                out.read.insert(context);
            }
            for value in t.contexts.values() {
                if let Some(layout) = value.strip_prefix("oci-layout://") {
                    let dir = layout.split('@').next().unwrap_or_default();
                    let dir = match dir.rsplit_once(':') {
                        Some((dir, tag)) if !tag.contains('/') => dir,
                        _ => dir,
                    };
                    out.read.insert(dir.to_owned());
                } else if !value.contains(':') || value.starts_with("cwd://") {
                    out.read.insert(value.strip_prefix("cwd://").unwrap_or(value).to_owned());
                }
            }
            for s in t.secrets.iter().flatten() {
                out.read.extend(Some(s.src.clone()).filter(|p| !p.is_empty()));
            }
            for s in t.ssh.iter().flatten() {
                out.agent |= s.paths.is_empty();
                out.read.extend(s.paths.iter().cloned());
            }
            let of_local = |e: &&rgraph_bake::Entry| e.kind() == "local";
            let field = |e: &rgraph_bake::Entry, name: &str| e.0.get(name).cloned();
            let from = t.cache_from.iter().flatten().filter(of_local);
            out.read.extend(from.filter_map(|e| field(e, "src")));
            let to = t.cache_to.iter().flatten().filter(of_local);
            let outputs = t.outputs.iter().flatten();
            let written = to.chain(outputs).filter_map(|e| field(e, "dest"));
            out.written.extend(written.filter(|d| d != "-"));
            // A key is read too.
            let caches = t.cache_to.iter().flatten().filter_map(|e| field(e, "sign-key"));
            out.read.extend(caches);
        }
        out
    }
}

/// The folders that targets may touch.
struct Guard {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    ssh: bool,
}

impl Guard {
    fn new(opts: &BakeOptions) -> Result<Self, CliError> {
        let here = std::env::current_dir()
            .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
        let folders = |granted: &[PathBuf]| {
            granted.iter().chain([&here]).map(|p| real(p)).collect::<Vec<_>>()
        };
        let (read, write) = (folders(&opts.grants.read), folders(&opts.grants.write));
        Ok(Self { read, write, ssh: opts.grants.ssh })
    }

    /// Refuses what the file, not the command line, wants to touch elsewhere.
    fn check(&self, paths: &Paths, of_file: &Paths) -> Result<(), CliError> {
        let refused = |path: &str, verb: &str, name: &str| {
            Err(CliError::failed(format!("it {verb} `{path}`, which is outside of this folder"))
                .help(format!("add `--allow {name}={path}` if you trust this file with it")))
        };
        let outside = |path: &str, folders: &[PathBuf]| {
            let real = real(Path::new(path));
            !folders.iter().any(|f| real.starts_with(f))
        };
        for path in paths.read.intersection(&of_file.read) {
            if outside(path, &self.read) {
                return refused(path, "reads", "fs.read");
            }
        }
        for path in paths.written.intersection(&of_file.written) {
            if outside(path, &self.write) {
                return refused(path, "writes", "fs.write");
            }
        }
        if paths.agent && of_file.agent && !self.ssh {
            return Err(CliError::failed("it uses your ssh agent")
                .help("add `--allow ssh` if you trust this file with it"));
        }
        Ok(())
    }
}

/// Where a path leads: links are followed as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    let mut existing = path.as_path();
    loop {
        if let Ok(real) = existing.canonicalize() {
            let mut out = real;
            for part in rest.into_iter().rev() {
                match part {
                    std::path::Component::ParentDir => drop(out.pop()),
                    part => out.push(part),
                }
            }
            return out;
        }
        match (existing.parent(), existing.components().next_back()) {
            (Some(parent), Some(last)) => {
                rest.push(last);
                existing = parent;
            }
            _ => return path,
        }
    }
}
