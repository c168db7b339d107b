//! `COPY`, `ADD`, `WORKDIR`, heredoc files.

use std::sync::Arc;

use crate::fields::{FieldVisitor, KeyFields, Value};
use crate::op::{InputIndex, Keying, Role, SelectedPath, Selector};

/// A chain of file actions; the result is that of the last one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileOp {
    /// In order; at least one.
    pub actions: Vec<FileAction>,
}

/// The tree an action starts from or reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionRef {
    /// Nothing.
    Scratch,
    /// An input of the vertex.
    Input(InputIndex),
    /// The result of an earlier action of this op.
    Action(u32),
}

/// One action on a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileAction {
    /// The tree it changes.
    pub base: ActionRef,
    /// The change.
    pub kind: FileActionKind,
}

/// What an action does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileActionKind {
    /// Copies from another tree.
    Copy(Box<CopyAction>),
    /// Writes a file.
    Mkfile(MkfileAction),
    /// Makes a folder.
    Mkdir(MkdirAction),
    /// Removes.
    Rm(RmAction),
    /// Makes a symbolic link.
    Symlink(SymlinkAction),
}

/// Copies `src` of `from` to `dest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyAction {
    /// The tree that is read.
    pub from: ActionRef,
    /// Cleaned, absolute; may hold wildcards when `allow_wildcard`.
    pub src: String,
    /// Absolute; a final `/` or `/.` says "into this folder".
    pub dest: String,
    /// New owner; `None`: kept. Files of a caller's folder count as root's.
    pub owner: Option<Owner>,
    /// New permissions; `None`: kept.
    pub mode: Option<FileMode>,
    /// A link at `src` is followed.
    pub follow_symlink: bool,
    /// Of a folder, the content is copied, not the folder.
    pub dir_copy_contents: bool,
    /// A local archive is unpacked (`ADD`).
    pub attempt_unpack: bool,
    /// Missing parents of `dest` are made.
    pub create_dest_path: bool,
    /// `src` may hold wildcards.
    pub allow_wildcard: bool,
    /// A wildcard may match nothing.
    pub allow_empty_wildcard: bool,
    /// File times in ns since 1970; `None`: kept.
    pub timestamp: Option<i64>,
    /// Only these (`--parents`).
    pub include_patterns: Vec<String>,
    /// Not these (`--exclude`).
    pub exclude_patterns: Vec<String>,
    /// Must exist (`--parents`).
    pub required_paths: Vec<String>,
}

/// Permission bits to set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileMode {
    /// Octal, up to 07777.
    Bits(u32),
    /// `u=rwX,go=rX`.
    Symbolic(String),
}

impl FileMode {
    /// The permission bits (07777) that this makes of `old`. `dir` decides about `X`.
    ///
    /// Symbolic forms are `chmod`'s with a umask of 0 (POSIX chmod, "EXTENDED DESCRIPTION").
    pub fn apply(&self, old: u32, dir: bool) -> Result<u32, FileModeError> {
        let text = match self {
            Self::Bits(b) => return Ok(b & 0o7777),
            Self::Symbolic(s) => s,
        };
        let err = || FileModeError(text.chars().take(64).collect());
        let mut mode = old & 0o7777;
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(err)?;
            let (who, mut rest) = clause.split_at(at);
            let mut who_mask = 0;
            for c in who.chars() {
                who_mask |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(err()),
                };
            }
            if who_mask == 0 {
                who_mask = 0o7777;
            }
            while !rest.is_empty() {
                let (op, tail) = rest.split_at(1);
                let end = tail.find(['+', '-', '=']).unwrap_or(tail.len());
                let (perms, next) = tail.split_at(end);
                rest = next;
                let mut bits = 0;
                for c in perms.chars() {
                    bits |= match c {
                        'r' => 0o444,
                        'w' => 0o222,
                        'x' => 0o111,
                        'X' if dir || mode & 0o111 != 0 => 0o111,
                        'X' => 0,
                        's' => 0o6000,
                        't' => 0o1000,
                        // Copies from another class: the bits of that class, in every place.
                        'u' => (mode >> 6 & 7) * 0o111,
                        'g' => (mode >> 3 & 7) * 0o111,
                        'o' => (mode & 7) * 0o111,
                        _ => return Err(err()),
                    };
                }
                // `s` without u or g means nothing, `t` belongs to everybody.
                let sticky = bits & 0o1000;
                let bits =
                    (bits & who_mask & !0o1000) | if who_mask & 0o1000 != 0 { sticky } else { 0 };
                match op {
                    "+" => mode |= bits,
                    "-" => mode &= !bits,
                    _ => mode = (mode & !(who_mask & 0o777)) | bits,
                }
            }
        }
        Ok(mode)
    }
}

/// A symbolic mode that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileModeError(pub String);

impl std::fmt::Display for FileModeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is not a mode: octal up to 7777, or the form u=rwX,go=rX", self.0)
    }
}

impl std::error::Error for FileModeError {}

/// Who a file belongs to. Names are looked up in the tree copied onto.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User; `None`: 0.
    pub user: Option<OwnerId>,
    /// Group; `None`: the user's primary group when the user is a name that is found, else the
    /// user's id.
    pub group: Option<OwnerId>,
    /// Where names are looked up.
    pub lookup: ActionRef,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OwnerId {
    /// By number.
    Id(u32),
    /// By name in `/etc/passwd` or `/etc/group`.
    Name(String),
}

/// Writes a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MkfileAction {
    /// Absolute.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub data: Arc<[u8]>,
    /// Owner; `None`: root.
    pub owner: Option<Owner>,
    /// Time in ns since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

/// Makes a folder; one that exists stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MkdirAction {
    /// Absolute.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Missing parents are made.
    pub make_parents: bool,
    /// Owner; `None`: root.
    pub owner: Option<Owner>,
    /// Time in ns since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

/// Removes a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RmAction {
    /// Absolute; may hold wildcards when `allow_wildcard`.
    pub path: String,
    /// Nothing there is no error.
    pub allow_not_found: bool,
    /// `path` may hold wildcards.
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SymlinkAction {
    /// What it says.
    pub target: String,
    /// Where it stands.
    pub path: String,
    /// Owner; `None`: root.
    pub owner: Option<Owner>,
    /// Time in ns since 1970; `None`: now.
    pub timestamp: Option<i64>,
}

impl FileOp {
    /// How input `at` counts: a tree that is changed by its key, a tree that is only read by the
    /// content of what is read.
    pub fn keying(&self, at: InputIndex) -> Keying {
        match self.role(at) {
            Role::Chain => return Keying::Chain,
            Role::Ignored => return Keying::Ignored,
            Role::Content => {}
        }
        let mut selector = Selector { paths: Vec::new(), owner: false, mode: false };
        for c in self.copies(at) {
            selector.paths.push(SelectedPath {
                path: c.src.clone(),
                wildcard: c.allow_wildcard && has_wildcard(&c.src),
                follow: c.follow_symlink,
                name: c.dest.ends_with('/') || c.dest.ends_with("/.") || !c.dir_copy_contents,
                include: c.include_patterns.clone(),
                exclude: c.exclude_patterns.clone(),
            });
            // What the copy replaces does not count. (A live folder's owners never count: its files
            // are root's by definition.)
            selector.owner |= c.owner.is_none();
            selector.mode |= c.mode.is_none() || matches!(c.mode, Some(FileMode::Symbolic(_)));
        }
        Keying::Content(selector)
    }

    pub(super) fn role(&self, at: InputIndex) -> Role {
        let me = ActionRef::Input(at);
        let changed =
            |a: &FileAction| a.base == me || a.kind.owner().is_some_and(|owner| owner.lookup == me);
        match self.copies(at).next() {
            _ if self.actions.iter().any(changed) => Role::Chain,
            Some(_) => Role::Content,
            None => Role::Ignored,
        }
    }

    /// What is copied from input `at`, in order.
    pub(super) fn copies(&self, at: InputIndex) -> impl Iterator<Item = &CopyAction> {
        self.actions.iter().filter_map(move |a| match &a.kind {
            FileActionKind::Copy(c) if c.from == ActionRef::Input(at) => Some(&**c),
            _ => None,
        })
    }
}

/// True when `path` holds a wildcard of Go's `filepath.Match`.
pub fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

impl FileActionKind {
    /// The owner it sets.
    pub fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Copy(c) => c.owner.as_ref(),
            Self::Mkfile(a) => a.owner.as_ref(),
            Self::Mkdir(a) => a.owner.as_ref(),
            Self::Symlink(a) => a.owner.as_ref(),
            Self::Rm(_) => None,
        }
    }
}

fn action_ref(v: &mut (dyn FieldVisitor + '_), name: &str, r: ActionRef) {
    v.open(name, 0);
    match r {
        ActionRef::Scratch => v.value("scratch", Value::None),
        ActionRef::Input(i) => v.int("input", i.0),
        ActionRef::Action(i) => v.int("action", i),
    }
    v.close();
}

fn owner(v: &mut (dyn FieldVisitor + '_), o: Option<&Owner>) {
    let Some(Owner { user, group, lookup }) = o else {
        return v.value("owner", Value::None);
    };
    v.open("owner", 0);
    for (name, id) in [("user", user), ("group", group)] {
        match id {
            None => v.value(name, Value::None),
            Some(OwnerId::Id(n)) => v.int(name, *n),
            Some(OwnerId::Name(n)) => v.str(name, n),
        }
    }
    action_ref(v, "lookup", *lookup);
    v.close();
}

impl KeyFields for FileOp {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self { actions } = self;
        v.list("actions", actions);
    }
}

impl KeyFields for FileAction {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self { base, kind } = self;
        action_ref(v, "base", *base);
        match kind {
            FileActionKind::Copy(c) => {
                let CopyAction {
                    from,
                    src,
                    dest,
                    owner: o,
                    mode,
                    follow_symlink,
                    dir_copy_contents,
                    attempt_unpack,
                    create_dest_path,
                    allow_wildcard,
                    allow_empty_wildcard,
                    timestamp,
                    include_patterns,
                    exclude_patterns,
                    required_paths,
                } = &**c;
                v.open("copy", 0);
                action_ref(v, "from", *from);
                v.str("src", src);
                v.str("dest", dest);
                owner(v, o.as_ref());
                match mode {
                    None => v.value("mode", Value::None),
                    Some(FileMode::Bits(b)) => v.int("mode", *b),
                    Some(FileMode::Symbolic(s)) => v.str("mode", s),
                }
                v.bool("follow_symlink", *follow_symlink);
                v.bool("dir_copy_contents", *dir_copy_contents);
                v.bool("attempt_unpack", *attempt_unpack);
                v.bool("create_dest_path", *create_dest_path);
                v.bool("allow_wildcard", *allow_wildcard);
                v.bool("allow_empty_wildcard", *allow_empty_wildcard);
                v.opt_int("timestamp", *timestamp);
                v.strs("include", include_patterns);
                v.strs("exclude", exclude_patterns);
                v.strs("required", required_paths);
                v.close();
            }
            FileActionKind::Mkfile(MkfileAction { path, mode, data, owner: o, timestamp }) => {
                v.open("mkfile", 0);
                v.str("path", path);
                v.int("mode", *mode);
                v.value("data", Value::Bytes(data));
                owner(v, o.as_ref());
                v.opt_int("timestamp", *timestamp);
                v.close();
            }
            FileActionKind::Mkdir(MkdirAction {
                path,
                mode,
                make_parents,
                owner: o,
                timestamp,
            }) => {
                v.open("mkdir", 0);
                v.str("path", path);
                v.int("mode", *mode);
                v.bool("make_parents", *make_parents);
                owner(v, o.as_ref());
                v.opt_int("timestamp", *timestamp);
                v.close();
            }
            FileActionKind::Rm(RmAction { path, allow_not_found, allow_wildcard }) => {
                v.open("rm", 0);
                v.str("path", path);
                v.bool("allow_not_found", *allow_not_found);
                v.bool("allow_wildcard", *allow_wildcard);
                v.close();
            }
            FileActionKind::Symlink(SymlinkAction { target, path, owner: o, timestamp }) => {
                v.open("symlink", 0);
                v.str("target", target);
                v.str("path", path);
                owner(v, o.as_ref());
                v.opt_int("timestamp", *timestamp);
                v.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(change: impl FnOnce(&mut CopyAction)) -> FileAction {
        let mut copy = CopyAction {
            from: ActionRef::Input(InputIndex(1)),
            src: "/a".to_owned(),
            dest: "/b".to_owned(),
            owner: None,
            mode: None,
            follow_symlink: true,
            dir_copy_contents: true,
            attempt_unpack: false,
            create_dest_path: true,
            allow_wildcard: true,
            allow_empty_wildcard: true,
            timestamp: None,
            include_patterns: Vec::new(),
            exclude_patterns: Vec::new(),
            required_paths: Vec::new(),
        };
        change(&mut copy);
        let base = ActionRef::Input(InputIndex(0));
        FileAction { base, kind: FileActionKind::Copy(Box::new(copy)) }
    }

    #[test]
    fn only_one_plain_copy_shows_all_that_it_looks_at() {
        let plain = || copy(|_| {});
        for (actions, want) in [
            (vec![plain()], true),
            (vec![copy(|c| c.mode = Some(FileMode::Bits(0o644)))], true),
            // 0644 and 0640 come out the same.
            (vec![copy(|c| c.mode = Some(FileMode::Symbolic("a=r".into())))], false),
            // Two archives may hold the same.
            (vec![copy(|c| c.attempt_unpack = true)], false),
            // The second may cover what the first brought.
            (vec![plain(), plain()], false),
            (vec![], false),
        ] {
            let op = crate::op::Op::File(FileOp { actions: actions.clone() });
            assert_eq!(op.shows_content(), want, "{actions:?}");
        }
    }

    #[test]
    fn symbolic_modes() {
        for (text, old, dir, want) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+t", 0o755, true, 0o1755),
            ("g=u", 0o640, false, 0o660),
            ("o=", 0o777, false, 0o770),
            ("u-x+w", 0o500, false, 0o600),
        ] {
            assert_eq!(
                FileMode::Symbolic(text.into()).apply(old, dir),
                Ok(want),
                "{text} on {old:o}"
            );
        }
        for bad in ["", "x", "u", "u=q", "z+x", "u=rw,,"] {
            assert!(FileMode::Symbolic(bad.into()).apply(0o644, false).is_err(), "{bad}");
        }
    }
}
