//! `rgraph tag`: a further name for an image.

use rgraph_ir::ManifestDigest;
use rgraph_store::{ImageRef, Store};

use super::Context;
use crate::args::TagArgs;
use crate::options::{ImageName, TagOptions};
use crate::report::CliError;
use crate::session::{self, store_error};

/// Runs the command.
pub fn run(cx: &Context, args: TagArgs) -> Result<(), CliError> {
    let opts = TagOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let manifest = find(&store, &opts.source)?;
    store.tag(&opts.target.to_string(), &ImageRef { manifest }).map_err(|e| store_error(&e))
}

/// The image of a name, or of the beginning of an id that only one image has.
pub fn find(store: &Store, name: &ImageName) -> Result<ManifestDigest, CliError> {
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    if let Some(r) = &name.reference
        && let Some(tag) = store.resolve_tag(&r.to_string()).map_err(failed)?
    {
        return Ok(tag.manifest);
    }
    let none = || CliError::failed(format!("no such image: {}", name.text));
    let id = name.id.as_deref().ok_or_else(none)?;
    let images = store.images().map_err(failed)?;
    let mut hits = images.iter().filter(|i| i.config.hex().starts_with(id));
    match (hits.next(), hits.next()) {
        (Some(one), None) => Ok(one.manifest),
        (Some(a), Some(b)) if a.config == b.config => Ok(a.manifest),
        (Some(_), Some(_)) => {
            Err(CliError::failed(format!("id `{id}` is ambiguous")).help("give more digits of it"))
        }
        (None, _) => Err(none()),
    }
}
