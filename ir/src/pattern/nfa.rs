//! The automaton: a chain of states, each reading one character, walked with a set of active
//! states. One pass over the name, no going back.

/// What one state reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Set {
    /// This character.
    Char(char),
    /// Anything but `/`.
    NotSlash,
    /// Anything but a line feed (Go's `.`).
    NotNewline,
    /// A bracket expression.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// Nothing: what follows cannot be reached.
    Never,
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Self::Char(want) => *want == c,
            Self::NotSlash => c != '/',
            Self::NotNewline => c != '\n',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c)) != *negated
            }
            Self::Never => false,
        }
    }
}

/// One state. Reading past the last one is acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Reads one, goes on.
    One(Set),
    /// Reads any number.
    Star(Set),
    /// `(.*/)?`, first half: goes on to the second half or past it.
    Fork,
    /// `(.*/)?`, second half: reads anything, goes on after a `/`.
    Folders,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Nfa {
    states: Vec<State>,
    /// What every match begins with, to refuse most names early.
    prefix: String,
    /// What every match holds somewhere, likewise.
    needle: String,
}

/// What a pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    /// The whole name matches.
    pub whole: bool,
    /// A leading part that ends before a `/` matches.
    pub parent: bool,
    /// Something longer could match.
    pub alive: bool,
}

/// States that fit on the stack, in words of 64.
const INLINE: usize = 4;

impl Nfa {
    pub(super) fn new(states: Vec<State>) -> Self {
        // U+FFFD stands for bytes that are something else in the name.
        let literal = |s: &State| match s {
            State::One(Set::Char(c)) if *c != char::REPLACEMENT_CHARACTER => Some(*c),
            _ => None,
        };
        let prefix = states.iter().map_while(literal).collect();
        let runs = states.split(|s| literal(s).is_none());
        let longest = runs.max_by_key(|run| run.len()).unwrap_or_default();
        let needle = longest.iter().filter_map(literal).collect();
        Self { states, prefix, needle }
    }

    /// True when `name`, or a leading part of it that ends before a `/`, matches.
    pub(super) fn covers(&self, name: &[u8]) -> bool {
        let needle = self.needle.as_bytes();
        if !needle.is_empty() && !name.windows(needle.len()).any(|w| w == needle) {
            return false;
        }
        let pass = self.run(name);
        pass.whole || pass.parent
    }

    /// Reads `name` once.
    pub(super) fn run(&self, name: &[u8]) -> Pass {
        let words = self.states.len() / 64 + 1;
        if words <= INLINE {
            self.pass(name, &mut [0; INLINE][..words], &mut [0; INLINE][..words])
        } else {
            self.pass(name, &mut vec![0; words], &mut vec![0; words])
        }
    }

    fn pass<'b>(&self, name: &[u8], mut now: &'b mut [u64], mut next: &'b mut [u64]) -> Pass {
        let mut out = Pass { whole: false, parent: false, alive: false };
        let prefix = self.prefix.as_bytes();
        let common = prefix.len().min(name.len());
        if name[..common] != prefix[..common] {
            return out;
        }
        self.enter(now, 0);
        for c in chars(name) {
            if c == '/' && has(now, self.states.len()) {
                out.parent = true;
            }
            next.fill(0);
            let mut any = false;
            for (w, word) in now.iter().enumerate() {
                let mut bits = *word;
                while bits != 0 {
                    let at = w * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    any |= self.step(next, at, c);
                }
            }
            std::mem::swap(&mut now, &mut next);
            if !any {
                return out;
            }
        }
        out.whole = has(now, self.states.len());
        out.alive = (0..self.states.len()).any(|i| has(now, i));
        out
    }

    fn step(&self, next: &mut [u64], at: usize, c: char) -> bool {
        match self.states.get(at) {
            Some(State::One(set)) if set.has(c) => self.enter(next, at + 1),
            Some(State::Star(set)) if set.has(c) => self.enter(next, at),
            Some(State::Folders) if c == '/' => {
                self.enter(next, at);
                self.enter(next, at + 1);
            }
            Some(State::Folders) if c != '\n' => self.enter(next, at),
            _ => return false,
        }
        true
    }

    /// Makes `at` active, with all that is reached from it without reading.
    fn enter(&self, set: &mut [u64], mut at: usize) {
        loop {
            if has(set, at) {
                return;
            }
            set[at / 64] |= 1 << (at % 64);
            match self.states.get(at) {
                Some(State::Star(_)) => at += 1,
                Some(State::Fork) => {
                    let inner = at + 1;
                    set[inner / 64] |= 1 << (inner % 64);
                    at += 2;
                }
                _ => return,
            }
        }
    }
}

fn has(set: &[u64], at: usize) -> bool {
    set[at / 64] >> (at % 64) & 1 == 1
}

/// Characters of a name; each byte that is no UTF-8 is one U+FFFD.
fn chars(name: &[u8]) -> impl Iterator<Item = char> {
    name.utf8_chunks().flat_map(|chunk| {
        let bad = std::iter::repeat_n(char::REPLACEMENT_CHARACTER, chunk.invalid().len());
        chunk.valid().chars().chain(bad)
    })
}
