//! Sources: trees from outside.

use crate::fields::{FieldVisitor, KeyFields};

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceOp {
    /// A container image.
    Image(ImageSource),
    /// A folder of the caller.
    Local(Box<LocalSource>),
    /// One file by URL.
    Http(Box<HttpSource>),
    /// A commit's tree.
    Git(Box<GitSource>),
    /// An image in an OCI layout folder of the caller.
    OciLayout(OciLayoutSource),
}

/// When a registry is asked what a tag means now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum ResolveMode {
    /// When the store does not know it.
    #[default]
    Default,
    /// Always (`--pull`).
    ForcePull,
    /// Never.
    PreferLocal,
}

/// An image by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageSource {
    /// Normalised: `docker.io/library/busybox:latest`, with `@sha256:...` when pinned.
    pub reference: String,
    /// When to ask the registry; no part of the key.
    pub resolve: ResolveMode,
}

/// The caller's folder `name` (`context`, or the name of a `--build-context`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalSource {
    /// `context` or a named context.
    pub name: String,
    /// The only paths this build may read, cleaned, relative, sorted; `None`: all.
    pub follow_paths: Option<Vec<String>>,
    /// Only what these match; empty: all.
    pub include: Vec<String>,
    /// What the ignore file hides, in file order.
    pub exclude: Vec<String>,
    /// BuildKit's hint for reuse between clients.
    pub shared_key_hint: Option<String>,
}

/// One file by URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpSource {
    /// The URL.
    pub url: String,
    /// The name it gets in the tree.
    pub filename: String,
    /// `sha256:...` it must have.
    pub checksum: Option<String>,
}

/// A tree of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitSource {
    /// `host/path`, scheme and user dropped, `.git` kept, as in BuildKit's identifier.
    pub remote: String,
    /// The remote as it is fetched, without its fragment.
    pub full_url: String,
    /// Branch, tag or commit; `None`: the remote's HEAD.
    pub reference: Option<String>,
    /// Sub-folder; `None`: the root.
    pub subdir: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Commit it must be (a prefix will do).
    pub checksum: Option<String>,
    /// Leave submodules out.
    pub skip_submodules: bool,
    /// Fetch the checksum's commit itself instead of a ref.
    pub fetch_by_commit: bool,
    /// Fetched over ssh.
    pub ssh: bool,
    /// `commit` when file times are the commit's.
    pub mtime: Option<String>,
}

/// An image in an OCI layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OciLayoutSource {
    /// The reference shown, with digest when pinned.
    pub reference: String,
    /// The layout it lies in, as the caller named it.
    pub store: String,
}

impl SourceOp {
    /// A short word for the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Image(_) => "image",
            Self::Local(_) => "local",
            Self::Http(_) => "http",
            Self::Git(_) => "git",
            Self::OciLayout(_) => "oci-layout",
        }
    }
}

impl KeyFields for SourceOp {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        match self {
            Self::Image(ImageSource { reference, resolve: _ }) => v.str("image", reference),
            Self::Local(local) => {
                let LocalSource { name, follow_paths, include, exclude, shared_key_hint: _ } =
                    &**local;
                v.str("local", name);
                match follow_paths {
                    Some(paths) => v.strs("follow", paths),
                    None => v.opt_str("follow", None),
                }
                v.strs("include", include);
                v.strs("exclude", exclude);
            }
            Self::Http(http) => {
                let HttpSource { url, filename, checksum } = &**http;
                v.str("http", url);
                v.str("filename", filename);
                v.opt_str("checksum", checksum.as_deref());
            }
            Self::Git(git) => {
                let GitSource {
                    remote,
                    full_url,
                    reference,
                    subdir,
                    keep_git_dir,
                    checksum,
                    skip_submodules,
                    fetch_by_commit,
                    ssh,
                    mtime,
                } = &**git;
                v.str("git", remote);
                v.str("url", full_url);
                v.opt_str("ref", reference.as_deref());
                v.opt_str("subdir", subdir.as_deref());
                v.bool("keep_git_dir", *keep_git_dir);
                v.opt_str("checksum", checksum.as_deref());
                v.bool("skip_submodules", *skip_submodules);
                v.bool("fetch_by_commit", *fetch_by_commit);
                v.bool("ssh", *ssh);
                v.opt_str("mtime", mtime.as_deref());
            }
            Self::OciLayout(OciLayoutSource { reference, store }) => {
                v.str("oci-layout", reference);
                v.str("store", store);
            }
        }
    }
}
