//! From the text of an ignore pattern to states, by the way moby takes: first to a regular
//! expression, then to an automaton.
//!
//! The detour is the specification. moby copies brackets into a Go regular expression as they
//! stand, so inside of them Go's rules hold (`[[:alpha:]]`, `\d`), and `*` inside of them becomes
//! `[^/]*`, which ends the bracket early. Going the same way gives the same answers.

use super::nfa::{Set, State};

/// How a pattern is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// The name is the pattern.
    Exact,
    /// `dir/**` without other wildcards: the name begins with this.
    Prefix(String),
    /// `**x` without other wildcards: the name ends with this, or is this without its `/`.
    Suffix(String),
    /// All other: a regular expression without `^` and `$`.
    Regex(String),
}

/// Finds the shape of a cleaned pattern.
pub(super) fn shape(pattern: &str) -> Shape {
    #[derive(PartialEq)]
    enum Kind {
        Exact,
        Prefix,
        Suffix,
        Regex,
    }
    let mut kind = Kind::Exact;
    let mut re = String::new();
    let mut it = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = it.next() {
        match c {
            '*' if it.next_if_eq(&'*').is_some() => {
                it.next_if_eq(&'/');
                if it.peek().is_some() {
                    re.push_str("(.*/)?");
                    kind = Kind::Regex;
                } else if kind == Kind::Exact {
                    kind = Kind::Prefix;
                } else {
                    re.push_str(".*");
                    kind = Kind::Regex;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                re.push_str("[^/]*");
                kind = Kind::Regex;
            }
            '?' => {
                re.push_str("[^/]");
                kind = Kind::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                re.push('\\');
                re.push(c);
            }
            '\\' => {
                re.push('\\');
                if let Some(next) = it.next() {
                    re.push(next);
                    kind = Kind::Regex;
                }
            }
            '[' | ']' => {
                re.push(c);
                kind = Kind::Regex;
            }
            c => re.push(c),
        }
        first = false;
    }
    match kind {
        Kind::Exact => Shape::Exact,
        Kind::Prefix => Shape::Prefix(pattern[..pattern.len() - 2].to_owned()),
        Kind::Suffix => Shape::Suffix(pattern[2..].to_owned()),
        Kind::Regex => Shape::Regex(re),
    }
}

/// Reads a regular expression that [`shape`] made.
pub(super) fn states(re: &str) -> Result<Vec<State>, &'static str> {
    let mut out = Vec::new();
    let mut rest = re;
    while let Some(c) = rest.chars().next() {
        if let Some(r) = rest.strip_prefix("(.*/)?") {
            out.extend([State::Fork, State::Folders]);
            rest = r;
            continue;
        }
        if let Some(r) = rest.strip_prefix(".*") {
            out.push(State::Star(Set::NotNewline));
            rest = r;
            continue;
        }
        let set = match c {
            '[' if rest.starts_with("[^/]") => {
                rest = &rest[4..];
                Set::NotSlash
            }
            '[' => class(&mut rest)?,
            '\\' => match escape(&mut rest)? {
                Escape::Char(c) => Set::Char(c),
                Escape::Ranges { negated, ranges } => Set::Class { negated, ranges },
                Escape::Never => Set::Never,
            },
            c => {
                rest = &rest[c.len_utf8()..];
                if c == '^' {
                    // An anchor: at the start it says nothing, elsewhere it cannot hold.
                    if out.is_empty() {
                        continue;
                    }
                    Set::Never
                } else {
                    Set::Char(c)
                }
            }
        };
        match rest.strip_prefix('*') {
            Some(r) => {
                out.push(State::Star(set));
                rest = r;
            }
            None => out.push(State::One(set)),
        }
    }
    Ok(out)
}

enum Escape {
    Char(char),
    Ranges {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Valid in Go, but of no use in a pattern (`\b`, `\pL`): matches nothing.
    Never,
}

/// `\x` at the start of `rest`, by Go's `regexp/syntax`.
fn escape(rest: &mut &str) -> Result<Escape, &'static str> {
    let mut it = rest.chars();
    it.next();
    let c = it.next().ok_or("a lone `\\` at the end")?;
    *rest = it.as_str();
    let ranges =
        |negated, ranges: &[(char, char)]| Ok(Escape::Ranges { negated, ranges: ranges.to_vec() });
    const DIGIT: &[(char, char)] = &[('0', '9')];
    const SPACE: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
    const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    match c {
        'd' => ranges(false, DIGIT),
        'D' => ranges(true, DIGIT),
        's' => ranges(false, SPACE),
        'S' => ranges(true, SPACE),
        'w' => ranges(false, WORD),
        'W' => ranges(true, WORD),
        'a' => Ok(Escape::Char('\x07')),
        'f' => Ok(Escape::Char('\x0c')),
        'n' => Ok(Escape::Char('\n')),
        'r' => Ok(Escape::Char('\r')),
        't' => Ok(Escape::Char('\t')),
        'v' => Ok(Escape::Char('\x0b')),
        'A' | 'b' | 'B' | 'C' | 'p' | 'P' | 'Q' | 'x' | 'z' | '0'..='7' => Ok(Escape::Never),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(Escape::Char(c)),
        _ => Err("`\\` before a letter or digit"),
    }
}

/// A bracket expression at the start of `rest`, by Go's `regexp/syntax`.
fn class(rest: &mut &str) -> Result<Set, &'static str> {
    const OPEN: &str = "`[` without `]`";
    *rest = &rest[1..];
    let negated = rest.starts_with('^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    let mut first = true;
    loop {
        match rest.chars().next() {
            None => return Err(OPEN),
            Some(']') if !first => {
                *rest = &rest[1..];
                return Ok(Set::Class { negated, ranges });
            }
            Some(_) => {}
        }
        first = false;
        if rest.starts_with("[:")
            && let Some((name, after)) = rest[2..].split_once(":]")
        {
            ranges.extend(posix(name)?);
            *rest = after;
            continue;
        }
        let lo = match class_char(rest)? {
            Escape::Char(c) => c,
            Escape::Never => continue,
            Escape::Ranges { negated: false, ranges: r } => {
                ranges.extend(r);
                continue;
            }
            Escape::Ranges { negated: true, ranges: r } => {
                ranges.extend(complement(&r));
                continue;
            }
        };
        let hi = match rest.strip_prefix('-') {
            Some(r) if !r.is_empty() && !r.starts_with(']') => {
                *rest = r;
                match class_char(rest)? {
                    Escape::Char(c) => c,
                    _ => return Err("a range without an end"),
                }
            }
            _ => lo,
        };
        if hi < lo {
            return Err("a range that ends before it starts");
        }
        ranges.push((lo, hi));
    }
}

fn class_char(rest: &mut &str) -> Result<Escape, &'static str> {
    match rest.chars().next() {
        None => Err("`[` without `]`"),
        Some('\\') => escape(rest),
        Some(c) => {
            *rest = &rest[c.len_utf8()..];
            Ok(Escape::Char(c))
        }
    }
}

/// What sorted, separate ranges leave out.
fn complement(ranges: &[(char, char)]) -> Vec<(char, char)> {
    let mut out = Vec::new();
    let mut from = '\0';
    for (lo, hi) in ranges {
        if let Some(before) = char::from_u32((*lo as u32).wrapping_sub(1))
            && from <= before
        {
            out.push((from, before));
        }
        from = char::from_u32(*hi as u32 + 1).unwrap_or(char::MAX);
    }
    out.push((from, char::MAX));
    out
}

fn posix(name: &str) -> Result<Vec<(char, char)>, &'static str> {
    let (negated, name) = match name.strip_prefix('^') {
        Some(n) => (true, n),
        None => (false, name),
    };
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err("unknown class between `[:` and `:]`"),
    };
    Ok(if negated { complement(ranges) } else { ranges.to_vec() })
}
