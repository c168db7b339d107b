//! What targets may touch: a bake file grants itself nothing.

use std::path::{Path, PathBuf};

use rgraph_bake::Target;
use rgraph_ir::request::CacheSource;
use rgraph_runtime::export::real_place as real;

use super::{cache_folder, place};
use crate::options::{BakeOptions, BuildOptions, ContextSpec, FileSpec, NamedContext};
use crate::report::CliError;

/// The folders that targets may touch: the working folder, what is granted, and what the command line
/// itself names.
pub(super) struct Guard {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    ssh: bool,
}

impl Guard {
    pub(super) fn new(opts: &BakeOptions, brought: Option<&Path>) -> Result<Self, CliError> {
        let here = std::env::current_dir()
            .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
        let folders = |granted: &[PathBuf], set: Vec<String>| {
            let set = set.into_iter().map(PathBuf::from);
            let all = granted.iter().cloned().chain([here.clone()]).chain(set);
            all.map(|p| real(&p)).collect::<Vec<_>>()
        };
        let (read, write) = opts.overrides.paths();
        let (mut read, write) =
            (folders(&opts.grants.read, read), folders(&opts.grants.write, write));
        read.extend(brought.map(real));
        Ok(Self { read, write, ssh: opts.grants.ssh || opts.overrides.gives_agent() })
    }

    pub(super) fn may_read(&self, path: &Path) -> Result<(), CliError> {
        allowed(path, &self.read, "reads", "fs.read")
    }

    fn may_write(&self, path: &Path) -> Result<(), CliError> {
        allowed(path, &self.write, "writes", "fs.write")
    }

    /// What is read already when flags are understood.
    pub(super) fn check_before(&self, t: &Target) -> Result<(), CliError> {
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
    pub(super) fn check(&self, build: &BuildOptions) -> Result<(), CliError> {
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
