//! `lock` and `fetch`: a build's flags, used to find its sources.

use std::path::PathBuf;

use super::build::BuildOptions;
use super::context::{ContextSpec, FileSpec};
use super::error::OptionsError;
use super::{Pull, Terminals};
use crate::args::{Environment, FetchArgs, LockArgs};

/// The lock file's name where none is given.
const NAME: &str = "rgraph.lock";

/// Where the lock file lies when no one says: beside the Dockerfile.
pub(super) fn default_path(file: &FileSpec, context: &ContextSpec) -> PathBuf {
    match (file, context) {
        (FileSpec::Path(path), _) => path.with_file_name(NAME),
        (_, ContextSpec::Folder(folder)) => folder.join(NAME),
        _ => PathBuf::from(NAME),
    }
}

/// Where a lock file is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockDest {
    /// Here, and what is there already is kept where it can be.
    File(PathBuf),
    /// `-o -`.
    Stdout,
}

/// `lock`.
#[derive(Debug, Clone)]
pub struct LockOptions {
    /// The build whose sources are locked.
    pub build: BuildOptions,
    /// Where to.
    pub dest: LockDest,
    /// Only compare.
    pub check: bool,
}

impl LockOptions {
    /// The one conversion. `-o` is the lock file here, `--check` is about it.
    pub fn new(
        raw: LockArgs,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<Self, OptionsError> {
        let mut raw = raw.build;
        let check = std::mem::take(&mut raw.shared.check);
        let mut files = std::mem::take(&mut raw.output);
        let asks = raw.shared.pull.is_some();
        if raw.locked.is_some() {
            return Err(OptionsError::Conflict(
                "`--locked` obeys the lock file that `rgraph lock` writes: `-o` names it".into(),
            ));
        }
        let mut build = BuildOptions::new(raw, env, terminals)?;
        let dest = match (files.pop().as_deref(), files.is_empty()) {
            (_, false) => {
                return Err(OptionsError::Conflict("`-o` names the one lock file".to_owned()));
            }
            (None, _) => LockDest::File(default_path(&build.file, &build.context)),
            (Some("-"), _) => LockDest::Stdout,
            (Some(""), _) => return Err(OptionsError::value("--output", "", "it is empty")),
            (Some(path), _) => LockDest::File(path.into()),
        };
        if check && dest == LockDest::Stdout {
            return Err(OptionsError::Conflict("`--check` needs a file to check".to_owned()));
        }
        if check && !asks && !build.offline {
            build.pull = Pull::Always;
        }
        Ok(Self { build, dest, check })
    }
}

/// `fetch`.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// The build whose sources are fetched.
    pub build: BuildOptions,
}

impl FetchOptions {
    /// The one conversion.
    pub fn new(
        raw: FetchArgs,
        env: &Environment,
        terminals: Terminals,
    ) -> Result<Self, OptionsError> {
        let build = BuildOptions::new(raw.build, env, terminals)?;
        if build.offline || build.pull == Pull::Never {
            return Err(OptionsError::Conflict(
                "`rgraph fetch` needs the network that `--offline` and `--pull=never` forbid"
                    .to_owned(),
            ));
        }
        Ok(Self { build })
    }
}
