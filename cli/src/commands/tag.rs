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

/// The image of a name, or of the beginning of an id that only one image has: of its config, its
/// manifest, or the index that a name means.
pub fn find(store: &Store, name: &ImageName) -> Result<ManifestDigest, CliError> {
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    let tags = || store.tags().map_err(failed);
    if let Some(r) = &name.reference {
        if let Some(tag) = store.resolve_tag(&r.to_string()).map_err(failed)? {
            return Ok(tag.manifest);
        }
        // `NAME@DIGEST` of an image that came under a tag.
        if let Some(digest) = r.digest {
            let same = |t: &rgraph_store::TagRow| {
                t.manifest == digest
                    && t.name.parse::<rgraph_ir::Reference>().is_ok_and(|n| n.name() == r.name())
            };
            if tags()?.iter().any(same) {
                return Ok(digest);
            }
        }
    }
    let none = || CliError::failed(format!("{NO_SUCH_IMAGE}{}", name.text));
    let id = name.id.as_deref().ok_or_else(none)?;
    let images = store.images().map_err(failed)?;
    let mut by_config: Vec<_> =
        images.iter().filter(|i| i.config.hex().starts_with(id)).map(|i| i.config).collect();
    by_config.sort();
    by_config.dedup();
    let mut by_manifest: Vec<ManifestDigest> = images.iter().map(|i| i.manifest).collect();
    by_manifest.extend(tags()?.into_iter().map(|t| t.manifest));
    by_manifest.retain(|m| m.hex().starts_with(id));
    by_manifest.sort();
    by_manifest.dedup();
    match (&by_config[..], &by_manifest[..]) {
        ([], []) => Err(none()),
        ([config], _) => {
            let mut same = images.iter().filter(|i| i.config == *config);
            same.next().map(|i| i.manifest).ok_or_else(none)
        }
        ([], [manifest]) => Ok(*manifest),
        _ => {
            Err(CliError::failed(format!("id `{id}` is ambiguous")).help("give more digits of it"))
        }
    }
}

/// How the error of an image that is not there begins.
pub const NO_SUCH_IMAGE: &str = "no such image: ";
