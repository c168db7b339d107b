//! `INSTRUCTION --flag=value ... rest`: splitting, then reading by a table.

use compact_str::CompactString;
use rgraph_ir::Diagnostic;
use rgraph_ir::near::nearest;

use super::Line;
use super::words::unquoted;
use crate::ast::Word;

/// A flag as written, quotes and escapes removed.
#[derive(Debug, Clone)]
pub(super) struct RawFlag {
    pub word: Word,
}

/// Splits the flags off `line` from byte `at`; gives them and where the rest starts.
pub(super) fn split(line: &Line<'_>, at: usize) -> (Vec<RawFlag>, usize) {
    let text = line.text;
    let mut flags = Vec::new();
    let mut pos = at;
    loop {
        let rest = &text[pos..];
        let skipped = rest.len() - rest.trim_start().len();
        let start = pos + skipped;
        if !text[start..].starts_with("--") {
            return (flags, start);
        }
        let (word, quoted, end) = read_word(text, start, line.escape);
        if word == "--" {
            return (flags, end);
        }
        if quoted || !word.is_empty() {
            flags.push(RawFlag { word: line.word(word, start, end) });
        }
        pos = end;
    }
}

fn read_word(text: &str, start: usize, escape: char) -> (CompactString, bool, usize) {
    if let Some(word) = unquoted(text, start, escape) {
        return (CompactString::new(word), false, start + word.len());
    }
    let mut out = CompactString::default();
    let mut quote = None;
    let mut quoted = false;
    let mut chars = text[start..].char_indices();
    while let Some((i, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (out, quoted, start + i),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                quoted = true;
            }
            Some(q) if c == q => quote = None,
            _ if c == escape => {
                if let Some((_, c)) = chars.next() {
                    out.push(c);
                }
            }
            _ => out.push(c),
        }
    }
    (out, quoted, text.len())
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Bool,
    One,
    Many,
}

/// The flags of one instruction, read by its table.
#[derive(Debug, Default)]
pub(super) struct Flags {
    values: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Reads `raw` by `table`. Every wrong flag gets its own diagnostic.
    pub(super) fn read(
        raw: &[RawFlag],
        table: &[(&'static str, Takes)],
        diags: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut flags = Self::default();
        for RawFlag { word } in raw {
            let (name, value) = match word.text.split_once('=') {
                Some((n, v)) => (n, Some(v)),
                None => (word.text.as_str(), None),
            };
            let bare = name.strip_prefix("--").unwrap_or(name);
            let err = |code, message: String| Diagnostic::error(code, word.span, message);
            let Some((key, takes)) = table.iter().find(|(k, _)| *k == bare) else {
                let mut d = err("unknown-flag", format!("unknown flag: {name}"));
                if let Some(near) = nearest(bare, table.iter().map(|(k, _)| *k)) {
                    d.message.push_str(&format!(" (did you mean {near}?)"));
                    d = d.help(format!("did you mean `--{near}`?"));
                } else if table.is_empty() {
                    d = d.help("this instruction takes no flags");
                } else {
                    let all: Vec<String> = table.iter().map(|(k, _)| format!("--{k}")).collect();
                    d = d.help(format!("it takes {}", all.join(", ")));
                }
                diags.push(d);
                continue;
            };
            if *takes != Takes::Many && flags.get(key).is_some() {
                diags.push(err("duplicate-flag", format!("duplicate flag specified: {name}")));
                continue;
            }
            let value = match (takes, value) {
                (Takes::Bool, None) => CompactString::const_new("true"),
                (Takes::Bool, Some(v)) if !v.is_empty() => match v.to_ascii_lowercase().as_str() {
                    v @ ("true" | "false") => v.into(),
                    _ => {
                        diags.push(err(
                            "invalid-flag",
                            format!("expecting boolean value for flag {name}, not: {v}"),
                        ));
                        continue;
                    }
                },
                (Takes::One | Takes::Many, Some(v)) => v.into(),
                _ => {
                    diags.push(err("missing-value", format!("missing a value on flag: {name}")));
                    continue;
                }
            };
            flags.values.push((key, Word { text: value, span: word.span }));
        }
        flags
    }

    /// The value of a flag given once.
    pub(super) fn get(&self, key: &str) -> Option<&Word> {
        self.values.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// As `get`, `None` also for an empty value.
    pub(super) fn filled(&self, key: &str) -> Option<Word> {
        self.get(key).filter(|w| !w.text.is_empty()).cloned()
    }

    /// All values of a flag.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &Word> {
        self.values.iter().filter(move |(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of a switch.
    pub(super) fn switch(&self, key: &str) -> Option<bool> {
        self.get(key).map(|w| w.text == "true")
    }
}
