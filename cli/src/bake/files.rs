//! Bake files: found and read, here or in what was brought from elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rgraph_bake::{Definition, File, Inputs};
use rgraph_ir::SourceMap;
use rgraph_ir::limits::MAX_BAKE_FILES;

use super::guard::Guard;
use super::remote::Definitions;
use crate::args::Environment;
use crate::load;
use crate::options::{BakeOptions, host_platform};
use crate::pipeline::CompileError;
use crate::report::CliError;

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

/// Reads the definition; the texts it was read from, for what is told about it.
pub fn definition(
    opts: &BakeOptions,
    from: &Definitions,
    env: &Environment,
) -> Result<(Definition, SourceMap), CompileError> {
    let files = files(opts, from)?;
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
        let bad = |why| CliError::failed(format!("`.env`: {why}"));
        let all = rgraph_bake::dotenv(&text, &lookup).map_err(bad)?;
        let known: BTreeSet<String> = environment.iter().map(|(k, _)| k.clone()).collect();
        environment.extend(all.into_iter().filter(|(k, _)| !known.contains(k)));
    }
    let guard = Guard::new(opts, from.folder())?;
    let named = |path: &str| {
        let text = match from.folder() {
            Some(folder) => load::bake_text_in(folder, path),
            None => {
                let whole = |e: CliError| match e.help {
                    Some(help) => format!("{}: {help}", e.message),
                    None => e.message,
                };
                guard.may_read(Path::new(path)).map_err(whole)?;
                load::bake_text(Path::new(path))
            }
        };
        text.map(|t| t.map(Arc::from)).map_err(|e| rgraph_runtime::report(&e))
    };
    let inputs = Inputs {
        lookup: &lookup,
        environment: &environment,
        read: &named,
        local_platform: host_platform().to_string(),
        command_context: opts.command_context.clone(),
        relative_paths: opts.relative_paths,
        is_remote: from.is_remote(),
        now: jiff::Timestamp::now().as_second(),
        random: &rgraph_runtime::random,
    };
    let mut sources = SourceMap::default();
    match rgraph_bake::load(&files, &inputs, &mut sources) {
        Ok(all) => Ok((all, sources)),
        Err(d) => Err(CompileError::Text(d, sources)),
    }
}

fn read(path: &Path) -> Result<Option<String>, CliError> {
    load::bake_text(path).map_err(|e| CliError::failed(rgraph_runtime::report(&e)))
}

fn files(opts: &BakeOptions, from: &Definitions) -> Result<Vec<File>, CliError> {
    if opts.files.len() > MAX_BAKE_FILES {
        return Err(CliError::failed(format!("more than {MAX_BAKE_FILES} bake files are given")));
    }
    let mut out = Vec::new();
    let mut add = |path: &Path, text: Option<String>, must: bool| -> Result<(), CliError> {
        let name = path.display().to_string();
        match text {
            Some(text) => out.push(File { name, text: Arc::from(text) }),
            None if must => {
                return Err(CliError::failed(format!("there is no bake file `{name}`")));
            }
            None => {}
        }
        Ok(())
    };
    let there = |path: &Path| match from.folder() {
        Some(folder) => {
            let text = load::bake_text_in(folder, &path.to_string_lossy());
            text.map_err(|e| CliError::failed(rgraph_runtime::report(&e)))
        }
        None => read(path),
    };
    if let Some((url, text)) = from.text() {
        add(Path::new(url), Some(text?), true)?;
    }
    for path in &opts.files {
        match path.to_string_lossy().strip_prefix("cwd://").map(Path::new) {
            Some(here) => add(here, read(here)?, true)?,
            // The URL is the file itself.
            None if from.text().is_some() => {}
            None => add(path, there(path)?, true)?,
        }
    }
    if opts.files.is_empty() && from.text().is_none() {
        for name in NAMES {
            add(Path::new(name), there(Path::new(name))?, false)?;
        }
    }
    if out.is_empty() {
        let looked = NAMES.join(", ");
        let place = if from.is_remote() { "there" } else { "in this folder" };
        return Err(CliError::failed(format!("there is no bake file {place}"))
            .help(format!("looked for {looked}; `-f FILE` names another")));
    }
    Ok(out)
}
