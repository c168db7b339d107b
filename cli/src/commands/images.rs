//! `rgraph images`.

mod filter;

use std::collections::BTreeSet;

use rgraph_ir::{ManifestDigest, Reference};
use rgraph_runtime::images::{self, ImagesError};
use rgraph_store::{ImageRow, Store, TagRow};

use super::{Context, images_error, inspect::native, print};
use crate::args::ImagesArgs;
use crate::listing::Listing;
use crate::options::ImagesOptions;
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table;
use filter::Filters;

/// The fields of a row, as Docker names them.
const FIELDS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
    ("Platform", "PLATFORM"),
];

/// An image under one of its names.
#[derive(Debug, Clone)]
struct Found {
    name: Option<Reference>,
    /// What the name means: the image itself, or an index with it.
    top: ManifestDigest,
    image: ImageRow,
}

impl Found {
    /// Seconds since 1970.
    fn created(&self) -> Option<i64> {
        seconds(self.image.created.as_deref()?)
    }
}

/// Seconds since 1970 of a time in RFC 3339.
fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// Runs the command.
pub fn run(cx: &Context, args: ImagesArgs) -> Result<(), CliError> {
    let opts = ImagesOptions::new(args)?;
    let now = jiff::Timestamp::now().as_second();
    let store = session::open_store(cx.root())?;
    let filters = Filters::new(&store, &opts, now)?;
    let mut rows = Vec::new();
    for row in list(&store, opts.all)? {
        if filters.keep(&store, &row)? {
            rows.push(row);
        }
    }
    // Newest first; the names of an image together and in order, platforms as their index has them.
    rows.sort_by(|a, b| {
        let names = || (a.top, &a.name).cmp(&(b.top, &b.name));
        b.created().cmp(&a.created()).then_with(names)
    });
    if opts.quiet {
        let ids = rows.iter().map(|r| format!("{}\n", id(&r.image, opts.no_trunc)));
        return print(ids.collect::<String>().as_bytes());
    }
    let mut columns = vec!["Repository", "Tag"];
    if opts.digests {
        columns.push("Digest");
    }
    columns.extend(["ID", "CreatedSince", "Size"]);
    let mut listing = Listing::new(FIELDS);
    for row in &rows {
        listing.row(cells(row, opts.no_trunc, now));
    }
    print(&listing.draw(&opts.format, &columns)?)
}

/// Every name with the image it means here, then what has no name. An index shows the image of
/// this machine's platform, or with `all` each of its images.
fn list(store: &Store, all: bool) -> Result<Vec<Found>, CliError> {
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    let mut out = Vec::new();
    let mut named = BTreeSet::new();
    for TagRow { name, manifest: top, .. } in store.tags().map_err(failed)? {
        let Ok(name) = name.parse::<Reference>() else { continue };
        let images = match images::rows(store, top) {
            // Its images are gone; the name can still be removed.
            Err(ImagesError::Empty(_)) => continue,
            r => r.map_err(|e| images_error(&e))?,
        };
        named.extend(images.iter().map(|i| i.manifest));
        let shown = if all { images } else { vec![native(&images).clone()] };
        out.extend(shown.into_iter().map(|image| Found { name: Some(name.clone()), top, image }));
    }
    for image in store.images().map_err(failed)? {
        if !named.contains(&image.manifest) {
            out.push(Found { name: None, top: image.manifest, image });
        }
    }
    Ok(out)
}

fn id(i: &ImageRow, full: bool) -> String {
    if full { i.config.to_string() } else { i.config.short() }
}

fn cells(row: &Found, no_trunc: bool, now: i64) -> Vec<String> {
    let none = || "<none>".to_owned();
    let (name, tag) = match &row.name {
        Some(r) => (r.familiar_name(), r.tag.clone().unwrap_or_else(none)),
        None => (none(), none()),
    };
    let at = row.created().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let at = at.map_or_else(
        || "N/A".to_owned(),
        |t| t.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
    );
    let size = table::size(row.image.size);
    let unknown = || "N/A".to_owned();
    vec![
        name,
        tag,
        row.top.to_string(),
        id(&row.image, no_trunc),
        table::created(row.created(), now),
        at,
        size.clone(),
        size,
        unknown(),
        unknown(),
        unknown(),
        row.image.platform.clone(),
    ]
}
