//! Bytes of one stream of a step to whole lines.

use rgraph_solver::event::Timestamp;

use super::redact::Redactor;

/// A line longer than this is given in pieces.
pub const PIECE: usize = 64 << 10;
/// So many lines that end in a lone `\r` (progress bars) are given without question ...
const FREE_REDRAWS: u32 = 8;
/// ... and later ones at most this often.
const REDRAW_EVERY: u64 = 1_000_000_000;

/// Collects one stream. Memory is bounded by [`PIECE`] and the longest secret, whatever is sent.
///
/// `\n` and `\r\n` end a line. A lone `\r` ends a state of a progress bar: the last state before
/// anything else is always given, those between only now and then.
#[derive(Default)]
pub struct LineBuffer {
    pending: Vec<u8>,
    /// The last byte was `\r`; whether it begins `\r\n` is not known yet.
    after_cr: bool,
    redraws: u32,
    last_redraw: Option<Timestamp>,
}

impl LineBuffer {
    /// Takes bytes, gives every line that became whole, without its end and with secrets hidden.
    pub fn push(
        &mut self,
        mut data: &[u8],
        at: Timestamp,
        hide: &Redactor,
        give: &mut dyn FnMut(Vec<u8>),
    ) {
        while let Some(&next) = data.first() {
            if self.after_cr {
                match next {
                    b'\n' => {
                        self.after_cr = false;
                        data = &data[1..];
                        give(self.take(hide));
                        continue;
                    }
                    b'\r' => {
                        data = &data[1..];
                        continue;
                    }
                    _ => {
                        self.after_cr = false;
                        self.redraw(at, hide, give);
                    }
                }
            }
            let most = data.len().min(PIECE);
            let end = data[..most].iter().position(|b| matches!(b, b'\n' | b'\r'));
            self.pending.extend_from_slice(&data[..end.unwrap_or(most)]);
            self.cut(hide, give);
            match end {
                None => data = &data[most..],
                Some(i) => {
                    if data[i] == b'\n' {
                        give(self.take(hide));
                    } else {
                        self.after_cr = true;
                    }
                    data = &data[i + 1..];
                }
            }
        }
    }

    /// Gives what is left at the end of the stream.
    pub fn finish(&mut self, hide: &Redactor, give: &mut dyn FnMut(Vec<u8>)) {
        self.after_cr = false;
        if !self.pending.is_empty() {
            give(self.take(hide));
        }
    }

    fn take(&mut self, hide: &Redactor) -> Vec<u8> {
        hide.redact(&mut self.pending);
        std::mem::take(&mut self.pending)
    }

    fn redraw(&mut self, at: Timestamp, hide: &Redactor, give: &mut dyn FnMut(Vec<u8>)) {
        if self.pending.is_empty() {
            return;
        }
        let due = self.last_redraw.is_none_or(|l| at.0.saturating_sub(l.0) >= REDRAW_EVERY);
        if self.redraws < FREE_REDRAWS || due {
            self.redraws = self.redraws.saturating_add(1);
            self.last_redraw = Some(at);
            give(self.take(hide));
        } else {
            self.pending.clear();
        }
    }

    /// Gives the front of a line that is too long, without splitting a secret.
    fn cut(&mut self, hide: &Redactor, give: &mut dyn FnMut(Vec<u8>)) {
        while self.pending.len() >= PIECE + hide.hold_back() {
            hide.redact(&mut self.pending);
            // What stays could be the beginning of a secret; what goes cannot, for a secret that
            // begins there would be whole by now and hidden.
            let keep = hide.hold_back().min(self.pending.len());
            let mut at = (self.pending.len() - keep).min(PIECE);
            // Not in the middle of a character, when it is text.
            while at > PIECE - 4 && self.pending.get(at).is_some_and(|b| b & 0xc0 == 0x80) {
                at -= 1;
            }
            if at == 0 {
                break;
            }
            let rest = self.pending.split_off(at);
            give(std::mem::replace(&mut self.pending, rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]], secrets: &[&[u8]]) -> Vec<String> {
        let (mut b, hide) = (LineBuffer::default(), Redactor::new(secrets.iter().copied()));
        let mut out = Vec::new();
        let mut give = |l: Vec<u8>| out.push(String::from_utf8_lossy(&l).into_owned());
        for c in chunks {
            b.push(c, Timestamp(0), &hide, &mut give);
        }
        b.finish(&hide, &mut give);
        out
    }

    #[test]
    fn whole_lines_only() {
        for (chunks, want) in [
            (&[&b"a\nb"[..], b"c\n"][..], &["a", "bc"][..]),
            (&[b"a\r", b"\nb\r\n"], &["a", "b"]),
            (&[b"a\n\nb"], &["a", "", "b"]),
            (&[b"10%\r20%\r", b"done\n"], &["10%", "20%", "done"]),
            (&[b"10%\r\r\r20%\r"], &["10%", "20%"]),
            (&[b""], &[]),
        ] {
            assert_eq!(lines(chunks, &[]), want, "{chunks:?}");
        }
    }

    #[test]
    fn progress_bars_are_thinned_and_their_end_is_kept() {
        let mut b = LineBuffer::default();
        let hide = Redactor::default();
        let mut out = Vec::new();
        for i in 0..1000u64 {
            let text = format!("{i}\r");
            b.push(text.as_bytes(), Timestamp(i * 10_000_000), &hide, &mut |l| out.push(l));
        }
        b.finish(&hide, &mut |l| out.push(l));
        assert!((9..30).contains(&out.len()), "{}", out.len());
        assert_eq!(out.last().unwrap(), b"999");
    }

    #[test]
    fn a_secret_is_hidden_wherever_the_chunks_end() {
        for cut in 0..=12 {
            let text = b"x hunter2 y\n";
            let (a, b) = text.split_at(cut);
            assert_eq!(lines(&[a, b], &[b"hunter2"]), ["x *** y"], "cut at {cut}");
        }
        for offset in 0..10 {
            let mut long = vec![b'x'; PIECE - offset];
            long.extend_from_slice(b"hunter2");
            long.extend_from_slice(&vec![b'y'; PIECE]);
            let all: String = lines(&[&long], &[b"hunter2"]).concat();
            assert!(!all.contains("hunter") && all.contains("x***y"), "offset {offset}");
        }
    }

    #[test]
    fn an_endless_line_does_not_stay_in_memory() {
        let (mut b, hide) = (LineBuffer::default(), Redactor::new([&b"secret"[..]]));
        let mut total = 0;
        for _ in 0..200 {
            b.push(&[b'a'; 100_000], Timestamp(0), &hide, &mut |l| {
                assert!(l.len() <= PIECE);
                total += l.len();
            });
            assert!(b.pending.len() < 2 * PIECE);
        }
        b.finish(&hide, &mut |l| total += l.len());
        assert_eq!(total, 200 * 100_000);
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(text in "[ab\n]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
            let whole = lines(&[text.as_bytes()], &[b"abab"]);
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let (mut parts, mut from) = (Vec::new(), 0);
            for c in cuts {
                parts.push(&text.as_bytes()[from..c]);
                from = c;
            }
            parts.push(&text.as_bytes()[from..]);
            prop_assert_eq!(lines(&parts, &[b"abab"]), whole);
        }
    }
}
