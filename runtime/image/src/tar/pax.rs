//! PAX extended headers: `LEN KEY=VALUE\n` records.

use super::{Mtime, TarError};

const BAD: TarError = TarError::Field { field: "PAX record" };

/// What extended headers say about the next member. `None`: not said.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Mtime>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// GNU sparse records, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub major: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub map: Vec<u64>,
}

impl Sparse {
    pub fn is_set(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || !self.map.is_empty()
    }
}

fn number(value: &[u8]) -> Result<u64, TarError> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(value).ok().and_then(|s| s.parse().ok()).ok_or(BAD)
}

/// `-12.5` is 13 seconds before 1970 and half a second after that.
fn time(value: &[u8]) -> Result<Mtime, TarError> {
    let text = std::str::from_utf8(value).map_err(|_| BAD)?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD);
    }
    let secs = i64::try_from(number(whole.as_bytes())?).map_err(|_| BAD)?;
    let mut nanos = 0u32;
    for i in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.as_bytes().get(i).map_or(0, |b| b - b'0'));
    }
    Ok(match (negative, nanos) {
        (false, _) => Mtime { secs, nanos },
        (true, 0) => Mtime { secs: -secs, nanos: 0 },
        (true, _) => Mtime { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

impl Pax {
    /// Takes the records of one header block; later records win.
    pub fn add(&mut self, mut block: &[u8]) -> Result<(), TarError> {
        while !block.is_empty() {
            // Some writers pad the block with NULs.
            if block.iter().all(|b| *b == 0) {
                break;
            }
            let space = block.iter().take(20).position(|b| *b == b' ').ok_or(BAD)?;
            let len = usize::try_from(number(&block[..space])?).map_err(|_| BAD)?;
            if len <= space + 1 || len > block.len() || block[len - 1] != b'\n' {
                return Err(BAD);
            }
            let record = &block[space + 1..len - 1];
            let eq = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            self.record(&record[..eq], &record[eq + 1..])?;
            block = &block[len..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // An empty value takes back what an earlier record said (pax, "Extended Header").
        let set = !value.is_empty();
        match key {
            b"path" => self.path = set.then(|| value.to_vec()),
            b"linkpath" => self.link = set.then(|| value.to_vec()),
            b"size" => self.size = if set { Some(number(value)?) } else { None },
            b"uid" => self.uid = if set { Some(number(value)?) } else { None },
            b"gid" => self.gid = if set { Some(number(value)?) } else { None },
            b"mtime" => self.mtime = if set { Some(time(value)?) } else { None },
            b"GNU.sparse.major" => self.sparse.major = Some(number(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(number(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(number(value)?),
            b"GNU.sparse.map" => {
                self.sparse.map =
                    value.split(|b| *b == b',').map(number).collect::<Result<_, _>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(n, _)| n != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        if self.path.as_deref().is_some_and(|p| p.contains(&0))
            || self.link.as_deref().is_some_and(|p| p.contains(&0))
            || self.sparse.name.as_deref().is_some_and(|p| p.contains(&0))
        {
            return Err(TarError::Field { field: "name: it holds a NUL" });
        }
        Ok(())
    }
}

/// Appends one record.
pub(super) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    loop {
        let next = rest + len.to_string().len();
        if next == len {
            break;
        }
        len = next;
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A time as PAX writes it, without trailing zeros.
pub(super) fn time_text(t: Mtime) -> String {
    if t.nanos == 0 {
        return t.secs.to_string();
    }
    let (sign, secs, nanos) = if t.secs < 0 {
        ("-", (-(t.secs + 1)).to_string(), 1_000_000_000 - t.nanos)
    } else {
        ("", t.secs.to_string(), t.nanos)
    };
    format!("{sign}{secs}.{}", format!("{nanos:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for (secs, nanos, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 500_000_000, "-1.5"),
            (1_700_000_000, 1, "1700000000.000000001"),
            (i64::MAX, 999_999_999, "9223372036854775807.999999999"),
        ] {
            let t = Mtime { secs, nanos };
            assert_eq!(time_text(t), text);
            assert_eq!(time(text.as_bytes()).unwrap(), t, "{text}");
        }
        for bad in ["", "-", "x", "1.x", "1e3", "--1", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn record_lengths_count_themselves() {
        for n in [1, 2, 80, 87, 88, 89, 90, 985, 986, 987, 988, 989, 990, 9990] {
            let mut block = Vec::new();
            push(&mut block, b"path", &vec![b'x'; n]);
            let mut pax = Pax::default();
            pax.add(&block).unwrap();
            assert_eq!(pax.path.unwrap().len(), n);
        }
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"6 a=b\n6",
            b"99999999999999999999999 a=b\n",
            b"0 a=b\n",
            b"3 \n",
            b"-6 a=b\n",
            b"5 ab\n",
            b"100 a=b\n",
            b"12 path=a\0b\n",
            b"9 size=x\n",
            b"10 size=-1\n",
        ] {
            assert!(Pax::default().add(bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }
}
