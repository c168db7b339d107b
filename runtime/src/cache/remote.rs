//! A cache in a registry: an artifact of ours, or an image with keys in its config.

mod pending;
mod write;

pub use write::RemoteWriter;

use rgraph_image::config::ImageConfigFile;
use rgraph_image::manifest::{Descriptor, Index, OCI_INDEX};
use rgraph_ir::limits::{MAX_CACHE_BATCH, MAX_CONFIG, MAX_LAYERS};
use rgraph_ir::{ManifestDigest, Platform};
use rgraph_store::BlobRef;

use super::artifact::{Found, Listing};
use super::bundle::{Bundle, Loaded};
use super::hints::Hints;
use super::inline::{self, BUILDKIT_FIELD, FIELD};
use crate::fetch::repository::Repository;
use crate::worker::report;

/// Most images that are asked for which other platforms there are.
const MOST_OTHERS: usize = 8;

/// Why a cache of BuildKit's is of no use: its keys are digests of its own representation of a step
/// and of results, which are not computed here.
const BUILDKIT: &str = "it is BuildKit's, whose keys cannot be matched here";

/// The cache that a reference names. Asked for at the first miss; blobs come when they are needed.
pub fn open<'a>(repo: Repository<'a>, platforms: Vec<Platform>) -> Bundle<'a> {
    let name = repo.name();
    let blobs = repo.clone();
    let hints = repo.clone();
    let load = move || load(&repo, &platforms);
    let open = move |b: &BlobRef| blobs.open(b).map(Some).map_err(|e| report(&e));
    let hint = move |others: &[ManifestDigest]| {
        let mut out = Hints::default();
        for digest in others.iter().take(MOST_OTHERS) {
            // Nothing but a line that gets shorter is lost.
            let found = hints.manifest_of(*digest).map_err(|e| report(&e));
            let found = found.and_then(|m| Found::parse(&m.bytes));
            if let Ok(Found::Image { config, layers }) = found
                && let Ok(one) = image(&hints, &config, &layers)
            {
                out.extend(one.platforms);
            }
        }
        out
    };
    Bundle::new(name, Box::new(load), Box::new(open), false).hinting(Box::new(hint))
}

fn load(repo: &Repository<'_>, platforms: &[Platform]) -> Result<Loaded, String> {
    let found = match repo.manifest() {
        Ok(m) => m,
        Err(e) if e.is_not_found() => return Err("it is not there".to_owned()),
        Err(e) => return Err(report(&e)),
    };
    match Found::parse(&found.bytes)? {
        Found::Listing(list) => Loaded::unpack(&batches(repo, &list)?),
        Found::BuildKit => Err(BUILDKIT.to_owned()),
        Found::Image { config, layers } => image(repo, &config, &layers),
        Found::Images(all) => {
            let index = Index::new(OCI_INDEX, all, None);
            let others = index.manifests.iter().map(|d| d.digest.into()).collect();
            let mut out = Loaded { others, ..Loaded::default() };
            let mut why = "no image is for a platform of this build".to_owned();
            let mut any = false;
            for p in platforms {
                let Ok(entry) = index.choose(p) else { continue };
                let digest = ManifestDigest::from(entry.digest);
                out.others.retain(|d| *d != digest);
                let m = repo.manifest_of(digest);
                let m = m.map_err(|e| report(&e))?;
                let Found::Image { config, layers } = Found::parse(&m.bytes)? else { continue };
                match image(repo, &config, &layers) {
                    Ok(one) => {
                        any = true;
                        out.extend(one);
                    }
                    Err(e) => why = e,
                }
            }
            out.problem = (!any).then_some(why);
            Ok(out)
        }
    }
}

/// The entries that an artifact names, oldest first.
fn batches(repo: &Repository<'_>, list: &Listing) -> Result<Vec<Vec<u8>>, String> {
    let read = |b: &super::entry::BlobFile| repo.blob(b.digest, b.size, MAX_CACHE_BATCH);
    list.batches.iter().map(|b| read(b).map_err(|e| report(&e))).collect()
}

fn image(
    repo: &Repository<'_>,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Result<Loaded, String> {
    let bytes = repo.blob(config.digest, config.size, MAX_CONFIG).map_err(|e| report(&e))?;
    let file = ImageConfigFile::from_json(&bytes).map_err(|e| report(&e))?;
    let Some(field) = file.extra.get(FIELD) else {
        return Err(match file.extra.contains_key(BUILDKIT_FIELD) {
            true => BUILDKIT.to_owned(),
            false => "the image has no cache in it (`--cache-to type=inline`)".to_owned(),
        });
    };
    let diff_ids = &file.rootfs.diff_ids;
    if diff_ids.len() != layers.len() || layers.len() > MAX_LAYERS {
        return Err("its layers and diff IDs do not pair up".to_owned());
    }
    let blob = |d: &Descriptor| BlobRef {
        digest: d.digest,
        size: d.size,
        media_type: d.media_type.clone(),
    };
    let layers: Vec<_> = diff_ids.iter().copied().zip(layers.iter().map(blob)).collect();
    let platform = file.clone().into_ir().platform.to_string();
    inline::read(field, &layers, &platform)
}
