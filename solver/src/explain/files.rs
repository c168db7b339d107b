//! What differs between two trees, file by file, as far as it can be told.

use std::fmt;

/// Files that are named in a line.
const NAMED: usize = 3;

/// What became of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFate {
    /// Other bytes.
    Changed,
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
    /// An ignore rule hides it now.
    Hidden {
        /// The rule.
        rule: String,
    },
    /// The ignore rule that hid it is gone.
    Shown {
        /// The rule.
        rule: String,
    },
    /// Other permission bits.
    Mode(u32, u32),
    /// Another owner or group.
    Owner((u32, u32), (u32, u32)),
    /// A link to somewhere else.
    Link(String, String),
    /// Of which earlier path it was and is a hard link.
    HardLink(Option<String>, Option<String>),
    /// A file where a folder was, and the like.
    Kind(&'static str, &'static str),
    /// Other extended attributes, or another device.
    Attributes,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Below the root, without the leading slash; `.` for the root itself.
    pub path: String,
    /// What became of it.
    pub fate: FileFate,
}

/// What differs between two trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileChanges {
    /// By path; never more than [`FileChanges::MOST`].
    pub files: Vec<FileChange>,
    /// How many more there are.
    pub more: usize,
}

impl FileChanges {
    /// Most changes that are held.
    pub const MOST: usize = 100;

    /// Adds one, or counts it.
    pub fn push(&mut self, path: &[u8], fate: FileFate) {
        if self.files.len() >= Self::MOST {
            self.more += 1;
            return;
        }
        let path =
            if path.is_empty() { ".".into() } else { String::from_utf8_lossy(path).into_owned() };
        self.files.push(FileChange { path, fate });
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The first ones, and how many are left out.
    fn list(&self, f: &mut fmt::Formatter<'_>, one: impl Fn(&FileChange) -> String) -> fmt::Result {
        let named: Vec<String> = self.files.iter().take(NAMED).map(one).collect();
        f.write_str(&named.join(", "))?;
        match self.files.len().saturating_sub(NAMED) + self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }

    /// As part of a longer line: `usr/bin/x, etc/y (mode 644 to 755)`.
    pub(super) fn brief(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list(f, |c| match &c.fate {
            FileFate::Changed => c.path.clone(),
            fate => format!("{} ({fate})", c.path),
        })
    }
}

impl fmt::Display for FileFate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => f.write_str("changed"),
            Self::New => f.write_str("new"),
            Self::Gone => f.write_str("gone"),
            Self::Hidden { rule } => write!(f, "the ignore rule `{rule}` hides it now"),
            Self::Shown { rule } => write!(f, "no ignore rule `{rule}` hides it any more"),
            Self::Mode(old, new) => write!(f, "mode {old:o} to {new:o}"),
            Self::Owner(old, new) => write!(f, "owner {}:{} to {}:{}", old.0, old.1, new.0, new.1),
            Self::Link(old, new) => write!(f, "link target {old} to {new}"),
            Self::HardLink(old, new) => match (old, new) {
                (Some(old), Some(new)) => write!(f, "a hard link of {new}, not of {old}"),
                (Some(old), None) => write!(f, "no hard link of {old} any more"),
                (None, Some(new)) => write!(f, "a hard link of {new} now"),
                (None, None) => f.write_str("no hard link"),
            },
            Self::Kind(old, new) => write!(f, "{old} to {new}"),
            Self::Attributes => f.write_str("attributes changed"),
        }
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, fate } = self;
        match fate {
            FileFate::Changed => write!(f, "{path} changed"),
            FileFate::New => write!(f, "{path} is new"),
            FileFate::Gone => write!(f, "{path} is gone"),
            fate => write!(f, "{path}: {fate}"),
        }
    }
}

/// `src/a.c changed, src/b.c is new and 12 more`.
impl fmt::Display for FileChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list(f, ToString::to_string)
    }
}
