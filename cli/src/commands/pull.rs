//! `rgraph pull`: an image with all its layers into the store.

use rgraph_ir::Reference;
use rgraph_ir::op::ResolveMode;
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::images::{self, Pulling, World};

use super::{Context, images_error, note, print, transfer_note};
use crate::args::PullArgs;
use crate::options::{PullOptions, host_platform};
use crate::report::CliError;
use crate::session;

/// Runs the command.
pub fn run(cx: &Context, args: PullArgs) -> Result<(), CliError> {
    let opts = PullOptions::new(args, &cx.env)?;
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let registries =
        session::registries(&cx.env, &session::config(&cx.dirs)?, &opts.insecure_registries);
    let fetcher = ImageFetcher::new(&store, Some(&registries), PullPolicy::Always, &cx.cancel)
        .telling(|e| transfer_note(e, opts.quiet));
    let platform = opts.platform.clone().unwrap_or_else(host_platform);
    let world = World { store: &store, host, images: &fetcher, cancel: &cx.cancel };
    if opts.default_tag && !opts.quiet {
        note("Using default tag: latest");
    }
    let names = if opts.all_tags {
        let tags = fetcher.remote_tags(&opts.name).map_err(|e| images_error(&e.into()))?;
        let with = |t| Reference { tag: Some(t), ..opts.name.clone() };
        tags.into_iter().map(with).collect()
    } else {
        vec![opts.name.clone()]
    };
    for name in &names {
        if !opts.quiet {
            let what = name.tag.clone().or_else(|| name.digest.map(|d| d.to_string()));
            note(&format!("{}: Pulling from {}", what.unwrap_or_default(), name.repository));
        }
        if let Some(wanted) = &opts.platform {
            let image = fetcher.resolve(&name.to_string(), wanted, ResolveMode::ForcePull);
            let image = image.map_err(|e| images_error(&e.into()))?;
            let (got, wanted) = (image.config.platform.clone().normalize(), wanted.clone());
            let wanted = wanted.normalize();
            if (&got.os, &got.architecture) != (&wanted.os, &wanted.architecture) {
                return Err(CliError::failed(format!(
                    "image with reference {} was found but its platform ({got}) does not match the \
                     specified platform ({wanted})",
                    name.familiar()
                )));
            }
        }
        let told = |digest: rgraph_ir::BlobDigest, what: Pulling| {
            let lines: &[&str] = match what {
                Pulling::Exists => &["Already exists"],
                Pulling::Begins => &["Pulling fs layer"],
                Pulling::Arrived => &["Download complete", "Pull complete"],
            };
            for line in lines.iter().filter(|_| !opts.quiet) {
                note(&format!("{}: {line}", digest.short()));
            }
        };
        let done = images::pull(&world, name, &platform, &told).map_err(|e| images_error(&e))?;
        if !opts.quiet {
            let status = match done.newer {
                true => "Downloaded newer image for",
                false => "Image is up to date for",
            };
            let digest = done.digest;
            print(format!("Digest: {digest}\nStatus: {status} {}\n", name.familiar()).as_bytes())?;
        }
        print(format!("{name}\n").as_bytes())?;
    }
    Ok(())
}
