//! Numbers of bytes as Docker's command line takes them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
