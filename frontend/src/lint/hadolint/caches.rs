//! Rules about what package managers leave in a layer. A cache or tmpfs mount keeps it out.

use super::command::Command;
use super::packages::is_pip_install;
use super::view::{Step, View};
use super::{Finding, Report, rules};
use crate::ast::Kind;
use crate::lint::rules::Rule;

/// An install that fills folders, and what empties them.
struct Leaves {
    rule: &'static Rule,
    programs: &'static [&'static str],
    commands: &'static [&'static str],
    /// Words of the command that cleans, one after the other.
    clean: &'static [&'static [&'static str]],
    dirs: &'static [&'static str],
}

const LEAVES: [Leaves; 3] = [
    Leaves {
        rule: &rules::DL3032,
        programs: &["yum"],
        commands: &["install"],
        clean: &[&["clean", "all"]],
        dirs: &["/var/cache/yum"],
    },
    Leaves {
        rule: &rules::DL3036,
        programs: &["zypper"],
        commands: &["install", "in"],
        clean: &[&["clean"], &["cc"]],
        dirs: &["/var/cache/zypp"],
    },
    Leaves {
        rule: &rules::DL3040,
        programs: &["dnf", "microdnf"],
        commands: &[
            "install",
            "in",
            "upgrade",
            "up",
            "upgrade-minimal",
            "up-min",
            "reinstall",
            "rei",
        ],
        clean: &[&["clean", "all"]],
        dirs: &["/var/cache/libdnf5", "/var/cache/dnf"],
    },
];

/// DL3009, DL3019, DL3032, DL3036, DL3040, DL3060.
pub(super) fn check(view: &View<'_>, step: &Step<'_>, found: &mut Vec<Finding>) {
    for l in &LEAVES {
        let cleans = |c: Command<'_>| {
            c.is(l.programs) && l.clean.iter().any(|words| words.iter().all(|w| c.has(w)))
                || l.dirs.iter().any(|d| removes(c, d))
        };
        let kept_out = || l.dirs.iter().any(|d| step.keeps_out(d));
        if let Some(c) = left(step, |c| c.runs(l.programs, l.commands), cleans)
            && !kept_out()
        {
            let message = format!("the cache of `{}` stays in the layer", c.name());
            let clean = l.clean.first().map(|w| w.join(" ")).unwrap_or_default();
            let help = format!("end the step with `{} {clean}`", c.name());
            found.push(Finding::new(l.rule, message, help).at(c.name()));
        }
    }
    let no_cache = |c: &Command<'_>| c.runs(&["apk"], &["add"]) && !c.has_flag(&["no-cache"]);
    if step.script.commands().any(|c| no_cache(&c)) && !step.keeps_out("/var/cache/apk") {
        let message = "the package index of `apk` stays in the layer";
        found.push(Finding::new(&rules::DL3019, message, "add `--no-cache`").at("apk"));
    }
    // What a stage that nothing stands on keeps is never shipped.
    if !view.kept {
        return;
    }
    const LISTS: &str = "/var/lib/apt/lists";
    let update = |c: Command<'_>| c.runs(&["apt", "apt-get", "aptitude"], &["update"]);
    let clean =
        |c: Command<'_>| removes(c, LISTS) || c.runs(&["apt-get"], &["distclean", "dist-clean"]);
    if let Some(c) = left(step, update, clean)
        && !step.keeps_out(LISTS)
    {
        let message = "the package lists stay in the layer";
        let help = format!("end the step with `rm -rf {LISTS}/*`, or mount a cache on `{LISTS}`");
        found.push(Finding::new(&rules::DL3009, message, help).at(c.name()));
    }
    let install = |c: Command<'_>| {
        c.name() == "yarn" && (c.has("install") || c.args().iter().all(|a| a.starts_with('-')))
    };
    let clean = |c: Command<'_>| c.name() == "yarn" && c.has("cache") && c.has("clean");
    if left(step, install, clean).is_some() && !step.keeps_out(".cache/yarn") {
        let message = "the cache of `yarn` stays in the layer";
        let help = "end the step with `yarn cache clean`";
        found.push(Finding::new(&rules::DL3060, message, help).at("yarn"));
    }
}

/// The last command that fills, when none behind it cleans.
fn left<'s>(
    step: &'s Step<'_>,
    fills: impl Fn(Command<'_>) -> bool,
    cleans: impl Fn(Command<'_>) -> bool,
) -> Option<Command<'s>> {
    step.script.commands().fold(None, |open, c| match open {
        _ if fills(c) => Some(c),
        Some(_) if cleans(c) => None,
        open => open,
    })
}

/// `rm` or `find -delete` of a folder, of what is in it, or of a folder above.
fn removes(c: Command<'_>, dir: &str) -> bool {
    let above = |path: &str| {
        // Of `/var/lib/{apt,dpkg}` the part up to the brace is looked at.
        let (path, list) = path.split_once('{').map_or((path, false), |(p, _)| (p, true));
        let path = path.trim_end_matches(['*', '/']);
        let rest = dir.strip_prefix(path).filter(|_| path.len() > 1);
        rest.is_some_and(|r| list || r.is_empty() || r.starts_with('/'))
    };
    (c.name() == "rm" || c.name() == "find" && c.has("-delete"))
        && c.args().iter().any(|a| a.starts_with(dir) || above(a))
}

/// DL3042.
pub(super) fn pip(stages: &[View<'_>], report: &mut Report<'_>) {
    const NAME: &str = "PIP_NO_CACHE_DIR";
    let on = |v: &str| {
        let v = v.trim_matches(['"', '\'']).to_ascii_lowercase();
        matches!(v.as_str(), "1" | "true" | "on" | "yes")
    };
    let mut off: Vec<bool> = Vec::with_capacity(stages.len());
    for view in stages {
        let mut no_cache = view.parent.is_some_and(|p| off[p]);
        for step in &view.steps {
            let set = match &step.at.kind {
                Kind::Env(pairs) => {
                    pairs.iter().rev().find(|p| p.key.text == NAME).map(|p| &p.value.text)
                }
                Kind::Arg(defs) => {
                    let def = defs.iter().rev().find(|d| d.key.text == NAME);
                    def.and_then(|d| d.value.as_ref()).map(|v| &v.text)
                }
                _ => None,
            };
            no_cache = set.map_or(no_cache, |v| on(v));
            let here = step.script.sets(NAME).is_some_and(on);
            let wrapper =
                |c: Command<'_>| c.name().contains("pipx") || c.has("pipx") || c.has("pipenv");
            let hit = step
                .script
                .commands()
                .find(|c| is_pip_install(*c) && !c.has("--no-cache-dir") && !wrapper(*c));
            if let Some(c) = hit.filter(|_| !no_cache && !here && !step.keeps_out(".cache/pip")) {
                let message = "the cache of `pip` stays in the layer";
                let help = "add `--no-cache-dir`, or mount a cache on `/root/.cache/pip`";
                report.step(
                    view,
                    step.at,
                    Finding::new(&rules::DL3042, message, help).at(c.name()),
                );
            }
        }
        off.push(no_cache);
    }
}
