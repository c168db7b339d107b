//! How Go prints values; history lines are made of them.

use std::fmt::Write as _;

use rgraph_ir::image_config::Healthcheck;

/// `%q` of a list of strings.
pub(super) fn quoted_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|s| quoted(s)).collect();
    format!("[{}]", items.join(" "))
}

/// `%q` of a string.
pub(super) fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if printable(c) => out.push(c),
            c => {
                let n = c as u32;
                let _ = match n {
                    0..0x80 => write!(out, "\\x{n:02x}"),
                    0x80..0x1_0000 => write!(out, "\\u{n:04x}"),
                    _ => write!(out, "\\U{n:08x}"),
                };
            }
        }
    }
    out.push('"');
    out
}

/// Go's `unicode.IsPrint`, near enough: no controls, format characters, blanks but the space,
/// surrogates, private use or non-characters.
fn printable(c: char) -> bool {
    let n = c as u32;
    !(c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(n, 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f)
        || matches!(n, 0x202a..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb)
        || matches!(n, 0xe000..=0xf8ff | 0xe0000..=0x10ffff)
        || n & 0xfffe == 0xfffe)
}

/// `%v` of a list of strings.
pub(super) fn plain_list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// `%+v` of a health check.
pub(super) fn healthcheck(h: &Healthcheck) -> String {
    format!(
        "{{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        plain_list(&h.test),
        duration(h.interval),
        duration(h.timeout),
        duration(h.start_period),
        duration(h.start_interval),
        h.retries
    )
}

/// `time.Duration.String`.
fn duration(ns: i64) -> String {
    let (sign, n) = if ns < 0 { ("-", ns.unsigned_abs()) } else { ("", ns as u64) };
    let fraction = |whole: u64, part: u64, digits: usize, unit: &str| {
        let mut s = format!("{whole}.{part:0digits$}");
        s.truncate(s.trim_end_matches('0').trim_end_matches('.').len());
        s + unit
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => fraction(n / 1_000, n % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => fraction(n / 1_000_000, n % 1_000_000, 6, "ms"),
        _ => {
            let (secs, part) = (n / 1_000_000_000, n % 1_000_000_000);
            let last = fraction(secs % 60, part, 9, "s");
            match (secs / 3600, secs / 60 % 60) {
                (0, 0) => last,
                (0, m) => format!("{m}m{last}"),
                (h, m) => format!("{h}h{m}m{last}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints() {
        assert_eq!(quoted("a\"\\\n\u{1}é\u{a0}\u{200b}"), "\"a\\\"\\\\\\n\\x01é\\u00a0\\u200b\"");
        assert_eq!(quoted_list(&["a b".into(), String::new()]), "[\"a b\" \"\"]");
        for (n, want) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (10_000_000_000, "10s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(duration(n), want);
        }
    }
}
