//! Patterns of target names, as Go's `path.Match` reads them.

/// Whether `name` matches; `None`: the pattern is none. Time is at most the product of both lengths.
pub fn matches(pattern: &str, name: &str) -> Option<bool> {
    let pattern = parts(pattern)?;
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and what it has eaten up to.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(Part::Any) => {
                star = Some((p, n));
                p += 1;
            }
            Some(part) if part.takes(name[n]) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, eaten)) if name[eaten] != '/' => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    n = eaten + 1;
                }
                _ => return Some(false),
            },
        }
    }
    Some(pattern[p..].iter().all(|p| matches!(p, Part::Any)))
}

enum Part {
    Any,
    One,
    Char(char),
    Class { not: bool, ranges: Vec<(char, char)> },
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => c != '/',
            Self::Char(own) => *own == c,
            Self::Class { not, ranges } => {
                c != '/' && ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *not
            }
        }
    }
}

fn parts(pattern: &str) -> Option<Vec<Part>> {
    let mut out = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Char(chars.next()?),
            '[' => {
                let not = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.peek() != Some(&']') {
                    let mut next = || match chars.next()? {
                        '\\' => chars.next(),
                        c => Some(c),
                    };
                    let from = next()?;
                    let to = match chars.next_if_eq(&'-') {
                        Some(_) => match chars.next()? {
                            '\\' => chars.next()?,
                            c => c,
                        },
                        None => from,
                    };
                    ranges.push((from, to));
                }
                chars.next();
                Part::Class { not, ranges }
            }
            c => Part::Char(c),
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn names() {
        for (pattern, name, want) in [
            ("*", "app", Some(true)),
            ("app-*", "app-1", Some(true)),
            ("app-*", "app", Some(false)),
            ("a?p", "app", Some(true)),
            ("a[a-p]p", "app", Some(true)),
            ("a[^a-p]p", "app", Some(false)),
            ("*a*b", "xaxxab", Some(true)),
            ("[", "a", None),
            ("a\\*", "a*", Some(true)),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
