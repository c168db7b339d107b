//! Images for another architecture than the machine's. Their steps are run by qemu, on what `mmdebstrap` makes
//! with Debian's mirror: with `RGRAPH_FOREIGN=1` only, for it takes minutes. Without steps they need neither.

use std::fs;
use std::path::Path;

use rgraph_tests::{Access, Case, EMULATOR, FOREIGN, Registry, fixture, need, setting, shout};

use crate::debian::{busybox, debian};
use crate::platforms::{BOTH, config_of, push_base, taken_by_others};

/// Whether steps can be emulated here, and are asked for.
fn wanted() -> bool {
    let other = setting("RGRAPH_ROOTLESS", 0) != 0 || std::env::consts::ARCH != "x86_64";
    let asked = setting("RGRAPH_FOREIGN", 0) != 0;
    match (asked, other) {
        (false, _) => {
            shout("RGRAPH_FOREIGN=1 makes file systems for arm64 and emulates their steps")
        }
        (_, true) => shout("steps for arm64 are emulated for root of an amd64 machine only"),
        _ => {}
    }
    asked && !other
}

fn on(arch: &str) -> String {
    format!("--platform=linux/{arch}")
}

/// EXEC: a RUN for another architecture, in every form, and in a container.
#[test]
fn steps_are_emulated() {
    need!(Root, Tool(EMULATOR), Tool("newuidmap"), Tool("mmdebstrap"));
    if !wanted() {
        return;
    }
    let plain = Case::new();
    let import = |case: &Case| {
        case.rgraph_reading(&["import", &on(FOREIGN), "-", "foreign"], &busybox(FOREIGN)).ok();
        case.dockerfile(
            "FROM foreign\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
             RUN uname -m > /machine\nRUN <<E\n#!/bin/sh\nuname -m >> /machine\nE\n\
             RUN --network=none --mount=type=cache,target=/c cp /machine /c/ && test \"$(cat /c/machine | wc -l)\" = 2\n",
        );
    };
    import(&plain);
    if !Path::new("/proc/sys/fs/binfmt_misc/status").exists() {
        plain.build(&[&on(FOREIGN)]).fails(
            1,
            &["Dockerfile:2", "a program for arm64", "no emulator for it", "qemu-user-static"],
        );
    }
    let case = Case::new().with_emulator();
    import(&case);
    let image = case.image(&[&on(FOREIGN)]);
    assert_eq!(image.read("machine"), "aarch64\naarch64\n");
    assert_eq!(image.config["architecture"], FOREIGN);
    case.build(&[&on(FOREIGN), "-t", "made"]).ok().all_cached();
    let run = case.rgraph(&["run", "--rm", "--network=none", "made", "uname", "-m"]);
    assert_eq!(run.ok().text(), "aarch64\n");
}

/// The tutorials' web server, pushed; its name. `steps`: with those that install it.
fn web_server(case: &Case, registry: &Registry, base: &str, steps: bool) -> String {
    let folder = fixture("tutorial/apache");
    let text = fs::read_to_string(folder.join("Dockerfile")).expect("a Dockerfile");
    let lines = text.lines().filter(|l| steps || !l.starts_with("RUN "));
    let text = lines.map(|l| format!("{l}\n")).collect::<String>();
    assert!(text.contains("EXPOSE 80\n") && text.contains("ADD myApp /var/www\n"), "{text}");
    assert_eq!(text.contains("apt-get"), steps);
    let page = fs::read(folder.join("myApp/index.html")).expect("a page");
    case.file("Dockerfile", text).file("myApp/index.html", &page);
    let name = registry.name("apache:1");
    let base = format!("--build-arg=BASE={base}");
    // What is installed comes from the mirror that the machine itself reaches.
    let net: &[&str] = if steps { &["--network=host", "--allow=network.host"] } else { &[] };
    let build = |more: &[&str]| case.build(&[net, &[BOTH, &base], more].concat()).ok();
    build(&["--push", "-t", &name]);
    taken_by_others(case, registry, &name, |arch, root| {
        assert_eq!(fs::read(root.join("var/www/index.html")).expect("the page"), page);
        assert_eq!(root.join("usr/sbin/apachectl").exists(), steps, "{arch}");
        if steps {
            // elf(5): `e_machine`.
            let program = fs::read(root.join("usr/sbin/apache2")).expect("the server");
            let machine = if arch == FOREIGN { 183 } else { 62 };
            assert_eq!((&program[..4], program[18]), (&b"\x7fELF"[..], machine), "{arch}");
        }
    });
    for (arch, config) in config_of(&name) {
        let settings = &config["config"];
        assert_eq!(settings["ExposedPorts"], serde_json::json!({"80/tcp": {}}), "{arch}");
        assert_eq!(settings["Cmd"][0], "/usr/sbin/apachectl", "{arch}");
    }
    // The same once more, and kept: nothing runs again.
    build(&["-t", "apache"]).all_cached();
    name
}

#[test]
fn a_web_server_for_two_platforms_without_steps() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"), Tool("buildah"));
    let registry = Registry::start(Access::Open);
    let base = push_base(&registry);
    web_server(&Case::new(), &registry, &base, false);
}

#[test]
fn a_web_server_for_two_platforms() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"), Tool("buildah"));
    need!(Tool(EMULATOR), Tool("newuidmap"), Tool("mmdebstrap"));
    if !wanted() {
        return;
    }
    let registry = Registry::start(Access::Open);
    let base = registry.name("debian:bookworm");
    let maker = Case::new();
    for arch in ["amd64", FOREIGN] {
        maker.file(&format!("{arch}.tar.gz"), debian(arch));
    }
    maker.file(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nADD $TARGETARCH.tar.gz /\nCMD [\"bash\"]\n",
    );
    maker.build(&[BOTH, "--push", "-t", &base]).ok();
    let case = Case::new().with_emulator();
    let name = web_server(&case, &registry, &base, true);
    let text = format!("FROM {name}\nRUN uname -m > /machine; /usr/sbin/apache2 -v > /version\n");
    case.file("Dockerfile", text);
    for (arch, machine) in [("amd64", "x86_64\n"), (FOREIGN, "aarch64\n")] {
        let image = case.image(&[&on(arch)]);
        assert_eq!(image.read("machine"), machine);
        assert!(image.read("version").contains("Apache/2."), "{arch}");
    }
}
