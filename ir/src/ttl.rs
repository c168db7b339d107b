//! How long a result is good for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time to live in whole seconds; 0: good for nothing but the build that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u64);

/// A text that is no time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlError;

impl fmt::Display for TtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a duration such as 30m, 24h or 7d")
    }
}

impl std::error::Error for TtlError {}

const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl Ttl {
    /// Of so many seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(n)
    }

    /// The time itself.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// Whether something of `age` is too old. `None`: made in the future, as some clock has it, or
    /// nobody knows when. That is too old too: made again, its age is known.
    pub fn is_over(self, age: Option<Duration>) -> bool {
        age.is_none_or(|age| age >= Duration::from_secs(self.0))
    }
}

impl FromStr for Ttl {
    type Err = TtlError;

    /// Reads numbers with units, largest first: `90s`, `1h30m`, `7d`, and `0`.
    fn from_str(text: &str) -> Result<Self, TtlError> {
        if text == "0" {
            return Ok(Self(0));
        }
        let (mut sum, mut rest, mut units) = (0u64, text, &UNITS[..]);
        while !rest.is_empty() {
            let cut = rest.find(|c: char| !c.is_ascii_digit()).ok_or(TtlError)?;
            let number: u64 = rest[..cut].parse().map_err(|_| TtlError)?;
            let unit = rest[cut..].chars().next().ok_or(TtlError)?;
            let at = units.iter().position(|(c, _)| *c == unit).ok_or(TtlError)?;
            let add = number.checked_mul(units[at].1).ok_or(TtlError)?;
            sum = sum.checked_add(add).ok_or(TtlError)?;
            units = &units[at + 1..];
            rest = &rest[cut + unit.len_utf8()..];
        }
        if text.is_empty() { Err(TtlError) } else { Ok(Self(sum)) }
    }
}

impl fmt::Display for Ttl {
    /// `24h`, `1h30m`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, seconds) in &UNITS[2..] {
            if left >= *seconds {
                write!(f, "{}{unit}", left / seconds)?;
                left %= seconds;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, seconds, shown) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("90s", 90, "1m30s"),
            ("30m", 1800, "30m"),
            ("24h", 86_400, "24h"),
            ("1h30m", 5400, "1h30m"),
            ("7d", 604_800, "168h"),
            ("1w", 604_800, "168h"),
        ] {
            let ttl: Ttl = text.parse().unwrap();
            assert_eq!((ttl, ttl.to_string().as_str()), (Ttl(seconds), shown), "{text}");
        }
        for text in [
            "",
            "h",
            "24",
            "1x",
            "1h5",
            "-1h",
            "1.5h",
            "30m1h",
            "1h1h",
            "1 h",
            "1ü",
            "99999999999999999999h",
            "18446744073709551615w",
        ] {
            assert!(text.parse::<Ttl>().is_err(), "{text}");
        }
    }

    #[test]
    fn over() {
        let day: Ttl = "24h".parse().unwrap();
        let age = |s| Some(Duration::from_secs(s));
        assert!(!day.is_over(age(0)) && !day.is_over(age(86_399)));
        assert!(day.is_over(age(86_400)) && day.is_over(None));
        assert!(Ttl(0).is_over(age(0)));
    }
}
