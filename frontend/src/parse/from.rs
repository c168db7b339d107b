//! `FROM [--platform=P] BASE [AS NAME]`.

use rgraph_ir::Diagnostic;

use super::flags::Takes;
use super::{Head, words};
use crate::ast::Stage;

pub(super) fn parse(
    head: &Head<'_>,
    comments: &[String],
    diags: &mut Vec<Diagnostic>,
) -> Option<Stage> {
    let args = words::plain(head.line, head.at);
    let flags = head.flags(&[("platform", Takes::One)], diags);
    let (base, as_keyword, name) = match args.as_slice() {
        [base] => (base, None, None),
        [base, word, name] if word.text.eq_ignore_ascii_case("as") => {
            (base, Some(word), Some(name))
        }
        [_, word, _] => {
            diags.push(
                head.error("from-arguments", "FROM requires either one or three arguments")
                    .label(word.span, "this should be `AS`"),
            );
            return None;
        }
        _ => {
            diags.push(
                head.error("from-arguments", "FROM requires either one or three arguments")
                    .help("write `FROM image` or `FROM image AS name`"),
            );
            return None;
        }
    };
    let lower = name.map(|n| n.text.as_str().to_lowercase());
    if let (Some(lower), Some(name)) = (&lower, name)
        && !valid_name(lower)
    {
        diags.push(Diagnostic::error(
            "stage-name",
            name.span,
            format!(
                "invalid name for build stage: \"{}\", name can't start with a number or contain symbols",
                name.text
            ),
        ));
        return None;
    }
    Some(Stage {
        keyword: head.keyword.clone(),
        base: base.clone(),
        as_keyword: as_keyword.cloned(),
        name_written: name.cloned(),
        name: lower,
        platform: flags.filled("platform"),
        text: head.line.text.trim().to_owned(),
        span: head.line.span,
        comments: comments.to_vec(),
        instructions: Vec::new(),
    })
}

fn valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        })
}
