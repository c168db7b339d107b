//! Rules about `COPY` and `ADD`.

use std::collections::HashMap;

use super::command::Command;
use super::view::View;
use super::{Finding, Report, rules};
use crate::ast::{Copy, Kind, Word};

/// DL3010, DL3020, DL3021, DL3045, DL3067.
pub(super) fn check(stages: &[View<'_>], report: &mut Report<'_>) {
    // Whether a stage, or one below it, has a `WORKDIR`.
    let mut workdir: Vec<bool> = Vec::with_capacity(stages.len());
    for view in stages {
        let mut set = view.parent.is_some_and(|p| workdir[p]);
        for step in view.steps.iter().filter(|s| !s.onbuild) {
            let finding = match step.kind.as_ref() {
                Kind::Workdir(_) => {
                    set = true;
                    None
                }
                Kind::Add(add) => needless_add(add),
                Kind::Copy(copy) => {
                    let more = [several(copy), whole_root(copy, view)];
                    more.into_iter().flatten().for_each(|f| report.step(view, step.at, f));
                    if set { None } else { relative(copy) }
                }
                _ => None,
            };
            finding.into_iter().for_each(|f| report.step(view, step.at, f));
        }
        workdir.push(set);
        unpacked(view, report);
    }
}

fn bare(word: &Word) -> &str {
    word.text.trim_matches(['"', '\''])
}

/// `C:\...`.
fn has_drive(path: &str) -> bool {
    let mut chars = path.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.next() == Some(':')
}

fn relative(copy: &Copy) -> Option<Finding> {
    let dest = bare(&copy.dest);
    if dest.starts_with(['/', '\\', '$']) || has_drive(dest) {
        return None;
    }
    let message = format!("`{dest}` is relative, and no `WORKDIR` says to what");
    let help = "write the whole path, or set `WORKDIR` above";
    Some(Finding::new(&rules::DL3045, message, help).at(dest))
}

fn several(copy: &Copy) -> Option<Finding> {
    let dest = bare(&copy.dest);
    let folder = dest.ends_with(['/', '\\']) || matches!(dest.rsplit('/').next(), Some("." | ".."));
    if copy.sources.len() + copy.files.len() < 2 || folder || dest.contains('$') {
        return None;
    }
    let message = format!("several sources are copied to `{dest}`, which must be a folder");
    Some(Finding::new(&rules::DL3021, message, format!("write `{dest}/`")).at(dest))
}

fn whole_root(copy: &Copy, view: &View<'_>) -> Option<Finding> {
    // In `FROM scratch` this is the way to make one layer of a stage.
    if view.stage.base.text == "scratch" || copy.from.is_none() || bare(&copy.dest) != "/" {
        return None;
    }
    copy.sources.iter().any(|s| bare(s) == "/").then(|| {
        let message = "a whole root file system is copied over another";
        let help = "copy the files that are needed, or begin with `FROM` that stage";
        Finding::new(&rules::DL3067, message, help)
    })
}

const ARCHIVES: [&str; 16] = [
    ".tar", ".Z", ".bz2", ".gz", ".lz", ".lzma", ".tZ", ".tb2", ".tbz", ".tbz2", ".tgz", ".tlz",
    ".tpz", ".txz", ".xz", ".zst",
];

fn is_archive(path: &str) -> bool {
    ARCHIVES.iter().any(|e| path.ends_with(e))
}

fn needless_add(add: &Copy) -> Option<Finding> {
    const REMOTE: [&str; 5] = ["https://", "http://", "git://", "ssh://", "git@"];
    let own = |path: &str| {
        is_archive(path) || path.starts_with('$') || REMOTE.iter().any(|p| path.starts_with(p))
    };
    if add.unpack.is_some() || add.checksum.is_some() {
        return None;
    }
    let path = add.sources.iter().map(bare).find(|p| !own(p))?;
    let message =
        format!("`{path}` is neither an archive nor a URL, so `ADD` does what `COPY` does");
    Some(Finding::new(&rules::DL3020, message, "write `COPY`").at(path))
}

fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn unpacks(command: Command<'_>) -> bool {
    let extract = |a: &String| {
        matches!(a.as_str(), "--extract" | "--get")
            || (a.starts_with('-') && !a.starts_with("--") && a.contains('x'))
    };
    // `tar xzf`: the first word needs no dash.
    let bundled = |a: &String| a.contains('x') && a.bytes().all(|b| b.is_ascii_lowercase());
    command.name() == "tar"
        && (command.args().iter().any(extract) || command.args().first().is_some_and(bundled))
}

/// An archive of the context that a later `RUN` unpacks with tar.
fn unpacked(view: &View<'_>, report: &mut Report<'_>) {
    let mut copied: HashMap<String, usize> = HashMap::new();
    for (at, step) in view.steps.iter().enumerate().filter(|(_, s)| !s.onbuild) {
        if let Kind::Copy(copy) = step.kind.as_ref() {
            if copy.from.is_some() {
                continue;
            }
            let dest = bare(&copy.dest);
            let renamed = is_archive(dest).then_some(dest);
            let paths = match renamed {
                Some(_) => &[][..],
                None => copy.sources.as_slice(),
            };
            for path in renamed.into_iter().chain(paths.iter().map(bare)) {
                if is_archive(path) {
                    copied.insert(file_name(path).to_owned(), at);
                }
            }
        }
        for word in step.script.commands().filter(|c| unpacks(*c)).flat_map(|c| c.args()) {
            let name = file_name(word.trim_start_matches("--file="));
            if let Some(from) = copied.remove(name) {
                let message = format!(
                    "`{name}` is copied and unpacked by a later step, so the image holds it twice"
                );
                let help = "write `ADD`, which unpacks it, and leave the later `tar` out";
                report.step(
                    view,
                    view.steps[from].at,
                    Finding::new(&rules::DL3010, message, help).at(name),
                );
            }
        }
    }
}
