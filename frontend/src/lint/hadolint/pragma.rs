//! hadolint's comments: `# hadolint ignore=DL3008,DL3009` directly above an instruction, `# hadolint
//! stage ignore=` directly above a `FROM`, `# hadolint global ignore=` anywhere between instructions.

use std::collections::BTreeSet;

use crate::ast::Dockerfile;

/// How far a comment reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Instruction,
    Stage,
    File,
}

/// What a comment, without its `#`, ignores.
fn read(comment: &str) -> Option<(Reach, impl Iterator<Item = &str>)> {
    let rest = comment.trim().strip_prefix("hadolint")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (reach, rest) = match rest.split_once([' ', '\t']) {
        Some(("global", rest)) => (Reach::File, rest.trim_start()),
        Some(("stage", rest)) => (Reach::Stage, rest.trim_start()),
        _ => (Reach::Instruction, rest),
    };
    let list = rest.strip_prefix("ignore")?.trim_start().strip_prefix('=')?;
    let list = list.split('#').next().unwrap_or(list);
    Some((reach, list.split(',').map(str::trim)))
}

/// A comment directly above an instruction silences this rule for it.
pub(in crate::lint) fn ignores(comments: &[String], id: &str) -> bool {
    found(comments, Reach::Instruction, id)
}

/// A comment directly above a `FROM` silences this rule for its stage.
pub(super) fn stage_ignores(comments: &[String], id: &str) -> bool {
    found(comments, Reach::Stage, id)
}

fn found(comments: &[String], wanted: Reach, id: &str) -> bool {
    let all = comments.iter().filter_map(|c| read(c));
    all.filter(|(r, _)| *r == wanted).any(|(_, mut ids)| ids.any(|i| i == id))
}

/// What the file ignores as a whole. Lines within an instruction are no comments of the file.
pub(super) fn global(ast: &Dockerfile) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let globals = ast.global_args.iter().map(|i| i.span);
    let stages = ast
        .stages
        .iter()
        .flat_map(|s| std::iter::once(s.span).chain(s.instructions.iter().map(|i| i.span)));
    let mut spans = globals.chain(stages).peekable();
    let mut at = 0usize;
    for line in ast.source.text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        while spans.next_if(|s| (s.end as usize) <= start).is_some() {}
        if spans.peek().is_some_and(|s| (s.start as usize) <= start) {
            continue;
        }
        let Some(comment) = line.trim().strip_prefix('#') else { continue };
        if let Some((Reach::File, ids)) = read(comment) {
            out.extend(ids.map(str::to_owned));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testkit::source;

    #[test]
    fn comments_are_read() {
        for (comment, reach, ids) in [
            ("hadolint ignore=DL3008", Reach::Instruction, "DL3008"),
            ("hadolint  ignore = DL3008 , DL3009", Reach::Instruction, "DL3008 DL3009"),
            ("hadolint ignore=DL3008 # not needed", Reach::Instruction, "DL3008"),
            ("hadolint global ignore=DL3006", Reach::File, "DL3006"),
            ("hadolint stage ignore=DL3006", Reach::Stage, "DL3006"),
        ] {
            let (r, list) = read(comment).unwrap_or_else(|| panic!("{comment}"));
            assert_eq!((r, list.collect::<Vec<_>>().join(" ")), (reach, ids.to_owned()));
        }
        for none in ["hadolint", "hadolintignore=DL3008", "ignore=DL3008", "hadolint ignore DL3008"]
        {
            assert!(read(none).is_none(), "{none}");
        }
    }

    #[test]
    fn the_file_is_searched_between_instructions() {
        let text = "# hadolint global ignore=DL1\n\nARG A\n  #hadolint global ignore=DL2,DL3\n\
                    FROM a\nRUN <<E\n# hadolint global ignore=DL4\nE\nRUN x \\\n\
                    # hadolint global ignore=DL5\n  y\n# hadolint global ignore=DL6\n";
        let ids: Vec<_> = global(&parse(&source(text)).ast).into_iter().collect();
        assert_eq!(ids, ["DL1", "DL2", "DL3", "DL6"]);
    }
}
