//! Tries to get out of a step: system calls, files of the kernel, device nodes, other processes.
//! Each is refused as under Docker's default profile. The list of them is in `rgraph_tests::escape`.

use std::fs;

use rgraph_runtime::sandbox::*;
use rgraph_tests::escape;

use crate::image::*;
use crate::userns;

/// The tries, compiled into the image. `None`: no compiler here.
fn image() -> Option<Image> {
    let image = Image::new();
    if let Err(why) = escape::compile(&image.at("l/bin/escape")) {
        println!("\n*** SKIPPED, NOT TESTED: escapes: {why} ***\n");
        return None;
    }
    for d in ["tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(image.at("l").join(d)).unwrap();
    }
    Some(image)
}

pub fn every_try_is_refused(runner: &Runner) {
    let Some(image) = image() else { return };
    assert!(escape::count() >= 60, "{}", escape::count());
    let _listener = escape::listen();
    let mut wrong = Vec::new();
    for (user, network) in
        [("", Network::None), ("1000:1000", Network::None), ("", Network::Private)]
    {
        let mut spec = image.spec(&["escape"]);
        spec.user = user.into();
        spec.network = network;
        if network == Network::Private
            && let Err(why) = runner.connect().unwrap()
        {
            println!("\n*** SKIPPED, NOT TESTED: escapes in a private network: {why} ***\n");
            continue;
        }
        let by = match user {
            "" if userns::is_inside() => escape::By::MappedRoot,
            "" => escape::By::Root,
            _ => escape::By::User,
        };
        let faults = escape::wrong(&output(runner, &spec), by);
        wrong.extend(faults.iter().map(|f| format!("as `{user}` in {network:?}: {f}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Control: the tries themselves work where they may.
pub fn tries_are_true(runner: &Runner) {
    let Some(image) = image() else { return };
    let mut spec = image.spec(&["escape"]);
    spec.security = Security::Insecure;
    spec.network = Network::None;
    let printed = output(runner, &spec);
    let said = escape::said(&printed);
    for name in escape::WORK {
        // Some are then refused for what they ask for.
        assert!(["ok", "EINVAL"].contains(&said[name]), "{name}: {}", said[name]);
    }
}

pub fn nothing_outlives_a_step(runner: &Runner) {
    let mark = format!("6{}", std::process::id());
    let image = Image::new();
    let script = format!(
        "sleep {mark} & (setsid sh -c 'trap \"\" TERM HUP INT; sleep {mark}' &) ; \
         (sleep {mark} </dev/null >/dev/null 2>&1 &); exit 0"
    );
    let mut spec = image.sh(&script);
    std::os::unix::fs::symlink("busybox", image.at("l/bin/setsid")).unwrap();
    spec.env.push("HOME=/".into());
    assert_eq!(run(runner, &spec).outcome, Outcome::Exited(0));
    assert_eq!(processes(&mark), 0, "at the moment its end is told");
}

/// The parent of a mount point becomes a link to the host while the step runs: what is then taken
/// away is the step's.
pub fn swapped_parents_of_mount_points(runner: &Runner) {
    let host = tempfile::tempdir().unwrap();
    for path in ["d/m", "s"] {
        fs::create_dir_all(host.path().join(path)).unwrap();
    }
    for path in ["d/m/kept", "s/m"] {
        fs::write(host.path().join(path), "kept").unwrap();
    }
    let decoy = host.path().display();
    let kinds: [fn(&Image) -> SandboxMountKind; 3] = [
        |_| SandboxMountKind::Tmpfs { size: 0 },
        |image| bind(MountSource::Path(image.at("l/bin")), "/", true),
        |image| bind(MountSource::Path(image.at("l/bin")), "/busybox", true),
    ];
    for kind in kinds {
        for target in ["d", "s"] {
            let image = Image::new();
            let mut spec = image.sh(&format!(
                "mv /a/b /moved && ln -s {decoy}/{target} /a/b; mv /a /other; ln -s {decoy} /a"
            ));
            spec.mounts = vec![at("/a/b/m", kind(&image))];
            let ran = run(runner, &spec);
            assert_eq!(ran.outcome, Outcome::Exited(0), "{}", ran.err);
            for path in ["d/m/kept", "s/m"] {
                let text = fs::read_to_string(host.path().join(path));
                assert_eq!(text.expect("it is still there"), "kept");
            }
        }
    }
}
