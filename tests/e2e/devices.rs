//! `RUN --device`: devices of the host by the specs of the Container Device Interface.

use std::fs;

use rgraph_tests::{Case, Ids, need};

const SPEC: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/null
containerEdits: { env: [WHOLE=spec] }
devices:
- name: a
  annotations: { org.mobyproject.buildkit.device.class: both }
  containerEdits:
    env: [NAME=a]
    deviceNodes: [{ path: /dev/vendor/a, hostPath: /dev/null, fileMode: 0640, uid: 7, gid: 8 }]
    mounts: [{ hostPath: FOLDER, containerPath: /opt/vendor, options: [ro, rbind] }]
- name: b
  annotations: { org.mobyproject.buildkit.device.class: both }
  containerEdits:
    env: [NAME=b]
    deviceNodes: [{ path: /dev/b, hostPath: /dev/zero }]
- name: hooked
  containerEdits: { hooks: [{ hookName: createContainer, path: /bin/true }] }
"#;

fn case(user: bool) -> (Case, String) {
    let case = Case::new();
    let case = if user { case.of_user(Ids::Range) } else { case };
    case.import_base(rgraph_tests::BASE);
    let dir = case.out("cdi");
    fs::create_dir(&dir).expect("a folder");
    fs::create_dir(case.out("library")).expect("a folder");
    fs::write(case.out("library/file"), "of the host\n").expect("a file");
    let spec = SPEC.replace("FOLDER", &case.out("library").display().to_string());
    fs::write(dir.join("vendor.yaml"), spec).expect("a spec");
    (case, format!("--cdi-spec-dir={}", dir.display()))
}

#[test]
fn steps_get_what_specs_say() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for user in [false, true] {
        let (case, dir) = case(user);
        // What a node of its own has; the host's is shown as it is.
        let own =
            if user { "true" } else { "test \"$(stat -c '%a %u %g' /dev/vendor/a)\" = '640 7 8'" };
        case.dockerfile(&format!(
            "FROM BASE
ENV NAME=image
RUN --device=vendor.com/null=a,required test \"$WHOLE $NAME\" = 'spec a' && test -c /dev/vendor/a && \\
    echo gone > /dev/vendor/a && test ! -s /dev/vendor/a && ! test -e /dev/b && \\
    grep -q host /opt/vendor/file && ! touch /opt/vendor/new
RUN --device=vendor.com/null=a {own}
RUN --device=vendor.com/null=both test -c /dev/vendor/a && test $(head -c 9 /dev/b | wc -c) = 9
RUN --device=vendor.com/null test $NAME = a
RUN --device=vendor.com/null=none ! test -e /dev/vendor && test $NAME = image
RUN ! test -e /dev/vendor
"
        ));
        let run = case.build(&["--network=none", "--allow=device", &dir]).ok();
        let said = "WARN: no spec names the device `vendor.com/null=none`";
        assert!(run.stderr.contains(said), "{}", run.stderr);
        // Nothing of it is in a layer.
        let image = case.image(&["--network=none", "--allow=device", &dir]);
        let left: Vec<_> = image.layers.iter().skip(1).flat_map(|l| l.paths()).collect();
        assert!(!left.iter().any(|p| p.starts_with("dev/") || p.starts_with("opt")), "{left:?}");
        case.build(&["--network=none", "--allow=device", &dir]).all_cached();
    }
}

#[test]
fn devices_that_are_refused() {
    need!(Root);
    let (case, dir) = case(false);
    let context = case.context().display().to_string();
    for (name, allow, texts) in [
        ("vendor.com/null=a", "", &["needs", "--allow device=vendor.com/null=a"][..]),
        ("vendor.com/null=*", "device=vendor.com/null=a", &["--allow device=vendor.com/null=*"]),
        ("vendor.com/null=*", "device=vendor.com/null", &["its spec asks for hooks"]),
        ("vendor.com/null=hooked", "device", &["device `vendor.com/null=hooked` cannot be given"]),
        (
            "vendor.com/nul=a,required",
            "device",
            &["device `vendor.com/nul=a` is required", "there are `vendor.com/null=a`"],
        ),
    ] {
        case.dockerfile(&format!("FROM BASE\nRUN --device={name} true\n"));
        let mut args = vec!["build", &dir, &context];
        let allow = format!("--allow={allow}");
        if allow.len() > "--allow=".len() {
            args.push(&allow);
        }
        case.rgraph(&args).fails(1, texts);
    }
    // A grant of one is none for another step's.
    case.dockerfile("FROM BASE\nRUN --device=vendor.com/null=a --device=vendor.com/null=b true\n");
    case.rgraph(&["build", &dir, "--allow=device=vendor.com/null=a", &context])
        .fails(1, &["--allow device=vendor.com/null=b"]);
}

#[test]
fn folders_of_specs_by_the_config() {
    need!(Root);
    let (mut case, _) = case(false);
    let config = case.out("config.toml");
    fs::write(&config, "[cdi]\nspec-dirs = ['cdi', '/nowhere']\n").expect("a file");
    case.env("RGRAPH_CONFIG", &config.display().to_string());
    fs::write(case.out("cdi/broken.json"), "{").expect("a file");
    case.dockerfile("FROM BASE\nRUN --device=vendor.com/null=b,required test -c /dev/b\n");
    let run = case.build(&["--network=none", "--allow=device"]).ok();
    assert!(run.stderr.contains("broken.json` is left out: "), "{}", run.stderr);
    case.dockerfile("FROM BASE\nRUN true\n");
    let run = case.build(&["--network=none"]).ok();
    assert!(!run.stderr.contains("broken.json"), "{}", run.stderr);
}
