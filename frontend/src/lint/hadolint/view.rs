//! A file as the rules look at it: stages with what they stand on, steps with what they say.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use crate::ast::{Dockerfile, Instruction, Kind, Stage};
use crate::parse::parse_trigger;

/// One stage.
pub(super) struct View<'a> {
    pub stage: &'a Stage,
    /// The stage it stands on.
    pub parent: Option<usize>,
    pub steps: Vec<Step<'a>>,
}

/// One instruction, or what an `ONBUILD` holds back.
pub(super) struct Step<'a> {
    /// Where it stands.
    pub at: &'a Instruction,
    pub kind: Cow<'a, Kind>,
    pub onbuild: bool,
}

/// All stages of a file.
pub(super) fn stages(ast: &Dockerfile) -> Vec<View<'_>> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut out: Vec<View<'_>> = Vec::with_capacity(ast.stages.len());
    for (at, stage) in ast.stages.iter().enumerate() {
        let parent = names.get(stage.base.text.as_str()).copied();
        let mut view = View { stage, parent, steps: Vec::with_capacity(stage.instructions.len()) };
        for i in &stage.instructions {
            view.steps.push(Step::new(i));
        }
        out.push(view);
        if let Some(name) = &stage.name {
            names.insert(name, at);
        }
    }
    out
}

impl<'a> Step<'a> {
    fn new(at: &'a Instruction) -> Self {
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
        Self { at, kind, onbuild }
    }
}

/// The names that an `ENV` value or another word reads.
pub(super) fn names_in(text: &str, escape: char) -> BTreeSet<String> {
    use crate::expand::{Mode, Nothing, expand};
    expand(text, &Nothing, Mode::plain(escape)).map(|e| e.unmatched).unwrap_or_default()
}
