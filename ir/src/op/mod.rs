//! What to do, without saying when, where or for whom. An op's inputs are the inputs of its vertex,
//! named by [`InputIndex`]; there are no sentinel numbers.

mod exec;
mod file;
mod service;
mod source;
pub mod words;

pub use exec::{
    CacheMount, CacheSharing, Device, ExecOp, HostIp, Mount, MountKind, NetworkMode, ProxyEnv,
    SecretEnv, SecretMount, SecurityMode, SshMount, Ulimit,
};
pub use file::{
    ActionRef, CopyAction, FileAction, FileActionKind, FileMode, FileModeError, FileOp,
    MkdirAction, MkfileAction, Owner, OwnerId, RmAction, SymlinkAction, has_wildcard,
};
pub use service::{Port, Protocol, Service, ServiceRun};
pub use source::{
    GitSource, HttpSource, ImageSource, LocalSource, OciLayoutSource, ResolveMode, SourceOp,
};

use crate::fields::{FieldVisitor, KeyFields};

/// Position in a vertex's list of inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputIndex(pub u32);

impl InputIndex {
    /// As an index.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Brings a tree from outside.
    Source(SourceOp),
    /// Runs a process on a root file system.
    Exec(Box<ExecOp>),
    /// Copies, makes and removes files.
    File(FileOp),
    /// Stacks the layers of its inputs, in order.
    Merge(MergeOp),
    /// The changes from the first input to the second.
    Diff(DiffOp),
}

/// Stacks the inputs' own layers on the first input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MergeOp {}

/// `inputs[0]` is the lower, `inputs[1]` the upper.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DiffOp {}

/// The part of an input's tree that an op looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// What is looked at, each one absolute within the tree.
    pub paths: Vec<SelectedPath>,
    /// True when owners count: a copy that sets the owner does not care whose the source was.
    pub owner: bool,
    /// True when permission bits count.
    pub mode: bool,
}

/// One selected place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectedPath {
    /// Cleaned and absolute (`/src`), may hold wildcards when `wildcard`.
    pub path: String,
    /// `path` is a pattern of Go's `filepath.Match`, `**` included.
    pub wildcard: bool,
    /// A link at `path` itself is followed.
    pub follow: bool,
    /// The name counts too (a wildcard keeps names; a plain file that is renamed by its copy does
    /// not carry its own).
    pub name: bool,
    /// Only these below `path` (patterns of `--parents`); empty: all.
    pub include: Vec<String>,
    /// Not these below `path` (`--exclude`, same rules as an ignore file).
    pub exclude: Vec<String>,
}

impl Selector {
    /// The whole tree, owners and modes included.
    pub fn all() -> Self {
        Self::path("/")
    }

    /// One path without patterns, links followed.
    pub fn path(path: &str) -> Self {
        Self {
            paths: vec![SelectedPath {
                path: path.to_owned(),
                wildcard: false,
                follow: true,
                name: false,
                include: Vec::new(),
                exclude: Vec::new(),
            }],
            owner: true,
            mode: true,
        }
    }
}

impl KeyFields for SelectedPath {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self { path, wildcard, follow, name, include, exclude } = self;
        v.str("path", path);
        v.bool("wildcard", *wildcard);
        v.bool("follow", *follow);
        v.bool("name", *name);
        v.strs("include", include);
        v.strs("exclude", exclude);
    }
}

impl KeyFields for Selector {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self { paths, owner, mode } = self;
        v.list("paths", paths);
        v.bool("owner", *owner);
        v.bool("mode", *mode);
    }
}

/// How an input counts in the cache key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keying {
    /// By the key of what made it: root file systems.
    Chain,
    /// By the digest of the selected content: COPY sources, read-only mounts.
    Content(Selector),
    /// Not at all: where cache mounts start from.
    Ignored,
}

/// How an input counts, without what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// See [`Keying::Chain`].
    Chain,
    /// See [`Keying::Content`].
    Content,
    /// See [`Keying::Ignored`].
    Ignored,
}

impl From<ExecOp> for Op {
    fn from(op: ExecOp) -> Self {
        Self::Exec(Box::new(op))
    }
}

impl Op {
    /// How input `at` counts. The op's other fields say the rest.
    pub fn keying(&self, at: InputIndex) -> Keying {
        match self {
            Self::Source(_) => Keying::Chain,
            Self::Exec(op) => op.keying(at),
            Self::File(op) => op.keying(at),
            Self::Merge(MergeOp {}) | Self::Diff(DiffOp {}) => Keying::Chain,
        }
    }

    /// [`Op::keying`], without what is looked at.
    pub fn role(&self, at: InputIndex) -> Role {
        match self {
            Self::Source(_) | Self::Merge(MergeOp {}) | Self::Diff(DiffOp {}) => Role::Chain,
            Self::Exec(op) => op.role(at),
            Self::File(op) => op.role(at),
        }
    }

    /// True when other files of an input surely give another layer: one plain copy, which shows every
    /// file that its selector looks at. An archive may be packed otherwise and hold the same, and what
    /// a process makes of its mounts nobody knows.
    pub fn shows_content(&self) -> bool {
        match self {
            Self::File(op) => match &op.actions[..] {
                [FileAction { kind: FileActionKind::Copy(c), .. }] => {
                    !c.attempt_unpack && !matches!(c.mode, Some(FileMode::Symbolic(_)))
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The paths of the selector of [`Op::keying`], in order.
    pub(crate) fn paths_read(&self, at: InputIndex, take: &mut dyn FnMut(&str)) {
        match self {
            Self::Source(_) | Self::Merge(MergeOp {}) | Self::Diff(DiffOp {}) => {}
            Self::Exec(op) => op.binds(at).for_each(take),
            Self::File(op) => op.copies(at).for_each(|c| take(&c.src)),
        }
    }

    /// A short word for the kind: `image`, `local`, `http`, `git`, `exec`, `file`, `merge`, `diff`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Source(s) => s.kind(),
            Self::Exec(_) => "exec",
            Self::File(_) => "file",
            Self::Merge(_) => "merge",
            Self::Diff(_) => "diff",
        }
    }
}

impl KeyFields for Op {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        match self {
            Self::Source(op) => v.one("source", op),
            Self::Exec(op) => v.one("exec", &**op),
            Self::File(op) => v.one("file", op),
            Self::Merge(MergeOp {}) => v.str("op", "merge"),
            Self::Diff(DiffOp {}) => v.str("op", "diff"),
        }
    }
}
