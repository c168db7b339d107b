//! Layers packed while later steps run: those that an output of the build takes compressed, one at a
//! time, as soon as their step has ended. The outputs then find them in the store.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use rgraph_ir::op::Selector;
use rgraph_ir::request::{BuildRequest, Compression, Export, LayerOptions, OutputSpec, Squash};
use rgraph_ir::{BuildPlan, CacheKey, SnapshotId, TreeDigest, VertexId};

use super::Exporter;
use crate::cache::combined::Listener;

/// What one export takes.
struct Wanted<'a> {
    export: &'a Export,
    layers: &'a LayerOptions,
    /// Whose layers its images are made of.
    makers: BTreeSet<VertexId>,
}

/// The vertices whose layers the images of some targets are made of.
pub(crate) fn makers(plan: &BuildPlan, targets: std::ops::Range<usize>) -> BTreeSet<VertexId> {
    let of = |t: &rgraph_ir::Target| {
        let layers = t.history.iter().filter_map(|h| h.layer);
        layers.chain(t.root).map(|e| e.vertex).collect::<Vec<_>>()
    };
    plan.targets[targets].iter().flat_map(of).collect()
}

/// How an output takes layers; `None`: as folders, or made anew whatever was packed before.
fn taken<'a>(export: &Export, output: &'a OutputSpec) -> Option<&'a LayerOptions> {
    let layers = match output {
        OutputSpec::Oci(o) => &o.layers,
        OutputSpec::Registry(o) => &o.layers,
        OutputSpec::Image(o) if o.push => &o.layers,
        OutputSpec::Image(_)
        | OutputSpec::Docker(_)
        | OutputSpec::Local { .. }
        | OutputSpec::Tar { .. }
        | OutputSpec::CacheOnly => return None,
    };
    let archive = matches!(output, OutputSpec::Oci(_));
    let plain = archive && layers.compression == Compression::Uncompressed;
    let other = layers.rewrite_timestamp && export.source_date_epoch.is_some();
    (!plain && !other && export.squash == Squash::No).then_some(layers)
}

/// A result is in the store.
pub(crate) type Heard = (VertexId, CacheKey);

/// See the module.
pub(crate) struct Ahead<'a> {
    wanted: Vec<Wanted<'a>>,
    /// Where results are told while a solve runs.
    results: Mutex<Option<Sender<Heard>>>,
}

impl<'a> Ahead<'a> {
    /// For the outputs of a request.
    pub(crate) fn new(request: &'a BuildRequest) -> Self {
        let mut wanted: Vec<Wanted<'a>> = Vec::new();
        for export in &request.exports {
            for layers in export.outputs.iter().filter_map(|o| taken(export, o)) {
                let makers = makers(&request.plan, export.targets.clone());
                match wanted.iter_mut().find(|w| w.layers == layers) {
                    Some(known) => known.makers.extend(makers),
                    None => wanted.push(Wanted { export, layers, makers }),
                }
            }
        }
        Self { wanted, results: Mutex::default() }
    }

    /// Whether there is anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Starts to listen. What is heard is for [`Self::run`].
    pub(crate) fn listen(&self) -> Receiver<Heard> {
        let (send, receive) = channel();
        *self.results.lock().unwrap_or_else(PoisonError::into_inner) = Some(send);
        receive
    }

    /// Nothing more is to come.
    pub(crate) fn end(&self) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Packs what is heard of until the end, or until the exporter's wish to stop. What fails here fails
    /// in the output too, which tells of it.
    pub(crate) fn run<'e>(
        &self,
        results: &Receiver<Heard>,
        exporter: impl Fn(&'e Export) -> Exporter<'e>,
    ) where
        'a: 'e,
    {
        let exporters: Vec<_> = self.wanted.iter().map(|w| (w, exporter(w.export))).collect();
        for (vertex, key) in results {
            for (wanted, exporter) in &exporters {
                if !wanted.makers.contains(&vertex) {
                    continue;
                }
                if exporter.check().is_err() {
                    return;
                }
                if let Err(e) = one(exporter, key, wanted.layers) {
                    tracing::debug!(%key, error = %e, "a layer is not packed ahead of its output");
                }
            }
        }
    }
}

fn one(
    exporter: &Exporter<'_>,
    key: CacheKey,
    opts: &LayerOptions,
) -> Result<(), super::ExportError> {
    let top: Option<SnapshotId> =
        exporter.store.result(&key)?.and_then(|row| row.outputs.first().copied());
    top.map_or(Ok(()), |top| exporter.pack_made(top, opts))
}

impl Listener for Ahead<'_> {
    fn result(&self, vertex: VertexId, key: CacheKey) {
        if !self.wanted.iter().any(|w| w.makers.contains(&vertex)) {
            return;
        }
        if let Some(results) = &*self.results.lock().unwrap_or_else(PoisonError::into_inner) {
            // Whoever packs has stopped: then the output does it.
            results.send((vertex, key)).unwrap_or(());
        }
    }

    fn content(&self, _: CacheKey, _: &Selector, _: TreeDigest) {}
}
