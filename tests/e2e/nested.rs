//! rgraph within a container: of Docker's engine, of rgraph itself, and in a step. What works there is built; what
//! does not says which flag of the outer one is missing, and `doctor` says it before (ROOT-03).

use std::fs;
use std::path::Path;
use std::process::Command;

use rgraph_tests::{Case, Docker, base_tar, need, shout};

/// A build within, by whoever runs this.
const BUILD: &str = "export RGRAPH_ROOT=/st/root HOME=/tmp; rgraph doctor; \
    rgraph import /base.tar base:1 > /dev/null && rgraph build --progress plain --network host /ctx";
const STEP: &str = "FROM base:1\nRUN touch /a && chown 5:6 /a && test $(stat -c %u:%g /a) = 5:6 && \
    mknod /n c 1 3 && echo built-in''side\n";

/// Builds an image that holds this program, what it is linked to, and something to build.
fn outer(case: &Case) {
    let context = case.context();
    case.file("base.tar", base_tar());
    let command = case.command::<&str>(&[]);
    let program = Path::new(command.get_program());
    fs::copy(program, context.join("rgraph")).expect("the binary can be copied");
    let linked = Command::new("ldd").arg(program).output().expect("ldd");
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    for library in linked.split_whitespace().filter(|w| w.starts_with('/')) {
        let to = context.join("lib").join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("below the context")).expect("folders");
        fs::copy(library, to).expect("a library");
    }
    case.file("lib/ctx/Dockerfile", STEP);
    case.dockerfile(
        "FROM BASE\nCOPY lib /\nCOPY base.tar /\nCOPY --chmod=755 rgraph /bin/rgraph\n",
    );
}

#[test]
fn in_dockers_containers() {
    need!(Root, Tool("dockerd"), Tool("docker"), Tool("ldd"));
    let case = Case::with_base();
    outer(&case);
    let image = case.out("outer.tar").display().to_string();
    case.build(&["-t", "outer:1", "-o", &format!("type=docker,dest={image}")]).ok();
    let docker = match Docker::start() {
        Ok(docker) => docker,
        Err(why) => return shout(&format!("rgraph in Docker's containers: {why}")),
    };
    docker.run(&["load", "-q", "-i", &image]);
    let (filter, paths) =
        ("--security-opt=seccomp=unconfined", "--security-opt=systempaths=unconfined");
    let admin = "--cap-add=SYS_ADMIN";
    let needs_filter = "`--security-opt seccomp=unconfined`";
    let needs_paths = "`--security-opt systempaths=unconfined`";
    for (user, flags, lacks) in [
        ("0", &[][..], Some(needs_filter)),
        ("1000:1000", &[], Some(needs_filter)),
        ("0", &[filter], Some(needs_paths)),
        ("1000:1000", &[filter], Some(needs_paths)),
        ("0", &[filter, paths], None),
        ("1000:1000", &[filter, paths], None),
        ("0", &[admin], Some(needs_filter)),
        ("0", &[admin, filter], None),
        ("0", &["--privileged"], None),
        ("1000:1000", &["--privileged"], None),
    ] {
        let run = ["run", "--rm", "--network=none", "--tmpfs=/st:exec,mode=1777", "-u", user];
        let said = docker.try_run(
            &[&run[..], flags, &["outer:1", "sh", "-c", &format!("({BUILD}) 2>&1 || true")]]
                .concat(),
        );
        let said = match said {
            // With fewer rights than that itself, the engine gives nobody all.
            Err(why) if flags == ["--privileged"] && why.contains("unable to apply caps") => {
                shout("rgraph in a privileged container: the engine can start none");
                continue;
            }
            said => said.unwrap_or_else(|e| panic!("{user} {flags:?}: {e}")),
        };
        match lacks {
            None => {
                assert!(said.contains(" built-inside"), "{user} {flags:?}: {said}");
                assert!(said.contains("sandbox       ok"), "{user} {flags:?}: {said}");
            }
            Some(help) => {
                assert!(!said.contains(" built-inside"), "{user} {flags:?}: {said}");
                // Once by `doctor`, once by the build.
                assert!(said.matches(help).count() >= 2, "{user} {flags:?}: {said}");
            }
        }
    }
}

/// A step with all rights can build; a container of `rgraph run` has Docker's filter, and no flag that takes it
/// away.
#[test]
fn in_rgraphs_own() {
    need!(Root, Tool("ldd"));
    let case = Case::with_base();
    outer(&case);
    case.build(&["-t", "outer:1"]).ok();
    for user in ["0", "1000:1000"] {
        let args = ["run", "--rm", "--network=none", "-u", user, "outer:1", "sh", "-c", BUILD];
        case.rgraph(&args).fails(1, &["`--security-opt seccomp=unconfined`"]);
    }
    case.file("Dockerfile", format!(
        "# syntax=docker/dockerfile:1-labs\nFROM outer:1\n\
         RUN --security=insecure --mount=type=tmpfs,target=/st mount -o remount,exec,dev /st; {BUILD}\n"
    ));
    let run = case.build(&[
        "--network",
        "host",
        "--allow",
        "network.host",
        "--allow",
        "security.insecure",
    ]);
    assert!(run.ok().stderr.contains(" built-inside"));
}
