//! Bake files to builds: found, read, resolved, and held to what the caller granted.

mod files;
mod guard;
mod remote;

use std::path::{Path, PathBuf};

use rgraph_bake::{Definition, Resolved};
use rgraph_ir::Diagnostic;
use rgraph_ir::request::{ArchiveOutput, CachePlace, CacheStore, CacheTo, Dest, OutputSpec};
use rgraph_runtime::export::real_place as real;

use self::guard::Guard;
use crate::args::Environment;
use crate::options::{BakeOptions, Terminals};
use crate::report::{CliError, ErrorKind};
use crate::units::Unit;

pub use self::files::{definition, first_file};
pub use self::remote::{Definitions, There};

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
    from: &Definitions,
    env: &Environment,
    terminals: Terminals,
) -> Result<Vec<Unit>, CliError> {
    let guard = Guard::new(opts, from.folder())?;
    let mut out = Vec::new();
    for t in resolved.in_order() {
        let about =
            |e: CliError| CliError { message: format!("target `{}`: {}", t.name, e.message), ..e };
        guard.check_before(t).map_err(about)?;
        // Wrong use of the file is no wrong use of the command line.
        let t = &from.placed(t);
        let mut build = opts.build(t, env, terminals).map_err(|e| {
            let e = CliError::from(e);
            about(CliError { kind: ErrorKind::Failed, ..e })
        })?;
        guard.check(&build).map_err(about)?;
        build.secrets.extend(from.secrets());
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
