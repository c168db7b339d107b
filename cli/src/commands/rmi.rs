//! `rgraph rmi`: names and images go; one that cannot does not stop the rest.

use rgraph_ir::ManifestDigest;
use rgraph_runtime::container::{Containers, Record, State};
use rgraph_runtime::images::{self, Removed};
use rgraph_store::Store;

use super::{Context, images_error, note_error, print, tag};
use crate::args::RmiArgs;
use crate::options::{ImageName, RmiOptions};
use crate::report::{CliError, ErrorKind};
use crate::session::{self, store_error};

/// Runs the command.
pub fn run(cx: &Context, args: RmiArgs) -> Result<(), CliError> {
    let opts = RmiOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let mut failed = false;
    for name in &opts.images {
        match remove(&store, name, &opts) {
            Ok(done) => {
                let untagged = done.untagged.iter().map(|n| format!("Untagged: {n}\n"));
                let deleted = done.deleted.iter().map(|n| format!("Deleted: {n}\n"));
                print(untagged.chain(deleted).collect::<String>().as_bytes())?;
            }
            Err(e) => {
                // As in Docker: what is to be gone by force may be gone already.
                failed |= !opts.force || !e.message.starts_with(tag::NO_SUCH_IMAGE);
                note_error(&e);
            }
        }
    }
    if failed { Err(CliError::reported(ErrorKind::Failed)) } else { Ok(()) }
}

fn remove(store: &Store, name: &ImageName, opts: &RmiOptions) -> Result<Removed, CliError> {
    let top = tag::find(store, name)?;
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    let by_name = match &name.reference {
        Some(r) => store.resolve_tag(&r.to_string()).map_err(failed)?.map(|t| t.name),
        None => None,
    };
    if let Some(one) = by_name {
        return remove_one(store, name, top, vec![one], opts);
    }
    let tags = store.tags().map_err(failed)?;
    let of = |top| tags.iter().filter(move |t| t.manifest == top).map(|t| t.name.clone());
    let tops = manifests(store, name, top)?;
    let all: Vec<String> = tops.iter().flat_map(|top| of(*top)).collect();
    if all.len() > 1 && !opts.force {
        return Err(CliError::failed(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories",
            name.text
        ))
        .help("add `--force` (`-f`)"));
    }
    let mut done = Removed::default();
    for top in tops {
        let one = remove_one(store, name, top, of(top).collect(), opts)?;
        done.untagged.extend(one.untagged);
        for deleted in one.deleted {
            if !done.deleted.contains(&deleted) {
                done.deleted.push(deleted);
            }
        }
    }
    Ok(done)
}

/// Every manifest of the image that an id stands for: the same image can have come with several, such as
/// from this machine and from a registry. `top` alone if it was called by another digest.
fn manifests(
    store: &Store,
    name: &ImageName,
    top: ManifestDigest,
) -> Result<Vec<ManifestDigest>, CliError> {
    let id = name.id.as_deref().unwrap_or_default();
    let images = store.images().map_err(|e| store_error(&e))?;
    let Some(config) = images
        .iter()
        .find(|i| i.manifest == top && !id.is_empty() && i.config.hex().starts_with(id))
        .map(|i| i.config)
    else {
        return Ok(vec![top]);
    };
    Ok(images.iter().filter(|i| i.config == config).map(|i| i.manifest).collect())
}

/// Takes `names` from what they mean, which goes if it has no other.
fn remove_one(
    store: &Store,
    name: &ImageName,
    top: ManifestDigest,
    names: Vec<String>,
    opts: &RmiOptions,
) -> Result<Removed, CliError> {
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    if !keeps_name(store, top, &names)?
        && let Some(user) = user(store, top)?
    {
        let running = matches!(user.state, State::Running { .. });
        if running || !opts.force || names.is_empty() {
            return Err(in_use(name, &user, running));
        }
        // The names go; the image stays without one, for the container is made of it.
        let mut done = Removed::default();
        for name in names {
            store.untag(&name).map_err(failed)?;
            let shown = name.parse().map_or(name, |r: rgraph_ir::Reference| r.familiar());
            done.untagged.push(shown);
        }
        return Ok(done);
    }
    images::remove(store, top, &names, opts.prune).map_err(|e| images_error(&e))
}

/// The image has a name that does not go.
fn keeps_name(store: &Store, top: ManifestDigest, gone: &[String]) -> Result<bool, CliError> {
    let tags = store.tags().map_err(|e| store_error(&e))?;
    Ok(tags.iter().any(|t| t.manifest == top && !gone.contains(&t.name)))
}

/// A container that is made of the image; one that runs before others.
fn user(store: &Store, top: ManifestDigest) -> Result<Option<Record>, CliError> {
    let mut all: Vec<ManifestDigest> = vec![top];
    if let Ok(rows) = images::rows(store, top) {
        all.extend(rows.iter().map(|r| r.manifest));
    }
    let users = Containers::new(store).using(&all);
    let users = users.map_err(|e| CliError::failed(e.to_string()))?;
    Ok(users.into_iter().max_by_key(|r| matches!(r.state, State::Running { .. })))
}

/// Why it cannot go.
fn in_use(name: &ImageName, user: &Record, running: bool) -> CliError {
    let (force, state) = match running {
        true => ("cannot", "running"),
        false => ("must", "stopped"),
    };
    CliError::failed(format!(
        "conflict: unable to delete {} ({force} be forced) - image is being used by {state} \
         container {}",
        name.text,
        user.short()
    ))
    .help(format!("remove the container first: `rgraph rm {}`", user.name))
}
