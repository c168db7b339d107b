//! `rgraph images`.

use std::collections::BTreeMap;

use rgraph_ir::{ManifestDigest, Reference};
use rgraph_store::{ImageRow, TagRow};

use super::{Context, print};
use crate::args::ImagesArgs;
use crate::options::{Format, ImagesOptions};
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table::{self, Table};

/// Runs the command.
pub fn run(cx: &Context, args: ImagesArgs) -> Result<(), CliError> {
    let opts = ImagesOptions::new(args)?;
    if let Some((name, _)) = opts.filters.first() {
        return Err(CliError::not_yet(format!("`--filter {name}=`")));
    }
    let store = session::open_store(cx.root())?;
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    let mut names: BTreeMap<ManifestDigest, Vec<Reference>> = BTreeMap::new();
    for TagRow { name, manifest, .. } in store.tags().map_err(failed)? {
        if let Ok(r) = name.parse() {
            names.entry(manifest).or_default().push(r);
        }
    }
    let wanted = opts.name.as_deref().map(pattern).transpose()?;
    let mut rows: Vec<(ImageRow, Option<Reference>)> = Vec::new();
    for image in store.images().map_err(failed)? {
        match names.remove(&image.manifest) {
            Some(list) => rows.extend(list.into_iter().map(|r| (image.clone(), Some(r)))),
            None => rows.push((image, None)),
        }
    }
    rows.retain(|(_, r)| match (&wanted, r) {
        (None, _) => true,
        (Some(w), Some(r)) => r.name() == w.name() && (w.tag.is_none() || r.tag == w.tag),
        (Some(_), None) => false,
    });
    // Newest first; names in order among equals.
    rows.sort_by(|a, b| b.0.created.cmp(&a.0.created).then_with(|| a.1.cmp(&b.1)));
    if opts.quiet {
        let mut ids: Vec<String> = rows.iter().map(|(i, _)| id(i, opts.no_trunc)).collect();
        ids.dedup();
        return print(ids.iter().map(|i| format!("{i}\n")).collect::<String>().as_bytes());
    }
    let now = jiff::Timestamp::now().as_second();
    let text = match opts.format {
        Format::Json => json(&rows),
        Format::Table => columns(&rows, &opts, now)?,
    };
    print(&text)
}

/// `REPO[:TAG]`: without a tag, every tag is meant.
fn pattern(text: &str) -> Result<Reference, CliError> {
    let r: Reference = text
        .parse()
        .map_err(|e: rgraph_ir::reference::ReferenceError| CliError::usage(e.to_string()))?;
    let tag = r.tag.clone().filter(|t| text.ends_with(&format!(":{t}")));
    Ok(Reference { tag, ..r })
}

fn id(i: &ImageRow, full: bool) -> String {
    if full { i.config.to_string() } else { i.config.short() }
}

fn cells(r: Option<&Reference>) -> (String, String) {
    match r {
        Some(r) => (r.familiar_name(), r.tag.clone().unwrap_or_else(|| "<none>".to_owned())),
        None => ("<none>".to_owned(), "<none>".to_owned()),
    }
}

fn seconds(i: &ImageRow) -> Option<i64> {
    i.created.as_deref()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn columns(
    rows: &[(ImageRow, Option<Reference>)],
    opts: &ImagesOptions,
    now: i64,
) -> Result<Vec<u8>, CliError> {
    let mut headings = vec!["REPOSITORY", "TAG"];
    if opts.digests {
        headings.push("DIGEST");
    }
    headings.extend(["IMAGE ID", "CREATED", "SIZE"]);
    let mut out = Table::new(headings);
    for (i, r) in rows {
        let (name, tag) = cells(r.as_ref());
        let mut row = vec![name, tag];
        if opts.digests {
            row.push(i.manifest.to_string());
        }
        row.extend([id(i, opts.no_trunc), table::created(seconds(i), now), table::size(i.size)]);
        out.row(row);
    }
    let mut text = Vec::new();
    out.write(&mut text).map_err(|e| CliError::failed("cannot write the table").because(e))?;
    Ok(text)
}

/// One object per line, with Docker's field names.
fn json(rows: &[(ImageRow, Option<Reference>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, r) in rows {
        let (name, tag) = cells(r.as_ref());
        let line = serde_json::json!({
            "Repository": name, "Tag": tag, "ID": i.config.to_string(),
            "Digest": i.manifest.to_string(), "CreatedAt": i.created, "Size": i.size,
            "Platform": i.platform,
        });
        out.extend(serde_json::to_vec(&line).expect("always serialises"));
        out.push(b'\n');
    }
    out
}
