//! Keeps secrets out of what is shown.

/// What stands for a secret.
const MASK: &[u8] = b"***";
/// Shorter ones would blank out half of every log: they are not hidden.
const SHORTEST: usize = 3;
/// A line of a secret of several lines (a key file) is hidden from this length on.
const SHORTEST_LINE: usize = 8;

/// Byte strings to hide. A secret of several lines is hidden line by line, since logs are.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first, so that a secret that holds another is hidden whole.
    patterns: Vec<Vec<u8>>,
}

impl Redactor {
    /// Hides these.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut patterns = Vec::new();
        for secret in secrets {
            let secret = secret.trim_ascii_end();
            let lines: Vec<_> = secret.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end).collect();
            let least = if lines.len() > 1 { SHORTEST_LINE } else { SHORTEST };
            patterns.extend(lines.into_iter().filter(|l| l.len() >= least).map(<[u8]>::to_vec));
        }
        patterns.sort_by(|a: &Vec<u8>, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        patterns.dedup();
        Self { patterns }
    }

    /// How many bytes at the end of an unfinished text may be the beginning of a secret.
    pub fn hold_back(&self) -> usize {
        self.patterns.first().map_or(0, |p| p.len() - 1)
    }

    /// Hides every secret in `text`.
    pub fn redact(&self, text: &mut Vec<u8>) {
        for p in &self.patterns {
            let Some(mut at) = find(text, p) else { continue };
            let mut out = Vec::with_capacity(text.len());
            let mut rest = text.as_slice();
            loop {
                out.extend_from_slice(&rest[..at]);
                out.extend_from_slice(MASK);
                rest = &rest[at + p.len()..];
                match find(rest, p) {
                    Some(next) => at = next,
                    None => break,
                }
            }
            out.extend_from_slice(rest);
            *text = out;
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let (first, rest) = what.split_first()?;
    let mut from = 0;
    while let Some(i) = text[from..].iter().position(|b| b == first) {
        let at = from + i;
        if text[at + 1..].starts_with(rest) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides() {
        let key = b"-----BEGIN KEY-----\nAAAABBBBCCCC\n=\n-----END KEY-----\n";
        let r = Redactor::new([&b"hunter2\n"[..], b"hunter", b"ab", b"", key]);
        for (text, want) in [
            ("a hunter2 b hunter2", "a *** b ***"),
            ("hunters", "***s"),
            ("ab = cd", "ab = cd"),
            ("xAAAABBBBCCCCx", "x***x"),
            ("=", "="),
            ("hunte", "hunte"),
        ] {
            let mut t = text.as_bytes().to_vec();
            r.redact(&mut t);
            assert_eq!(String::from_utf8(t).unwrap(), want);
        }
        assert_eq!(r.hold_back(), "-----BEGIN KEY-----".len() - 1);
        assert_eq!(Redactor::default().hold_back(), 0);
    }
}
