//! The house, as rules that fail: who may depend on whom, where unsafe code lives, and which
//! third-party types stay where they are needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our packages each may name: the arrows of ARCHITECTURE.md, and no others.
const ARROWS: &[(&str, &[&str])] = &[
    ("rgraph-ir", &[]),
    ("rgraph-llb", &["rgraph-ir"]),
    ("rgraph-frontend", &["rgraph-ir"]),
    ("rgraph-bake", &["rgraph-ir"]),
    ("rgraph-solver", &["rgraph-ir"]),
    ("rgraph-sys", &[]),
    ("rgraph-store", &["rgraph-ir", "rgraph-sys"]),
    ("rgraph-image", &["rgraph-ir", "rgraph-store", "rgraph-sys"]),
    (
        "rgraph-runtime",
        &["rgraph-ir", "rgraph-solver", "rgraph-sys", "rgraph-store", "rgraph-image"],
    ),
    (
        "rgraph-cli",
        &[
            "rgraph-ir",
            "rgraph-llb",
            "rgraph-frontend",
            "rgraph-bake",
            "rgraph-solver",
            "rgraph-runtime",
            "rgraph-sys",
            "rgraph-store",
            "rgraph-image",
        ],
    ),
    // It runs the binary and knows nothing of its inside.
    ("rgraph-tests", &[]),
];

/// What the pure packages may use of other people's: values and functions, no world.
const PURE: &[(&str, &[&str])] = &[
    ("rgraph-ir", &["blake3", "foldhash", "itoa", "sha2", "serde", "petgraph"]),
    ("rgraph-llb", &["prost", "sha2", "thiserror"]),
    ("rgraph-frontend", &["compact_str", "foldhash", "nom", "thiserror"]),
    (
        "rgraph-bake",
        &[
            "base64",
            "bcrypt",
            "hcl-edit",
            "md-5",
            "regex",
            "saphyr-parser",
            "serde_json",
            "sha1",
            "sha2",
        ],
    ),
    ("rgraph-solver", &["thiserror"]),
];

/// Crates that only some packages may name at all.
const HOMES: &[(&str, &[&str])] = &[
    ("nom", &["rgraph-frontend"]),
    ("hcl-edit", &["rgraph-bake"]),
    ("saphyr-parser", &["rgraph-bake"]),
    ("petgraph", &["rgraph-ir"]),
    ("prost", &["rgraph-llb"]),
    ("clap", &["rgraph-cli"]),
    ("miette", &["rgraph-cli"]),
    ("rusqlite", &["rgraph-store"]),
    ("reqwest", &["rgraph-image"]),
    ("oci-spec", &["rgraph-image"]),
    ("libc", &["rgraph-sys", "rgraph-store"]),
];

/// Crates whose types no public item of ours shows.
const HIDDEN: &[&str] = &[
    "petgraph",
    "prost",
    "nom",
    "hcl_edit",
    "saphyr_parser",
    "oci_spec",
    "clap",
    "miette",
    "rusqlite",
    "reqwest",
];

/// Files that may hold unsafe code lie below it.
const UNSAFE_HOME: &str = "runtime/sys/src";

/// A file over this many lines has a reason, told here.
const LONG: usize = 500;
const LONG_BY_NEED: &[(&str, &str)] = &[
    ("ir/llb/src/pb.rs", "one message after the other, in the order of the wire format"),
    ("solver/src/machine.rs", "one state machine: its transitions are read together"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in a workspace").to_owned()
}

/// Package to the names it depends on, tests and build scripts left out.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let text = |v: &serde_json::Value| v.as_str().expect("a name").to_owned();
    let packages = json["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|p| {
            let deps = p["dependencies"].as_array().expect("dependencies");
            let normal = deps.iter().filter(|d| d["kind"].is_null());
            (text(&p["name"]), normal.map(|d| text(&d["name"])).collect())
        })
        .collect()
}

/// Every source file of ours, relative, without tests' own folders when `own` is asked for.
fn sources() -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut todo: Vec<PathBuf> = ["ir", "frontend", "solver", "runtime", "cli", "tests"]
        .iter()
        .map(|d| root().join(d))
        .collect();
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(&dir).expect("a folder").flatten() {
            let path = e.path();
            if path.is_dir() && e.file_name() != "target" {
                todo.push(path);
            } else if path.extension().is_some_and(|x| x == "rs") {
                let text = std::fs::read_to_string(&path).expect("source text");
                let name = path.strip_prefix(root()).expect("below").display().to_string();
                out.push((name, text));
            }
        }
    }
    assert!(out.len() > 100, "the sources were not found");
    out.sort();
    out
}

#[test]
fn packages_point_only_where_they_may() {
    let all = dependencies();
    for (package, deps) in &all {
        let (_, allowed) = ARROWS
            .iter()
            .find(|(p, _)| p == package)
            .unwrap_or_else(|| panic!("{package} has no row in ARROWS"));
        let wrong: Vec<_> = deps
            .iter()
            .filter(|d| d.starts_with("rgraph-") && !allowed.contains(&d.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{package} may not depend on {wrong:?}");
    }
    assert_eq!(all.len(), ARROWS.len(), "a row of ARROWS is about no package");
}

#[test]
fn pure_packages_know_no_world() {
    let all = dependencies();
    for (package, allowed) in PURE {
        let theirs = all[*package].iter().filter(|d| !d.starts_with("rgraph-"));
        let wrong: Vec<_> = theirs.filter(|d| !allowed.contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "{package} is pure and may not depend on {wrong:?}");
    }
    let world = [
        "std::fs::",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "std::process::",
        "std::env::",
        "SystemTime::now",
        "Instant::now",
    ];
    let pure = ["ir/src", "ir/llb/src", "frontend/src", "frontend/bake/src", "solver/src"];
    for (name, text) in sources() {
        if !pure.iter().any(|p| name.starts_with(p))
            || name.contains("test")
            || name.contains("fake")
        {
            continue;
        }
        for (i, line) in production(&text).filter(|(_, l)| !l.trim_start().starts_with("//")) {
            let hit = world.iter().find(|w| line.contains(**w));
            assert!(hit.is_none(), "{name}:{i}: `{}` in a pure package", hit.unwrap_or(&""));
        }
    }
}

#[test]
fn crates_stay_in_their_homes() {
    for (package, deps) in dependencies() {
        for (krate, homes) in HOMES {
            let here = deps.iter().any(|d| d == krate);
            assert!(
                !here || homes.contains(&&package[..]),
                "{package} names {krate}: only {homes:?} may"
            );
        }
    }
}

#[test]
fn unsafe_code_has_one_home() {
    for (name, text) in sources() {
        if name.starts_with(UNSAFE_HOME) || name == "tests/arch.rs" {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let found =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"]
                    .iter()
                    .any(|w| code.contains(w));
            assert!(!found, "{name}:{}: unsafe code outside {UNSAFE_HOME}", i + 1);
        }
    }
    // The compiler's word for it, in every other package.
    for (name, text) in sources() {
        let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        if is_root && !name.starts_with(UNSAFE_HOME) {
            let folder = name.split("/src/").next().expect("a package");
            let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml"))
                .expect("a manifest");
            let denied = text.contains("#![forbid(unsafe_code)]")
                || manifest.contains("[lints]\nworkspace = true");
            assert!(denied, "{name}: nothing keeps unsafe code out");
        }
    }
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    assert!(workspace.contains("unsafe_code = \"deny\""), "the workspace allows unsafe code");
}

#[test]
fn public_items_show_no_types_of_other_crates() {
    for (name, text) in sources() {
        if name.starts_with("cli/") || name.starts_with("tests/") {
            continue;
        }
        for (i, line) in production(&text) {
            let line = line.trim_start();
            if !line.starts_with("pub ") {
                continue;
            }
            for krate in HIDDEN {
                let seen = line.contains(&format!("{krate}::"));
                assert!(!seen, "{name}:{i}: a public item names {krate}: {line}");
            }
        }
    }
}

#[test]
fn async_stays_in_the_network() {
    for (name, text) in sources() {
        if name.starts_with("runtime/image/src/registry") || name.starts_with("runtime/image/tests")
        {
            continue;
        }
        for (i, line) in production(&text) {
            let line = line.trim_start();
            assert!(!line.starts_with("pub async fn"), "{name}:{i}: {line}");
        }
    }
}

/// Long files are told of; only new ones without a reason are worth a look, none fails.
#[test]
fn long_files_are_named() {
    for (name, text) in sources() {
        let lines = production(&text).count();
        if lines > LONG && !name.contains("test") {
            let why = LONG_BY_NEED.iter().find(|(n, _)| *n == name).map(|(_, why)| *why);
            eprintln!("{name}: {lines} lines ({})", why.unwrap_or("no reason is known"));
        }
    }
    for (name, _) in LONG_BY_NEED {
        assert!(root().join(name).is_file(), "{name} is excused and gone");
    }
}

/// Numbered lines before the unit tests.
fn production(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l))
        .take_while(|(_, l)| *l != "#[cfg(test)]" && *l != "mod tests {")
}
