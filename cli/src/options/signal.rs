//! Names of signals.

use super::error::OptionsError;

/// The signal that asks a program to end when nobody says otherwise.
pub const TERM: i32 = 15;
/// The first real-time signal that a program may use with the usual C library, and the last.
const REAL_TIME: (i32, i32) = (34, 64);

const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", TERM),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Reads `SIGTERM`, `term`, `15`, `RTMIN+3`.
pub fn signal(flag: &'static str, text: &str) -> Result<i32, OptionsError> {
    number(text).ok_or_else(|| {
        let why = "expected the name of a signal (TERM, SIGHUP, RTMIN+3) or its number";
        OptionsError::value(flag, text, why)
    })
}

fn number(text: &str) -> Option<i32> {
    if let Ok(n) = text.parse::<i32>() {
        return (1..=REAL_TIME.1).contains(&n).then_some(n);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, n)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*n);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok(),
    };
    let n = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.0.checked_add(offset(rest, '+')?)?,
        (_, Some(rest)) => REAL_TIME.1.checked_sub(offset(rest, '-')?)?,
        _ => return None,
    };
    (REAL_TIME.0..=REAL_TIME.1).contains(&n).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("sigusr1", Some(10)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMAX+1", None),
            ("RTMIN+31", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
    }
}
