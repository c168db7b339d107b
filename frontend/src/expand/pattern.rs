//! Patterns of `${v#p}` and `${v/p/r}`: `*`, `?`, and `\` before `*`, `?`, `\`, `/`, `}`.

/// Most steps one match may take (pattern length times text length).
const MAX_WORK: usize = 1 << 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Star,
}

/// A parsed pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
    text: String,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Token::Char(c),
                    other => {
                        let shown = other.map(String::from).unwrap_or_default();
                        return Err(format!(
                            "invalid pattern ({text}) in substitution: invalid escape '\\{shown}'"
                        ));
                    }
                },
                c => Token::Char(c),
            });
        }
        tokens.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
        Ok(Self { tokens, text: text.chars().take(64).collect() })
    }

    fn afford(&self, chars: usize) -> Result<(), String> {
        if self.tokens.len().saturating_mul(chars) > MAX_WORK {
            return Err(format!("pattern ({}) is too long for its value", self.text));
        }
        Ok(())
    }

    /// How many characters of `text`, from its start, `tokens` match.
    fn prefix(tokens: &[Token], text: &[char], longest: bool) -> Option<usize> {
        let mut reach = vec![false; text.len() + 1];
        reach[0] = true;
        for t in tokens {
            if *t == Token::Star {
                for i in 1..=text.len() {
                    reach[i] |= reach[i - 1] && text[i - 1] != '\n';
                }
                continue;
            }
            for i in (1..=text.len()).rev() {
                let fits = match t {
                    Token::Char(c) => *c == text[i - 1],
                    _ => text[i - 1] != '\n',
                };
                reach[i] = reach[i - 1] && fits;
            }
            reach[0] = false;
        }
        if longest { reach.iter().rposition(|r| *r) } else { reach.iter().position(|r| *r) }
    }

    pub(super) fn trim_start<'a>(&self, text: &'a str, longest: bool) -> Result<&'a str, String> {
        let chars: Vec<char> = text.chars().collect();
        self.afford(chars.len())?;
        let n = Self::prefix(&self.tokens, &chars, longest).unwrap_or(0);
        Ok(text.char_indices().nth(n).map_or("", |(i, _)| &text[i..]))
    }

    /// Pattern and text are read from their ends; what `\` stands before keeps it in front.
    pub(super) fn trim_end(pattern: &str, text: &str, longest: bool) -> Result<String, String> {
        let mut units: Vec<String> = Vec::new();
        let mut rest = pattern.chars();
        while let Some(c) = rest.next() {
            units.push(match (c, rest.clone().next()) {
                ('\\', Some(next)) => {
                    rest.next();
                    format!("{c}{next}")
                }
                _ => c.to_string(),
            });
        }
        units.reverse();
        let backwards: String = text.chars().rev().collect();
        let left = Self::parse(&units.concat())?.trim_start(&backwards, longest)?.to_owned();
        Ok(left.chars().rev().collect())
    }

    /// The first match at or after `from`, as long as possible. One pass: of each place in the pattern
    /// only the earliest start that leads there counts, since all go on alike.
    fn find(&self, text: &[char], from: usize) -> Option<(usize, usize)> {
        let end = self.tokens.len();
        let mut starts: Vec<Option<usize>> = vec![None; end + 1];
        let mut next = starts.clone();
        let mut best: Option<(usize, usize)> = None;
        for i in from..=text.len() {
            if best.is_none() && starts[0].is_none() {
                starts[0] = Some(i);
            }
            // A star may match nothing.
            for (at, t) in self.tokens.iter().enumerate() {
                if *t == Token::Star {
                    starts[at + 1] = earlier(starts[at + 1], starts[at]);
                }
            }
            if let Some(start) = starts[end].filter(|s| best.is_none_or(|(b, _)| *s <= b)) {
                best = Some((start, i));
            }
            let Some(c) = text.get(i) else { break };
            next.fill(None);
            let mut alive = best.is_none();
            for (at, t) in self.tokens.iter().enumerate() {
                // What starts behind the best match is of no use.
                let start = starts[at].filter(|s| best.is_none_or(|(b, _)| *s <= b));
                let to = match t {
                    Token::Char(x) if x == c => at + 1,
                    Token::One if *c != '\n' => at + 1,
                    Token::Star if *c != '\n' => at,
                    _ => continue,
                };
                next[to] = earlier(next[to], start);
                alive |= start.is_some();
            }
            if !alive {
                break;
            }
            std::mem::swap(&mut starts, &mut next);
        }
        best
    }

    pub(super) fn replace(&self, text: &str, with: &str, all: bool) -> Result<String, String> {
        let chars: Vec<char> = text.chars().collect();
        self.afford(chars.len())?;
        let mut out = String::new();
        let (mut copied, mut at) = (0, 0);
        while at <= chars.len() {
            let Some((start, end)) = self.find(&chars, at) else { break };
            out.extend(&chars[copied..start]);
            // An empty match directly behind a match is none.
            if end > copied || start == 0 {
                match all {
                    true => template(with, &chars[start..end], &mut out),
                    false => out.push_str(with),
                }
                if out.len() > rgraph_ir::limits::MAX_EXPANSION {
                    return Err(format!("pattern ({}) makes too long a result", self.text));
                }
            }
            copied = end;
            at = end.max(at + 1);
            if !all {
                break;
            }
        }
        out.extend(&chars[copied..]);
        Ok(out)
    }
}

fn earlier(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Appends the replacement of one of all matches. It is a template of Go's `regexp`: `$0` is the match,
/// `$$` a dollar sign, any other name nothing; names may stand in braces.
fn template(with: &str, matched: &[char], out: &mut String) {
    let mut rest = with;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(r) = rest.strip_prefix('$') {
            out.push('$');
            rest = r;
            continue;
        }
        let (open, close) = if rest.starts_with('{') { (1, "}") } else { (0, "") };
        let name = &rest[open..];
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        match name[end..].strip_prefix(close) {
            Some(r) if end > 0 => {
                if &name[..end] == "0" {
                    out.extend(matched);
                }
                rest = r;
            }
            _ => out.push('$'),
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_as_gos_regexp() {
        for (p, text, with, all, want) in [
            ("b*", "abcb", "X", false, "aX"),
            ("", "ab", "-", true, "-a-b-"),
            ("*", "ab", "-", true, "-"),
            ("?", "ab", "-", true, "--"),
            ("z", "ab", "-", true, "ab"),
            ("*", "", "-", true, "-"),
            ("b", "abab", "", true, "aa"),
            // The replacement of all matches is a template, that of one is not.
            ("?", "abc", "<$0>", true, "<a><b><c>"),
            ("b", "abc", "$x_y", true, "ac"),
            ("b", "abc", "$x-${y}z$$a$", true, "a-z$a$c"),
            ("b", "abc", "${x-$-$1", true, "a${x-$-c"),
            ("b", "abc", "$0$$", false, "a$0$$c"),
        ] {
            assert_eq!(Pattern::parse(p).unwrap().replace(text, with, all).unwrap(), want, "{p}");
        }
    }

    #[test]
    fn ends_are_trimmed_backwards() {
        for (p, text, longest, want) in [
            ("b*", "abab", false, Some("aba")),
            ("b*", "abab", true, Some("a")),
            ("\\*b", "a*b", false, Some("a")),
            // A last `\` comes to stand before what is in front of it.
            ("*\\", "a*", false, Some("a")),
            ("x\\", "ax", false, None),
            ("\\n\\", "an\\", false, Some("a")),
        ] {
            assert_eq!(Pattern::trim_end(p, text, longest).ok().as_deref(), want, "{p}");
        }
    }

    #[test]
    fn long_values_are_no_matter() {
        let long = "x".repeat(60_000);
        let all = |p: &str| Pattern::parse(p).unwrap().replace(&long, "-", true).unwrap();
        assert_eq!(all("?"), "-".repeat(60_000));
        assert_eq!(all("x*y"), long);
        assert_eq!(all("x*"), "-");
        assert_eq!(all("*?x"), "-");
    }

    #[test]
    fn long_patterns_are_refused() {
        let p = Pattern::parse(&"*a".repeat(5_000)).unwrap();
        assert!(p.trim_start(&"a".repeat(100_000), true).is_err());
    }
}
