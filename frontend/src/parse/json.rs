//! The exec form: a JSON list of strings (RFC 8259), as a nom grammar.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while_m_n};
use nom::character::complete::{char, digit1, one_of};
use nom::combinator::{map, opt, recognize, value};
use nom::error::{Error, ErrorKind};
use nom::multi::separated_list0;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};
use rgraph_ir::limits::MAX_NESTING;

/// What a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum List {
    /// A list of strings.
    Strings(Vec<String>),
    /// A valid list that holds something else.
    Mixed,
    /// No JSON list: shell form.
    No,
}

#[derive(Debug, Clone)]
enum Item {
    Text(String),
    Other,
}

/// Reads the whole of `text`.
pub(super) fn list(text: &str) -> List {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return List::No;
    }
    match items(text, 0) {
        Ok((rest, items)) if rest.trim_start_matches(BLANKS).is_empty() => items
            .into_iter()
            .map(|i| match i {
                Item::Text(s) => Some(s),
                Item::Other => None,
            })
            .collect::<Option<_>>()
            .map_or(List::Mixed, List::Strings),
        _ => List::No,
    }
}

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

fn blanks(i: &str) -> IResult<&str, &str> {
    take_while(|c| BLANKS.contains(&c)).parse(i)
}

fn items(i: &str, depth: usize) -> IResult<&str, Vec<Item>> {
    if depth > MAX_NESTING {
        return Err(nom::Err::Failure(Error::new(i, ErrorKind::TooLarge)));
    }
    let item = |i| delimited(blanks, |i| any(i, depth), blanks).parse(i);
    delimited(
        char('['),
        alt((map(delimited(blanks, tag("]"), blanks), |_| None), map(rest_of(item), Some))),
        blanks,
    )
    .parse(i)
    .map(|(rest, list)| (rest, list.unwrap_or_default()))
}

/// `item, item ]`
fn rest_of<'a>(
    item: impl Fn(&'a str) -> IResult<&'a str, Item>,
) -> impl Parser<&'a str, Output = Vec<Item>, Error = Error<&'a str>> {
    (nom::multi::separated_list1(char(','), item), char(']')).map(|(list, _)| list)
}

fn any(i: &str, depth: usize) -> IResult<&str, Item> {
    alt((
        map(string, Item::Text),
        value(Item::Other, alt((tag("true"), tag("false"), tag("null"), recognize(number)))),
        map(|i| items(i, depth + 1), |_| Item::Other),
        map(|i| object(i, depth + 1), |()| Item::Other),
    ))
    .parse(i)
}

fn object(i: &str, depth: usize) -> IResult<&str, ()> {
    if depth > MAX_NESTING {
        return Err(nom::Err::Failure(Error::new(i, ErrorKind::TooLarge)));
    }
    let member = |i| {
        (delimited(blanks, string, blanks), char(':'), blanks, |i| any(i, depth), blanks)
            .map(|_| ())
            .parse(i)
    };
    value((), delimited(char('{'), preceded(blanks, separated_list0(char(','), member)), char('}')))
        .parse(i)
}

fn number(i: &str) -> IResult<&str, ()> {
    let whole = alt((value((), char('0')), value((), (one_of("123456789"), opt(digit1)))));
    let fraction = value((), (char('.'), digit1));
    let exponent = value((), (one_of("eE"), opt(one_of("+-")), digit1));
    let (rest, text) = recognize((opt(char('-')), whole, opt(fraction), opt(exponent))).parse(i)?;
    // What no float can hold is no JSON to Go.
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok((rest, ())),
        _ => Err(nom::Err::Error(Error::new(i, ErrorKind::Float))),
    }
}

fn string(i: &str) -> IResult<&str, String> {
    let (mut i, _) = char('"').parse(i)?;
    let mut out = String::new();
    loop {
        let (rest, plain) = take_while(|c: char| c != '"' && c != '\\' && c >= ' ').parse(i)?;
        out.push_str(plain);
        let (rest, c) = one_of("\"\\").parse(rest)?;
        if c == '"' {
            return Ok((rest, out));
        }
        let (rest, c) = one_of("\"\\/bfnrtu").parse(rest)?;
        i = rest;
        out.push(match c {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (rest, c) = unicode(rest)?;
                i = rest;
                c
            }
            c => c,
        });
    }
}

/// After `\u`. Halves of pairs that stand alone become U+FFFD, as in Go.
fn unicode(i: &str) -> IResult<&str, char> {
    let (rest, high) = hex4(i)?;
    if let Some(c) = char::from_u32(high) {
        return Ok((rest, c));
    }
    if high < 0xdc00
        && let Ok((after, low)) = preceded(tag("\\u"), hex4).parse(rest)
        && (0xdc00..0xe000).contains(&low)
    {
        let c = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return Ok((after, char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER)));
    }
    Ok((rest, char::REPLACEMENT_CHARACTER))
}

fn hex4(i: &str) -> IResult<&str, u32> {
    let (rest, hex) = take_while_m_n(4, 4, |c: char| c.is_ascii_hexdigit()).parse(i)?;
    Ok((rest, u32::from_str_radix(hex, 16).unwrap_or(0xfffd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_forms() {
        let s = |l: &[&str]| List::Strings(l.iter().map(|s| (*s).to_owned()).collect());
        for (text, want) in [
            (r#"["a", "b c"]"#, s(&["a", "b c"])),
            ("  [ ] ", s(&[])),
            (r#"["\u00e9\n\"\ud83d\ude00\ud800"]"#, s(&["é\n\"😀\u{fffd}"])),
            (r#"["a", 1]"#, List::Mixed),
            (r#"[["a"]]"#, List::Mixed),
            (r#"[{"a": [null, -1.5e3]}]"#, List::Mixed),
            ("[1e308]", List::Mixed),
            ("[1e400]", List::No),
            (r#"["a",]"#, List::No),
            (r#"['a']"#, List::No),
            (r#"["a"] x"#, List::No),
            (r#"["a"#, List::No),
            ("[ -f x ]", List::No),
            ("[\"a\tb\"]", List::No),
            ("", List::No),
        ] {
            assert_eq!(list(text), want, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_no_list() {
        assert_eq!(list(&"[".repeat(100_000)), List::No);
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(list(&deep), List::No);
    }
}
