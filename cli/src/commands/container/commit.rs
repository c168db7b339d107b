//! `rgraph commit`.

use rgraph_ir::image_config::ImageConfig;
use rgraph_runtime::container::{Commit, Containers, commit as make};
use rgraph_runtime::images;

use super::super::import::changed;
use super::{Context, container_error, print};
use crate::args::CommitArgs;
use crate::commands::images_error;
use crate::options::CommitOptions;
use crate::report::CliError;
use crate::session;

/// Runs the command.
pub fn commit(cx: &Context, args: CommitArgs) -> Result<(), CliError> {
    let opts = CommitOptions::new(args)?;
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let record = containers.find(&opts.container).map_err(|e| container_error(&e))?;
    let row = containers.image(&record).map_err(|e| container_error(&e))?;
    let base = images::config(&store, &row).map_err(|e| images_error(&e))?.into_ir();
    let changes = changed(cx, base.platform.clone(), &opts.changes, &base.config.env)?;
    let what = Commit {
        record: &record,
        config: merged(base, changes),
        author: opts.author,
        message: opts.message,
        names: opts.name.iter().map(ToString::to_string).collect(),
    };
    // It goes on when this ends, whatever becomes of this process.
    let still = if opts.pause {
        containers.connect(&record).map_err(|e| container_error(&e))?
    } else {
        None
    };
    if let Some(supervisor) = &still {
        supervisor.pause().map_err(|e| container_error(&e))?;
    }
    let image = make(&store, host, &cx.cancel, what).map_err(|e| container_error(&e))?;
    drop(still);
    print(format!("{}\n", image.config).as_bytes())
}

/// The settings of an image with those that `-c` lines make.
fn merged(mut base: ImageConfig, new: ImageConfig) -> ImageConfig {
    let (old, new) = (&mut base.config, new.config);
    for (key, value) in &new.env {
        old.env_set(key, value);
    }
    old.labels.extend(new.labels);
    old.exposed_ports.extend(new.exposed_ports);
    old.volumes.extend(new.volumes);
    old.on_build.extend(new.on_build);
    for (old, new) in [(&mut old.user, new.user), (&mut old.working_dir, new.working_dir)] {
        if !new.is_empty() {
            *old = new;
        }
    }
    old.entrypoint = new.entrypoint.or(old.entrypoint.take());
    old.cmd = new.cmd.or(old.cmd.take());
    old.stop_signal = new.stop_signal.or(old.stop_signal.take());
    base
}
