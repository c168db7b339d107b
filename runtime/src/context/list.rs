//! Which files a digest was made of: kept beside it, so that a later miss can name what changed.
//!
//! A list is small (some 30 bytes a file): names share what they have in common with the one before,
//! and of a file's digest sixteen bytes are kept, since it only has to tell old from new. It is never
//! part of a key. What does not read back is no list.

use std::cmp::Ordering;
use std::collections::HashSet;

use rgraph_solver::explain::{FileChanges, FileFate, judge_rules};

use super::Scan;
use super::walk::{Content, Entry, Kind};

/// Names the encoding.
const MAGIC: &[u8] = b"rgraph files 3\n";

/// Most files of a list: more are not kept.
pub const MAX_FILES: usize = 200_000;

/// One file, folder or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    /// Where its path is in [`FileList::text`].
    path: (u32, u32),
    /// As [`letter`] gives it.
    kind: u8,
    /// Permission bits, where they count.
    mode: u16,
    /// Owner and group, where they count.
    owner: (u32, u32),
    /// A link's text, or the first name of a file that has several, in [`FileList::text`].
    link: (u32, u32),
    /// The beginning of the digest of all else.
    content: [u8; 16],
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileList {
    /// Paths and links, one after the other.
    text: Vec<u8>,
    /// In the order of a walk: depth first, names by bytes.
    files: Vec<Listed>,
    /// The ignore rules it was made with.
    rules: Vec<String>,
}

fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Symlink => b'l',
        Kind::Fifo => b'p',
        Kind::Socket => b's',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
    }
}

/// What people call it.
pub(super) fn noun_of(kind: Kind) -> &'static str {
    noun(letter(kind))
}

fn noun(letter: u8) -> &'static str {
    match letter {
        b'f' => "file",
        b'd' => "folder",
        b'l' => "link",
        b'p' => "pipe",
        b's' => "socket",
        _ => "device",
    }
}

/// The order of a walk: as if the slash came before every other byte.
pub(super) fn by_walk(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |c: &u8| if *c == b'/' { 0u16 } else { u16::from(*c) + 1 };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

impl FileList {
    /// The list of what was found; `rules` are those of the ignore file.
    pub fn of(scan: &Scan, rules: &[String]) -> Self {
        let mut list = Self { rules: rules.to_vec(), ..Self::default() };
        let (mut path, mut twin) = (Vec::new(), Vec::new());
        for pick in scan.parts.iter().flatten() {
            // By the name that was asked for, whatever links led to it.
            let name = |out: &mut Vec<u8>, below: &[u8]| {
                out.clear();
                out.extend_from_slice(&pick.at);
                if !out.is_empty() && !below.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(below);
            };
            for (i, e) in pick.entries.iter().enumerate() {
                name(&mut path, if i == 0 { b"" } else { &e.path[e.below..] });
                if let Some(t) = &e.twin {
                    name(&mut twin, &t[e.below.min(t.len())..]);
                }
                let twin = e.twin.as_ref().map(|_| twin.as_slice());
                list.push(&path, e, twin, (scan.owner, scan.mode));
            }
        }
        list.sort();
        list
    }

    fn push(&mut self, path: &[u8], e: &Entry, twin: Option<&[u8]>, (owner, mode): (bool, bool)) {
        let first = |bytes: &[u8]| {
            let mut some = [0; 16];
            some.copy_from_slice(&bytes[..16]);
            some
        };
        let (mut link, mut content) = ((0, 0), [0; 16]);
        match &e.content {
            Content::Link(to) => link = self.keep(to),
            Content::File(d) => {
                content = first(&d.0);
                link = twin.map_or(link, |t| self.keep(t));
            }
            Content::Dir(attributes) if !attributes.is_empty() => {
                content = first(blake3::hash(attributes).as_bytes());
            }
            Content::Device(major, minor) => {
                content[..4].copy_from_slice(&major.to_le_bytes());
                content[4..8].copy_from_slice(&minor.to_le_bytes());
            }
            Content::Dir(_) | Content::None | Content::Unread | Content::Gone => {}
        }
        let path = self.keep(path);
        let counted = mode && e.kind != Kind::Symlink;
        self.files.push(Listed {
            path,
            kind: letter(e.kind),
            mode: if counted { e.mode as u16 } else { 0 },
            owner: if owner { (e.uid, e.gid) } else { (0, 0) },
            link,
            content,
        });
    }

    fn keep(&mut self, text: &[u8]) -> (u32, u32) {
        let from = self.text.len() as u32;
        self.text.extend_from_slice(text);
        (from, self.text.len() as u32)
    }

    fn text(&self, (from, to): (u32, u32)) -> &[u8] {
        &self.text[from as usize..to as usize]
    }

    /// Several picks may not follow each other.
    fn sort(&mut self) {
        let Self { text, files, .. } = self;
        let path = |f: &Listed| &text[f.path.0 as usize..f.path.1 as usize];
        if !files.is_sorted_by(|a, b| by_walk(path(a), path(b)).is_lt()) {
            files.sort_by(|a, b| by_walk(path(a), path(b)));
            files.dedup_by(|a, b| path(a) == path(b));
        }
    }

    /// How many files it holds.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Paths of regular files with one name whose bytes and extended attributes are those of `old`.
    pub fn files_in_common(&self, old: &Self) -> HashSet<Vec<u8>> {
        let mut common = HashSet::with_capacity(self.files.len());
        let mut before = old.files.iter().peekable();
        for f in self.files.iter().filter(|f| f.kind == b'f' && f.link == (0, 0)) {
            let path = self.text(f.path);
            while before.next_if(|o| by_walk(old.text(o.path), path).is_lt()).is_some() {}
            let same = |o: &&Listed| {
                old.text(o.path) == path && (o.kind, o.link, o.content) == (b'f', (0, 0), f.content)
            };
            if before.peek().is_some_and(same) {
                common.insert(path.to_vec());
            }
        }
        common
    }

    /// What differs from `old` to this. What came or went as a whole folder is told once.
    pub fn changes_since(&self, old: &Self) -> FileChanges {
        let mut out = FileChanges::default();
        let (mut o, mut n) = (old.files.iter().peekable(), self.files.iter().peekable());
        // The folder that came or went last: what is in it says nothing more.
        let mut whole: Option<Vec<u8>> = None;
        loop {
            let order = match (o.peek(), n.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(o), Some(n)) => by_walk(old.text(o.path), self.text(n.path)),
            };
            if order.is_eq() {
                if let (Some(a), Some(b)) = (o.next(), n.next()) {
                    compare((old, a), (self, b), &mut out);
                    if a.kind != b.kind {
                        whole = Some(self.text(b.path).to_vec());
                    }
                }
                continue;
            }
            let (path, kind, fate) = if order.is_lt() {
                let Some(f) = o.next() else { break };
                (old.text(f.path), f.kind, FileFate::Gone)
            } else {
                let Some(f) = n.next() else { break };
                (self.text(f.path), f.kind, FileFate::New)
            };
            let inside = whole.as_deref().is_some_and(|dir| {
                dir.is_empty() || path.strip_prefix(dir).is_some_and(|r| r.first() == Some(&b'/'))
            });
            if inside {
                continue;
            }
            if kind == b'd' {
                whole = Some(path.to_vec());
            }
            out.push(path, fate);
        }
        judge_rules(&mut out, &old.rules, &self.rules);
        out
    }
}

/// The differences of one path.
fn compare(
    (old_list, old): (&FileList, &Listed),
    (list, new): (&FileList, &Listed),
    out: &mut FileChanges,
) {
    let path = list.text(new.path);
    if old.kind != new.kind {
        return out.push(path, FileFate::Kind(noun(old.kind), noun(new.kind)));
    }
    if old.content != new.content {
        let plain = matches!(new.kind, b'f');
        out.push(path, if plain { FileFate::Changed } else { FileFate::Attributes });
    }
    let (was, is) = (old_list.text(old.link), list.text(new.link));
    if was != is {
        let text = |t: &[u8]| String::from_utf8_lossy(t).into_owned();
        let name = |t: &[u8]| (!t.is_empty()).then(|| text(t));
        let fate = match new.kind {
            b'l' => FileFate::Link(text(was), text(is)),
            _ => FileFate::HardLink(name(was), name(is)),
        };
        out.push(path, fate);
    }
    if old.mode != new.mode {
        out.push(path, FileFate::Mode(old.mode.into(), new.mode.into()));
    }
    if old.owner != new.owner {
        out.push(path, FileFate::Owner(old.owner, new.owner));
    }
}

/// Numbers in as few bytes as they need, seven bits each.
fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..63).step_by(7) {
            let b = self.byte()?;
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Some(n);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        self.take(len)
    }
}

impl FileList {
    /// As a file; `None` when there are too many.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if self.files.len() > MAX_FILES {
            return None;
        }
        let mut out = MAGIC.to_vec();
        put(&mut out, self.rules.len() as u64);
        for r in &self.rules {
            put(&mut out, r.len() as u64);
            out.extend_from_slice(r.as_bytes());
        }
        put(&mut out, self.files.len() as u64);
        let mut last: &[u8] = &[];
        for f in &self.files {
            let path = self.text(f.path);
            let shared = path.iter().zip(last).take_while(|(a, b)| a == b).count();
            put(&mut out, shared as u64);
            put(&mut out, (path.len() - shared) as u64);
            out.extend_from_slice(&path[shared..]);
            out.push(f.kind);
            put(&mut out, f.mode.into());
            put(&mut out, f.owner.0.into());
            put(&mut out, f.owner.1.into());
            if matches!(f.kind, b'l' | b'f') {
                let link = self.text(f.link);
                put(&mut out, link.len() as u64);
                out.extend_from_slice(link);
            }
            if f.kind != b'l' {
                out.extend_from_slice(&f.content);
            }
            last = path;
        }
        Some(out)
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes.strip_prefix(MAGIC)?);
        let mut list = Self::default();
        for _ in 0..r.number()? {
            list.rules.push(String::from_utf8(r.text()?.to_vec()).ok()?);
        }
        let count = usize::try_from(r.number()?).ok().filter(|n| *n <= MAX_FILES)?;
        list.files.reserve(count);
        let mut path: Vec<u8> = Vec::new();
        for _ in 0..count {
            let shared = usize::try_from(r.number()?).ok().filter(|n| *n <= path.len())?;
            path.truncate(shared);
            path.extend_from_slice(r.text()?);
            let kind = r.byte()?;
            let mode = u16::try_from(r.number()?).ok()?;
            let owner = (u32::try_from(r.number()?).ok()?, u32::try_from(r.number()?).ok()?);
            let (mut link, mut content) = ((0, 0), [0; 16]);
            if matches!(kind, b'l' | b'f') {
                let text = r.text()?;
                if !text.is_empty() {
                    link = list.keep(text);
                }
            }
            if kind != b'l' {
                content.copy_from_slice(r.take(16)?);
            }
            // Texts of 4 GiB would not have been written.
            u32::try_from(list.text.len() + path.len()).ok()?;
            let path = list.keep(&path);
            list.files.push(Listed { path, kind, mode, owner, link, content });
        }
        r.0.is_empty().then_some(list)
    }
}
