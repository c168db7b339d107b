//! The words, by path.

/// A list of the description: its path, and what people call a member.
pub(super) struct List {
    pub path: &'static str,
    pub words: &'static str,
    /// Members are not numbered: one starts where a field comes a second time.
    pub flat: bool,
}

/// Where the services of a step are.
pub(super) const SERVICES: &str = "exec.services";

pub(super) const LISTS: [List; 7] = [
    List { path: "exec.mounts", words: "--mount", flat: false },
    List { path: "exec.secret_env", words: "--mount=type=secret", flat: true },
    List { path: "exec.devices", words: "--device", flat: true },
    List { path: "exec.extra_hosts", words: "--add-host", flat: true },
    List { path: "exec.ulimits", words: "--ulimit", flat: true },
    List { path: SERVICES, words: "service", flat: false },
    List { path: "file.actions", words: "sources", flat: false },
];

/// Single values, and what they are called.
pub(super) const VALUES: [(&str, &str); 23] = [
    ("exec.cwd", "WORKDIR"),
    ("exec.user", "USER"),
    ("exec.network", "--network"),
    ("exec.security", "--security"),
    ("exec.hostname", "host name"),
    ("source.image", "FROM"),
    ("source.local", "context"),
    ("source.follow", "paths of the context"),
    ("source.include", "files of the context"),
    ("source.exclude", "ignore rules"),
    ("source.http", "URL"),
    ("source.filename", "file name"),
    ("source.checksum", "--checksum"),
    ("source.git", "repository"),
    ("source.url", "URL of the repository"),
    ("source.ref", "git ref"),
    ("source.subdir", "folder of the repository"),
    ("source.keep_git_dir", "--keep-git-dir"),
    ("source.skip_submodules", "leaving out submodules"),
    ("source.fetch_by_commit", "fetching the commit itself"),
    ("source.ssh", "fetching over ssh"),
    ("source.mtime", "file times"),
    ("op", "kind of step"),
];

/// As [`VALUES`], for an image of a folder.
pub(super) const LAYOUTS: [(&str, &str); 2] =
    [("source.oci-layout", "FROM"), ("source.store", "OCI layout")];

/// Fields of a mount.
pub(super) const MOUNT: [(&str, &str); 11] = [
    ("dest", "target"),
    ("selector", "source"),
    ("readonly", "readonly"),
    ("cache", "id"),
    ("sharing", "sharing"),
    ("tmpfs", "size"),
    ("secret", "id"),
    ("ssh", "id"),
    ("uid", "uid"),
    ("gid", "gid"),
    ("required", "required"),
];

/// Fields of the other lists' members.
pub(super) const MEMBERS: [(&str, &str); 9] = [
    ("id", "id"),
    ("name", "name"),
    ("required", "required"),
    ("host", "host"),
    ("ip", "address"),
    ("soft", "soft limit"),
    ("hard", "hard limit"),
    ("mode", "mode"),
    ("set", "environment"),
];

/// Fields of a file action, without the action's name.
pub(super) const ACTION: [(&str, &str); 19] = [
    ("src", "source"),
    ("dest", "destination"),
    ("owner", "--chown"),
    ("mode", "--chmod"),
    ("timestamp", "SOURCE_DATE_EPOCH"),
    ("include", "--parents"),
    ("exclude", "--exclude"),
    ("attempt_unpack", "unpacking"),
    ("data", "text"),
    ("path", "path"),
    ("target", "link target"),
    ("make_parents", "making parent folders"),
    ("allow_not_found", "allowing nothing to remove"),
    ("required", "paths that must exist"),
    ("follow_symlink", "following links"),
    ("dir_copy_contents", "copying a folder's content"),
    ("create_dest_path", "making the destination's folders"),
    ("allow_wildcard", "wildcards"),
    ("allow_empty_wildcard", "wildcards without a match"),
];

/// Follow from what else is written: told only when nothing else is.
pub(super) const DERIVED: [&str; 6] = [
    "required",
    "follow_symlink",
    "dir_copy_contents",
    "create_dest_path",
    "allow_wildcard",
    "allow_empty_wildcard",
];
