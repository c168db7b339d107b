//! Rules about package managers that ask, or take more than they were told to.

use super::view::Step;
use super::{Finding, rules};
use crate::lint::rules::Rule;

/// A command that waits for an answer unless a flag gives it.
struct Asks {
    rule: &'static Rule,
    programs: &'static [&'static str],
    commands: &'static [&'static str],
    flags: &'static [&'static str],
    /// What to write.
    flag: &'static str,
}

const ASKS: [Asks; 4] = [
    Asks {
        rule: &rules::DL3014,
        programs: &["apt-get"],
        commands: &["install"],
        flags: &["y", "yes", "qq", "assume-yes"],
        flag: "-y",
    },
    Asks {
        rule: &rules::DL3030,
        programs: &["yum"],
        commands: &["install", "groupinstall", "localinstall"],
        flags: &["y", "assumeyes"],
        flag: "-y",
    },
    Asks {
        rule: &rules::DL3034,
        programs: &["zypper"],
        commands: &["install", "in", "remove", "rm", "source-install", "si", "patch"],
        flags: &["non-interactive", "n", "no-confirm", "y"],
        flag: "--non-interactive",
    },
    Asks {
        rule: &rules::DL3038,
        programs: &["dnf", "microdnf"],
        commands: &["install", "groupinstall", "localinstall"],
        flags: &["y", "assumeyes"],
        flag: "-y",
    },
];

/// DL3014, DL3015, DL3030, DL3034, DL3038.
pub(super) fn check(step: &Step<'_>, found: &mut Vec<Finding>) {
    for asks in &ASKS {
        let hit = step.script.commands().find(|c| {
            // Two `-q` of apt-get are a yes.
            let quiet = |n: &&str| matches!(*n, "q" | "quiet");
            let twice = || c.flags().filter(quiet).count() >= 2 || c.has("-q=2");
            c.runs(asks.programs, asks.commands)
                && !c.has_flag(asks.flags)
                && !(c.name() == "apt-get" && twice())
        });
        if let Some(c) = hit {
            let message = format!("`{}` asks whether to go on, and nobody answers", c.name());
            let help = format!("add `{}`", asks.flag);
            found.push(Finding::new(asks.rule, message, help).at(c.name()));
        }
    }
    let extra = step.script.commands().find(|c| {
        c.runs(&["apt-get"], &["install"])
            && !c.has_flag(&["no-install-recommends"])
            && !c.args().iter().any(|a| a.ends_with("APT::Install-Recommends=false"))
            && !c.args().iter().any(|a| a.ends_with("APT::Install-Recommends=0"))
    });
    if extra.is_some() {
        let message = "`apt-get install` takes recommended packages too";
        let help = "add `--no-install-recommends`";
        found.push(Finding::new(&rules::DL3015, message, help).at("install"));
    }
}
