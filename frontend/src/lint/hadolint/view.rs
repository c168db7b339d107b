//! A file as the rules look at it: stages with what they stand on, steps with the commands they run.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::command::{is_shell, program};
use super::shell::Script;
use crate::ast::{CmdForm, Dockerfile, Instruction, Kind, Run, Stage};
use crate::parse::parse_trigger;

/// One stage.
pub(super) struct View<'a> {
    pub stage: &'a Stage,
    /// The stage it stands on.
    pub parent: Option<usize>,
    /// The last stage, or one that another stands on: what it leaves behind stays.
    pub kept: bool,
    /// Its `SHELL` at the end.
    shell: Option<&'a [String]>,
    pub steps: Vec<Step<'a>>,
}

/// One instruction, or what an `ONBUILD` holds back.
pub(super) struct Step<'a> {
    /// Where it stands.
    pub at: &'a Instruction,
    pub kind: Cow<'a, Kind>,
    pub onbuild: bool,
    /// The commands of a `RUN`; empty when its shell is another kind of language.
    pub script: Script,
    /// The shell stops at a failure anywhere in a pipe.
    pub pipefail: bool,
}

/// All stages of a file.
pub(super) fn stages(ast: &Dockerfile) -> Vec<View<'_>> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut out: Vec<View<'_>> = Vec::with_capacity(ast.stages.len());
    for (at, stage) in ast.stages.iter().enumerate() {
        let parent = names.get(stage.base.text.as_str()).copied();
        let mut view = View {
            stage,
            parent,
            kept: at + 1 == ast.stages.len(),
            shell: parent.and_then(|p| out[p].shell),
            steps: Vec::with_capacity(stage.instructions.len()),
        };
        for i in &stage.instructions {
            if let Kind::Shell(words) = &i.kind {
                view.shell = Some(words);
            }
            let step = Step::new(i, view.shell);
            view.steps.push(step);
        }
        if let Some(p) = parent {
            out[p].kept = true;
        }
        out.push(view);
        if let Some(name) = &stage.name {
            names.insert(name, at);
        }
    }
    out
}

impl<'a> Step<'a> {
    fn new(at: &'a Instruction, shell: Option<&[String]>) -> Self {
        let mut onbuild = false;
        let kind = match &at.kind {
            Kind::Onbuild(word) => {
                onbuild = true;
                match parse_trigger(&word.text, at.span) {
                    Ok(i) => Cow::Owned(i.kind),
                    Err(_) => Cow::Borrowed(&at.kind),
                }
            }
            kind => Cow::Borrowed(kind),
        };
        let script = match kind.as_ref() {
            Kind::Run(run) => script(run, shell),
            _ => Script::default(),
        };
        let has = |w: &String| w == "pipefail" || w.contains("pipefail ");
        let pipefail = shell.is_some_and(|s| s.iter().any(has))
            || script
                .commands()
                .any(|c| (c.name() == "set" || is_shell(c.name())) && c.has("pipefail"));
        Self { at, kind, onbuild, script, pipefail }
    }

    /// The `RUN`, when it is one.
    pub fn run(&self) -> Option<&Run> {
        match self.kind.as_ref() {
            Kind::Run(run) => Some(run),
            _ => None,
        }
    }

    /// A cache or tmpfs mount keeps this folder out of the layer. A path without a leading `/` may
    /// stand anywhere.
    pub fn keeps_out(&self, dir: &str) -> bool {
        let Some(run) = self.run() else { return false };
        run.mounts.iter().any(|m| {
            let field = |keys: &[&str]| {
                let mut all = m.fields.iter().rev().filter(|f| keys.contains(&f.key.as_str()));
                all.find_map(|f| f.value.as_deref())
            };
            let target = field(&["target", "dst", "destination"]).unwrap_or_default();
            let target = target.trim_end_matches('/');
            matches!(field(&["type"]), Some("cache" | "tmpfs"))
                && match dir.strip_prefix('/') {
                    Some(_) => {
                        dir.strip_prefix(target).is_some_and(|r| r.is_empty() || r.starts_with('/'))
                    }
                    None => {
                        let above = dir.split('/').next().unwrap_or(dir);
                        target.ends_with(dir)
                            || target.ends_with(above)
                            || target.contains(&format!("{dir}/"))
                    }
                }
        })
    }
}

/// Languages that are no POSIX shell.
fn foreign(shell: &[String]) -> bool {
    const OTHERS: [&str; 9] =
        ["cmd", "powershell", "pwsh", "python", "python3", "perl", "ruby", "node", "nu"];
    shell.iter().any(|w| OTHERS.contains(&program(w).to_lowercase().as_str()))
}

fn script(run: &Run, shell: Option<&[String]>) -> Script {
    let text = match &run.cmd {
        CmdForm::Exec(words) => return Script::of_words(words),
        CmdForm::Shell(_) if shell.is_some_and(foreign) => return Script::default(),
        CmdForm::Shell(text) => text.join(" "),
    };
    let Some(first) = run.heredocs.first() else { return Script::of_text(&text) };
    if !run.only_heredoc {
        let bodies = run.heredocs.iter();
        return Script::of_text(&bodies.fold(text, |all, h| all + "\n" + &h.body + &h.name));
    }
    let content = first.content();
    let line = content.lines().next().unwrap_or_default();
    match line.strip_prefix("#!") {
        Some(line) if !line.split_whitespace().any(is_shell) => Script::default(),
        _ => Script::of_text(&content),
    }
}

/// The names that an `ENV` value or another word reads.
pub(super) fn names_in(text: &str, escape: char) -> BTreeSet<String> {
    use crate::expand::{Mode, Nothing, expand};
    expand(text, &Nothing, Mode::plain(escape)).map(|e| e.unmatched).unwrap_or_default()
}
