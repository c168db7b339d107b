//! What lowering must be told about the world: the configs of base images, and when a source was last
//! changed. Lowering is a pure function
//! that is run again when the caller has fetched what it lacked.

use std::collections::BTreeMap;
use std::sync::Arc;

use rgraph_ir::Platform;
use rgraph_ir::image_config::{BaseImage, ImageConfig};
use rgraph_ir::op::ResolveMode;

/// One thing to find out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Query {
    /// The config of an image in a registry or the local store.
    ImageConfig {
        /// Normalised: `docker.io/library/alpine:3.20`.
        reference: String,
        /// For which platform.
        platform: Platform,
        /// When to ask the registry.
        mode: ResolveMode,
    },
    /// The config of an image in an OCI layout given as a build context.
    OciLayoutConfig {
        /// The named context.
        context: String,
        /// What follows `oci-layout://`: a name with a digest or tag.
        reference: String,
        /// For which platform.
        platform: Platform,
    },
    /// When a file by URL or a commit was made: a source that `SOURCE_DATE_EPOCH` names.
    Time(TimeOf),
}

/// What has a time of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimeOf {
    /// A file by URL.
    Url(String),
    /// A repository, by its URL with a fragment.
    Repository(String),
}

/// Answers to queries.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    known: BTreeMap<Query, Result<Arc<BaseImage>, String>>,
    times: BTreeMap<TimeOf, Result<Option<i64>, String>>,
    offline: bool,
}

impl Facts {
    /// No answers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers every query by a stub: one layer, an empty config, no digest.
    pub fn offline() -> Self {
        Self { offline: true, ..Self::default() }
    }

    /// True when stubs answer.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Adds an answer; `Err` holds the reason why there is none, in words for the user.
    pub fn insert(&mut self, query: Query, answer: Result<BaseImage, String>) {
        self.known.insert(query, answer.map(Arc::new));
    }

    /// Adds when a source was last changed, seconds since 1970; `None`: nobody says so.
    pub fn insert_time(&mut self, of: TimeOf, time: Result<Option<i64>, String>) {
        self.times.insert(of, time);
    }

    /// When a source was last changed; `None`: not known yet.
    pub fn time(&self, of: &TimeOf) -> Option<Result<Option<i64>, String>> {
        self.times.get(of).cloned()
    }

    /// True when `query` needs not be asked.
    pub fn knows(&self, query: &Query) -> bool {
        let known = match query {
            Query::Time(of) => self.times.contains_key(of),
            query => self.known.contains_key(query),
        };
        self.offline || known
    }

    /// The answer; `None`: not known yet.
    pub fn get(&self, query: &Query) -> Option<Result<Arc<BaseImage>, String>> {
        if let Some(answer) = self.known.get(query) {
            return Some(answer.clone());
        }
        let (Query::ImageConfig { reference, platform, .. }
        | Query::OciLayoutConfig { reference, platform, .. }) = query
        else {
            return None;
        };
        self.offline.then(|| {
            Ok(Arc::new(BaseImage {
                reference: reference.clone(),
                config: ImageConfig::empty(platform.clone()),
                layers: 1,
                history: Vec::new(),
            }))
        })
    }
}
