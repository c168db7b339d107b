//! Rules about the images a file names.

use std::collections::HashSet;

use super::view::View;
use super::{Finding, Report, rules};
use crate::ast::Kind;

/// DL3006, DL3007, DL3022.
pub(super) fn check(stages: &[View<'_>], report: &mut Report<'_>) {
    let mut names: HashSet<&str> = HashSet::new();
    for (count, view) in stages.iter().enumerate() {
        let base = view.stage.base.text.trim_matches(['"', '\'']);
        if view.parent.is_none() && base != "scratch" {
            base_tag(base, view, report);
        }
        if let Some(name) = &view.stage.name {
            names.insert(name);
        }
        for step in &view.steps {
            let Kind::Copy(copy) = step.kind.as_ref() else { continue };
            let Some(from) = &copy.from else { continue };
            let name = from.text.trim_matches(['"', '\'']);
            let stage = names.contains(name.to_lowercase().as_str())
                || name.parse::<usize>().is_ok_and(|n| n < count);
            if !stage && !name.contains(':') {
                let message =
                    format!("`--from={name}` names no stage, so the image `{name}:latest` is used");
                let help = format!("add `FROM {name}:<tag> AS <name>` above and copy from that");
                report.step(view, step.at, Finding::new(&rules::DL3022, message, help).at(name));
            }
        }
    }
}

fn base_tag(base: &str, view: &View<'_>, report: &mut Report<'_>) {
    if base.contains('@') {
        return;
    }
    let last = base.rsplit('/').next().unwrap_or(base);
    match last.split_once(':') {
        Some((_, "latest")) => {
            let message = format!("`{base}` is another image whenever a new one is released");
            let help = "name the tag of a release, or a digest";
            report.from(view, Finding::new(&rules::DL3007, message, help).at(base));
        }
        Some(_) => {}
        // A variable may hold name and tag.
        None if base.contains('$') => {}
        None => {
            let message = format!("`{base}` has no tag, so `latest` is used");
            let help = format!("write `{base}:<tag>`");
            report.from(view, Finding::new(&rules::DL3006, message, help).at(base));
        }
    }
}
