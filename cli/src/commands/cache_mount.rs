//! `rgraph cache-mount`: the folders of `RUN --mount=type=cache`, from outside of builds.

use std::os::fd::AsFd as _;

use rgraph_runtime::tree::copy::{CopyOptions, Source, copy};
use rgraph_store::{Filter, Kind, Policy, Rule, StoreError};

use super::{Context, du, note, print};
use crate::options::{CacheMountOptions, Format};
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table::{self, Table};

/// Runs the command.
pub fn run(cx: &Context, opts: CacheMountOptions) -> Result<(), CliError> {
    match opts {
        CacheMountOptions::Ls(format) => list(cx, format),
        CacheMountOptions::Clear(ids) => clear(cx, &ids),
        CacheMountOptions::Seed { id, dir, replace } => seed(cx, &id, &dir, replace),
    }
}

fn list(cx: &Context, format: Format) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let usage = store.du().map_err(|e| store_error(&e))?;
    let mounts = usage.entries.iter().filter(|e| e.kind == Kind::CacheMount);
    if format == Format::Json {
        let lines: String = mounts.map(|e| format!("{}\n", du::record_json(e))).collect();
        return print(lines.as_bytes());
    }
    let now = jiff::Timestamp::now().as_second();
    let mut text = Table::new(["ID", "SIZE", "CREATED", "LAST USED", "IN USE"]);
    for e in mounts {
        text.row([
            e.id.clone(),
            table::size(e.size),
            table::created(Some(e.created), now),
            table::created(e.used, now),
            if e.in_use { "true" } else { "false" }.to_owned(),
        ]);
    }
    let mut out = Vec::new();
    text.write(&mut out).map_err(|e| CliError::failed("cannot write the table").because(e))?;
    print(&out)
}

fn clear(cx: &Context, ids: &[String]) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let failed = |e: StoreError| store_error(&e);
    let known: Vec<_> = {
        let usage = store.du().map_err(failed)?;
        usage.entries.into_iter().filter(|e| e.kind == Kind::CacheMount).collect()
    };
    for id in ids {
        if !known.iter().any(|e| e.id == *id) {
            return Err(CliError::failed(format!("no such cache mount: {id}"))
                .help("`rgraph cache-mount ls` lists them"));
        }
    }
    let meant = |id: &String| ids.is_empty() || ids.contains(id);
    let cache = known
        .iter()
        .filter(|e| meant(&e.id))
        .map(|e| Rule { filter: Filter::cache_mount(&e.id), ..Rule::default() })
        .collect();
    let policy = Policy { untagged: None, cache, dry_run: false };
    let report = store.gc_until(&policy, &|| cx.cancel.is_cancelled()).map_err(failed)?;
    let left: Vec<_> = known.iter().filter(|e| meant(&e.id) && e.in_use).collect();
    print(format!("Total reclaimed space: {}\n", table::size(report.bytes)).as_bytes())?;
    for e in &left {
        note(&format!("cache mount {} is in use by a build that runs now: kept", e.id));
    }
    match left.is_empty() || ids.is_empty() {
        true => Ok(()),
        false => Err(CliError::failed("a cache mount that was named is in use")),
    }
}

fn seed(cx: &Context, id: &str, dir: &std::path::Path, replace: bool) -> Result<(), CliError> {
    let from = std::fs::File::open(dir)
        .and_then(|f| match f.metadata()?.is_dir() {
            true => Ok(f),
            false => Err(std::io::ErrorKind::NotADirectory.into()),
        })
        .map_err(|e| CliError::failed(format!("cannot read `{}`", dir.display())).because(e))?;
    let store = session::open_store(cx.root())?;
    let failed = |e: StoreError| store_error(&e);
    let lease = store.lease().map_err(failed)?;
    let new = store.prepare(&lease).map_err(failed)?;
    let to = std::fs::File::open(new.fs())
        .map_err(|e| CliError::failed("cannot fill the cache mount").because(e))?;
    let source = Source { root: from.as_fd(), ignore: None, as_root: false };
    let cancelled = || cx.cancel.is_cancelled();
    let owners = cx.host()?.owners;
    copy(&source, "/", to.as_fd(), "/", &CopyOptions::contents(owners, &cancelled))
        .map_err(|e| CliError::failed("cannot fill the cache mount").because(e))?;
    if store.seed_cache_mount(id, new, replace).map_err(failed)? {
        return Ok(());
    }
    Err(CliError::failed(format!("cache mount {id} is not empty"))
        .help("`--replace` puts the new content in place of what it has"))
}
