//! `rgraph context ls`: what a context holds, the largest of it, and what the ignore file hides by
//! which rule. Reads names and sizes only, and touches no store.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rgraph_frontend::IgnoreFile;
use rgraph_ir::pattern::Verdict;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use serde_json::json;

use super::{note, print};
use crate::load;
use crate::options::{ContextLsOptions, FileSpec, Format};
use crate::progress::sanitize::harmless;
use crate::report::CliError;
use crate::table::{self, Table};

/// How many paths are listed.
const LISTED: usize = 15;
/// A folder of which one entry is so much is not listed beside that entry, per cent.
const SAME: u64 = 90;
/// From here on a path is the most of a context, per cent and bytes.
const MOST: u64 = 50;
const WORTH: u64 = 1 << 20;

/// Files and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    files: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What was found.
#[derive(Default)]
struct Found {
    all: Sum,
    /// What a build may see; folders with all below them, their names with a slash at the end.
    seen: BTreeMap<String, Sum>,
    /// By position of the rule.
    hidden: BTreeMap<usize, Sum>,
}

/// Runs the command.
pub fn ls(opts: &ContextLsOptions) -> Result<(), CliError> {
    let failed = |e: &dyn std::error::Error| CliError::failed(rgraph_runtime::report(e));
    let ignore = load::ignore_of(&opts.folder, &opts.file).map_err(|e| failed(&e))?;
    let mut found = Found::default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&opts.folder, flags, Mode::empty())
        .map_err(|e| unreadable(&opts.folder, "", e))?;
    walk(&root, &mut Vec::new(), &opts.folder, &ignore, &mut found)?;
    let largest = largest(&found);
    match opts.format {
        Format::Json => print(&document(&found, &largest, &ignore)),
        Format::Table => {
            print(&text(&found, &largest, &ignore)?)?;
            if let Some(Proposal { line, share }) = Proposal::of(&found, &largest) {
                let name = &ignore.name;
                note(&format!(
                    "help: the line `{line}` at the end of {name} leaves out {share} % of the context"
                ));
            }
            Ok(())
        }
    }
}

/// How many files of a folder a build may see, and their bytes.
pub fn seen(folder: &Path, file: &FileSpec) -> Result<(u64, u64), CliError> {
    let ignore =
        load::ignore_of(folder, file).map_err(|e| CliError::failed(rgraph_runtime::report(&e)))?;
    let mut found = Found::default();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(folder, flags, Mode::empty()).map_err(|e| unreadable(folder, "", e))?;
    walk(&root, &mut Vec::new(), folder, &ignore, &mut found)?;
    Ok((found.all.files, found.all.bytes))
}

fn unreadable(root: &Path, path: &str, e: rustix::io::Errno) -> CliError {
    let path = root.join(path);
    CliError::failed(format!("cannot read `{}`", harmless(&path.display().to_string())))
        .because(std::io::Error::from(e))
}

/// Goes through a folder; `above` are all folders it is in.
fn walk(
    dir: &OwnedFd,
    above: &mut Vec<String>,
    root: &Path,
    ignore: &IgnoreFile,
    found: &mut Found,
) -> Result<(), CliError> {
    let here = above.last().cloned().unwrap_or_default();
    let entries = Dir::read_from(dir).map_err(|e| unreadable(root, &here, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| unreadable(root, &here, e))?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let name = OsStr::from_bytes(bytes);
        let path = format!("{here}{}", name.to_string_lossy());
        let st = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Gone since its name was read.
            Err(rustix::io::Errno::NOENT) => continue,
            st => st.map_err(|e| unreadable(root, &path, e))?,
        };
        if FileType::from_raw_mode(st.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                // No build looks into it either, unless something below is free.
                Err(rustix::io::Errno::ACCESS)
                    if hidden(ignore, &path).is_some() && !ignore.rules.may_free_below(&path) =>
                {
                    continue;
                }
                below => below.map_err(|e| unreadable(root, &path, e))?,
            };
            above.push(format!("{path}/"));
            walk(&below, above, root, ignore, found)?;
            above.pop();
            continue;
        }
        let size = u64::try_from(st.st_size).unwrap_or(0);
        if let Some(v) = hidden(ignore, &path) {
            found.hidden.entry(v.index).or_default().add(size);
            continue;
        }
        found.all.add(size);
        found.seen.entry(path).or_default().add(size);
        for folder in above.iter() {
            found.seen.entry(folder.clone()).or_default().add(size);
        }
    }
    Ok(())
}

/// The rule that hides a path.
fn hidden(ignore: &IgnoreFile, path: &str) -> Option<Verdict> {
    ignore.rules.verdict(path).filter(|v| v.matched)
}

/// The largest paths, without folders that are as good as one of their entries.
fn largest(found: &Found) -> Vec<(&str, Sum)> {
    let mut most_below: BTreeMap<&str, u64> = BTreeMap::new();
    for (path, sum) in &found.seen {
        if let Some(at) = path.trim_end_matches('/').rfind('/') {
            let most = most_below.entry(&path[..=at]).or_default();
            *most = (*most).max(sum.bytes);
        }
    }
    let own = |path: &str, sum: &Sum| {
        let below = most_below.get(path).copied().unwrap_or(0);
        below.saturating_mul(100) < sum.bytes.saturating_mul(SAME)
    };
    let mut all: Vec<(&str, Sum)> = found
        .seen
        .iter()
        .filter(|(path, sum)| sum.bytes > 0 && (!path.ends_with('/') || own(path, sum)))
        .map(|(path, sum)| (path.as_str(), *sum))
        .collect();
    all.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.0.cmp(b.0)));
    all.truncate(LISTED);
    all
}

fn rule(ignore: &IgnoreFile, index: usize) -> (u32, String) {
    ignore.rules.patterns().get(index).map_or((0, String::new()), |p| (p.line(), p.to_string()))
}

fn text(found: &Found, largest: &[(&str, Sum)], ignore: &IgnoreFile) -> Result<Vec<u8>, CliError> {
    let failed = |e| CliError::failed("cannot write the table").because(e);
    let words = |s: &Sum| format!("{} in {} files", table::size(s.bytes), s.files);
    let mut out = format!("{}\n", words(&found.all)).into_bytes();
    if !largest.is_empty() {
        out.push(b'\n');
        let mut rows = Table::new(["SIZE", "FILES", "LARGEST"]);
        for (path, sum) in largest {
            rows.row([table::size(sum.bytes), sum.files.to_string(), harmless(path)]);
        }
        rows.write(&mut out).map_err(failed)?;
    }
    if !found.hidden.is_empty() {
        out.push(b'\n');
        let mut rows = Table::new(["SIZE", "FILES", "HIDDEN BY"]);
        for (index, sum) in &found.hidden {
            let (line, pattern) = rule(ignore, *index);
            let by = format!("{}:{line}: {}", ignore.name, harmless(&pattern));
            rows.row([table::size(sum.bytes), sum.files.to_string(), by]);
        }
        rows.write(&mut out).map_err(failed)?;
    }
    Ok(out)
}

/// A rule for a path that is most of the context.
struct Proposal {
    /// The line of an ignore file.
    line: String,
    /// How much of the context it hides, per cent.
    share: u64,
}

impl Proposal {
    fn of(found: &Found, largest: &[(&str, Sum)]) -> Option<Self> {
        let (path, sum) = largest.first()?;
        let share = sum.bytes.saturating_mul(100) / found.all.bytes.max(1);
        let line = pattern(path.trim_end_matches('/'))?;
        (share >= MOST && sum.bytes >= WORTH).then_some(Self { line, share })
    }
}

/// The pattern that matches this path: what has a meaning in patterns is escaped, and what a line cannot
/// hold is matched by a wildcard. `None`: some bytes of it are no text, and how many is not known.
fn pattern(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let last = path.chars().count().saturating_sub(1);
    for (at, c) in path.chars().enumerate() {
        match c {
            '*' | '?' | '[' | ']' | '\\' => out.extend(['\\', c]),
            '!' | '#' if at == 0 => out.extend(['\\', c]),
            // A wildcard for any number of bytes might match everything.
            char::REPLACEMENT_CHARACTER => return None,
            c if c.is_control() || (c.is_whitespace() && (at == 0 || at == last)) => out.push('?'),
            c => out.push(c),
        }
    }
    Some(out)
}

fn document(found: &Found, largest: &[(&str, Sum)], ignore: &IgnoreFile) -> Vec<u8> {
    let rows: Vec<_> = largest
        .iter()
        .map(|(path, s)| json!({"path": path, "files": s.files, "bytes": s.bytes}))
        .collect();
    let hidden: Vec<_> = found
        .hidden
        .iter()
        .map(|(index, s)| {
            let (line, pattern) = rule(ignore, *index);
            json!({"line": line, "rule": pattern, "files": s.files, "bytes": s.bytes})
        })
        .collect();
    let proposed =
        Proposal::of(found, largest).map(|p| json!({"line": p.line, "percent": p.share}));
    let all = json!({
        "files": found.all.files,
        "bytes": found.all.bytes,
        "largest": rows,
        "ignoreFile": ignore.name,
        "hidden": hidden,
        "proposed": proposed,
    });
    format!("{all:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use rgraph_ir::pattern::PatternSet;

    use super::*;

    #[test]
    fn proposed_lines_hide_their_path() {
        for (path, line) in [
            ("a/b.bin", "a/b.bin"),
            ("a[1]*.b", "a\\[1\\]\\*.b"),
            ("#a", "\\#a"),
            ("!a", "\\!a"),
            ("a!#", "a!#"),
            ("back\\slash", "back\\\\slash"),
            (" a ", "?a?"),
            ("a\nb", "a?b"),
        ] {
            assert_eq!(pattern(path).as_deref(), Some(line));
            let rules = PatternSet::parse(line.as_bytes()).expect("a pattern");
            assert!(rules.verdict(path).is_some_and(|v| v.matched), "{path}");
        }
        for bytes in [&b"\xff"[..], b"a/\xffb", b"\xff/c"] {
            assert_eq!(pattern(&String::from_utf8_lossy(bytes)), None, "{bytes:?}");
        }
    }
}
