//! The seam for whole-graph builders: the local one is solver and runtime together; a remote one
//! would send LLB to a cluster.

use rgraph_ir::request::BuildRequest;
use rgraph_ir::{ConfigDigest, ManifestDigest, Platform};

use crate::cancel::CancelToken;
use crate::event::EventSink;
use crate::outcome::SolveError;

/// Builds whole requests.
pub trait Backend {
    /// Builds, exports, and says what came out. Blocks until done.
    fn build(
        &self,
        request: &BuildRequest,
        sink: &dyn EventSink,
        cancel: &CancelToken,
    ) -> Result<BuildOutcome, BuildError>;
}

/// What came out of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOutcome {
    /// One per export of the request, in its order.
    pub results: Vec<Exported>,
    /// How many vertices a cache answered.
    pub cached: usize,
    /// How many ran.
    pub ran: usize,
}

/// What came out of one export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// The export's name.
    pub name: String,
    /// One per target, in the plan's order.
    pub images: Vec<BuiltImage>,
    /// The index over them, when there are several, or something is said of one: digest and size in
    /// bytes.
    pub index: Option<(ManifestDigest, u64)>,
    /// What was said of how they were made, as JSON, one per target, when that was asked for.
    pub provenance: Vec<(Platform, String)>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// What it runs on.
    pub platform: Platform,
    /// Docker's image id.
    pub config: ConfigDigest,
    /// Its manifest, as exported last.
    pub manifest: ManifestDigest,
    /// Media type of the manifest.
    pub media_type: String,
    /// Size of the manifest in bytes.
    pub size: u64,
    /// How many layers it has.
    pub layers: usize,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed, or the build was cancelled.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// Something is asked for that the caller did not grant.
    #[error("{what} needs --allow {name}")]
    Entitlement {
        /// The instruction's display name.
        what: String,
        /// The entitlement.
        name: String,
        /// Where it is asked for.
        span: Option<rgraph_ir::Span>,
    },
    /// The steps are done, the output is not.
    #[error("cannot write the output")]
    Export(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The outputs are written, a cache is not.
    #[error("cannot write the cache")]
    Cache(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The machine or the store does not allow any build.
    #[error(transparent)]
    Setup(Box<dyn std::error::Error + Send + Sync>),
}
