//! Times and versions.

use super::strings::text;
use super::{Row, number};
use crate::budget::{Error, Result};
use crate::eval::Eval;
use crate::value::{Number, Value, cut};

pub(super) const TABLE: &[Row] = &[
    ("timestamp", 0, 0, |_, cx| text(&Moment::of(cx.globals.now()).rfc3339(), cx)),
    ("timeadd", 2, 2, |a, cx| {
        let at = Moment::parse(&a[0].to_text()?)?.seconds();
        let by = duration(&a[1].to_text()?)?;
        let sum = at.checked_add(by).ok_or_else(|| Error::new("the time is out of range"))?;
        text(&Moment::of(sum).rfc3339(), cx)
    }),
    ("formattimestamp", 2, 2, |a, cx| {
        let at = match a[1].to_number() {
            Ok(n) => Moment::of(n.whole().ok_or_else(|| Error::new("a time is whole seconds"))?),
            Err(_) => Moment::parse(&a[1].to_text()?)?,
        };
        formatted(&a[0].to_text()?, at, cx)
    }),
    ("unixtimestampparse", 1, 1, |a, cx| {
        let seconds =
            a[0].to_number()?.whole().ok_or_else(|| Error::new("a time is whole seconds"))?;
        let m = Moment::of(seconds);
        let items = [
            ("year", m.year),
            ("month", m.month),
            ("day", m.day),
            ("hour", m.hour),
            ("minute", m.minute),
            ("second", m.second),
            ("year_day", m.year_day()),
            ("iso_year", m.iso_week().0),
            ("iso_week", m.iso_week().1),
        ];
        let mut out: std::collections::BTreeMap<_, _> =
            items.into_iter().map(|(k, n)| (k.into(), Value::Number(Number::from(n)))).collect();
        out.insert("month_name".into(), text(MONTHS[m.month as usize - 1], cx)?);
        out.insert("weekday_name".into(), text(DAYS[m.weekday()], cx)?);
        out.insert("weekday".into(), number(Number::from(m.weekday() as i64))?);
        out.insert("rfc3339".into(), text(&m.rfc3339(), cx)?);
        Value::object(out, cx.budget())
    }),
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A time in UTC.
#[derive(Clone, Copy)]
struct Moment {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

const DAY: i64 = 86_400;
/// The year 9999 ends here.
const LAST: i64 = 253_402_300_799;

impl Moment {
    /// Seconds since 1970, kept between the years 0 and 9999. The calendar repeats every 400 years, which
    /// are counted from a first of March, so that the odd day comes last.
    fn of(seconds: i64) -> Self {
        let seconds = seconds.clamp(-62_167_219_200, LAST);
        let (days, rest) = (seconds.div_euclid(DAY) + 719_468, seconds.rem_euclid(DAY));
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        Self { year, month, day, hour: rest / 3_600, minute: rest / 60 % 60, second: rest % 60 }
    }

    /// Days since 1970.
    fn days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = (self.month + 9) % 12;
        let of_year = (153 * from_march + 2) / 5 + self.day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// From 1.
    fn year_day(self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..self }.days() + 1
    }

    /// Year and week of ISO 8601: a week belongs to the year of its Thursday.
    fn iso_week(self) -> (i64, i64) {
        let thursday = self.days() - (self.weekday() as i64 + 6) % 7 + 3;
        let of_thursday = Self::of(thursday * DAY);
        (of_thursday.year, (of_thursday.year_day() - 1) / 7 + 1)
    }

    fn seconds(self) -> i64 {
        self.days() * DAY + self.hour * 3_600 + self.minute * 60 + self.second
    }

    /// From Sunday, which is 0.
    fn weekday(self) -> usize {
        (self.days() + 4).rem_euclid(7) as usize
    }

    fn rfc3339(self) -> String {
        let Self { year, month, day, hour, minute, second } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// Reads RFC 3339.
    fn parse(text: &str) -> Result<Self> {
        let bad = || Error::new(format!("`{}` is no time of RFC 3339", cut(text)));
        let part = |from: usize, to: usize, low: i64, high: i64| {
            let digits = text.get(from..to).filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            let n = digits.and_then(|d| d.parse::<i64>().ok()).filter(|n| (low..=high).contains(n));
            n.ok_or_else(bad)
        };
        let mark = |at: usize, c: &str| match text.get(at..at + 1) {
            Some(found) if found.eq_ignore_ascii_case(c) => Ok(()),
            _ => Err(bad()),
        };
        for (at, c) in [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")] {
            mark(at, c)?;
        }
        let local = Self {
            year: part(0, 4, 0, 9999)?,
            month: part(5, 7, 1, 12)?,
            day: part(8, 10, 1, 31)?,
            hour: part(11, 13, 0, 23)?,
            minute: part(14, 16, 0, 59)?,
            second: part(17, 19, 0, 60)?,
        };
        let mut rest = text.get(19..).ok_or_else(bad)?;
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        let zone = text.len() - rest.len();
        let offset = match rest.get(..1) {
            Some("Z" | "z") if rest.len() == 1 => 0,
            Some(sign @ ("+" | "-")) if rest.len() == 6 => {
                mark(zone + 3, ":")?;
                let away = part(zone + 1, zone + 3, 0, 23)? * 3_600
                    + part(zone + 4, zone + 6, 0, 59)? * 60;
                if sign == "+" { away } else { -away }
            }
            _ => return Err(bad()),
        };
        Ok(Self::of(local.seconds() - offset))
    }
}

/// Reads Go's durations, to the second: `1h30m`, `-10s`.
fn duration(text: &str) -> Result<i64> {
    let bad = || Error::new(format!("`{}` is no duration such as 1h30m", cut(text)));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut total = 0i64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let n: i64 = rest[..digits].parse().map_err(|_| bad())?;
        let (unit, after) = match &rest[digits..] {
            t if t.starts_with('h') => (3_600, &t[1..]),
            t if t.starts_with('m') && !t.starts_with("ms") => (60, &t[1..]),
            t if t.starts_with('s') => (1, &t[1..]),
            _ => return Err(bad()),
        };
        total = n.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
        rest = after;
    }
    Ok(sign * total)
}

/// `formattimestamp`: runs of letters are parts of a time, `'...'` is text.
fn formatted(spec: &str, at: Moment, cx: &Eval<'_>) -> Result<Value> {
    let mut out = String::new();
    let mut chars = spec.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\'' {
            loop {
                match chars.next() {
                    None => return Err(Error::new("a `'` is not closed")),
                    Some('\'') if chars.next_if_eq(&'\'').is_some() => out.push('\''),
                    Some('\'') => break,
                    Some(c) => out.push(c),
                }
            }
            continue;
        }
        if !c.is_ascii_alphabetic() {
            out.push(c);
            continue;
        }
        let mut run = String::from(c);
        while let Some(more) = chars.next_if_eq(&c) {
            run.push(more);
        }
        let (month, day) = (MONTHS[at.month as usize - 1], DAYS[at.weekday()]);
        let half = (at.hour + 11) % 12 + 1;
        out.push_str(&match run.as_str() {
            "YYYY" => format!("{:04}", at.year),
            "YY" => format!("{:02}", at.year % 100),
            "MMMM" => month.to_owned(),
            "MMM" => month[..3].to_owned(),
            "MM" => format!("{:02}", at.month),
            "M" => at.month.to_string(),
            "DD" => format!("{:02}", at.day),
            "D" => at.day.to_string(),
            "EEEE" => day.to_owned(),
            "EEE" => day[..3].to_owned(),
            "hh" => format!("{:02}", at.hour),
            "h" => at.hour.to_string(),
            "HH" => format!("{half:02}"),
            "H" => half.to_string(),
            "AA" => if at.hour < 12 { "AM" } else { "PM" }.to_owned(),
            "aa" => if at.hour < 12 { "am" } else { "pm" }.to_owned(),
            "mm" => format!("{:02}", at.minute),
            "m" => at.minute.to_string(),
            "ss" => format!("{:02}", at.second),
            "s" => at.second.to_string(),
            "X" => at.seconds().to_string(),
            "ZZZZZ" => "+00:00".to_owned(),
            "ZZZZ" => "+0000".to_owned(),
            "ZZZ" => "UTC".to_owned(),
            "Z" => "Z".to_owned(),
            other => return Err(Error::new(format!("`{}` is no part of a time", cut(other)))),
        });
    }
    text(&out, cx)
}

/// Whether a version is within bounds such as `>= 1.2, < 2`.
pub(super) fn satisfies(version: &str, bounds: &str) -> Result<bool> {
    let v = numbers(version)?;
    for bound in bounds.split(',').map(str::trim) {
        let at = bound.find(|c: char| c.is_ascii_digit() || c == 'v').unwrap_or(bound.len());
        let (operator, want) = (bound[..at].trim(), numbers(&bound[at..])?);
        let holds = match operator {
            "" | "=" | "==" => v == want,
            "!=" => v != want,
            ">" => v > want,
            ">=" => v >= want,
            "<" => v < want,
            "<=" => v <= want,
            "^" => v >= want && v[0] == want[0],
            "~" => v >= want && v[..2] == want[..2],
            _ => return Err(Error::new(format!("unknown comparison `{}`", cut(operator)))),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `v1.2.3`; what is missing is 0. A pre-release would be ordered by rules of its own.
fn numbers(version: &str) -> Result<[u64; 3]> {
    let bad = || {
        Error::new(format!("`{}` is no version of up to three numbers", cut(version)))
            .help("versions with a pre-release are not compared here")
    };
    let plain = version.trim().trim_start_matches('v');
    let plain = plain.split('+').next().unwrap_or_default();
    let mut out = [0; 3];
    for (at, part) in plain.split('.').enumerate() {
        *out.get_mut(at).ok_or_else(bad)? = part.parse().map_err(|_| bad())?;
    }
    Ok(out)
}
