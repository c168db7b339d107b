//! Columns, sizes and times as Docker prints them.

use std::io::{self, Write};

/// Rows under headings; every column as wide as its widest cell and three spaces, but at least
/// [`NARROWEST`], the last one as it is.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Characters of Docker's narrowest column, its spaces included.
const NARROWEST: usize = 10;

impl Table {
    /// A table with these headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty. Foreign text is made harmless.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let harmless =
            |c: S| crate::progress::sanitize::harmless(c.as_ref()).replace(['\n', '\t'], " ");
        self.rows.push(cells.into_iter().map(harmless).collect());
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without rows; the headings are printed all the same.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes headings and rows.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let all = || std::iter::once(&self.headings).chain(&self.rows);
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| all().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in all() {
            for (i, cell) in row.iter().enumerate() {
                text.push_str(cell);
                // The last column of Docker's tables is not filled up.
                if i + 1 < columns {
                    let fill = (widths[i] + 3).max(NARROWEST) - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', fill));
                }
            }
            text.push('\n');
        }
        out.write_all(text.as_bytes())
    }
}

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

fn scaled(bytes: u64) -> (f64, &'static str) {
    let (mut n, mut unit) = (bytes as f64, 0);
    while n >= 1000.0 && unit + 1 < UNITS.len() {
        n /= 1000.0;
        unit += 1;
    }
    (n, UNITS[unit])
}

/// Three digits that matter and a decimal unit: `0B`, `4.26MB`, `138MB`.
pub fn size(bytes: u64) -> String {
    let (n, unit) = scaled(bytes);
    let digits = if n >= 100.0 {
        0
    } else if n >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{n:.digits$}");
    let text = match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text,
    };
    // 999.9 rounds up to a fourth digit.
    if text == "1000" && unit != "EB" {
        let next = UNITS.iter().position(|u| *u == unit).map_or(unit, |i| UNITS[i + 1]);
        return format!("1{next}");
    }
    format!("{text}{unit}")
}

/// Four digits that matter and a binary unit: `0B`, `1.5MiB`, `23.54GiB`.
pub fn size_binary(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut n, mut unit) = (bytes as f64, 0);
    while n >= 1024.0 && unit + 1 < UNITS.len() {
        n /= 1024.0;
        unit += 1;
    }
    let digits = match n {
        n if n >= 1000.0 => 0,
        n if n >= 100.0 => 1,
        n if n >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{n:.digits$}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{}", if text.contains('.') { short } else { &text }, UNITS[unit])
}

/// Two decimals always, for numbers that change in place: `4.26MB`.
pub fn size_moving(bytes: u64) -> String {
    match scaled(bytes) {
        (n, "B") => format!("{n}B"),
        (n, unit) => format!("{n:.2}{unit}"),
    }
}

/// How long ago, roughly: `3 minutes`, `About an hour`, `2 weeks`.
pub fn age(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let count = |n: u64, unit: &str| format!("{n} {unit}s");
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        s if s < MINUTE => count(s, "second"),
        s if s < 2 * MINUTE => "About a minute".to_owned(),
        s if s < HOUR => count(s / MINUTE, "minute"),
        // Docker rounds hours to the nearest.
        s if s + HOUR / 2 < 2 * HOUR => "About an hour".to_owned(),
        s if s + HOUR / 2 < 2 * DAY => count((s + HOUR / 2) / HOUR, "hour"),
        s if s < 14 * DAY => count(s / DAY, "day"),
        s if s < 60 * DAY => count(s / (7 * DAY), "week"),
        s if s < 730 * DAY => count(s / (30 * DAY), "month"),
        s => count(s / (365 * DAY), "year"),
    }
}

/// The `CREATED` column: `3 minutes ago`; `N/A` for an image without a time.
pub fn created(at: Option<i64>, now: i64) -> String {
    match at {
        // Images of a reproducible build carry 1970 or 0001.
        None => "N/A".to_owned(),
        Some(at) => format!("{} ago", age(u64::try_from(now.saturating_sub(at)).unwrap_or(0))),
    }
}

/// At most `most` characters, the last one `…` when cut.
pub fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Seconds with one decimal, minutes from 100 s on: `0.4s`, `12.0s`, `2m03s`.
pub fn duration(nanoseconds: u64) -> String {
    let seconds = nanoseconds as f64 / 1e9;
    if seconds < 99.95 {
        return format!("{seconds:.1}s");
    }
    let whole = nanoseconds / 1_000_000_000;
    match whole / 3600 {
        0 => format!("{}m{:02}s", whole / 60, whole % 60),
        h => format!("{h}h{:02}m{:02}s", whole % 3600 / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let mut t = Table::new(["REPOSITORY", "TAG", "SIZE"]);
        t.row(["busybox", "latest", "4.26MB"]);
        t.row(["a\x1b[2Jb", "1", "0B"]);
        let mut out = Vec::new();
        t.write(&mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        REPOSITORY   TAG       SIZE
        busybox      latest    4.26MB
        a^[[2Jb      1         0B
        ");
    }

    #[test]
    fn sizes() {
        for (n, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_261_574, "4.26MB"),
            (77_800_000, "77.8MB"),
            (138_400_000, "138MB"),
            (999_999, "1MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(n), want, "{n}");
        }
        for (n, want) in [
            (0, "0B"),
            (1000, "1000B"),
            (1024, "1KiB"),
            (1_572_864, "1.5MiB"),
            (104_857_600, "100MiB"),
            (25_276_215_296, "23.54GiB"),
            (1_072_693_248, "1023MiB"),
        ] {
            assert_eq!(size_binary(n), want, "{n}");
        }
        assert_eq!((size_moving(1000), size_moving(12)), ("1.00kB".into(), "12B".into()));
    }

    #[test]
    fn times() {
        for (s, want) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (47 * 3600, "47 hours"),
            (3 * 86400, "3 days"),
            (15 * 86400, "2 weeks"),
            (90 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(age(s), want, "{s}");
        }
        assert_eq!(created(None, 0), "N/A");
        assert_eq!(created(Some(100), 90), "Less than a second ago");
        for (ns, want) in [
            (0, "0.0s"),
            (440_000_000, "0.4s"),
            (99_940_000_000, "99.9s"),
            (123_000_000_000, "2m03s"),
            (3_723_000_000_000, "1h02m03s"),
        ] {
            assert_eq!(duration(ns), want);
        }
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
    }
}
