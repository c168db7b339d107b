//! `rgraph search`: images of a registry by a word.

use rgraph_image::registry::{RegistryClient, SearchHit, Watch};

use super::{Context, note, print};
use crate::args::SearchArgs;
use crate::listing::Listing;
use crate::options::SearchOptions;
use crate::report::CliError;
use crate::{session, table};

/// The fields of a row, as Docker names them.
const FIELDS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];
/// Characters of a description.
const DESCRIPTION: usize = 45;

/// Runs the command.
pub fn run(cx: &Context, args: SearchArgs) -> Result<(), CliError> {
    let opts = SearchOptions::new(args, &cx.env)?;
    let registries =
        session::registries(&cx.env, &session::config(&cx.dirs)?, &opts.insecure_registries);
    let failed = |e: rgraph_image::registry::RegistryError| {
        CliError::failed(format!("cannot search {}", opts.server)).because(e)
    };
    let cancelled = || cx.cancel.is_cancelled();
    let watch = Watch { cancelled: &cancelled, ..Watch::QUIET };
    let client = registries.get().map_err(failed)?;
    let mut hits = hits(client, &opts, &watch).map_err(failed)?;
    hits.retain(|h| h.stars >= opts.stars && opts.official.is_none_or(|o| h.official == o));
    hits.sort_by_key(|h| std::cmp::Reverse(h.stars));
    hits.truncate(opts.limit);
    let mut list = Listing::new(FIELDS);
    for hit in hits {
        let about = hit.description.replace(['\n', '\r', '\t'], " ");
        let about = if opts.cut { table::ellipsis(&about, DESCRIPTION) } else { about };
        let mark = |yes: bool| if yes { "[OK]" } else { "" }.to_owned();
        list.row([hit.name, about, hit.stars.to_string(), mark(hit.official), mark(hit.automated)]);
    }
    print(&list.draw(&opts.format, &["Name", "Description", "StarCount", "IsOfficial"])?)
}

/// What the registry's search finds, else the names of its catalogue that hold the word.
fn hits(
    client: &RegistryClient,
    opts: &SearchOptions,
    watch: &Watch<'_>,
) -> Result<Vec<SearchHit>, rgraph_image::registry::RegistryError> {
    let host = &opts.server;
    // Docker Hub's images have their own names; those of another registry begin with its.
    let full = |name: String| match host.as_str() {
        "docker.io" => name,
        _ if name.starts_with(&format!("{host}/")) => name,
        _ => format!("{host}/{name}"),
    };
    let mut hits = match client.search(host, &opts.term, opts.limit, watch)? {
        Some(hits) => hits,
        None => {
            note(&format!("{host} has no search: these are names of its catalog"));
            let names = client.catalog(host, watch)?;
            let names = names.into_iter().filter(|n| n.contains(&opts.term));
            names.map(|name| SearchHit { name, ..SearchHit::default() }).collect()
        }
    };
    for hit in &mut hits {
        hit.name = full(std::mem::take(&mut hit.name));
    }
    Ok(hits)
}
