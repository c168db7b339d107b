//! Small grammars: CSV fields, durations, sizes.

use nom::branch::alt;
use nom::bytes::complete::tag;
use nom::character::complete::{digit0, digit1};
use nom::combinator::{opt, recognize};
use nom::multi::many1;
use nom::{IResult, Parser};

/// Splits one CSV record (RFC 4180): fields may stand in double quotes, `""` is one quote.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let end = quoted.find('"').ok_or("quote without its end")?;
                field.push_str(&quoted[..end]);
                quoted = &quoted[end + 1..];
                match quoted.strip_prefix('"') {
                    Some(r) => {
                        field.push('"');
                        quoted = r;
                    }
                    None => break,
                }
            }
            rest = quoted;
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err("text behind a closing quote");
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("quote within an unquoted field");
            }
            field.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(r) => rest = r,
            None => return Ok(fields),
        }
    }
}

fn decimal(i: &str) -> IResult<&str, &str> {
    alt((recognize((digit1, opt((tag("."), digit0)))), recognize((tag("."), digit1)))).parse(i)
}

/// Go's `time.ParseDuration`, in ns: `1h30m`, `1.5s`, `-2ms`, `0`.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let (negative, body) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if body == "0" {
        return Some(0);
    }
    let unit =
        alt((tag("ns"), tag("us"), tag("µs"), tag("μs"), tag("ms"), tag("s"), tag("m"), tag("h")));
    let mut parts = many1((decimal, unit));
    let parsed: IResult<&str, Vec<(&str, &str)>> = parts.parse(body);
    let (rest, parts) = parsed.ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    for (number, unit) in parts {
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            _ => 3_600_000_000_000,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        let mut place = scale;
        for d in fraction.bytes() {
            place /= 10;
            total = total.checked_add(i128::from(d - b'0') * place)?;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// docker/go-units' `RAMInBytes`: `64m`, `1.5GiB`, `100`.
pub(crate) fn ram(text: &str) -> Option<u64> {
    let split = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let number: f64 = text[..split].trim_end_matches(' ').parse().ok()?;
    let unit = text[split..].to_ascii_lowercase();
    let power = match unit.strip_suffix('b').unwrap_or(&unit).trim_end_matches('i') {
        "" if unit.contains('i') => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    (bytes >= 0.0 && bytes < i64::MAX as f64).then_some(bytes as u64)
}

/// Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let f = |s: &str| csv(s).unwrap();
        assert_eq!(f("type=cache,target=/a"), ["type=cache", "target=/a"]);
        assert_eq!(f("\"a,b\"\"\",c"), ["a,b\"", "c"]);
        assert_eq!(f("a,"), ["a", ""]);
        for bad in ["", "\"a", "a\"b", "\"a\"b"] {
            assert!(csv(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_and_sizes() {
        for (text, want) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5ms", Some(500_000)),
            ("-2s", Some(-2_000_000_000)),
            ("0", Some(0)),
            ("3", None),
            ("", None),
            ("1x", None),
            ("99999999999h", None),
        ] {
            assert_eq!(duration(text), want, "{text}");
        }
        for (text, want) in [
            ("64m", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("100", Some(100)),
            ("2 kb", Some(2048)),
            ("x", None),
            ("1q", None),
            ("-1", None),
        ] {
            assert_eq!(ram(text), want, "{text}");
        }
    }
}
