//! Near names for typos.

/// Longest name that is looked at, bytes.
const MAX_NAME: usize = 64;

/// The candidate closest to `word` when it is close enough to be meant: at most a third of its
/// letters differ (Damerau-Levenshtein, restricted), without regard to case.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_NAME {
        return None;
    }
    let word: Vec<char> = lower(word).collect();
    let (mut name, mut rows) = (Vec::new(), Rows::default());
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate.len() > MAX_NAME {
            continue;
        }
        name.clear();
        name.extend(lower(candidate));
        let (shorter, longer) = (word.len().min(name.len()), word.len().max(name.len()));
        let most = (longer / 3).max(1);
        // Only something closer than the best so far counts, and each letter more costs one.
        let most = best.map_or(most, |(d, _)| most.min(d.saturating_sub(1)));
        if longer - shorter > most || best.is_some_and(|(d, _)| d == 0) {
            continue;
        }
        let d = rows.distance(&word, &name);
        if d <= most {
            best = Some((d, candidate));
        }
    }
    best.map(|(_, name)| name)
}

fn lower(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_lowercase)
}

/// Three rows of the table of distances, kept for the next pair of words.
#[derive(Default)]
struct Rows {
    before: Vec<usize>,
    last: Vec<usize>,
    row: Vec<usize>,
}

impl Rows {
    fn distance(&mut self, a: &[char], b: &[char]) -> usize {
        let Self { before, last, row } = self;
        before.clear();
        before.resize(b.len() + 1, 0);
        last.clear();
        last.extend(0..=b.len());
        for (i, ca) in a.iter().enumerate() {
            row.clear();
            row.push(i + 1);
            for (j, cb) in b.iter().enumerate() {
                let mut d = (last[j] + usize::from(ca != cb)).min(last[j + 1] + 1).min(row[j] + 1);
                if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                    d = d.min(before[j - 1] + 1);
                }
                row.push(d);
            }
            std::mem::swap(before, last);
            std::mem::swap(last, row);
        }
        last[b.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typos_and_leaves_strangers_alone() {
        let all = ["RUN", "COPY", "FROM", "ENTRYPOINT", "EXPOSE"];
        for (word, want) in [
            ("COPPY", Some("COPY")),
            ("entrypiont", Some("ENTRYPOINT")),
            ("FORM", Some("FROM")),
            ("XYZZY", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, all), want, "{word}");
        }
    }
}
