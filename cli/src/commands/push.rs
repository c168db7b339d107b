//! `rgraph push`: an image of the store to its registry.

use rgraph_ir::Reference;
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::images::{self, Arrival, Pushing, World};

use super::{Context, images_error, note, print, transfer_note};
use crate::args::PushArgs;
use crate::options::PushOptions;
use crate::report::CliError;
use crate::session::{self, store_error};

/// Runs the command.
pub fn run(cx: &Context, args: PushArgs) -> Result<(), CliError> {
    let opts = PushOptions::new(args, &cx.env)?;
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let registries =
        session::registries(&cx.env, &session::config(&cx.dirs)?, &opts.insecure_registries);
    let fetcher = ImageFetcher::new(&store, Some(&registries), PullPolicy::Missing, &cx.cancel)
        .telling(|e| transfer_note(e, opts.quiet));
    let world = World { store: &store, host, images: &fetcher, cancel: &cx.cancel };
    if opts.default_tag && !opts.quiet {
        note("Using default tag: latest");
    }
    let tags = store.tags().map_err(|e| store_error(&e))?;
    let wanted: Vec<(Reference, _)> = tags
        .iter()
        .filter_map(|t| Some((t.name.parse::<Reference>().ok()?, t.manifest)))
        .filter(|(r, _)| match opts.all_tags {
            true => r.name() == opts.name.name() && r.tag.is_some(),
            false => r.to_string() == opts.name.to_string(),
        })
        .collect();
    if wanted.is_empty() {
        let known = |t: &rgraph_store::TagRow| {
            t.name.parse::<Reference>().is_ok_and(|r| r.name() == opts.name.name())
        };
        // As in Docker: the repository has other tags, or none.
        let why = match tags.iter().any(known) {
            true => format!("tag does not exist: {}", opts.name.familiar()),
            false => format!(
                "an image does not exist locally with the tag: {}",
                opts.name.familiar_name()
            ),
        };
        return Err(CliError::failed(why).help("`rgraph images` lists what there is"));
    }
    if !opts.quiet {
        note(&format!("The push refers to repository [{}]", opts.name.name()));
    }
    for (name, manifest) in &wanted {
        let told = |p: Pushing| match p {
            _ if opts.quiet => {}
            Pushing::Begins(layer) => note(&format!("{}: Preparing", layer.short())),
            Pushing::Layer(layer, how) => {
                let what = match how {
                    Arrival::Exists => "Layer already exists".to_owned(),
                    Arrival::Mounted(from) => format!("Mounted from {from}"),
                    Arrival::Uploaded => "Pushed".to_owned(),
                };
                note(&format!("{}: {what}", layer.short()));
            }
            Pushing::Partly(platforms) => note(&format!(
                "Only {} is here: that is pushed, without the index it came with",
                platforms.join(", ")
            )),
            Pushing::Unsaid => {
                note("What is said of the image is not here: it is pushed without");
            }
            Pushing::Done(digest, size) => {
                let tag = name.tag.as_deref().unwrap_or_default();
                // The last line is what scripts read; a closed stdout does not undo a push.
                print(format!("{tag}: digest: {digest} size: {size}\n").as_bytes()).unwrap_or(());
            }
        };
        images::push(&world, name, *manifest, opts.platform.as_ref(), opts.plain, &told)
            .map_err(|e| images_error(&e))?;
        if opts.quiet {
            print(format!("{name}\n").as_bytes())?;
        }
    }
    Ok(())
}
