//! A command as a list of words: its program, flags and other words.

/// Never empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command<'a> {
    words: &'a [String],
}

const SHELLS: [&str; 8] = ["sh", "bash", "ash", "dash", "ksh", "mksh", "zsh", "yash"];

/// The program of a path.
pub(super) fn program(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    name.strip_suffix(".exe").unwrap_or(name)
}

/// A shell whose texts can be read here.
pub(super) fn is_shell(path: &str) -> bool {
    SHELLS.contains(&program(path))
}

/// A shell without a script among its words, so it reads one.
pub(super) fn reads_script(words: &[String]) -> bool {
    words.iter().position(|w| is_shell(w)).is_some_and(|at| {
        words[at + 1..].iter().all(|w| w.starts_with(['-', '+']) || w == "pipefail")
    })
}

/// Programs that run another one: flags that take a value, and words before the other's name.
const WRAPPERS: [(&str, &[&str], usize); 17] = [
    ("sudo", &["u", "g", "h", "p", "C", "D", "R", "T", "U", "r", "t", "user", "group"], 0),
    ("doas", &["u", "C"], 0),
    ("gosu", &[], 1),
    ("su-exec", &[], 1),
    ("env", &["u", "C", "unset", "chdir"], 0),
    ("exec", &["a"], 0),
    ("command", &[], 0),
    ("builtin", &[], 0),
    ("busybox", &[], 0),
    ("time", &["o", "f", "output", "format"], 0),
    ("nice", &["n", "adjustment"], 0),
    ("nohup", &[], 0),
    ("setsid", &[], 0),
    ("eatmydata", &[], 0),
    ("stdbuf", &["i", "o", "e"], 0),
    ("timeout", &["s", "k", "signal", "kill-after"], 1),
    ("xargs", &["a", "d", "E", "I", "L", "n", "P", "s"], 0),
];

impl<'a> Command<'a> {
    /// `None` without a word.
    pub fn new(words: &'a [String]) -> Option<Self> {
        (!words.is_empty()).then_some(Self { words })
    }

    /// The program without its folder.
    pub fn name(self) -> &'a str {
        self.words.first().map_or("", |w| program(w))
    }

    /// All words after the program.
    pub fn args(self) -> &'a [String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// It is one of these.
    pub fn is(self, programs: &[&str]) -> bool {
        programs.contains(&self.name())
    }

    /// One of its words is this.
    pub fn has(self, word: &str) -> bool {
        self.args().iter().any(|a| a == word)
    }

    /// It is one of these programs with one of these words.
    pub fn runs(self, programs: &[&str], words: &[&str]) -> bool {
        self.is(programs) && words.iter().any(|w| self.has(w))
    }

    /// Long flags without their dashes and values, short ones letter by letter.
    pub fn flags(self) -> impl Iterator<Item = &'a str> {
        self.args().iter().flat_map(|a| flags_of(a))
    }

    /// One of its flags is among these.
    pub fn has_flag(self, flags: &[&str]) -> bool {
        self.flags().any(|f| flags.contains(&f))
    }

    /// Its words that are neither flags nor values of these flags; behind `--` all are.
    pub fn plain(self, valued: &[&str]) -> Vec<&'a str> {
        let mut out = Vec::new();
        let (mut value, mut all) = (false, false);
        for a in self.args() {
            let taken = std::mem::take(&mut value);
            if all {
                out.push(a.as_str());
            } else if a == "--" {
                all = true;
            } else if is_flag(a) {
                value = !a.contains('=') && flags_of(a).any(|f| valued.contains(&f));
            } else if !taken {
                out.push(a.as_str());
            }
        }
        out
    }

    /// The value of a flag: `-u 5`, `-u5`, `--uid 5` or `--uid=5`.
    pub fn value(self, short: char, long: &str) -> Option<&'a str> {
        let mut args = self.args().iter();
        while let Some(a) = args.next() {
            if let Some(rest) = a.strip_prefix("--") {
                match rest.split_once('=') {
                    Some((name, v)) if name == long => return Some(v),
                    None if rest == long => return args.next().map(String::as_str),
                    _ => {}
                }
            } else if let Some(at) = a.strip_prefix('-').and_then(|r| r.find(short)) {
                let rest = &a[1 + at + short.len_utf8()..];
                return if rest.is_empty() { args.next().map(String::as_str) } else { Some(rest) };
            }
        }
        None
    }

    /// How many words stand before the command that this one runs.
    pub(super) fn wrapped(self) -> Option<usize> {
        let (_, valued, words) = WRAPPERS.iter().find(|(n, ..)| *n == self.name())?;
        // `command -v x` asks, it does not run.
        if self.name() == "command" && self.args().first().is_some_and(|a| is_flag(a) && a != "-p")
        {
            return None;
        }
        let (mut at, mut left) = (1, *words);
        while let Some(w) = self.words.get(at) {
            if is_flag(w) {
                let value =
                    !w.contains('=') && w.len() == 2 || w.starts_with("--") && !w.contains('=');
                at += 1 + usize::from(value && flags_of(w).any(|f| valued.contains(&f)));
            } else if w == "--" {
                at += 1;
            } else if left > 0 {
                left -= 1;
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// The script it is given: `sh -c TEXT`, `eval TEXT`.
    pub(super) fn script(self) -> Option<String> {
        if self.name() == "eval" {
            return Some(self.args().join(" "));
        }
        if !is_shell(self.words.first()?) {
            return None;
        }
        let short = |a: &String| a.starts_with('-') && !a.starts_with("--") && a.contains('c');
        let at = self.args().iter().position(short)?;
        let rest = self.args().get(at + 1..)?;
        rest.iter().find(|a| !a.starts_with(['-', '+']) && *a != "pipefail").cloned()
    }
}

fn is_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && word != "--"
}

fn flags_of(word: &str) -> impl Iterator<Item = &str> {
    let long = word.strip_prefix("--").filter(|l| !l.is_empty());
    let letters = if long.is_none() && is_flag(word) { &word[1..] } else { "" };
    let long = long.map(|l| l.split('=').next().unwrap_or(l));
    long.into_iter().chain(letters.char_indices().map(|(i, c)| &letters[i..i + c.len_utf8()]))
}
