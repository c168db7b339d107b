//! The keys that leave a container without ending it.

/// Looks for a sequence of keys in what is typed.
#[derive(Debug)]
pub struct Watch {
    keys: Vec<u8>,
    /// How many of them were typed in a row, and kept back.
    seen: usize,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// This is for the program.
    Text(Vec<u8>),
    /// This is for the program; then the keys came.
    Left(Vec<u8>),
}

impl Watch {
    /// Looks for these; none: for nothing.
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, seen: 0 }
    }

    /// Takes what was typed now.
    pub fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut text = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if self.keys.get(self.seen) != Some(&byte) {
                // What was kept back was meant for the program, from its first key on at least.
                text.extend_from_slice(&self.keys[..self.seen]);
                self.seen = 0;
            }
            match self.keys.get(self.seen) == Some(&byte) {
                true => self.seen += 1,
                false => text.push(byte),
            }
            if !self.keys.is_empty() && self.seen == self.keys.len() {
                return Typed::Left(text);
            }
        }
        Typed::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_across_reads_and_the_rest_is_passed_on() {
        let keys = vec![16, 17];
        for (typed, text, left) in [
            (&[&b"ab"[..], b"c"][..], &b"abc"[..], false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"\x10b\x10", b"\x10", b"\x11"], b"\x10b\x10", true),
            (&[b"\x10", b"x"], b"\x10x", false),
            (&[b"\x11\x10"], b"\x11", false),
        ] {
            let mut watch = Watch::new(keys.clone());
            let (mut got, mut gone) = (Vec::new(), false);
            for part in typed {
                match watch.take(part) {
                    Typed::Text(t) => got.extend(t),
                    Typed::Left(t) => {
                        got.extend(t);
                        gone = true;
                    }
                }
            }
            assert_eq!((got.as_slice(), gone), (text, left), "{typed:?}");
        }
        assert_eq!(Watch::new(Vec::new()).take(b"\x10\x11"), Typed::Text(b"\x10\x11".to_vec()));
    }
}
