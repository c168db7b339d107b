//! YAML as a tree. Aliases stand for what they name as often as they are used, so each use counts.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use rgraph_ir::FileId;
use rgraph_ir::limits::{MAX_BAKE_STEPS, MAX_NESTING};
use saphyr_parser::{Event, Parser, ScalarStyle};

use crate::budget::{Error, Result};

/// A node with its place.
#[derive(Debug, Clone)]
pub struct Node {
    pub what: What,
    pub file: FileId,
    /// Byte in the file.
    pub at: usize,
    /// What it does to an earlier value.
    pub tag: Tag,
    /// Nodes in it, itself and those of aliases counted.
    count: usize,
}

/// How a value of a compose file meets an earlier one of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tag {
    /// They are merged.
    #[default]
    None,
    /// `!override`: it takes the earlier one's place.
    Override,
    /// `!reset`: there is none.
    Reset,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum What {
    /// Its text, and whether it stands there without quotes.
    Scalar(Rc<str>, bool),
    List(Rc<Vec<Node>>),
    /// In the order of the file; of equal keys the last.
    Map(Rc<Vec<(Rc<str>, Node)>>),
}

/// Most nodes of one document.
const MAX_NODES: usize = 200_000;
/// Merged and expanded, a document is no larger than this many nodes.
const _: () = assert!((MAX_NODES as u64) < MAX_BAKE_STEPS);

impl Node {
    /// Another value in the place of this one.
    pub fn with(&self, what: What) -> Self {
        let count = 1 + match &what {
            What::Scalar(..) => 0,
            What::List(l) => l.iter().map(|n| n.count).sum(),
            What::Map(m) => m.iter().map(|(_, n)| 1 + n.count).sum(),
        };
        Self { what, count, ..self.clone() }
    }

    /// Nodes in it, itself counted.
    pub fn count(&self) -> usize {
        self.count
    }

    /// An error at this place.
    pub fn error(&self, message: impl Into<String>) -> Box<Error> {
        Error::new(message).at(self.file, Some(self.at..self.at + 1))
    }

    /// Null: nothing, `~`, `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.what, What::Scalar(t, true) if matches!(&**t, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value of a key; null counts as not there.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.what {
            What::Map(m) => {
                m.iter().rev().find(|(k, _)| **k == *key).map(|(_, v)| v).filter(|v| !v.is_null())
            }
            _ => None,
        }
    }

    /// The keys and values of a map.
    pub fn map(&self) -> Result<&[(Rc<str>, Self)]> {
        match &self.what {
            What::Map(m) => Ok(m),
            _ if self.is_null() => Ok(&[]),
            _ => Err(self.error("a map is needed here")),
        }
    }

    /// The items of a list.
    pub fn list(&self) -> Result<&[Self]> {
        match &self.what {
            What::List(l) => Ok(l),
            _ if self.is_null() => Ok(&[]),
            _ => Err(self.error("a list is needed here")),
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Result<&str> {
        match &self.what {
            What::Scalar(t, _) => Ok(t),
            _ => Err(self.error("a single value is needed here")),
        }
    }
}

/// A node that is not finished.
enum Open {
    List(Vec<Node>),
    Map(Vec<(Rc<str>, Node)>, Option<Rc<str>>),
}

struct Level {
    open: Open,
    anchor: usize,
    at: usize,
    tag: Tag,
}

fn tag_of(tag: Option<&saphyr_parser::Tag>) -> Tag {
    match tag.map(|t| (&*t.handle, &*t.suffix)) {
        Some(("!", "override")) => Tag::Override,
        Some(("!", "reset")) => Tag::Reset,
        _ => Tag::None,
    }
}

/// Most brackets that are moved in one text.
const MAX_BRACKETS: usize = 64;

/// The text with brackets that close below the column where their list may stand, as many write them, moved to
/// the end of the line before. YAML 1.2 wants them further in (section 7.4); YAML 1.1 and others' parsers do not.
/// No byte changes its place.
fn indented(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    let closes = |l: &str| l.trim_start().starts_with([']', '}']);
    if !text.lines().any(closes) {
        return out;
    }
    for _ in 0..MAX_BRACKETS {
        let error = Parser::new_from_str(&out).find_map(std::result::Result::err);
        let Some(mark) = error.filter(|e| e.info() == "invalid indentation").map(|e| *e.marker())
        else {
            break;
        };
        let start: usize = out.split_inclusive('\n').take(mark.line() - 1).map(str::len).sum();
        let Some(above) = out[..start].lines().next_back().filter(|l| !l.contains('#')) else {
            break;
        };
        if above.trim().is_empty() || !out[start..].lines().next().is_some_and(closes) {
            break;
        }
        out.to_mut().replace_range(start - 1..start, " ");
    }
    out
}

/// Reads the first document; `None`: there is none.
pub fn parse(text: &str, file: FileId) -> Result<Option<Node>> {
    let text = &*indented(text);
    let starts: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
    let byte = |line: usize, col: usize| {
        let start = *starts.get(line.saturating_sub(1)).unwrap_or(&text.len());
        text[start..].char_indices().nth(col).map_or(text.len(), |(i, _)| start + i)
    };
    let at_byte = |at: usize, e: Box<Error>| e.at(file, Some(at..at + 1));
    let mut anchors: HashMap<usize, Node> = HashMap::new();
    let mut levels: Vec<Level> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let at = byte(e.marker().line(), e.marker().col());
            at_byte(at, Error::new(format!("this is no YAML: {}", e.info())))
        })?;
        let at = byte(span.start.line(), span.start.col());
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let own = tag_of(tag.as_deref());
                let plain = style == ScalarStyle::Plain && (tag.is_none() || own != Tag::None);
                let what = What::Scalar(Rc::from(&*text), plain);
                (Node { what, file, at, tag: own, count: 1 }, anchor)
            }
            Event::Alias(id) => match anchors.get(&id) {
                Some(node) => (Node { at, ..node.clone() }, 0),
                None => {
                    return Err(at_byte(at, Error::new("the alias stands within what it names")));
                }
            },
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag) => {
                if levels.len() >= MAX_NESTING {
                    let message = format!("the YAML is nested over more than {MAX_NESTING} levels");
                    return Err(at_byte(at, Error::limit(message)));
                }
                let open = match event {
                    Event::SequenceStart(..) => Open::List(Vec::new()),
                    _ => Open::Map(Vec::new(), None),
                };
                levels.push(Level { open, anchor, at, tag: tag_of(tag.as_deref()) });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(level) = levels.pop() else { continue };
                let (count, what) = match level.open {
                    Open::List(l) => {
                        (l.iter().map(|n| n.count).sum::<usize>(), What::List(Rc::new(l)))
                    }
                    Open::Map(m, _) => {
                        let m = merged(m)?;
                        (m.iter().map(|(_, n)| 1 + n.count).sum(), What::Map(Rc::new(m)))
                    }
                };
                let (at, tag) = (level.at, level.tag);
                (Node { what, file, at, tag, count: 1 + count }, level.anchor)
            }
            Event::DocumentEnd => break,
            _ => continue,
        };
        if node.count > MAX_NODES {
            let message = format!("the YAML stands for more than {MAX_NODES} values");
            return Err(at_byte(at, Error::limit(message)));
        }
        if anchor > 0 {
            anchors.insert(anchor, node.clone());
        }
        match levels.last_mut().map(|l| &mut l.open) {
            None => return Ok(Some(node)),
            Some(Open::List(l)) => l.push(node),
            Some(Open::Map(m, key)) => match key.take() {
                Some(key) => m.push((key, node)),
                None => *key = Some(Rc::from(node.text()?)),
            },
        }
    }
    Ok(None)
}

/// `<<` puts the keys of other maps in, behind those that stand there.
fn merged(map: Vec<(Rc<str>, Node)>) -> Result<Vec<(Rc<str>, Node)>> {
    if !map.iter().any(|(k, _)| &**k == "<<") {
        return Ok(map);
    }
    let (mut others, mut own) = (Vec::new(), Vec::new());
    for (key, node) in map {
        match (&*key, &node.what) {
            ("<<", What::List(l)) => {
                // The first of several counts most.
                for n in l.iter().rev() {
                    others.extend(n.map()?.iter().cloned());
                }
            }
            ("<<", _) => others.extend(node.map()?.iter().cloned()),
            _ => own.push((key, node)),
        }
        if others.len() > MAX_NODES {
            return Err(Error::limit(format!("the YAML stands for more than {MAX_NODES} values")));
        }
    }
    others.extend(own);
    Ok(others)
}

impl Node {
    /// As JSON: what stands there without quotes is null, a truth value or a number where it looks like
    /// one, as Go's YAML takes it (a leading 0 is octal).
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.what {
            What::Scalar(_, true) if self.is_null() => Value::Null,
            What::Scalar(text, true) => plain(text),
            What::Scalar(text, false) => Value::from(&**text),
            What::List(l) => l.iter().map(Self::to_json).collect(),
            What::Map(m) => m.iter().map(|(k, v)| (k.to_string(), v.to_json())).collect(),
        }
    }
}

fn plain(text: &str) -> serde_json::Value {
    let octal =
        text.strip_prefix("0o").or_else(|| text.strip_prefix('0').filter(|t| !t.is_empty()));
    let number = match (text.strip_prefix("0x"), octal) {
        (Some(hex), _) => i64::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) => i64::from_str_radix(octal, 8).ok(),
        (None, None) => text.parse().ok(),
    };
    match (text, number) {
        ("true" | "True" | "TRUE", _) => true.into(),
        ("false" | "False" | "FALSE", _) => false.into(),
        (_, Some(n)) => n.into(),
        (text, None) => match text.parse::<f64>() {
            Ok(n) if n.is_finite() => n.into(),
            _ => text.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_json() {
        let text = "a: [1, 010, 0o10, 0x10, 1.5, yes, true, ~, 'true', \"1\", -3, 0, 08]\nb: &x {c: d}\ne: *x\n";
        let json = parse(text, FileId(0)).unwrap().unwrap().to_json();
        let want = serde_json::json!({
            "a": [1, 8, 8, 16, 1.5, "yes", true, null, "true", "1", -3, 0, 8.0],
            "b": {"c": "d"}, "e": {"c": "d"},
        });
        assert_eq!(json, want);
    }
}
