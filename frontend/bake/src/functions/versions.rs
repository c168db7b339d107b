//! Versions, and the bounds that they are held to (github.com/Masterminds/semver, Checking Version
//! Constraints).

use std::cmp::Ordering;

use super::{Row, bool};
use crate::budget::{Error, Result};
use crate::value::cut;

pub(super) const TABLE: &[Row] =
    &[("semvercmp", 2, 2, |a, _| satisfies(&a[0].to_text()?, &a[1].to_text()?).and_then(bool))];

/// A part of a pre-release; numbers come before words.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

#[derive(PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    pre: Vec<Part>,
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // What has no pre-release comes after those that have.
        let key = |v: &Self| (v.numbers, v.pre.is_empty());
        key(self).cmp(&key(other)).then_with(|| self.pre.cmp(&other.pre))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Version {
    /// `v1.2.3-rc.1+build`; numbers that are missing are 0. With the count of those that are said: a
    /// wildcard says none from there on, and is allowed in bounds.
    fn parse(text: &str, wildcards: bool) -> Result<(Self, usize)> {
        let bad = || Error::new(format!("`{}` is no version", cut(text)));
        let plain = text.strip_prefix('v').unwrap_or(text);
        let (plain, build) = plain.split_once('+').unwrap_or((plain, "0"));
        let (core, pre) = match plain.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (plain, None),
        };
        let word =
            |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !build.split('.').all(word) {
            return Err(bad());
        }
        let mut numbers = [0; 3];
        let mut known = None;
        let mut said = 0;
        for (at, part) in core.split('.').enumerate() {
            let number = numbers.get_mut(at).ok_or_else(bad)?;
            said = at + 1;
            match part {
                "x" | "X" | "*" if wildcards => known = known.or(Some(at)),
                digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
                    let n = digits.parse().map_err(|_| bad())?;
                    *number = if known.is_none() { n } else { 0 };
                }
                _ => return Err(bad()),
            }
        }
        let pre = pre.map_or(Ok(Vec::new()), |p| {
            p.split('.')
                .map(|w| match w {
                    w if !word(w) => Err(bad()),
                    w if !w.bytes().all(|b| b.is_ascii_digit()) => Ok(Part::Word(w.to_owned())),
                    w if w.len() > 1 && w.starts_with('0') => Err(bad()),
                    w => w.parse().map(Part::Number).map_err(|_| bad()),
                })
                .collect()
        })?;
        Ok((Self { numbers, pre }, known.unwrap_or(said)))
    }
}

/// `>= 1.2`: how a version compares to one of which so many numbers are said.
struct Bound<'a> {
    operator: &'a str,
    at: Version,
    known: usize,
}

impl Bound<'_> {
    fn holds(&self, v: &Version) -> bool {
        let Self { operator, at, known } = self;
        let exact = matches!(known, 0 | 3);
        let (of_v, of_at) = (&v.numbers[..*known], &at.numbers[..*known]);
        match *operator {
            "" | "=" if *known == 3 => v == at,
            "" | "=" | "~" | "~>" => {
                let any = exact && at.numbers == [0; 3];
                let same =
                    v.numbers[0] == at.numbers[0] && (*known == 1 || v.numbers[1] == at.numbers[1]);
                v >= at && (any || same)
            }
            "!=" if exact => v != at,
            "!=" => of_v != of_at || (*known == 2 && v.pre != at.pre),
            ">" if exact => v > at,
            ">" => of_v > of_at,
            "<" => v < at,
            ">=" | "=>" => v >= at,
            "<=" | "=<" if *known == 3 => v <= at,
            "<=" | "=<" => {
                let said = if *known == 1 { 1 } else { 2 };
                v.numbers[..said] <= at.numbers[..said]
            }
            // `^`: up to the first number that is not 0, or the last that is said.
            _ => {
                let [major, minor, _] = at.numbers;
                let fixed = match *known {
                    1 => 1,
                    _ if major > 0 => 1,
                    2 => 2,
                    _ if minor > 0 => 2,
                    _ => 3,
                };
                v >= at && v.numbers[..fixed] == at.numbers[..fixed]
            }
        }
    }
}

const OPERATORS: [&str; 12] = ["", "=", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "~>", "^"];

/// Reads bounds that must all hold, with commas or spaces between them; `1.2 - 1.4` is two.
fn bounds(text: &str) -> Result<Vec<Bound<'_>>> {
    let mut out: Vec<Bound<'_>> = Vec::new();
    let mut rest = text.trim();
    loop {
        let end = rest.find(|c| !"=!<>~^".contains(c)).unwrap_or(rest.len());
        let (operator, after) = rest.split_at(end);
        if !OPERATORS.contains(&operator) {
            return Err(Error::new(format!("unknown comparison `{}`", cut(operator))));
        }
        let after = after.trim_start();
        let end = after.find(|c: char| c.is_whitespace() || ",=!<>~^".contains(c));
        let (version, after) = after.split_at(end.unwrap_or(after.len()));
        let (at, known) = Version::parse(version, true)?;
        out.push(Bound { operator, at, known });
        let next = after.trim_start();
        if next.is_empty() {
            return Ok(out);
        }
        rest = match (next.strip_prefix(','), range(next), operator) {
            (Some(t), ..) => t.trim_start(),
            (None, Some(last), "") if next.len() < after.len() => {
                let end = last.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(last.len());
                let (at, known) = Version::parse(&last[..end], true)?;
                if let Some(first) = out.last_mut() {
                    first.operator = ">=";
                }
                out.push(Bound { operator: "<=", at, known });
                let next = last[end..].trim_start();
                match next.strip_prefix(',') {
                    Some(more) => more.trim_start(),
                    None if next.is_empty() => return Ok(out),
                    None => next,
                }
            }
            _ if next.len() < after.len() => next,
            _ => return Err(Error::new(format!("`{}` is no list of bounds", cut(text)))),
        };
    }
}

/// What follows the line of a range.
fn range(text: &str) -> Option<&str> {
    let after = text.strip_prefix('-')?;
    let last = after.trim_start();
    (last.len() < after.len()).then_some(last)
}

/// Whether a version is within bounds such as `>= 1.2, < 2 || 3.x`. A pre-release is only where a bound
/// of the same list names one.
fn satisfies(version: &str, all: &str) -> Result<bool> {
    let (v, _) = Version::parse(version, false)?;
    let mut found = false;
    for list in all.split("||") {
        let list = bounds(list)?;
        let taken = v.pre.is_empty() || list.iter().any(|b| !b.at.pre.is_empty());
        found |= taken && list.iter().all(|b| b.holds(&v));
    }
    Ok(found)
}
