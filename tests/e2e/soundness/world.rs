//! A context and a Dockerfile as values: made from a seed, changed by one edit at a time, written to
//! disk so that only what an edit touches is touched there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::fs::FileTimes;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::random::Random;

/// What lies at a path of the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File { text: String, mode: u32 },
    Dir { mode: u32 },
    Link(String),
}

/// One or more instructions that make one place of the image, `/oNNN`; each that is a step ends in
/// that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub id: usize,
    pub text: String,
    /// Paths of the context that it reads.
    pub reads: Vec<&'static str>,
    /// The stage that it reads.
    pub from: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The stage it starts from; none: the base image.
    pub on: Option<usize>,
    /// Whether it declares the build argument.
    pub arg: bool,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    pub files: BTreeMap<String, Node>,
    /// Of [`RULES`], in that order.
    pub rules: BTreeSet<usize>,
    pub stages: Vec<Stage>,
    pub arg: u64,
    next: usize,
}

/// Lines of the ignore file.
const RULES: [&str; 5] = ["**/*.log", "!lib/keep.log", "src/deep", "unused", "conf/*.bak"];

/// Top level of the context: read by `*.txt`.
const TOP: &str = "*.txt";

impl World {
    pub fn new(r: &mut Random) -> Self {
        let mut files = BTreeMap::new();
        for dir in ["src", "src/deep", "lib", "conf", "unused"] {
            files.insert(dir.to_owned(), Node::Dir { mode: 0o755 });
        }
        for path in [
            "one.txt",
            "two.txt",
            "src/a.txt",
            "src/b.txt",
            "src/deep/x",
            "src/deep/y",
            "lib/m.c",
            "lib/n.c",
            "lib/k.log",
            "lib/keep.log",
            "conf/app.ini",
            "conf/old.bak",
            "unused/u",
        ] {
            files.insert(path.to_owned(), Node::File { text: r.text(), mode: r.mode() });
        }
        files.insert("src/link".to_owned(), Node::Link("a.txt".to_owned()));
        files.insert("lib/out".to_owned(), Node::Link("../conf".to_owned()));
        let mut world =
            Self { files, rules: BTreeSet::from([0, 3]), stages: Vec::new(), arg: 0, next: 0 };
        for n in 0..3 {
            let on = (n > 0 && r.chance(3)).then(|| r.below(n));
            world.stages.push(Stage { on, arg: r.chance(2), lines: Vec::new() });
            for _ in 0..3 + r.below(2) {
                let line = world.line(n, r);
                world.stages[n].lines.push(line);
            }
        }
        world
    }

    /// A place that an earlier line of this stage makes.
    fn made(&self, stage: usize, r: &mut Random) -> String {
        match self.stages[stage].lines.len() {
            0 => "/etc/passwd".to_owned(),
            n => format!("/o{:03}", self.stages[stage].lines[r.below(n)].id),
        }
    }

    /// A new line for a stage.
    pub fn line(&mut self, stage: usize, r: &mut Random) -> Line {
        self.next += 1;
        let id = self.next;
        let o = format!("o{id:03}");
        let copy = |text: String, reads: &[&'static str]| (text, reads.to_vec(), None);
        let run = |text: String| (format!("RUN {text}"), Vec::new(), None);
        let (text, reads, from) = match r.below(if stage == 0 { 19 } else { 23 }) {
            0 => copy(format!("COPY src /{o}/"), &["src"]),
            1 => copy(format!("COPY --chown=1:2 lib /{o}"), &["lib"]),
            2 => copy(format!("COPY --chown=app --chmod=u+rx conf /{o}/"), &["conf"]),
            3 => copy(
                format!("COPY --chmod=640 one.txt conf/app.ini /{o}/"),
                &["one.txt", "conf/app.ini"],
            ),
            4 => copy(format!("COPY --exclude=*.c --exclude=out lib /{o}/"), &["lib"]),
            5 => copy(format!("COPY --link src/a.txt /{o}/"), &["src/a.txt"]),
            6 => copy(format!("COPY --parents src/deep conf /{o}/"), &["src", "conf"]),
            7 => copy(format!("COPY *.txt /{o}/"), &[TOP]),
            8 => copy(format!("COPY src/*.t?t lib/[m-n].c /{o}/"), &["src", "lib"]),
            9 => copy(format!("ADD lib/m.c src/link /{o}/"), &["lib/m.c", "src"]),
            10 => run(format!("find /o* 2>/dev/null | sort > /tmp/x; mv /tmp/x /{o}")),
            11 => run(format!(
                "find /o* -type f 2>/dev/null | sort | xargs cat /dev/null | md5sum > /tmp/x; mv /tmp/x /{o}"
            )),
            12 => run(format!("rm -rf {}; echo gone > /{o}", self.made(stage, r))),
            13 => run(format!("cp -a {} /{o}; chown -R 7:8 /{o}", self.made(stage, r))),
            14 => {
                let text = format!(
                    "--mount=type=bind,source=src,target=/m find /m -type f | sort | xargs cat > /{o}"
                );
                (format!("RUN {text}"), vec!["src"], None)
            }
            15 => run(format!("--mount=type=cache,target=/c date >> /c/log; echo $V > /{o}")),
            16 => run(format!("--mount=type=tmpfs,target=/t ls -l /etc > /t/x; ls / > /{o}")),
            17 => copy(
                format!(
                    "ENV E{}={}\nUSER app\nWORKDIR /tmp/{o}\nUSER root\nRUN env | grep ^E | sort > {o}\nWORKDIR /",
                    r.below(3),
                    r.below(4)
                ),
                &[],
            ),
            18 => copy(format!("COPY --chmod=604 <<EOF /{o}\nheredoc {} $V\nEOF", r.below(4)), &[]),
            n => {
                let other = r.below(stage);
                let what = self.made(other, r);
                let text = match n {
                    19 => format!("COPY --from=s{other} {what} /{o}/"),
                    20 => format!("COPY --from=s{other} --chown=3 /o* /{o}/"),
                    21 => format!(
                        "RUN --mount=type=bind,from=s{other},target=/m find /m/o* -type f | sort | xargs cat /dev/null > /{o}"
                    ),
                    _ => format!("COPY --from=s{other} --link --exclude=*.txt / /{o}/"),
                };
                (text, Vec::new(), Some(other))
            }
        };
        Line { id, text, reads, from }
    }

    pub fn dockerfile(&self) -> String {
        let mut out = "# syntax=docker/dockerfile:1-labs\n".to_owned();
        for (n, s) in self.stages.iter().enumerate() {
            let on = s.on.map_or(rgraph_tests::BASE.to_owned(), |on| format!("s{on}"));
            out += &format!("FROM {on} AS s{n}\n");
            if s.arg {
                out += "ARG V=none\n";
            }
            for line in &s.lines {
                out += &line.text;
                out.push('\n');
            }
        }
        // All stages count, without what they have of the base.
        let all: String =
            (0..self.stages.len()).map(|n| format!("COPY --from=s{n} /o* /tmp /s{n}/\n")).collect();
        out + "FROM scratch\n" + &all
    }

    fn rule(&self, n: usize) -> bool {
        self.rules.contains(&n)
    }

    /// What the ignore file leaves.
    fn visible(&self, path: &str) -> bool {
        let below = |dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
        let kept = self.rule(1) && path == "lib/keep.log";
        !(self.rule(0) && path.ends_with(".log") && !kept
            || self.rule(2) && below("src/deep")
            || self.rule(3) && below("unused")
            || self.rule(4) && path.starts_with("conf/") && path.ends_with(".bak"))
    }

    /// The lines that may have to run after this world was `before`, by id: their text, what lies
    /// below them, or what they read is another one. Lines of which none of that changed must not.
    pub fn touched_since(&self, before: &Self) -> BTreeSet<usize> {
        let paths: BTreeSet<&String> = self.files.keys().chain(before.files.keys()).collect();
        let seen = |w: &Self, p: &str| w.files.get(p).filter(|_| w.visible(p)).cloned();
        let changed: Vec<&str> = paths
            .into_iter()
            .map(|p| &p[..])
            .filter(|p| seen(self, p) != seen(before, p))
            .collect();
        let reads = |what: &str| {
            changed.iter().any(|p| match what {
                TOP => p.ends_with(".txt") && !p.contains('/'),
                what => *p == what || p.starts_with(&format!("{what}/")),
            })
        };
        let mut out = BTreeSet::new();
        let mut stages = Vec::new();
        for (stage, was) in self.stages.iter().zip(&before.stages) {
            let mut touched = stage.on.is_some_and(|on| stages[on]);
            touched |= stage.arg && self.arg != before.arg;
            for (i, line) in stage.lines.iter().enumerate() {
                touched |= was.lines.get(i) != Some(line);
                touched |= line.reads.iter().any(|r| reads(r));
                touched |= line.from.is_some_and(|from| stages[from]);
                if touched {
                    out.insert(line.id);
                }
            }
            stages.push(touched || stage.lines.len() != was.lines.len());
        }
        out
    }

    /// Makes the folder that held `before` hold this.
    pub fn write(&self, before: Option<&Self>, dir: &Path) {
        let was = |path: &str| before.and_then(|b| b.files.get(path));
        if let Some(b) = before {
            for (path, node) in b.files.iter().rev() {
                let at = dir.join(path);
                match (node, self.files.get(path)) {
                    (Node::Dir { .. }, Some(Node::Dir { .. }))
                    | (Node::File { .. }, Some(Node::File { .. })) => {}
                    (Node::Dir { .. }, _) => fs::remove_dir(at).expect("an empty folder"),
                    (node, new) if new != Some(node) => fs::remove_file(at).expect("a file"),
                    _ => {}
                }
            }
        }
        for (path, node) in self.files.iter().filter(|(p, n)| was(p) != Some(n)) {
            let at = dir.join(path);
            let mode = |mode: u32| {
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).expect("a mode");
            };
            match (node, was(path)) {
                (Node::Link(to), _) => std::os::unix::fs::symlink(to, &at).expect("a link"),
                (Node::Dir { mode: m }, Some(Node::Dir { .. })) => mode(*m),
                (Node::Dir { mode: m }, _) => {
                    fs::create_dir(&at).expect("a folder");
                    mode(*m);
                }
                (Node::File { text, mode: m }, old) => {
                    match old {
                        Some(Node::File { text: old, .. }) if old == text => {}
                        Some(Node::File { text: old, .. }) if old.len() == text.len() => {
                            // In place, and its time as it was.
                            let time =
                                fs::metadata(&at).expect("a file").modified().expect("a time");
                            fs::write(&at, text).expect("a file");
                            set_time(&at, time);
                        }
                        _ => fs::write(&at, text).expect("a file"),
                    }
                    mode(*m);
                }
            }
        }
        let rules: Vec<_> = self.rules.iter().map(|n| RULES[*n]).collect();
        if before.is_none_or(|b| b.rules != self.rules) {
            fs::write(dir.join(".dockerignore"), rules.join("\n")).expect("a file");
        }
    }
}

pub fn set_time(path: &Path, time: SystemTime) {
    // As root, whatever the mode.
    let file = fs::File::options().append(true).open(path).expect("a file");
    file.set_times(FileTimes::new().set_modified(time)).expect("times");
}

/// New times for a file, its content left alone.
pub fn touch(path: &Path) {
    let now = fs::metadata(path).expect("a file").mtime();
    set_time(path, SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs() + 3));
}

impl World {
    fn any(&self, r: &mut Random, fits: impl Fn(&str, &Node) -> bool) -> Option<String> {
        let all: Vec<_> = self.files.iter().filter(|(p, n)| fits(p, n)).map(|(p, _)| p).collect();
        (!all.is_empty()).then(|| all[r.below(all.len())].clone())
    }

    /// One edit and its name; `None`: nothing to edit so. A touch leaves the world as it is.
    pub fn edit(&mut self, r: &mut Random, dir: &Path) -> Option<String> {
        let is_file = |_: &str, n: &Node| matches!(n, Node::File { .. });
        let stage = r.below(self.stages.len());
        let lines = self.stages[stage].lines.len();
        Some(match r.below(18) {
            kind @ 0..=3 => {
                let path = self.any(r, is_file)?;
                let Some(Node::File { text, .. }) = self.files.get_mut(&path) else { return None };
                let same = kind == 1 || kind == 2;
                *text = match kind {
                    0 => r.text(),
                    1 | 2 => r.text_of(text.len()),
                    _ => String::new(),
                };
                format!("content of {path}, size and time kept: {same}")
            }
            4 => {
                let folder = self.any(r, |_, n| matches!(n, Node::Dir { .. }))?;
                let name = [".txt", ".c", ".log", ".bak", ""][r.below(5)];
                let path = format!("{folder}/new{}{name}", r.below(3));
                let node = Node::File { text: r.text(), mode: r.mode() };
                self.files.insert(path.clone(), node);
                format!("new file {path}")
            }
            5 => {
                let path = self.any(r, |p, n| {
                    let below = format!("{p}/");
                    let empty = !self.files.keys().any(|k| k.starts_with(&below));
                    !matches!(n, Node::Dir { .. }) || empty && p.contains('/')
                })?;
                self.files.remove(&path);
                format!("{path} removed")
            }
            6 => {
                let path = self.any(r, is_file)?;
                let node = self.files.remove(&path)?;
                let to = format!("{path}{}", [".txt", ".log", ".c"][r.below(3)]);
                self.files.insert(to.clone(), node);
                format!("{path} renamed to {to}")
            }
            7 => {
                let path = self.any(r, |_, n| !matches!(n, Node::Link(_)))?;
                match self.files.get_mut(&path)? {
                    Node::File { mode, .. } => *mode = r.mode(),
                    Node::Dir { mode } => *mode = [0o755, 0o700, 0o1777][r.below(3)],
                    Node::Link(_) => return None,
                }
                format!("mode of {path}")
            }
            8 => {
                let path = self.any(r, is_file)?;
                touch(&dir.join(&path));
                format!("{path} touched")
            }
            9 => {
                let path = self.any(r, |_, n| matches!(n, Node::Link(_)))?;
                let to = ["a.txt", "b.txt", "deep", "gone", "/etc/passwd"][r.below(5)];
                self.files.insert(path.clone(), Node::Link(to.to_owned()));
                format!("link {path} to {to}")
            }
            10 => {
                let path = self.any(r, |p, n| is_file(p, n) && p.contains('/'))?;
                self.files.insert(path.clone(), Node::Link("a.txt".to_owned()));
                format!("{path} becomes a link")
            }
            11 => {
                let rule = r.below(RULES.len());
                if !self.rules.remove(&rule) {
                    self.rules.insert(rule);
                }
                format!("ignore rule {}", RULES[rule])
            }
            12 if lines > 0 => {
                let (at, line) = (r.below(lines), self.line(stage, r));
                let old = std::mem::replace(&mut self.stages[stage].lines[at], line);
                format!("{} replaced", old.text)
            }
            13 if lines < 6 => {
                let (at, line) = (r.below(lines + 1), self.line(stage, r));
                let name = format!("{} inserted in s{stage}", line.text);
                self.stages[stage].lines.insert(at, line);
                name
            }
            14 if lines > 1 => {
                let old = self.stages[stage].lines.remove(r.below(lines));
                format!("{} removed", old.text)
            }
            15 if lines > 1 => {
                let at = r.below(lines - 1);
                self.stages[stage].lines.swap(at, at + 1);
                format!("lines {at} and {} of s{stage} swapped", at + 1)
            }
            16 => {
                self.arg = r.below(4) as u64;
                format!("--build-arg V={}", self.arg)
            }
            17 => {
                self.files.insert("unused/v".into(), Node::File { text: r.text(), mode: 0o644 });
                "a file that nobody copies".to_owned()
            }
            _ => return None,
        })
    }
}
