//! Builds that become one: the targets of a bake file, or several stages of one Dockerfile. Each is
//! lowered by itself, all plans are one graph, and each has its own outputs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rgraph_ir::request::{Dest, OutputSpec};
use rgraph_runtime::export::real_place;

use crate::options::{BuildOptions, FileSpec};
use crate::pipeline::dockerfile;
use crate::report::CliError;

/// One build among others.
#[derive(Debug, Clone)]
pub struct Unit {
    /// What it is called; empty: it is the only one, and nothing calls it anything.
    pub name: String,
    /// What is built.
    pub opts: BuildOptions,
    /// Its result is wanted, not only as another's context.
    pub wanted: bool,
}

impl Unit {
    /// The builds of one command line: one for each `--target`.
    pub fn of(opts: &BuildOptions) -> Vec<Self> {
        if opts.more_targets.is_empty() {
            return vec![Self { name: String::new(), opts: opts.clone(), wanted: true }];
        }
        let stages = opts.target.iter().chain(&opts.more_targets);
        let unit = |(at, stage): (usize, &String)| {
            let mut own = opts.clone();
            own.target = Some(stage.clone());
            own.more_targets.clear();
            own.tags = opts.tags.get(at).cloned().into_iter().collect();
            for output in &mut own.outputs {
                if let OutputSpec::Local { dest, .. } = output {
                    dest.push(stage);
                }
            }
            Self { name: stage.clone(), opts: own, wanted: true }
        };
        stages.enumerate().map(unit).collect()
    }

    /// Which Dockerfile and context they have in common.
    pub fn same_source(&self, other: &Self) -> bool {
        let (a, b) = (&self.opts, &other.opts);
        a.context == b.context && a.file == b.file && a.build_contexts == b.build_contexts
    }
}

/// Where builds of these take place; see [`crate::pipeline::place`].
pub fn place(common: &BuildOptions, units: &[Unit]) -> String {
    match units {
        [one] => crate::pipeline::place(&one.opts),
        all => {
            let names: Vec<&str> = all.iter().map(|u| u.name.as_str()).collect();
            format!("{}\0{}", dockerfile(common).display(), names.join("\0"))
        }
    }
}

/// What all units together are given: secrets, agents, caches. `common`: what was said for all.
///
/// # Errors
/// What two units want in two ways, and one graph can have in one only.
pub fn together(common: &BuildOptions, units: &[Unit]) -> Result<BuildOptions, CliError> {
    let mut out = common.clone();
    let Some(first) = units.first() else {
        return Err(CliError::failed("there is nothing to build"));
    };
    let differ = |what: &str, other: &Unit| {
        let (a, b) = (&first.name, &other.name);
        Err(CliError::failed(format!("targets `{a}` and `{b}` have different {what}"))
            .help("steps that they share run once: build them by two commands"))
    };
    let mut from: BTreeMap<&str, &str> = BTreeMap::new();
    (out.tags, out.outputs) = (Vec::new(), Vec::new());
    (out.cache_from, out.cache_to) = (Vec::new(), Vec::new());
    (out.secrets, out.ssh) = (BTreeMap::new(), BTreeMap::new());
    out.resources = first.opts.resources.clone();
    out.shm_size = first.opts.shm_size;
    for unit in units {
        let own = &unit.opts;
        if own.resources != first.opts.resources {
            return differ("`resources`", unit);
        }
        for (id, secret) in &own.secrets {
            match out.secrets.get(id) {
                Some(known) if known != secret => {
                    let other = from.get(id.as_str()).copied().unwrap_or_default();
                    return Err(CliError::failed(format!(
                        "targets `{other}` and `{}` have different secrets `{id}`",
                        unit.name
                    ))
                    .help("steps that they share run once: give the secrets two ids"));
                }
                Some(_) => {}
                None => {
                    out.secrets.insert(id.clone(), secret.clone());
                    from.insert(id, &unit.name);
                }
            }
        }
        for (id, agent) in &own.ssh {
            if out.ssh.insert(id.clone(), agent.clone()).is_some_and(|known| known != *agent) {
                return Err(CliError::failed(format!(
                    "target `{}` has another ssh agent `{id}` than one before it",
                    unit.name
                ))
                .help("give the agents two ids"));
            }
        }
        // Steps have a `/dev/shm` of their own where a size is given.
        if own.shm_size != first.opts.shm_size {
            out.shm_size = None;
        }
        for host in &own.insecure_registries {
            if !out.insecure_registries.contains(host) {
                out.insecure_registries.push(host.clone());
            }
        }
        out.tags.extend(own.tags.iter().cloned());
        out.outputs.extend(own.outputs.iter().cloned());
        for c in &own.cache_from {
            if !out.cache_from.contains(c) {
                out.cache_from.push(c.clone());
            }
        }
        for c in &own.cache_to {
            if !out.cache_to.contains(c) {
                out.cache_to.push(c.clone());
            }
        }
    }
    one_writer(units)?;
    Ok(out)
}

/// Two results in one place would be one.
fn one_writer(units: &[Unit]) -> Result<(), CliError> {
    let mut seen: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for unit in units.iter().filter(|u| u.wanted) {
        for output in &unit.opts.outputs {
            let dest = match output {
                OutputSpec::Oci(a) | OutputSpec::Docker(a) => &a.dest,
                OutputSpec::Tar { dest, .. } => dest,
                // Folders are filled beside each other, as in Docker.
                OutputSpec::Local { .. }
                | OutputSpec::Image(_)
                | OutputSpec::Registry(_)
                | OutputSpec::CacheOnly => continue,
            };
            let (shown, place) = match dest {
                Dest::Path(p) => (p.display().to_string(), real_place(p)),
                Dest::Stdout => ("stdout".to_owned(), PathBuf::new()),
            };
            if let Some(other) = seen.insert(place, &unit.name)
                && other != unit.name
            {
                let name = &unit.name;
                let message = format!("targets `{other}` and `{name}` both write to {shown}");
                return Err(CliError::failed(message).help("give each a `dest` of its own"));
            }
        }
    }
    Ok(())
}

/// A file that stands for all units, for records.
pub fn named_after(common: BuildOptions, file: std::path::PathBuf) -> BuildOptions {
    BuildOptions { file: FileSpec::Path(file), ..common }
}
