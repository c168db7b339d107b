//! `rgraph save`: images as one archive.

use rgraph_ir::{ManifestDigest, Reference};
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::images::{self, World};

use super::{Context, images_error, tag};
use crate::args::SaveArgs;
use crate::options::SaveOptions;
use crate::report::CliError;
use crate::session;

/// Runs the command.
pub fn run(cx: &Context, args: SaveArgs) -> Result<(), CliError> {
    let opts = SaveOptions::new(args, cx.terminals)?;
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let mut wanted: Vec<(ManifestDigest, Vec<Reference>)> = Vec::new();
    for image in &opts.images {
        let manifest = tag::find(&store, image)?;
        // An image that was called by its id is saved without a name.
        let named = match &image.reference {
            Some(r) => store
                .resolve_tag(&r.to_string())
                .map_err(|e| session::store_error(&e))?
                .map(|_| r.clone()),
            None => None,
        };
        match wanted.iter_mut().find(|(m, _)| *m == manifest) {
            Some((_, names)) => names.extend(named.filter(|n| !names.contains(n))),
            None => wanted.push((manifest, named.into_iter().collect())),
        }
    }
    // Layers of a base that nothing had to read yet come from its registry.
    let registries = session::registries(&cx.env, &session::config(&cx.dirs)?, &[]);
    let fetcher = ImageFetcher::new(&store, Some(&registries), PullPolicy::Missing, &cx.cancel);
    let world = World { store: &store, host, images: &fetcher, cancel: &cx.cancel };
    images::save(&world, &wanted, opts.platform.as_ref(), &opts.dest).map_err(|e| images_error(&e))
}
