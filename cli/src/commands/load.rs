//! `rgraph load`: images out of an archive.

use std::io::Read;

use rgraph_runtime::images;
use rgraph_runtime::import::Interruptible;

use super::{Context, images_error, print};
use crate::args::LoadArgs;
use crate::options::LoadOptions;
use crate::report::CliError;
use crate::session;

/// Runs the command.
pub fn run(cx: &Context, args: LoadArgs) -> Result<(), CliError> {
    let opts = LoadOptions::new(args, cx.terminals)?;
    let mut from: Box<dyn Read> = match &opts.input {
        None => Box::new(std::io::stdin().lock()),
        Some(path) => Box::new(Interruptible::open(path, &cx.cancel).map_err(|e| {
            CliError::failed(format!("cannot open `{}`", path.display())).because(e)
        })?),
    };
    let store = session::open_store(cx.root())?;
    let cancelled = || cx.cancel.is_cancelled();
    let loaded = images::load(&store, &mut from, opts.platform.as_ref(), &cancelled)
        .map_err(|e| images_error(&e))?;
    let mut text = String::new();
    for image in &loaded {
        for name in &image.names {
            text.push_str(&format!("Loaded image: {}\n", name.familiar()));
        }
        if image.names.is_empty() {
            let id = image.config.map_or_else(|| image.manifest.to_string(), |c| c.to_string());
            text.push_str(&format!("Loaded image ID: {id}\n"));
        }
    }
    print(text.as_bytes())
}
