//! `rgraph volume ...`: folders that outlive containers.

use rgraph_runtime::container::bytes_below;
use rgraph_runtime::volumes::{Volume, VolumeError, Volumes, random_name};
use serde_json::{Map, Value, json};

use super::container::{agreed, inspect};
use super::{Context, note_error, print};
use crate::args::{VolumeCommand, VolumeInspectArgs, VolumeRmArgs};
use crate::listing::Listing;
use crate::options::{VolumeCreateOptions, VolumeLsOptions, VolumePruneOptions, template_or_json};
use crate::progress::sanitize::harmless;
use crate::report::{CliError, ErrorKind};
use crate::{session, table};

/// The fields of a row, as Docker names them.
const FIELDS: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
];

fn failed(e: &VolumeError) -> CliError {
    let e: &dyn std::error::Error = e;
    CliError {
        source: e.source().map(|s| rgraph_runtime::report(s).into()),
        ..CliError::failed(e.to_string())
    }
}

/// Runs the command.
pub fn run(cx: &Context, command: VolumeCommand) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let volumes = Volumes::new(&store);
    match command {
        VolumeCommand::Ls(a) => list(&volumes, &VolumeLsOptions::new(a)?),
        VolumeCommand::Create(a) => create(&volumes, VolumeCreateOptions::new(a)?),
        VolumeCommand::Inspect(a) => describe(&volumes, &a),
        VolumeCommand::Rm(a) => remove(&volumes, &a),
        VolumeCommand::Prune(a) => prune(&volumes, &VolumePruneOptions::new(a, cx.terminals)?),
    }
}

fn labels(v: &Volume) -> Map<String, Value> {
    v.labels.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect()
}

fn list(volumes: &Volumes<'_>, opts: &VolumeLsOptions) -> Result<(), CliError> {
    let mut all = volumes.list().map_err(|e| failed(&e))?;
    all.retain(|v| opts.names.is_empty() || opts.names.iter().any(|n| v.name.contains(n.as_str())));
    all.retain(|v| opts.labels.keep(&labels(v)));
    if let Some(dangling) = opts.dangling {
        let mut kept = Vec::new();
        for v in all {
            if volumes.users(&v.name).map_err(|e| failed(&e))?.is_empty() == dangling {
                kept.push(v);
            }
        }
        all = kept;
    }
    if opts.quiet {
        return print(all.iter().map(|v| format!("{}\n", v.name)).collect::<String>().as_bytes());
    }
    let mut listing = Listing::new(FIELDS);
    for v in &all {
        let labels: Vec<String> = v.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let at = volumes.data(&v.name).display().to_string();
        listing.row(["local", &v.name, "local", &at, &labels.join(",")]);
    }
    print(&listing.draw(&opts.format, &["Driver", "Name"])?)
}

fn create(volumes: &Volumes<'_>, opts: VolumeCreateOptions) -> Result<(), CliError> {
    let anonymous = opts.name.is_none();
    let name = match opts.name {
        Some(name) => name,
        None => random_name().map_err(|e| CliError::failed("no name is found").because(e))?,
    };
    let created = jiff::Timestamp::now().as_second();
    let volume = Volume { name, created, labels: opts.labels, anonymous };
    let volume = volumes.create(volume).map_err(|e| failed(&e))?;
    print(format!("{}\n", volume.name).as_bytes())
}

fn describe(volumes: &Volumes<'_>, args: &VolumeInspectArgs) -> Result<(), CliError> {
    let template = template_or_json(args.format.as_deref())?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &args.names {
        match volumes.find(name) {
            Ok(v) => found.push(json!({
                "CreatedAt": inspect::time(v.created),
                "Driver": "local",
                "Labels": v.labels,
                "Mountpoint": volumes.data(&v.name).display().to_string(),
                "Name": v.name,
                "Options": null,
                "Scope": "local",
            })),
            Err(e) => errors.push(failed(&e)),
        }
    }
    match template {
        None => print(format!("{:#}\n", Value::from(found)).as_bytes())?,
        Some(template) => {
            for value in &found {
                match template.render(value) {
                    Ok(text) => print(format!("{}\n", harmless(&text)).as_bytes())?,
                    Err(e) => errors.push(CliError::failed(e.to_string())),
                }
            }
        }
    }
    told(&errors)
}

fn told(errors: &[CliError]) -> Result<(), CliError> {
    errors.iter().for_each(note_error);
    if errors.is_empty() { Ok(()) } else { Err(CliError::reported(ErrorKind::Failed)) }
}

/// One that cannot go does not stop the rest.
fn remove(volumes: &Volumes<'_>, args: &VolumeRmArgs) -> Result<(), CliError> {
    let mut errors = Vec::new();
    for name in &args.names {
        match volumes.remove(name) {
            Ok(()) => print(format!("{}\n", harmless(name)).as_bytes())?,
            Err(VolumeError::NotFound(_)) if args.force => {
                print(format!("{}\n", harmless(name)).as_bytes())?;
            }
            Err(e) => errors.push(failed(&e)),
        }
    }
    told(&errors)
}

fn prune(volumes: &Volumes<'_>, opts: &VolumePruneOptions) -> Result<(), CliError> {
    let what = if opts.all { "all volumes" } else { "all volumes without a name" };
    if opts.ask && !agreed(&format!("This removes {what} that no container uses."))? {
        return Ok(());
    }
    let (text, freed) = remove_unused(volumes, opts)?;
    print(format!("{text}Total reclaimed space: {}\n", table::size(freed)).as_bytes())
}

/// Removes the volumes that no container uses; tells of them, and how many bytes they had.
pub fn remove_unused(
    volumes: &Volumes<'_>,
    opts: &VolumePruneOptions,
) -> Result<(String, u64), CliError> {
    let (mut text, mut freed) = (String::new(), 0);
    for v in volumes.list().map_err(|e| failed(&e))? {
        if !(opts.all || v.anonymous) || !opts.labels.keep(&labels(&v)) {
            continue;
        }
        let bytes = bytes_below(&volumes.data(&v.name)).unwrap_or(0);
        match volumes.remove(&v.name) {
            Ok(()) => {
                text.push_str(&format!("{}\n", v.name));
                freed += bytes;
            }
            Err(VolumeError::InUse { .. } | VolumeError::NotFound(_)) => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    if !text.is_empty() {
        text = format!("Deleted Volumes:\n{text}\n");
    }
    Ok((text, freed))
}
