//! From snapshots to images: layers get diff IDs, images get manifests, outputs get written.
//!
//! Durable where it is promised, and only there: what a tag or an output needs is synced before it
//! appears, nothing else is (`Store::make_durable`).

pub(crate) mod ahead;
pub(crate) mod archive;
mod attest;
mod image;
mod index;
mod layers;
mod squash;
mod tree;
mod whole;

pub(crate) use image::keep_new;
pub use whole::real_place;
pub use whole::write_whole;

use rgraph_ir::request::{Export, ImageOutput, OutputSpec};
use rgraph_ir::{BuildPlan, ManifestDigest, Platform, SnapshotId, Target};
use rgraph_solver::backend::BuiltImage;
use rgraph_solver::event::{Event, EventKind, EventSink, Step};
use rgraph_solver::{CancelToken, Clock, Solution, Tree};
use rgraph_store::{BlobRef, Store, StoreError};

use crate::cache::inline::InlineCache;
use crate::fetch::image::ImageFetcher;
use crate::fetch::source::Sources;
use crate::host::Host;
use crate::local_backend::SystemClock;
use crate::snapshot::{LayerProvider, SnapshotError, Snapshots};

/// Why an output could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A layer could not be written or read.
    #[error("cannot pack a layer")]
    Layer(#[from] rgraph_image::layer::LayerError),
    /// An archive to import could not be read.
    #[error("cannot read the archive")]
    Import(#[source] rgraph_image::layer::LayerError),
    /// The image's documents could not be put together.
    #[error("cannot put the image together")]
    Assemble(#[from] rgraph_image::assemble::AssembleError),
    /// The output file.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An archive could not be written.
    #[error("cannot write the archive `{path}`")]
    Archive {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A registry.
    #[error("cannot push `{name}`")]
    Push {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer's bytes are nowhere to be had.
    #[error("layer {0} is neither in the store nor where it came from")]
    NoBlob(rgraph_ir::DiffId),
    /// A layer is not the bytes it was.
    #[error("layer {was} is damaged: its bytes are those of {is}")]
    Changed {
        /// What it was when the image was put together.
        was: rgraph_ir::DiffId,
        /// What it is.
        is: rgraph_ir::DiffId,
    },
    /// A tree could not be written out.
    #[error(transparent)]
    Tree(#[from] crate::tree::TreeError),
    /// A result that is no snapshot.
    #[error("the result is a folder of the caller")]
    NotASnapshot,
    /// A cache could not be written.
    #[error(transparent)]
    Cache(Box<dyn std::error::Error + Send + Sync>),
    /// Layers could not be laid together.
    #[error("cannot make one layer: {0}")]
    Squash(String),
    /// A statement's file would lie on one of the result.
    #[error(
        "`{0}` is a file of the result: a statement about it needs another name (attestation-prefix=)"
    )]
    StatementName(String),
    /// There is no index to put it in.
    #[error("annotations of an index need several platforms: there is one, so no index is made")]
    NoIndex,
    /// Not built yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// It was written to standard output, which cannot be taken back.
    #[error("standard output has a part of the result")]
    Begun(#[source] Box<ExportError>),
    /// The build is to stop.
    #[error("canceled")]
    Cancelled,
}

impl ExportError {
    /// True when building again may give the bytes that are missing.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::NoBlob(_) | Self::Changed { .. } | Self::Snapshot(SnapshotError::Lost(_))
        )
    }
}

/// Writes the outputs of one export of a build.
pub struct Exporter<'a> {
    /// The store.
    pub store: &'a Store,
    /// What the host allows.
    pub host: &'a Host,
    /// The store's snapshots.
    pub snapshots: &'a Snapshots<'a>,
    /// Gives the bytes of layers that were never needed.
    pub provider: &'a dyn LayerProvider,
    /// For pushes.
    pub images: &'a ImageFetcher<'a>,
    /// What is made.
    pub export: &'a Export,
    /// Where events go.
    pub sink: &'a dyn EventSink,
    /// For event times.
    pub clock: &'a dyn Clock,
    /// Polled often.
    pub cancel: &'a CancelToken,
    /// The step events are about.
    pub step: Step,
    /// Keys for the images' configs.
    pub inline: Option<&'a InlineCache>,
    /// Tells what sources are, for what is said of a build.
    pub sources: Option<&'a Sources<'a>>,
    /// The index over the images, once there is one: digest and size in bytes.
    pub index: std::sync::OnceLock<(ManifestDigest, u64)>,
    /// How the images were made, as JSON, once that was said.
    pub provenance: std::sync::OnceLock<Vec<(Platform, String)>>,
}

/// One target with its stack of layers, bottom first.
struct Built<'a> {
    target: &'a Target,
    top: Option<SnapshotId>,
    /// When it was made, seconds since 1970; `None`: when its newest layer was.
    created: Option<i64>,
    /// What is said of it.
    said: Vec<attest::Said>,
}

impl<'a> Exporter<'a> {
    /// One that belongs to no build and tells nobody.
    pub(crate) fn quiet(
        snapshots: &'a Snapshots<'a>,
        images: &'a ImageFetcher<'a>,
        export: &'a Export,
        cancel: &'a CancelToken,
    ) -> Self {
        Self {
            store: snapshots.store(),
            host: snapshots.host(),
            snapshots,
            provider: images,
            images,
            export,
            sink: &(),
            clock: &SystemClock,
            cancel,
            step: Step::Other(0),
            inline: None,
            sources: None,
            index: Default::default(),
            provenance: Default::default(),
        }
    }
}

impl Exporter<'_> {
    fn emit(&self, kind: EventKind) {
        self.sink.emit(Event { at: self.clock.now(), step: self.step, kind });
    }

    /// Says that what is left to write to other caches is written now.
    pub(crate) fn begin_caches(&self) {
        self.emit(EventKind::Announced { name: "exporting cache".to_owned() });
        self.emit(EventKind::Started);
    }

    /// One line of the export step.
    pub(crate) fn say(&self, text: &str) {
        let data = format!("{text}\n").into_bytes();
        self.emit(EventKind::Log { stream: rgraph_solver::Stream::Stdout, data });
    }

    pub(crate) fn check(&self) -> Result<(), ExportError> {
        if self.cancel.is_cancelled() { Err(ExportError::Cancelled) } else { Ok(()) }
    }

    /// Writes every output that was asked for; without one, the image goes to the local store.
    pub fn run(
        &self,
        plan: &BuildPlan,
        builder: &Platform,
        solution: &Solution,
    ) -> Result<Vec<BuiltImage>, ExportError> {
        let mut targets = Vec::new();
        for target in &plan.targets[self.export.targets.clone()] {
            let top = match target.root {
                None => None,
                Some(edge) => match solution.trees.get(&edge) {
                    Some(Tree::Snapshot(id)) => Some(*id),
                    _ => return Err(ExportError::NotASnapshot),
                },
            };
            targets.push(self.squashed(target, top)?);
        }
        let mut built: Vec<Built<'_>> = targets
            .iter()
            .map(|s| Built { target: &s.target, top: s.top, created: s.created, said: Vec::new() })
            .collect();
        self.say_all((plan, builder), &mut built)?;
        let default = [OutputSpec::Image(ImageOutput::default())];
        let outputs =
            if self.export.outputs.is_empty() { &default[..] } else { &self.export.outputs[..] };
        let mut images = Vec::new();
        for output in outputs {
            self.check()?;
            match output {
                OutputSpec::CacheOnly => {}
                OutputSpec::Image(o) => images = self.keep(&built, o)?,
                OutputSpec::Registry(o) => images = self.push(&built, o)?,
                OutputSpec::Oci(o) => images = self.oci(&built, o)?,
                OutputSpec::Docker(o) => images = self.docker(&built, o)?,
                OutputSpec::Local { dest, form } => self.local(&built, dest, form)?,
                OutputSpec::Tar { dest, form } => self.tar(&built, dest, form)?,
            }
        }
        Ok(images)
    }

    fn names<'b>(&'b self, own: &'b [String]) -> &'b [String] {
        if own.is_empty() { &self.export.tags } else { own }
    }
}

/// A layer as an image names it.
#[derive(Debug, Clone)]
pub(crate) struct NamedLayer {
    pub(crate) snapshot: SnapshotId,
    pub(crate) diff_id: rgraph_ir::DiffId,
    pub(crate) blob: BlobRef,
    /// It came as this blob. A layer that was made here can be written in any form.
    pub(crate) outside: bool,
    pub(crate) created: i64,
}
