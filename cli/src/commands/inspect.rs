//! `rgraph inspect`: everything known of images, as Docker's JSON.

use std::collections::BTreeSet;

use rgraph_runtime::images;
use rgraph_store::{ImageRow, Store};
use serde_json::{Value, json};

use super::{Context, images_error, note, print, tag};
use crate::args::{InspectArgs, InspectKind};
use crate::options::{ImageName, InspectOptions, host_platform};
use crate::report::{CliError, ErrorKind, chain_text};
use crate::session::{self, store_error};

/// Runs the command. What is found is printed, whatever else is not.
pub fn run(cx: &Context, args: InspectArgs) -> Result<(), CliError> {
    let opts = InspectOptions::new(args)?;
    if opts.kind == Some(InspectKind::Container) {
        return Err(CliError::not_yet("`rgraph inspect --type container`"));
    }
    let store = session::open_store(cx.root())?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &opts.names {
        match ImageName::parse(name).map_err(CliError::from).and_then(|n| describe(&store, &n)) {
            Ok(v) => found.push(v),
            Err(e) => errors.push(e),
        }
    }
    let mut text = match found.is_empty() {
        true => b"[]".to_vec(),
        false => serde_json::to_vec_pretty(&found).expect("always serialises"),
    };
    text.push(b'\n');
    print(&text)?;
    for e in &errors {
        note(&format!("error: {}", chain_text(e)));
    }
    if errors.is_empty() { Ok(()) } else { Err(CliError::reported(ErrorKind::Failed)) }
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
    let comment = config.history.last().and_then(|h| h.comment.clone()).unwrap_or_default();
    Ok(json!({
        "Id": row.config,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Comment": comment,
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": row.size,
        "Config": config.config,
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Descriptor": { "digest": row.manifest },
    }))
}
