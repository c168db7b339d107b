//! Sources that are no images: files by URL, repositories. What a name means now is asked for once in
//! a build; what it meant last is in the store, so that a build without a network knows it too.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use rgraph_image::registry::RegistryError;
use rgraph_ir::request::Secret;
use rgraph_ir::{BlobDigest, ManifestDigest};
use rgraph_store::{Store, StoreError};
use serde::de::DeserializeOwned;

use super::error::Closed;
use super::git::{CheckoutError, Found, GitError, SshAccess};
use super::http::UrlContent;
use super::image::{ImageFetcher, Lock};
use super::lock::LockFile;

/// Largest record of what a source meant, bytes.
const MAX_RECORD: u64 = 64 << 10;

/// Why a URL or a repository cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The server.
    #[error("cannot fetch `{url}`{hint}")]
    Url {
        /// Without a login.
        url: String,
        /// What may help, as the rest of the sentence.
        hint: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// Not in the store, and nobody may be asked.
    #[error("`{name}` is not in the store, and {closed}")]
    Absent {
        /// The source.
        name: String,
        /// Why nobody may be asked.
        closed: Closed,
    },
    /// It is not what the Dockerfile says.
    #[error("checksum mismatch for `{name}`: want {want}, got {got}")]
    Checksum {
        /// The source.
        name: String,
        /// In the Dockerfile.
        want: String,
        /// What it is.
        got: String,
    },
    /// It is not what the lock file says.
    #[error(
        "{file}:{line}: `{name}` moved: it is {want} there and {got} now. `rgraph lock --pull` takes the new one"
    )]
    Moved {
        /// The lock file.
        file: String,
        /// The line.
        line: usize,
        /// The source.
        name: String,
        /// In the file.
        want: String,
        /// What it is.
        got: String,
    },
    /// The lock file says nothing of it.
    #[error(
        "`{file}` has no line for `{name}`: `rgraph lock` with the flags of this build adds it"
    )]
    Unlocked {
        /// The lock file.
        file: String,
        /// The source.
        name: String,
    },
    /// A repository's URL that nothing is fetched from.
    #[error("`{name}` cannot be fetched from: {why}")]
    GitUrl {
        /// The repository.
        name: String,
        /// Why.
        why: String,
    },
    /// A name that no branch, tag or commit has.
    #[error("`{reference}` cannot be a branch, tag or commit of `{name}`")]
    GitName {
        /// The repository.
        name: String,
        /// As written.
        reference: String,
    },
    /// There is no such branch, tag or commit.
    #[error("`{name}` has no branch, tag or commit `{reference}`")]
    NoRef {
        /// The repository.
        name: String,
        /// As written.
        reference: String,
    },
    /// `git`.
    #[error("cannot fetch `{name}`{hint}")]
    Git {
        /// The repository.
        name: String,
        /// What may help, as the rest of the sentence.
        hint: String,
        /// Why.
        #[source]
        source: GitError,
    },
    /// A commit's files.
    #[error("cannot check out `{name}`")]
    Checkout {
        /// The repository.
        name: String,
        /// Why.
        #[source]
        source: CheckoutError,
    },
    /// A file's name that is none.
    #[error("`{0}` cannot be the name of a file: give ADD a destination that ends in one")]
    FileName(String),
    /// What was to be read of the store is gone.
    #[error("cannot read what was fetched")]
    Read(#[source] std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a source has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want<'a, T> {
    /// Whatever it is.
    Any,
    /// What the Dockerfile says.
    Pinned(&'a str),
    /// What the lock file says.
    Locked(&'a LockFile, usize, T),
    /// What the lock file says, unless somebody is to be asked anyway.
    Preferred(T),
}

type ByName<T> = Mutex<HashMap<String, Arc<Mutex<Option<T>>>>>;

/// See the module.
pub struct Sources<'a> {
    pub(super) images: &'a ImageFetcher<'a>,
    pub(super) secrets: &'a BTreeMap<String, Secret>,
    pub(super) ssh: SshAccess,
    pub(super) urls: ByName<UrlContent>,
    pub(super) repositories: ByName<Found>,
}

impl<'a> Sources<'a> {
    /// With the store, the policies, the lock file and the wish to stop of `images`.
    pub fn new(
        images: &'a ImageFetcher<'a>,
        secrets: &'a BTreeMap<String, Secret>,
        ssh: SshAccess,
    ) -> Self {
        Self { images, secrets, ssh, urls: Mutex::default(), repositories: Mutex::default() }
    }

    /// Who resolves images in the same build.
    pub fn images(&self) -> &'a ImageFetcher<'a> {
        self.images
    }

    /// The store that sources come into.
    pub fn store(&self) -> &'a Store {
        self.images.store
    }

    /// What a lock file wants of a source that the Dockerfile does not pin.
    pub(super) fn locked<T>(
        &self,
        name: &str,
        find: impl FnOnce(&'a LockFile) -> Option<(usize, T)>,
    ) -> Result<Want<'a, T>, SourceError> {
        match self.images.lock {
            None => Ok(Want::Any),
            Some(Lock::Prefer(file)) => {
                Ok(find(file).map_or(Want::Any, |(_, what)| Want::Preferred(what)))
            }
            Some(Lock::Obey(file)) => match find(file) {
                Some((line, what)) => Ok(Want::Locked(file, line, what)),
                None => Err(SourceError::Unlocked {
                    file: file.name().to_owned(),
                    name: name.to_owned(),
                }),
            },
        }
    }

    /// What was remembered under a name; `None` also when it cannot be read.
    pub(super) fn recall<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SourceError> {
        let Some(record) = self.store().remote_tag(name)? else { return Ok(None) };
        match self.store().read_blob_verified(&record.into(), MAX_RECORD) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(
                StoreError::NoBlob { .. }
                | StoreError::BlobDamaged { .. }
                | StoreError::TooLarge { .. },
            ) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Remembers what a source means now, and keeps `content` as long as that.
    pub(super) fn remember(
        &self,
        name: &str,
        record: &impl serde::Serialize,
        content: &[BlobDigest],
    ) -> Result<(), SourceError> {
        let bytes = serde_json::to_vec(record).map_err(std::io::Error::from);
        let blob = self.store().put_blob(&bytes.map_err(SourceError::Read)?)?;
        self.store().link_blobs(&blob.digest, content)?;
        self.store().put_remote_tag(name, &ManifestDigest::from(blob.digest))?;
        Ok(())
    }
}

/// The cell of a name: whoever comes second waits for the first.
pub(super) fn cell<T>(all: &ByName<T>, name: &str) -> Arc<Mutex<Option<T>>> {
    super::image::guard(all).entry(name.to_owned()).or_default().clone()
}

impl<T: fmt::Display> Want<'_, T> {
    /// The error of a source that is something else.
    pub(super) fn mismatch(&self, name: &str, got: String) -> SourceError {
        let name = name.to_owned();
        match self {
            Self::Locked(file, line, what) => SourceError::Moved {
                file: file.name().to_owned(),
                line: *line,
                name,
                want: what.to_string(),
                got,
            },
            Self::Pinned(want) => SourceError::Checksum { name, want: (*want).to_owned(), got },
            Self::Preferred(what) => SourceError::Checksum { name, want: what.to_string(), got },
            Self::Any => SourceError::Checksum { name, want: "anything".to_owned(), got },
        }
    }
}
