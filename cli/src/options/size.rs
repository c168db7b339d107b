//! Numbers of bytes and durations as Docker's command line takes them.

use rgraph_store::Amount;

/// Reads `64m`, `1.5GiB`, `512`: a bare number is bytes, letters are powers of 1024, in any case,
/// with or without `b` or `ib` (docker's `units.RAMInBytes`).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let why = || "expected a number of bytes with an optional b, k, m, g, t or p".to_owned();
    let text = text.trim();
    let cut = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(cut);
    let unit = unit.trim_start().to_ascii_lowercase();
    let letter = match unit.as_str() {
        "" | "b" => "",
        u => u.strip_suffix("ib").or_else(|| u.strip_suffix('b')).unwrap_or(u),
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(why()),
    };
    let factor = 1u64 << (10 * power);
    let too_large = || "the number is too large".to_owned();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) || number.ends_with('.') {
        return Err(why());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        let part: f64 = format!("0.{fraction}").parse().map_err(|_| why())?;
        // Below one unit: exact enough for a limit.
        bytes = bytes.checked_add((part * factor as f64) as u64).ok_or_else(too_large)?;
    }
    if bytes > i64::MAX as u64 {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Reads a part of the disk (`10%`), or a size as [`parse_size`] does.
pub fn parse_amount(text: &str) -> Result<Amount, String> {
    let Some(number) = text.trim().strip_suffix('%') else {
        return parse_size(text)
            .map(Amount::Bytes)
            .map_err(|e| format!("{e}, or a percentage of the disk"));
    };
    match number.trim().parse::<u8>() {
        Ok(n @ 0..=100) => Ok(Amount::Percent(n)),
        _ => Err("expected a percentage from 0% to 100%".to_owned()),
    }
}

/// Reads `24h`, `10m`, `1h30m`, `2d`; a bare number is seconds.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || "expected a duration such as `24h` or `1h30m`".to_owned();
    let (mut sum, mut number) = (0u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let n: u64 = number.parse().map_err(|_| wrong())?;
        sum = n.checked_mul(unit).and_then(|n| sum.checked_add(n)).ok_or_else(wrong)?;
        number.clear();
    }
    match (number.is_empty(), text.is_empty()) {
        (true, false) => Ok(sum),
        (false, _) if sum == 0 => number.parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_durations() {
        for (text, want) in [
            ("10%", Some(Amount::Percent(10))),
            (" 0 %", Some(Amount::Percent(0))),
            ("100%", Some(Amount::Percent(100))),
            ("101%", None),
            ("1.5%", None),
            ("%", None),
            ("-1%", None),
            ("2GB", Some(Amount::Bytes(2 << 30))),
            ("x", None),
        ] {
            assert_eq!(parse_amount(text).ok(), want, "{text:?}");
        }
        for (text, want) in [("24h", 86_400), ("1h30m", 5400), ("90", 90), ("2d", 172_800)] {
            assert_eq!(parse_seconds(text).unwrap(), want, "{text}");
        }
        for text in ["", "h", "1x", "1h5", "99999999999999999999h"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_and_refuses() {
        for (text, want) in [
            ("0", Some(0)),
            ("134217728", Some(134_217_728)),
            ("64m", Some(64 << 20)),
            ("64M", Some(64 << 20)),
            ("64mb", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("10b", Some(10)),
            ("2k", Some(2048)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1.", None),
            ("1..2", None),
            ("1x", None),
            ("1bm", None),
            ("0x10", None),
            ("99999999999999999999", None),
            ("9007199254740992p", None),
        ] {
            assert_eq!(parse_size(text).ok(), want, "{text:?}");
        }
    }
}
