//! Contexts that are no folder of the caller: a tar or a Dockerfile on stdin or by URL, a repository.
//! They become a folder for the time of the build, so that from there on all contexts are alike and
//! have the same digests.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rgraph_image::layer::{ArchiveOptions, is_archive, unpack_archive};
use rgraph_image::registry::shown_url;
use rgraph_ir::limits::MAX_DOCKERFILE;
use rgraph_ir::op::{GitSource, HttpSource};
use rgraph_runtime::fetch::source::Sources;
use rgraph_store::Prepared;

use crate::options::{BuildOptions, ContextSpec, FileSpec};
use crate::report::CliError;

/// What the file behind a URL is called.
const FILENAME: &str = "context";

/// Where a context came from, for a lock file.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Stdin.
    Stdin,
    /// A file by URL.
    Url(HttpSource),
    /// A repository.
    Repository(GitSource),
}

/// A context that was made a folder.
pub struct Brought {
    /// Where it came from.
    pub origin: Origin,
    /// The Dockerfile, when that came instead of files.
    pub dockerfile: Option<Vec<u8>>,
    /// When it was last changed, as whoever sent it says.
    said: Option<i64>,
    folder: Folder,
}

impl Brought {
    /// When it was last changed: a repository's commit, what a server says of a file, else the newest
    /// file of an archive; seconds since 1970. `None`: nobody says so.
    ///
    /// # Errors
    /// It cannot be found out, in words.
    pub fn time(&self, sources: Option<&Sources<'_>>) -> Result<Option<i64>, String> {
        match (&self.origin, self.said) {
            (Origin::Repository(g), _) => match sources {
                Some(sources) => {
                    sources.git_time(g).map(Some).map_err(|e| rgraph_runtime::report(&e))
                }
                None => Ok(None),
            },
            (_, Some(said)) => Ok(Some(said)),
            (_, None) if self.dockerfile.is_some() => Ok(None),
            _ => newest(self.path()).map_err(|e| format!("cannot look through the context: {e}")),
        }
    }

    /// The folder. It goes with this value.
    pub fn path(&self) -> &Path {
        match &self.folder {
            Folder::OfStore(p) => p.fs(),
            Folder::Temporary(p) => p,
        }
    }
}

/// A folder that does not stay.
enum Folder {
    /// In the state root; one that a killed build leaves is removed with its lease.
    OfStore(Prepared),
    /// Elsewhere, for commands that touch no store.
    Temporary(PathBuf),
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            // Whoever removed it before did what is wanted.
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Brings the context of a build here; `None`: it is a folder of the caller. Without `sources` nothing
/// is fetched.
pub fn bring(
    opts: &BuildOptions,
    sources: Option<&Sources<'_>>,
) -> Result<Option<Brought>, CliError> {
    let origin = match &opts.context {
        ContextSpec::Folder(_) => return Ok(None),
        ContextSpec::Stdin => Origin::Stdin,
        ContextSpec::Http(url) => Origin::Url(HttpSource {
            url: url.clone(),
            filename: FILENAME.to_owned(),
            checksum: None,
        }),
        ContextSpec::Git(url) => Origin::Repository(repository(url, opts)?),
    };
    let folder = make(sources)?;
    let mut brought = Brought { origin, dockerfile: None, said: None, folder };
    let failed = |e: &dyn std::error::Error| {
        let what = match &opts.context {
            ContextSpec::Http(url) | ContextSpec::Git(url) => shown_url(url),
            _ => "-".to_owned(),
        };
        CliError::failed(format!("cannot load the context `{what}`: {}", rgraph_runtime::report(e)))
    };
    let unfetched = || {
        CliError::failed(
            "the context is not fetched here: neither --offline, --check nor --call use a network",
        )
    };
    match &brought.origin {
        Origin::Stdin => {
            let mut file = spool(brought.path()).map_err(|e| failed(&e))?;
            brought.dockerfile = take(&mut file, brought.path()).map_err(|e| failed(&*e))?;
        }
        Origin::Url(h) => {
            let sources = sources.ok_or_else(unfetched)?;
            let content = sources.url(h, &|_, _| {}).map_err(|e| failed(&e))?;
            let mut file = sources.open(&content).map_err(|e| failed(&e))?;
            brought.dockerfile = take(&mut file, brought.path()).map_err(|e| failed(&*e))?;
            brought.said = content.time();
        }
        Origin::Repository(g) => {
            let sources = sources.ok_or_else(unfetched)?;
            sources.git_tree(g, brought.path()).map_err(|e| failed(&e))?;
        }
    }
    if brought.dockerfile.is_some() && opts.file != FileSpec::Default {
        return Err(CliError::failed(
            "the context is a Dockerfile, and `--file` names another one",
        )
        .help("leave one of them out"));
    }
    Ok(Some(brought))
}

/// The forms that `docker build` takes.
fn repository(url: &str, opts: &BuildOptions) -> Result<GitSource, CliError> {
    let keep = opts.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    let keep = keep.is_some_and(|v| matches!(v.as_str(), "1" | "true"));
    let full = match url.strip_prefix("github.com/") {
        Some(_) => format!("https://{url}"),
        None => url.to_owned(),
    };
    rgraph_frontend::git_source(&full)
        .and_then(|g| g.ok_or_else(|| "it is no repository's URL".to_owned()))
        .map(|g| GitSource { keep_git_dir: g.keep_git_dir || keep, ..g })
        .map_err(|why| CliError::failed(format!("context `{}`: {why}", shown_url(url))))
}

fn make(sources: Option<&Sources<'_>>) -> Result<Folder, CliError> {
    if let Some(sources) = sources {
        let store = sources.store();
        let failed = |e| crate::session::store_error(&e);
        let lease = store.lease().map_err(failed)?;
        return Ok(Folder::OfStore(store.prepare(&lease).map_err(failed)?));
    }
    let name = format!("rgraph-context-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|e| CliError::failed(format!("cannot make `{}`: {e}", path.display())))?;
    Ok(Folder::Temporary(path))
}

/// Stdin as a file without a name: what is a tar is told by looking twice.
fn spool(folder: &Path) -> io::Result<File> {
    let path = folder.join(".rgraph-stdin");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.rewind()?;
    Ok(file)
}

/// The time of the newest file below a folder of our own, seconds since 1970.
fn newest(folder: &Path) -> io::Result<Option<i64>> {
    let (mut newest, mut folders) = (None, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                t if t.is_dir() => folders.push(entry.path()),
                t if t.is_file() => newest = newest.max(Some(entry.metadata()?.mtime())),
                _ => {}
            }
        }
    }
    Ok(newest)
}

/// Unpacks an archive, or gives back the text of a Dockerfile.
fn take(
    file: &mut File,
    folder: &Path,
) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
    if is_archive(&mut *file) {
        file.rewind()?;
        let root = File::open(folder)?;
        // Its files count as root's, whoever they were.
        let opts = ArchiveOptions { owner: Some((0, 0)), ..ArchiveOptions::default() };
        unpack_archive(&mut *file, root.as_fd(), b"", &opts)?;
        return Ok(None);
    }
    file.rewind()?;
    let mut text = Vec::new();
    file.take(MAX_DOCKERFILE as u64 + 1).read_to_end(&mut text)?;
    Ok(Some(text))
}
