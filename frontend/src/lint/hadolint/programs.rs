//! Rules about programs that a step runs.

use super::command::Command;
use super::view::{Step, View};
use super::{Finding, Report, list, rules};

/// DL3001, DL3003, DL3004, DL3027, DL3035, DL3046, DL3047, DL4005, DL4006.
pub(super) fn check(step: &Step<'_>, found: &mut Vec<Finding>) {
    let all = || step.script.commands();
    let first = |test: fn(Command<'_>) -> bool| all().find(|c| test(*c));
    let mut add = |rule, name: &str, message: String, help: &str| {
        found.push(Finding::new(rule, message, help).at(name));
    };
    if let Some(c) = first(pointless) {
        let message = format!("`{}` has nothing to act on while an image is built", c.name());
        add(&rules::DL3001, c.name(), message, "leave it out");
    }
    if first(|c| c.name() == "cd").is_some() {
        let message = "`cd` counts for this `RUN` only";
        add(&rules::DL3003, "cd", message.to_owned(), "set the folder with `WORKDIR`");
    }
    if first(|c| c.name() == "sudo").is_some() {
        let message = "`sudo` is not needed: `USER` says who runs a step";
        let help = "write `USER root` above, and the other user below; in a script use `gosu`";
        add(&rules::DL3004, "sudo", message.to_owned(), help);
    }
    if first(|c| c.name() == "apt").is_some() {
        let message = "`apt` is made for people: what it takes and prints may change";
        add(&rules::DL3027, "apt", message.to_owned(), "write `apt-get` or `apt-cache`");
    }
    if first(|c| c.runs(&["zypper"], &["dist-upgrade", "dup"])).is_some() {
        let message = "`zypper dist-upgrade` moves the whole base image to other versions";
        add(&rules::DL3035, "zypper", message.to_owned(), "choose a newer base image in `FROM`");
    }
    if let Some(c) = first(large_user) {
        let message =
            "a large user id makes `useradd` write large, mostly empty log files into the layer";
        add(&rules::DL3046, c.name(), message.to_owned(), "add `--no-log-init` (`-l`)");
    }
    if let Some(c) = first(noisy) {
        let message = "`wget` fills the log with its progress bar";
        add(
            &rules::DL3047,
            c.name(),
            message.to_owned(),
            "add `--progress=dot:giga`, `-nv` or `-q`",
        );
    }
    if first(replaces_shell).is_some() {
        let message = "`/bin/sh` is replaced for every program of the image";
        let help = "choose the shell of the steps with `SHELL`";
        add(&rules::DL4005, "/bin/sh", message.to_owned(), help);
    }
    if step.script.pipes && !step.pipefail {
        let message = "only the last command of a pipe decides whether this step fails";
        let help = "write `SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]` above, with a shell the image has";
        add(&rules::DL4006, "|", message.to_owned(), help);
    }
}

fn pointless(c: Command<'_>) -> bool {
    const NAMES: [&str; 10] =
        ["free", "ifconfig", "kill", "mount", "ps", "service", "shutdown", "ssh", "top", "vim"];
    c.is(&NAMES)
}

fn large_user(c: Command<'_>) -> bool {
    c.name() == "useradd"
        && !c.has_flag(&["l", "no-log-init"])
        && c.value('u', "uid").is_some_and(|id| id.len() > 5)
}

fn noisy(c: Command<'_>) -> bool {
    const QUIET: [&str; 11] = [
        "progress",
        "q",
        "quiet",
        "o",
        "output-file",
        "a",
        "append-output",
        "no-verbose",
        "version",
        "help",
        "V",
    ];
    let few = |a: &String| a.starts_with("-nv");
    c.name() == "wget" && !c.has_flag(&QUIET) && !c.args().iter().any(few) && !c.args().is_empty()
}

fn replaces_shell(c: Command<'_>) -> bool {
    c.name() == "ln" && c.plain(&["t", "S"]).last() == Some(&"/bin/sh")
}

/// DL4001: the step at which a stage has come to use both.
pub(super) fn downloads(stages: &[View<'_>], report: &mut Report<'_>) {
    const BOTH: [&str; 2] = ["curl", "wget"];
    for view in stages {
        let mut seen: Vec<&str> = Vec::new();
        for step in &view.steps {
            let used = BOTH.iter().copied();
            let used: Vec<&str> =
                used.filter(|n| step.script.commands().any(|c| c.name() == *n)).collect();
            seen.extend(used.iter().filter(|n| !seen.contains(n)).collect::<Vec<_>>());
            if let (Some(last), [_, _]) = (used.last(), seen.as_slice()) {
                let message = format!("this stage uses {}", list(&BOTH));
                let help = "choose one, so that the image needs one only";
                report.step(view, step.at, Finding::new(&rules::DL4001, message, help).at(last));
            }
        }
    }
}
