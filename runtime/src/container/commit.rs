//! An image of a container: its image and one more layer, which is exactly what it changed.

use std::io::{BufReader, BufWriter, Write as _};

use rgraph_image::layer::{
    Below, LayerSource, LayerWriteOptions, UnpackOptions, unpack_layer, write_layer,
};
use rgraph_ir::image_config::ImageConfig;
use rgraph_ir::plan::TargetBase;
use rgraph_ir::{Edge, HistoryEntry, Target, VertexId};
use rgraph_solver::CancelToken;
use rgraph_solver::backend::BuiltImage;
use rgraph_store::{NewSnapshot, Store};

use super::{ContainerError, Containers, Record, at};
use crate::export::keep_new;
use crate::fetch::image::{ImageFetcher, PullPolicy};
use crate::host::Host;
use crate::images;
use crate::snapshot::Snapshots;

/// What to commit.
pub struct Commit<'a> {
    /// The container.
    pub record: &'a Record,
    /// Settings of the new image, made of those of the container's.
    pub config: ImageConfig,
    /// In the history.
    pub author: Option<String>,
    /// In the history.
    pub message: String,
    /// Names, written out with tag.
    pub names: Vec<String>,
}

/// Makes the image.
///
/// # Errors
/// The container's image is gone, its files cannot be copied, or the image not be kept.
pub fn commit(
    store: &Store,
    host: &Host,
    cancel: &CancelToken,
    what: Commit<'_>,
) -> Result<BuiltImage, ContainerError> {
    let lease = store.lease()?;
    let containers = Containers::new(store);
    let row = containers.image(what.record)?;
    let history = images::base_history(store, &row)?;
    let fetcher = ImageFetcher::new(store, None, PullPolicy::Never, cancel);
    let snapshots = Snapshots::new(store, host, &fetcher, &lease);
    let lowers = match row.snapshot {
        Some(id) => snapshots.lowers(id, None)?,
        None => Vec::new(),
    };
    let upper = containers.folder(what.record).join("fs");
    let prepared = store.prepare(&lease)?;
    let (userxattr, owners) = (host.userxattr, host.owners);
    let (reader, writer) = std::io::pipe().map_err(at("make a pipe for", &upper))?;
    // As a layer goes from one store to another: nothing but the difference, checked on arrival.
    std::thread::scope(|scope| {
        let (upper, lowers) = (&upper, &lowers);
        let writing = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(256 << 10, writer);
            let options = LayerWriteOptions { userxattr, owners, ..LayerWriteOptions::default() };
            let source = LayerSource { upper, lowers };
            write_layer(&source, &options, &mut out).map_err(ContainerError::Layer)?;
            out.flush().map_err(at("read", upper))
        });
        let options = UnpackOptions {
            below: Below::Known(lowers),
            userxattr,
            owners,
            ..UnpackOptions::default()
        };
        let from = BufReader::with_capacity(256 << 10, reader);
        let read = unpack_layer(from, prepared.fs(), &options);
        let written = writing.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        // A reader that gave up is why the writer failed, and a writer that did is why the end came
        // early: the writer's own word first, unless it only found nobody to write to.
        match (written, read) {
            (Ok(()), Ok(_)) => Ok(()),
            (Ok(()), Err(e)) => Err(ContainerError::Layer(e)),
            (Err(e), Ok(_)) => Err(e),
            (Err(_), Err(e)) => Err(ContainerError::Layer(e)),
        }
    })?;
    let description = format!("commit of {}", what.record.name);
    let top =
        store.commit(prepared, NewSnapshot { parent: row.snapshot, layer: None, description })?;
    let layer = Some(Edge::main(VertexId(0)));
    let mut config = what.config;
    config.author = what.author.clone().or(config.author);
    let target = Target {
        stage: String::new(),
        platform: config.platform.clone(),
        root: layer,
        history: vec![HistoryEntry {
            created_by: what.record.settings.args.join(" "),
            comment: what.message.into(),
            author: what.author,
            layer,
            span: None,
        }],
        config,
        base: TargetBase {
            reference: Some(what.record.image.name.clone()),
            layers: row.layers.len(),
            history,
            span: None,
        },
    };
    Ok(keep_new(&snapshots, &fetcher, &target, top, what.names, cancel)?)
}
