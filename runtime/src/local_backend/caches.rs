//! The caches of one build: those it reads, and those that are written beside it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use rgraph_ir::request::{
    BuildRequest, CacheFrom, CachePlace, CacheSource, CacheStore, CacheTo, Export,
};
use rgraph_solver::event::{Event, EventKind, Step};
use rgraph_solver::{CancelToken, Clock as _};

use super::{Build, LocalBackend, SystemClock};
use crate::cache::artifact::Form;
use crate::cache::dir::{CacheDirWriter, DirEntries, open_artifact};
use crate::cache::export::{CacheWriter, Job, Sink, Target, Written};
use crate::cache::import::{Entries, Import};
use crate::cache::remote::{self, RemoteWriter};
use crate::export::{ExportError, Exporter};
use crate::fetch::Providers;
use crate::fetch::image::ImageFetcher;
use crate::fetch::repository::Repository;
use crate::snapshot::Snapshots;

/// The caches that are written, without those within images.
pub(super) fn stores(request: &BuildRequest) -> Vec<&CacheStore> {
    let all = request.cache_to.iter();
    all.filter_map(|c| match c {
        CacheTo::Store(s) => Some(s),
        CacheTo::Inline { .. } => None,
    })
    .collect()
}

impl Build<'_> {
    /// Writes other caches until the build is over, and what is left then.
    pub(super) fn write_caches(
        &self,
        stores: &[&CacheStore],
        imports: &[Import<'_>],
        images: &ImageFetcher<'_>,
        cancel: &CancelToken,
        jobs: &Receiver<Job>,
    ) -> Result<(), ExportError> {
        let LocalBackend { store, host, next_step, .. } = *self.backend;
        let providers = Providers::new(imports, images);
        let snapshots = Snapshots::new(store, host, &providers, self.lease);
        let step = Step::Other(next_step.fetch_add(1, Ordering::Relaxed));
        // Layers are packed as for the first of them.
        let usual = Export::default();
        let export = self.request.exports.first().unwrap_or(&usual);
        let quiet = Exporter {
            provider: &providers,
            step,
            ..Exporter::quiet(&snapshots, images, export, cancel)
        };
        let loud = Exporter {
            sink: self.sink,
            index: Default::default(),
            provenance: Default::default(),
            ..quiet
        };
        let emit = |kind| self.sink.emit(Event { at: SystemClock.now(), step, kind });
        let open = |spec: &&'_ CacheStore| -> Result<Box<dyn Sink + Send + '_>, ExportError> {
            let form =
                Form { image_manifest: spec.image_manifest, oci: spec.layers.oci_media_types };
            Ok(match &spec.place {
                CachePlace::Local { dir, tag } => {
                    let now = jiff::Timestamp::now().as_nanosecond();
                    let nonce = format!("{:x}-{now:x}", std::process::id());
                    let opened = CacheDirWriter::open(dir, tag, form, &nonce);
                    Box::new(opened.map_err(|e| ExportError::Cache(Box::new(e)))?)
                }
                CachePlace::Registry(r) => {
                    Box::new(RemoteWriter::new(Repository::new(images, r.clone()), form))
                }
            })
        };
        let (mut targets, mut written) = (Vec::new(), Vec::new());
        for spec in stores {
            match open(spec) {
                Ok(sink) => targets.push(Target::new(spec, sink)),
                Err(e) => written.push(Written {
                    name: "cache".to_owned(),
                    result: Err((e, spec.ignore_error)),
                }),
            }
        }
        let writer = CacheWriter::new(&self.request.plan, imports, targets);
        written.extend(writer.run(jobs, &quiet, &loud));
        let mut failure = None;
        for w in written {
            match w.result {
                Ok(new) => {
                    loud.say(&format!("exported the cache to {}: {new} bytes are new", w.name))
                }
                Err((e, ignored)) => {
                    let text = crate::worker::report(&e);
                    if !ignored && failure.is_none() {
                        failure = Some(e);
                    } else {
                        emit(EventKind::Warning { text });
                    }
                }
            }
        }
        match failure {
            None => {
                emit(EventKind::Finished);
                Ok(())
            }
            Some(e) => {
                emit(EventKind::Failed { message: crate::worker::report(&e) });
                Err(e)
            }
        }
    }
}

impl LocalBackend<'_> {
    /// A cache to read.
    pub(super) fn import<'s>(&'s self, from: &CacheFrom, request: &BuildRequest) -> Import<'s> {
        let entries: Box<dyn Entries + 's> = match &from.source {
            CacheSource::Local { dir, digest: Some(d), .. } => Box::new(open_artifact(dir, *d)),
            CacheSource::Local { dir, tag, digest: None } => Box::new(DirEntries::new(dir, tag)),
            CacheSource::Registry(r) => {
                let platforms = request.plan.targets.iter().map(|t| t.platform.clone()).collect();
                Box::new(remote::open(Repository::new(self.images, r.clone()), platforms))
            }
        };
        Import::new(entries, self.store, &from.keys)
    }
}
