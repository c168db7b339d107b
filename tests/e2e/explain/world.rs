//! One change at a time to one starting state, and every line that is told of it.
//!
//! A line that names another cause than the change, or a step that says nothing, fails the test: the
//! whole list is compared.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rgraph_tests::Case;

/// What is done to the starting state.
pub type Change<'a> = &'a dyn Fn(&World);

/// One row: its name, the change, arguments of the build, and the lines `STEP: REASON; REASON`.
pub type Row<'a> = (&'a str, Change<'a>, &'a [&'a str], &'a [&'a str]);

/// A starting state that comes back before every change.
pub struct World {
    pub case: Case,
    pub dockerfile: &'static str,
    files: &'static [&'static str],
    args: &'static [&'static str],
}

impl World {
    pub fn new(
        dockerfile: &'static str,
        files: &'static [&'static str],
        args: &'static [&'static str],
    ) -> Self {
        Self { case: Case::with_base(), dockerfile, files, args }
    }

    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.case.context().join(path)
    }

    /// Writes `path=text` or `path@target` with its mode after a colon.
    pub fn put(&self, line: &str) {
        let (line, mode) = line.split_once(':').unwrap_or((line, "644"));
        let at = line.find(['=', '@']).expect("a text or a target");
        let path = self.path(&line[..at]);
        fs::create_dir_all(path.parent().expect("below the context")).expect("folders");
        if line[at..].starts_with('@') {
            symlink(&line[at + 1..], path).expect("a link");
        } else {
            fs::write(&path, &line[at + 1..]).expect("a file");
            self.mode(&line[..at], u32::from_str_radix(mode, 8).expect("octal"));
        }
    }

    pub fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).expect("a file");
    }

    pub fn gone(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("a folder");
        } else {
            fs::remove_file(path).expect("a file");
        }
    }

    /// Writes the Dockerfile with one text put in another's place.
    pub fn edit(&self, old: &str, new: &str) {
        assert!(self.dockerfile.contains(old), "no `{old}` in the Dockerfile");
        self.case.dockerfile(&self.dockerfile.replacen(old, new, 1));
    }

    /// The starting state, built.
    pub fn reset(&self) {
        let context = self.case.context();
        fs::remove_dir_all(&context).expect("the context");
        fs::create_dir(&context).expect("the context");
        self.case.dockerfile(self.dockerfile);
        for line in self.files {
            self.put(line);
        }
        self.case.build(self.args).ok();
    }

    /// The steps that ran in the newest build, `STEP: REASON; REASON`.
    pub fn why(&self) -> Vec<String> {
        let text = self.case.rgraph(&["explain", "--format=json"]).ok();
        let build: serde_json::Value = serde_json::from_slice(&text.stdout).expect("JSON");
        let mut lines = Vec::new();
        let steps = build["steps"].as_array().expect("steps");
        for (at, step) in steps.iter().enumerate() {
            let name = step["name"].as_str().expect("a name");
            let (inside, _) = name.trim_start_matches('[').split_once('/').unwrap_or((name, ""));
            let why = step["why"].as_array().map(Vec::as_slice).unwrap_or_default();
            let texts: Vec<_> = why.iter().map(|w| w["text"].as_str().expect("a text")).collect();
            // What is fetched for an ADD has the line of the ADD, which comes after it.
            let fetched = steps.get(at + 1).is_some_and(|next| next["name"] == step["name"]);
            let fetched = fetched && name.contains(" ADD ") && texts.is_empty();
            let source = name.contains("FROM ") || name.starts_with("[context ") || fetched;
            if step["status"] == "cached" || source {
                assert!(texts.is_empty(), "a reason for what did not run: {step}");
                continue;
            }
            lines.push(format!("{inside}: {}", texts.join("; ")));
        }
        lines
    }

    pub fn check(&self, rows: &[Row<'_>]) {
        let mut wrong = Vec::new();
        for (name, change, args, want) in rows {
            self.reset();
            change(self);
            let run = self.case.build(&[self.args, *args].concat()).ok();
            let got = self.why();
            if got != *want {
                wrong.push(format!("{name}:\n   got {got:#?}\n  want {want:#?}"));
            }
            // What the screen says is what is kept; it names three reasons at most.
            for line in got.iter().filter(|l| l.matches("; ").count() < 3) {
                let why = line.split_once(": ").expect("a step").1;
                assert!(run.stderr.contains(&format!("why: {why}\n")), "{line}\n{}", run.stderr);
            }
        }
        let names: BTreeSet<&str> = rows.iter().map(|r| r.0).collect();
        assert_eq!(names.len(), rows.len(), "two rows of one name");
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    }
}

pub fn nothing(_: &World) {}
