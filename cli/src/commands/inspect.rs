//! `rgraph inspect`: everything known of images and containers, as Docker's JSON.

use std::collections::BTreeSet;

use rgraph_runtime::images;
use rgraph_store::{ImageRow, Store};
use serde_json::{Value, json};

use super::container::inspect as container;
use super::{Context, images_error, note_error, print, tag};
use crate::args::{InspectArgs, InspectKind};
use crate::options::{ImageName, InspectOptions, host_platform};
use crate::progress::sanitize::harmless;
use crate::report::{CliError, ErrorKind};
use crate::session::{self, store_error};

/// Runs the command. What is found is printed, whatever else is not.
pub fn run(cx: &Context, args: InspectArgs) -> Result<(), CliError> {
    let opts = InspectOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &opts.names {
        match any(&store, name, &opts) {
            Ok(v) => found.push(v),
            Err(e) => errors.push(e),
        }
    }
    match &opts.format {
        None if found.is_empty() => print(b"[]\n")?,
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
    for e in &errors {
        note_error(e);
    }
    if errors.is_empty() { Ok(()) } else { Err(CliError::reported(ErrorKind::Failed)) }
}

/// Whatever is called so: a container, else an image.
fn any(store: &Store, name: &str, opts: &InspectOptions) -> Result<Value, CliError> {
    let image = || ImageName::parse(name).map_err(CliError::from).and_then(|n| describe(store, &n));
    if opts.kind == Some(InspectKind::Image) {
        return image();
    }
    let e = match (container::find(store, name)?, opts.kind) {
        (Some(record), _) => return container::describe(store, &record, opts.size),
        (None, Some(_)) => return Err(CliError::failed(format!("no such container: {name}"))),
        (None, None) => match image() {
            Ok(found) => return Ok(found),
            Err(e) => e,
        },
    };
    Err(match e.message.starts_with(tag::NO_SUCH_IMAGE) {
        true => CliError::failed(format!("no such object: {name}")),
        false => e,
    })
}

/// The image of this machine's platform, else the first.
pub fn native(all: &[ImageRow]) -> &ImageRow {
    let here = host_platform().to_string();
    all.iter().find(|r| r.platform == here).unwrap_or(&all[0])
}

fn describe(store: &Store, name: &ImageName) -> Result<Value, CliError> {
    let top = tag::find(store, name)?;
    let failed = |e: images::ImagesError| images_error(&e);
    let all = images::rows(store, top).map_err(failed)?;
    let row = native(&all);
    let config = images::config(store, row).map_err(failed)?;
    let (mut tags, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for t in store.tags().map_err(|e| store_error(&e))? {
        if t.manifest == top
            && let Ok(r) = t.name.parse::<rgraph_ir::Reference>()
        {
            digests.insert(format!("{}@{}", r.familiar_name(), t.manifest));
            if r.tag.is_some() {
                tags.insert(r.familiar());
            }
        }
    }
    let changed = store
        .tags()
        .map_err(|e| store_error(&e))?
        .into_iter()
        .filter(|t| t.manifest == top)
        .map(|t| t.updated)
        .max()
        .and_then(|s| jiff::Timestamp::from_second(s).ok());
    let settings = serde_json::to_value(&config.config).expect("always serialises");
    let comment = config.history.last().and_then(|h| h.comment.clone()).unwrap_or_default();
    let said = images::statements(store, top, row).map_err(failed)?;
    let of = |s: images::Statement| json!({ "PredicateType": s.predicate_type, "Digest": s.digest, "Size": s.size });
    Ok(json!({
    "Id": row.config,
    "RepoTags": tags,
    "RepoDigests": digests,
    "Comment": comment,
    "Created": config.created,
    "Author": config.author.clone().unwrap_or_default(),
    "Architecture": config.architecture,
    "Variant": config.variant.as_deref().unwrap_or_default(),
    "Os": config.os,
    "Size": row.size,
    "VirtualSize": row.size,
    "Parent": "",
    "DockerVersion": "",
    "OsVersion": config.os_version.as_deref().unwrap_or_default(),
    "GraphDriver": { "Name": "overlayfs", "Data": null },
    "Config": with_docker_fields(settings),
    "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
    "Metadata": { "LastTagTime": changed.map(|t| t.to_string()) },
    "Descriptor": { "digest": top },
    // What Docker does not show.
    "Attestations": said.into_iter().map(of).collect::<Value>(),
    }))
}

/// The settings with the fields that Docker shows of every image.
fn with_docker_fields(mut config: Value) -> Value {
    let (empty, nothing, no) = (json!(""), Value::Null, json!(false));
    let always = [
        ("AttachStderr", &no),
        ("AttachStdin", &no),
        ("AttachStdout", &no),
        ("Cmd", &nothing),
        ("Domainname", &empty),
        ("Entrypoint", &nothing),
        ("Env", &nothing),
        ("Hostname", &empty),
        ("Image", &empty),
        ("Labels", &nothing),
        ("OnBuild", &nothing),
        ("OpenStdin", &no),
        ("StdinOnce", &no),
        ("Tty", &no),
        ("User", &empty),
        ("Volumes", &nothing),
        ("WorkingDir", &empty),
    ];
    if let Some(map) = config.as_object_mut() {
        for (name, value) in always {
            map.entry(name).or_insert_with(|| value.clone());
        }
    }
    config
}
