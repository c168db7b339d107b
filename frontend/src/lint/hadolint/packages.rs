//! Rules about packages without a version: such a step gives another image on another day.

use super::command::Command;
use super::view::Step;
use super::{Finding, list, rules};
use crate::lint::rules::Rule;

/// An install command and how it writes versions.
struct Install {
    rule: &'static Rule,
    /// How to write a version, after the package's name.
    version: &'static str,
    /// Names of packages in a command; empty when it installs nothing.
    packages: for<'a> fn(Command<'a>) -> Vec<&'a str>,
    pinned: fn(&str) -> bool,
}

const INSTALLS: [Install; 9] = [
    Install {
        rule: &rules::DL3008,
        version: "=<version>",
        packages: apt,
        pinned: |p| p.contains(['=', '/']) || p.ends_with(".deb"),
    },
    Install { rule: &rules::DL3013, version: "==<version>", packages: pip, pinned: pip_pinned },
    Install { rule: &rules::DL3016, version: "@<version>", packages: npm, pinned: npm_pinned },
    Install {
        rule: &rules::DL3018,
        version: "=<version>",
        packages: apk,
        pinned: |p| p.contains(['=', '~', '>', '<']) || p.ends_with(".apk"),
    },
    Install {
        rule: &rules::DL3028,
        version: ":<version>",
        packages: gem,
        pinned: |p| p.contains(':') || p.ends_with(".gem"),
    },
    Install { rule: &rules::DL3033, version: "-<version>", packages: yum, pinned: rpm_pinned },
    Install {
        rule: &rules::DL3037,
        version: "=<version>",
        packages: zypper,
        pinned: |p| p.contains(['=', '>', '<']) || p.ends_with(".rpm"),
    },
    Install { rule: &rules::DL3041, version: "-<version>", packages: dnf, pinned: rpm_pinned },
    Install { rule: &rules::DL3062, version: "@<version>", packages: go, pinned: go_pinned },
];

/// DL3008, DL3013, DL3016, DL3018, DL3028, DL3033, DL3037, DL3041, DL3062.
pub(super) fn check(step: &Step<'_>, found: &mut Vec<Finding>) {
    for install in &INSTALLS {
        let all = step.script.commands().flat_map(install.packages);
        let open: Vec<&str> = all.filter(|p| !(install.pinned)(p)).collect();
        let Some(first) = open.first() else { continue };
        let message = format!("no version of {} is chosen", list(&open));
        let name = first.split_once('@').filter(|(n, _)| !n.is_empty()).map_or(*first, |(n, _)| n);
        let help = format!("write `{name}{}`", install.version);
        found.push(Finding::new(install.rule, message, help).at(first));
    }
}

/// The plain words of a command without its own sub-commands.
fn words<'a>(c: Command<'a>, valued: &[&str], own: &[&str]) -> Vec<&'a str> {
    let mut all = c.plain(valued);
    all.retain(|w| !own.contains(w));
    all
}

fn apt(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 6] = ["t", "target-release", "o", "option", "c", "config-file"];
    if c.runs(&["apt-get"], &["install"]) { words(c, &VALUED, &["install"]) } else { Vec::new() }
}

fn apk(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 11] = [
        "t",
        "virtual",
        "repository",
        "X",
        "p",
        "root",
        "keys-dir",
        "cache-dir",
        "arch",
        "repositories-file",
        "wait",
    ];
    if c.runs(&["apk"], &["add"]) { words(c, &VALUED, &["add"]) } else { Vec::new() }
}

fn zypper(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 8] = ["t", "type", "r", "repo", "from", "C", "root", "R"];
    if !c.runs(&["zypper"], &["install", "in"]) {
        return Vec::new();
    }
    words(c, &VALUED, &["install", "in"])
}

/// `pip install` in all its spellings.
pub(super) fn is_pip_install(c: Command<'_>) -> bool {
    let name = c.name();
    let module = |w: &[String]| w == ["-m", "pip", "install"];
    name.starts_with("pip") && !name.starts_with("pipenv") && c.has("install")
        || name.starts_with("python") && c.args().windows(3).any(module)
}

fn pip(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 37] = [
        "abi",
        "b",
        "build",
        "cache-dir",
        "cert",
        "client-cert",
        "config-settings",
        "e",
        "editable",
        "exists-action",
        "extra-index-url",
        "f",
        "find-links",
        "i",
        "index-url",
        "implementation",
        "log",
        "no-binary",
        "only-binary",
        "platform",
        "prefix",
        "progress-bar",
        "proxy",
        "python",
        "python-version",
        "report",
        "retries",
        "root",
        "root-user-action",
        "src",
        "t",
        "target",
        "timeout",
        "trusted-host",
        "upgrade-strategy",
        "use-feature",
        "m",
    ];
    // Versions stand in the file that is named, or with the project that is installed.
    let elsewhere = || c.has_flag(&["c", "constraint", "r", "requirement", "group"]) || c.has(".");
    if !is_pip_install(c) || elsewhere() {
        return Vec::new();
    }
    let all = c.plain(&VALUED);
    let at = all.iter().position(|w| *w == "install").map_or(0, |n| n + 1);
    all[at..].to_vec()
}

fn pip_pinned(package: &str) -> bool {
    let scheme = package.split([':', '+']).next().unwrap_or_default();
    let vcs = matches!(scheme, "git" | "hg" | "svn" | "bzr") && package.contains("://");
    if vcs {
        // `git+ssh://git@host/project` names a user, not a revision.
        let path = package.split_once("://").and_then(|(_, r)| r.split_once('/'));
        return path.is_some_and(|(_, p)| p.contains('@'));
    }
    package.contains(['=', '<', '>', '/'])
        || [".whl", ".tar.gz", ".zip"].iter().any(|e| package.ends_with(e))
}

fn npm(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 9] =
        ["loglevel", "registry", "prefix", "cache", "w", "workspace", "omit", "include", "C"];
    let mut all = if c.name() == "npm" { c.plain(&VALUED) } else { Vec::new() };
    if !matches!(all.first(), Some(&("install" | "i" | "add"))) {
        return Vec::new();
    }
    all.remove(0);
    all
}

fn npm_pinned(package: &str) -> bool {
    let git = ["git://", "git+", "github:", "gitlab:", "bitbucket:"];
    if git.iter().any(|p| package.starts_with(p)) {
        return package.contains('#');
    }
    let local = ["/", "./", "../", "~/", "file:"].iter().any(|p| package.starts_with(p));
    let archive = [".tar", ".tar.gz", ".tgz"].iter().any(|e| package.ends_with(e));
    let name = package.strip_prefix('@').unwrap_or(package);
    local || archive || package == "." || name.contains(['@', '#'])
}

fn gem(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 15] = [
        "i",
        "install-dir",
        "n",
        "bindir",
        "document",
        "build-root",
        "P",
        "trust-policy",
        "s",
        "source",
        "p",
        "http-proxy",
        "B",
        "bulk-threshold",
        "platform",
    ];
    let chosen = || c.has_flag(&["v", "version", "g", "file"]);
    if !c.runs(&["gem"], &["install", "i"]) || chosen() {
        return Vec::new();
    }
    // What follows `--` is for the build of the gem.
    let stop = c.args().iter().position(|a| a == "--");
    let behind = stop.map_or(0, |n| c.args().len() - n - 1);
    let mut all = words(c, &VALUED, &[]);
    all.truncate(all.len() - behind);
    all.retain(|w| !matches!(*w, "install" | "i"));
    all
}

const RPM_VALUED: [&str; 17] = [
    "enablerepo",
    "disablerepo",
    "repo",
    "repoid",
    "exclude",
    "x",
    "excludepkgs",
    "setopt",
    "c",
    "config",
    "installroot",
    "releasever",
    "comment",
    "disableplugin",
    "enableplugin",
    "e",
    "R",
];

fn yum(c: Command<'_>) -> Vec<&str> {
    rpm(c, &["yum"])
}

fn dnf(c: Command<'_>) -> Vec<&str> {
    rpm(c, &["dnf", "microdnf"])
}

/// Packages and modules without a stream; groups (`@NAME`) have no version.
fn rpm<'a>(c: Command<'a>, programs: &[&str]) -> Vec<&'a str> {
    if !c.runs(programs, &["install"]) || c.has("group") {
        return Vec::new();
    }
    let all = words(c, &RPM_VALUED, &["install", "module"]);
    let module = c.has("module");
    all.into_iter().filter(|p| !(p.starts_with('@') || module && p.contains(':'))).collect()
}

fn rpm_pinned(package: &str) -> bool {
    if package.ends_with(".rpm") || package.contains("://") {
        return true;
    }
    let Some((_, version)) = package.split_once('-') else { return false };
    let legal = |c: char| c.is_ascii_alphanumeric() || ".~^_:+*-".contains(c);
    version.contains('$')
        || version.chars().all(legal)
            && version.split('-').any(|p| p.starts_with(|c: char| c.is_ascii_digit()))
}

fn go(c: Command<'_>) -> Vec<&str> {
    const VALUED: [&str; 16] = [
        "C",
        "p",
        "asmflags",
        "buildmode",
        "compiler",
        "gccgoflags",
        "gcflags",
        "installsuffix",
        "ldflags",
        "mod",
        "modfile",
        "o",
        "overlay",
        "pkgdir",
        "tags",
        "exec",
    ];
    if c.name() != "go" {
        return Vec::new();
    }
    // Go's long flags have one dash.
    let (mut plain, mut value) = (Vec::new(), false);
    for a in c.args() {
        let taken = std::mem::take(&mut value);
        match a.strip_prefix('-') {
            _ if taken => {}
            Some(flag) => value = VALUED.contains(&flag.trim_start_matches('-')),
            None => plain.push(a.as_str()),
        }
    }
    match plain.as_slice() {
        // What follows the package is for the program.
        ["run", package, ..] => vec![*package],
        ["install" | "get", rest @ ..] => rest.to_vec(),
        _ => Vec::new(),
    }
}

/// Local paths, files and the standard library have the version of what is built.
fn go_pinned(package: &str) -> bool {
    let host = package.split('/').next().unwrap_or_default();
    if package.starts_with(['.', '/']) || package.ends_with(".go") || !host.contains('.') {
        return true;
    }
    package.split_once('@').is_some_and(|(_, v)| !matches!(v, "latest" | "none" | "upgrade"))
}
