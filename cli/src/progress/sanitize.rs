//! Makes foreign text harmless on a terminal. Whoever can print (a step, a Dockerfile, a registry)
//! could otherwise move the cursor, retitle the window or hide text.
//!
//! Kept: text, newline, tab and colours (`ESC [ ... m`). Everything else that a terminal would obey
//! is shown: `^[`, `^H`, `<U+009B>`, `\xff`, and the marks that reorder text.

/// Longest colour sequence that is believed to be one.
const MAX_SGR: usize = 64;

/// Appends `bytes` to `out`, harmless. Colours are dropped unless `colours`; left on at the end,
/// they are switched off.
pub fn sanitize(bytes: &[u8], colours: bool, out: &mut String) {
    let mut coloured = false;
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) = rest.find(harmful) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(len) = sgr_len(rest) {
                if colours {
                    out.push_str(&rest[..len]);
                    coloured = !matches!(&rest[..len], "\x1b[m" | "\x1b[0m");
                }
                rest = &rest[len..];
                continue;
            }
            let c = rest.chars().next().unwrap_or_default();
            show(c, out);
            rest = &rest[c.len_utf8()..];
        }
        out.push_str(rest);
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
}

/// [`sanitize`] into a new string, without colours.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    sanitize(text.as_bytes(), false, &mut out);
    out
}

/// The same number of bytes, with everything harmful (tab and newline kept) replaced, so that byte
/// positions still hold: for excerpts of a source.
pub fn blank(text: &str) -> String {
    if !text.contains(harmful) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if matches!(chars.peek(), None | Some('\n')) => out.push(' '),
            c if harmful(c) => (0..c.len_utf8()).for_each(|_| out.push('?')),
            c => out.push(c),
        }
    }
    out
}

fn harmful(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        // Line and paragraph separators, and what reorders text (UAX 9).
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => false,
    }
}

fn show(c: char, out: &mut String) {
    match c {
        '\u{0}'..='\u{1f}' => {
            out.push('^');
            out.push((c as u8 + b'@') as char);
        }
        '\u{7f}' => out.push_str("^?"),
        c => out.push_str(&format!("<U+{:04X}>", c as u32)),
    }
}

/// The length of the colour sequence that `text` starts with.
fn sgr_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\x1b[")?;
    let end = body.bytes().take(MAX_SGR).position(|b| !matches!(b, b'0'..=b'9' | b';' | b':'))?;
    (body.as_bytes()[end] == b'm').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(bytes: &[u8], colours: bool) -> String {
        let mut s = String::new();
        sanitize(bytes, colours, &mut s);
        s
    }

    #[test]
    fn shows_what_a_terminal_would_obey() {
        for (bytes, plain, coloured) in [
            (&b"plain\ttext\n"[..], "plain\ttext\n", "plain\ttext\n"),
            (b"\x1b[31mred\x1b[0m.", "red.", "\x1b[31mred\x1b[0m."),
            (b"\x1b[1;38;5;9mred", "red", "\x1b[1;38;5;9mred\x1b[0m"),
            (b"\x1b[2J\x1b[H", "^[[2J^[[H", "^[[2J^[[H"),
            (b"\x1b]0;title\x07", "^[]0;title^G", "^[]0;title^G"),
            (b"\x1b[31", "^[[31", "^[[31"),
            (b"a\x08b\x7f\x00", "a^Hb^?^@", "a^Hb^?^@"),
            (b"\xff\xc3(", "\\xff\\xc3(", "\\xff\\xc3("),
            ("\u{9b}2J".as_bytes(), "<U+009B>2J", "<U+009B>2J"),
            ("a\u{202e}b".as_bytes(), "a<U+202E>b", "a<U+202E>b"),
            ("grüße 日本 🎉".as_bytes(), "grüße 日本 🎉", "grüße 日本 🎉"),
        ] {
            assert_eq!(clean(bytes, false), plain);
            assert_eq!(clean(bytes, true), coloured);
        }
    }

    #[test]
    fn blanks_keep_positions() {
        let text = "a\x1b[1m\u{9b}é\r\nb\tc\rd";
        let got = blank(text);
        assert_eq!(got, "a?[1m??é \nb\tc?d");
        assert_eq!(got.len(), text.len());
    }

    /// What is left when every colour sequence is taken out, by a reader that shares no code.
    fn without_sgr(s: &str) -> String {
        let mut out = String::new();
        let mut parts = s.split("\x1b[");
        out.push_str(parts.next().unwrap_or_default());
        for p in parts {
            let end = p.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'));
            match end {
                Some(e) if p[e..].starts_with('m') => out.push_str(&p[e + 1..]),
                _ => out.push_str(&format!("\x1b[{p}")),
            }
        }
        out
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            "\x1b\\[[0-9;:]{0,70}[a-zA-Z]".prop_map(String::into_bytes),
            "[\u{80}-\u{9f}\u{2020}-\u{2070}\\x00-\\x1f]{0,8}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|v| v.concat())
    }

    proptest! {
        /// PROP-12: no C0 or C1 but newline, tab and colours.
        #[test]
        fn nothing_harmful_is_left(input in bytes()) {
            let plain = clean(&input, false);
            prop_assert!(!plain.contains(harmful), "{plain:?}");
            let coloured = without_sgr(&clean(&input, true));
            prop_assert!(!coloured.contains(harmful), "{coloured:?}");
            prop_assert_eq!(coloured, plain);
        }

        /// PROP-12: text survives.
        #[test]
        fn text_survives(text in "[^\\p{C}\u{2028}\u{2029}]{0,64}") {
            prop_assert_eq!(clean(text.as_bytes(), false), &text[..]);
            prop_assert_eq!(clean(text.as_bytes(), true), &text[..]);
            prop_assert_eq!(blank(&text), text);
        }

        #[test]
        fn blank_is_harmless_and_as_long(text in any::<String>()) {
            let got = blank(&text);
            prop_assert_eq!(got.len(), text.len());
            prop_assert!(!got.contains(harmful));
        }
    }
}
