//! `<<NAME`: which words of a line open a heredoc.

use crate::expand::{Mode, Nothing, expand};

/// The opening of a heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    /// Delimiter without quotes.
    pub name: String,
    /// `<<-`.
    pub chomp: bool,
    /// The delimiter has no quotes.
    pub expand: bool,
}

/// Reads one word: `[fd]<<[-]NAME`.
pub(super) fn opening(word: &str) -> Option<Opening> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(r) => (r, true),
        None => (rest, false),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let mode = Mode { keep_unset: true, ..Mode::plain('\\').split() };
    let words = expand(rest, &Nothing, mode).ok()?.words;
    let raw = expand(rest, &Nothing, Mode { raw_quotes: true, ..mode }).ok()?.words;
    let ([name], [raw]) = (words.as_slice(), raw.as_slice()) else { return None };
    let quotes = |s: &str| s.matches(['\'', '"']).count();
    Some(Opening { name: name.clone(), chomp, expand: quotes(name) == quotes(raw) })
}

/// All heredocs a logical line opens, in order.
pub(super) fn openings(line: &str) -> Vec<Opening> {
    let mode =
        Mode { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Mode::plain('\\').split() };
    let words = expand(line, &Nothing, mode).map(|e| e.words).unwrap_or_default();
    words.iter().filter_map(|w| opening(w)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_found() {
        let o = |name: &str, chomp, expand| Opening { name: name.to_owned(), chomp, expand };
        for (line, want) in [
            ("RUN <<EOF", vec![o("EOF", false, true)]),
            ("RUN <<-'EOF' sh", vec![o("EOF", true, false)]),
            ("COPY <<A <<\"B\" /x", vec![o("A", false, true), o("B", false, false)]),
            ("RUN 3<<X cat", vec![o("X", false, true)]),
            ("RUN cat << EOF", vec![o("EOF", false, true)]),
            ("RUN cat <<< x", vec![]),
            ("RUN echo '<<EOF'", vec![]),
            ("RUN echo 'x", vec![]),
            ("RUN a <b >c", vec![]),
        ] {
            assert_eq!(openings(line), want, "{line}");
        }
    }
}
