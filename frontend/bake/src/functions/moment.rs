//! A point in time on a calendar, and durations as Go writes them.

use crate::budget::{Error, Result};
use crate::value::cut;

pub(super) const MONTHS: [&str; 12] = [
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
pub(super) const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A time as a clock of its zone shows it.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    nanos: i64,
    /// East of UTC, seconds.
    offset: i64,
}

const DAY: i64 = 86_400;
const SECOND: i64 = 1_000_000_000;
/// The year 0 begins here.
const FIRST: i64 = -62_167_219_200;
/// The year 9999 ends here.
const LAST: i64 = 253_402_300_799;

impl Moment {
    /// Seconds since 1970, in UTC.
    ///
    /// # Errors
    /// A time that is not between the years 0 and 9999.
    pub fn of(seconds: i64) -> Result<Self> {
        match (FIRST..=LAST).contains(&seconds) {
            true => Ok(Self::of_any(seconds)),
            false => Err(Error::new("the time is out of range")),
        }
    }

    /// The same of any year. The calendar repeats every 400 years, which are counted from a first of March, so
    /// that the odd day comes last.
    fn of_any(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(DAY) + 719_468, seconds.rem_euclid(DAY));
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
        Self { year, month, day, hour, minute, second, nanos: 0, offset: 0 }
    }

    /// Later by so many nanoseconds, in the same zone.
    pub fn plus(self, nanos: i64) -> Result<Self> {
        let sum = self.nanos + nanos.rem_euclid(SECOND);
        let local = self.seconds() + self.offset + nanos.div_euclid(SECOND) + sum / SECOND;
        Ok(Self { nanos: sum % SECOND, offset: self.offset, ..Self::of(local)? })
    }

    /// Days since 1970 of this date.
    fn days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let from_march = (self.month + 9) % 12;
        let of_year = (153 * from_march + 2) / 5 + self.day - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// From 1.
    pub fn year_day(self) -> i64 {
        self.days() - Self { month: 1, day: 1, ..self }.days() + 1
    }

    /// Year and week of ISO 8601: a week belongs to the year of its Thursday.
    pub fn iso_week(self) -> (i64, i64) {
        let thursday = self.days() - (self.weekday() as i64 + 6) % 7 + 3;
        let of_thursday = Self::of_any(thursday * DAY);
        (of_thursday.year, (of_thursday.year_day() - 1) / 7 + 1)
    }

    /// Since 1970.
    pub fn seconds(self) -> i64 {
        self.days() * DAY + self.hour * 3_600 + self.minute * 60 + self.second - self.offset
    }

    /// From Sunday, which is 0.
    pub fn weekday(self) -> usize {
        (self.days() + 4).rem_euclid(7) as usize
    }

    pub fn is_utc(self) -> bool {
        self.offset == 0
    }

    /// `+01:30`, with this between hours and minutes.
    pub fn zone(self, between: &str) -> String {
        let (sign, minutes) = (if self.offset < 0 { '-' } else { '+' }, self.offset.abs() / 60);
        format!("{sign}{:02}{between}{:02}", minutes / 60, minutes % 60)
    }

    /// To the second.
    pub fn rfc3339(self) -> String {
        let Self { year, month, day, hour, minute, second, .. } = self;
        let zone = if self.is_utc() { "Z".to_owned() } else { self.zone(":") };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}")
    }

    /// Reads RFC 3339. The zone stays what it says.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::new(format!("`{}` is no time of RFC 3339", cut(text)));
        let part = |from: usize, to: usize, low: i64, high: i64| {
            let digits = text.get(from..to).filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            let n = digits.and_then(|d| d.parse::<i64>().ok()).filter(|n| (low..=high).contains(n));
            n.ok_or_else(bad)
        };
        let mark = |at: usize, c: &str| match text.get(at..at + 1) {
            Some(found) if found == c => Ok(()),
            _ => Err(bad()),
        };
        for (at, c) in [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")] {
            mark(at, c)?;
        }
        let mut read = Self {
            year: part(0, 4, 0, 9999)?,
            month: part(5, 7, 1, 12)?,
            day: part(8, 10, 1, 31)?,
            hour: part(11, 13, 0, 23)?,
            minute: part(14, 16, 0, 59)?,
            second: part(17, 19, 0, 59)?,
            nanos: 0,
            offset: 0,
        };
        // A day that the month does not have would be one of the next.
        if Self::of_any(read.seconds()).day != read.day {
            return Err(bad());
        }
        let mut rest = text.get(19..).ok_or_else(bad)?;
        if let Some(fraction) = rest.strip_prefix('.') {
            rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = &fraction[..fraction.len() - rest.len()];
            if digits.is_empty() {
                return Err(bad());
            }
            read.nanos = fraction_of(digits, SECOND);
        }
        let zone = text.len() - rest.len();
        read.offset = match rest.get(..1) {
            Some("Z") if rest.len() == 1 => 0,
            Some(sign @ ("+" | "-")) if rest.len() == 6 => {
                mark(zone + 3, ":")?;
                let away = part(zone + 1, zone + 3, 0, 23)? * 3_600
                    + part(zone + 4, zone + 6, 0, 59)? * 60;
                if sign == "+" { away } else { -away }
            }
            _ => return Err(bad()),
        };
        Ok(read)
    }
}

/// What `0.DIGITS` of a unit is.
fn fraction_of(digits: &str, unit: i64) -> i64 {
    let mut left = unit as i128 * 1_000_000;
    let mut sum = 0;
    for digit in digits.bytes() {
        left /= 10;
        sum += i128::from(digit - b'0') * left;
    }
    (sum / 1_000_000) as i64
}

/// Reads a duration as Go writes it: `1h30m`, `-1.5s`. In nanoseconds.
pub(super) fn duration(text: &str) -> Result<i64> {
    let bad = || Error::new(format!("`{}` is no duration such as 1h30m", cut(text)));
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    match rest {
        "0" => return Ok(0),
        "" => return Err(bad()),
        _ => {}
    }
    let digits = |t: &str| t.len() - t.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let mut total = 0i64;
    while !rest.is_empty() {
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(t) => t.split_at(digits(t)),
            None => ("", after),
        };
        let unit = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3_600 * SECOND,
            _ => return Err(bad()),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(bad());
        }
        let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().map_err(|_| bad())? };
        let part = whole.checked_mul(unit).ok_or_else(bad)?;
        let part = part.checked_add(fraction_of(fraction, unit)).ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = after;
    }
    Ok(sign * total)
}
