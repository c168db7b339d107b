//! `COPY` and `ADD`.

use rgraph_ir::Diagnostic;

use super::flags::Takes;
use super::{Head, heredoc, json};
use crate::ast::{Copy, Heredoc, Kind};

const COPY: &[(&str, Takes)] = &[
    ("chown", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("exclude", Takes::Many),
    ("from", Takes::One),
    ("parents", Takes::Bool),
];

const ADD: &[(&str, Takes)] = &[
    ("chown", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("exclude", Takes::Many),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::One),
    ("unpack", Takes::Bool),
];

pub(super) fn parse(
    head: &Head<'_>,
    bodies: Vec<Heredoc>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Kind> {
    let name = &*head.upper;
    if head.json == json::List::Mixed {
        diags.push(super::config::mixed(head));
        return None;
    }
    let add = name == "ADD";
    let flags = head.flags(if add { ADD } else { COPY }, diags);
    let mut args = head.list();
    if args.len() < 2 {
        diags.push(head.error(
            "missing-argument",
            format!(
                "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
            ),
        ));
        return None;
    }
    let dest = args.pop()?;
    if heredoc::opening(&dest.text).is_some() {
        diags.push(Diagnostic::error(
            "heredoc-destination",
            dest.span,
            format!("{name} cannot accept a heredoc as a destination"),
        ));
        return None;
    }
    let mut files = Vec::new();
    args.retain(|word| {
        let Some(o) = heredoc::opening(&word.text) else { return true };
        // The last body of a name counts, as when names are looked up after reading.
        let body = bodies.iter().rev().find(|b| b.name == o.name);
        files.push(Heredoc {
            body: body.map(|b| b.body.clone()).unwrap_or_default(),
            name: o.name,
            chomp: o.chomp,
            expand: o.expand,
        });
        false
    });
    let copy = Box::new(Copy {
        sources: args,
        files,
        dest,
        from: flags.filled("from"),
        chown: flags.filled("chown"),
        chmod: flags.filled("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.all("exclude").map(|w| w.text.to_string()).collect(),
        checksum: flags.filled("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    });
    Some(if add { Kind::Add(copy) } else { Kind::Copy(copy) })
}
