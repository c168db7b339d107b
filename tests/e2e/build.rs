//! `rgraph build`: from text to image, outputs that other tools read.

use std::process::Command;

use rgraph_tests::{Case, fixture, need};

fn quickstart(case: &Case, args: &[&str]) -> rgraph_tests::Run {
    let context = fixture("quickstart").display().to_string();
    let mut all = vec!["build", "--progress=plain", "-t", "quickstart"];
    all.extend(args);
    all.push(&context);
    case.rgraph(&all)
}

fn quickstart_case() -> Case {
    let case = Case::new();
    case.import_base("busybox:quickstart");
    case
}

#[test]
fn the_quickstart_builds_and_is_listed() {
    need!(Root);
    let case = quickstart_case();
    let run = quickstart(&case, &[]).ok();
    assert!(run.stdout.is_empty(), "progress belongs on stderr");
    assert_eq!(run.step("[letters 2/2]"), "DONE");
    assert!(!run.stderr.contains("nobody asked for this stage"), "an unneeded stage ran");
    assert!(run.steps().keys().all(|s| !s.contains("[unused")), "an unneeded stage is there");
    let images = case.rgraph(&["images", "--no-trunc"]).ok();
    let row =
        images.text().lines().find(|l| l.starts_with("quickstart")).expect("a row").to_owned();
    assert!(row.contains(&run.image()), "{row} is not {}", run.image());
}

/// Each waits for the other's file in a cache mount: one after the other could not end.
#[test]
fn stages_and_steps_run_side_by_side() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE AS a\n\
         RUN --mount=type=cache,target=/m touch /m/a; i=0; until [ -e /m/b ]; do sleep 0.05; i=$((i+1)); [ $i -lt 200 ] || exit 9; done; echo a > /out-a\n\
         FROM BASE AS b\n\
         RUN --mount=type=cache,target=/m touch /m/b; i=0; until [ -e /m/a ]; do sleep 0.05; i=$((i+1)); [ $i -lt 200 ] || exit 9; done; echo b > /out-b\n\
         FROM scratch\n\
         COPY --from=a /out-a /\n\
         COPY --from=b /out-b /\n",
    );
    let image = case.image(&[]);
    assert_eq!((image.read("out-a"), image.read("out-b")), ("a\n".into(), "b\n".into()));
}

#[test]
fn a_second_build_runs_nothing_and_writes_nothing() {
    need!(Root);
    let case = quickstart_case();
    let first = quickstart(&case, &[]).ok();
    // The first repeat may note what the second reads.
    quickstart(&case, &[]).ok();
    let before = case.state_but_builds();
    let again = quickstart(&case, &[]).ok();
    again.all_cached();
    assert!(again.stderr.contains(": 0 run, 8 cached"), "{}", again.stderr);
    assert_eq!(again.image(), first.image());
    assert_eq!(case.state_but_builds(), before, "an unchanged build wrote to the state root");
}

#[test]
fn a_quiet_build_prints_the_image_id_alone() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo some noise\n");
    let args = ["build", "-q", "context"];
    let run = case.rgraph(&args).ok();
    assert_eq!((run.stderr.as_str(), run.text().lines().count()), ("", 1));
    assert_eq!(run.image(), case.build(&[]).ok().image());
}

#[test]
fn skopeo_and_umoci_take_an_oci_archive() {
    need!(Root, Tool("skopeo"), Tool("umoci"));
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\nRUN echo hello > /greeting && rm /etc/group\nENV A=b\nCMD [\"sh\"]\n",
    );
    let image = case.image(&["-t", "app:one"]);
    let archive = format!("oci-archive:{}", case.out("image.tar").display());
    let inspect = tool("skopeo", &["inspect", "--config", &archive]);
    let config: serde_json::Value = serde_json::from_slice(&inspect).expect("JSON");
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(config["rootfs"], image.config["rootfs"]);
    let layout = case.out("layout").display().to_string();
    tool("skopeo", &["copy", "-q", &archive, &format!("oci:{layout}:one")]);
    let bundle = case.out("bundle").display().to_string();
    tool("umoci", &["unpack", "--image", &format!("{layout}:one"), &bundle]);
    let read = |p: &str| std::fs::read_to_string(case.out("bundle/rootfs").join(p));
    assert_eq!(read("greeting").expect("the step's file"), "hello\n");
    assert!(read("etc/group").is_err(), "a deleted file came back");
}

#[test]
fn skopeo_takes_a_docker_archive() {
    need!(Root, Tool("skopeo"));
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo hello > /greeting\nLABEL a=b\n");
    let path = case.out("docker.tar").display().to_string();
    let run = case.build(&["-t", "app:one", "-o", &format!("type=docker,dest={path}")]).ok();
    let inspect =
        tool("skopeo", &["inspect", "--config", &format!("docker-archive:{path}:app:one")]);
    let config: serde_json::Value = serde_json::from_slice(&inspect).expect("JSON");
    assert_eq!(config["config"]["Labels"]["a"], "b");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    let id = run.image();
    let layout = format!("oci:{}", case.out("layout").display());
    tool("skopeo", &["copy", "-q", &format!("docker-archive:{path}:app:one"), &layout]);
    assert_eq!(id.len(), 71);
}

#[test]
fn a_tar_on_stdout_and_a_folder_hold_the_same_files() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE AS b\nRUN mkdir /out && echo hi > /out/a && ln -s a /out/l\nFROM scratch\nCOPY --from=b /out /\n");
    let tar = rgraph_tests::unpack_tar(&case.build(&["-o", "type=tar,dest=-"]).ok().stdout);
    assert_eq!(tar.paths().into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>(), ["a", "l"]);
    case.build(&["-o", &case.out("tree").display().to_string()]).ok();
    assert_eq!(std::fs::read_to_string(case.out("tree/a")).expect("a file"), "hi\n");
    let link = std::fs::read_link(case.out("tree/l")).expect("a link");
    assert_eq!(link.to_str(), Some("a"));
}

#[test]
fn config_and_history_are_what_the_file_says() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "# escape=`\n\
         ARG WHO=world\n\
         FROM BASE\n\
         ARG WHO\n\
         ARG LATE=x\n\
         ENV GREETING=\"hello ${WHO:-nobody}\" SEEN=${LATE:+yes}\n\
         MAINTAINER somebody\n\
         LABEL one=1 `\n  two=2\n\
         WORKDIR /srv\n\
         WORKDIR app\n\
         EXPOSE 80 53/udp\n\
         VOLUME /data\n\
         USER app\n\
         STOPSIGNAL SIGQUIT\n\
         SHELL [\"/bin/ash\", \"-c\"]\n\
         RUN echo $GREETING > /tmp/out && id -un >> /tmp/out && pwd >> /tmp/out\n\
         ENTRYPOINT [\"/bin/echo\"]\n\
         CMD one two\n",
    );
    let image = case.image(&["--build-arg", "WHO=you"]);
    let c = &image.config["config"];
    let env: Vec<_> = c["Env"].as_array().expect("env").iter().filter_map(|e| e.as_str()).collect();
    assert!(env.contains(&"GREETING=hello you") && env.contains(&"SEEN=yes"), "{env:?}");
    assert_eq!(image.config["author"], "somebody");
    assert_eq!(c["Labels"], serde_json::json!({"one": "1", "two": "2"}));
    assert_eq!(c["WorkingDir"], "/srv/app");
    assert_eq!(c["ExposedPorts"], serde_json::json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(c["Volumes"], serde_json::json!({"/data": {}}));
    assert_eq!((&c["User"], &c["StopSignal"]), (&"app".into(), &"SIGQUIT".into()));
    assert_eq!(c["Entrypoint"], serde_json::json!(["/bin/echo"]));
    assert_eq!(c["Cmd"], serde_json::json!(["/bin/ash", "-c", "one two"]));
    assert_eq!(image.read("tmp/out"), "hello you\napp\n/srv/app\n");
    let history = image.config["history"].as_array().expect("history");
    let layers = history.iter().filter(|h| h["empty_layer"] != true).count();
    assert_eq!(layers, image.layers.len(), "history and layers disagree");
    let by = |i: usize| history[history.len() - i]["created_by"].as_str().unwrap_or("");
    assert!(by(1).starts_with("CMD ["), "{}", by(1));
    assert!(by(3).starts_with("RUN |2 WHO=you LATE=x /bin/ash -c echo"), "{}", by(3));
}

#[test]
fn steps_have_no_network_when_told_so_and_a_bounded_world() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\n\
         RUN ls /sys/class/net > /net; id -u > /uid; hostname > /host; ls /proc/self/fd | wc -l > /fds; \
         echo x > /proc/sys/kernel/hostname && exit 3; grep -c . /proc/self/mounts > /dev/null; \
         mount -t tmpfs none /tmp && exit 4; echo $$ > /pid\n",
    );
    let image = case.image(&["--network=none"]);
    assert_eq!(
        (image.read("net"), image.read("uid"), image.read("pid")),
        ("lo\n".into(), "0\n".into(), "1\n".into())
    );
    let fds: u32 = image.read("fds").trim().parse().expect("a number");
    assert!(fds <= 4, "{fds} open files came in from outside");
}

#[test]
fn the_classic_builders_lines() {
    need!(Root);
    let case = Case::with_base();
    case.file("a", "12345").file("skip", "x").file(".dockerignore", "skip\n");
    case.dockerfile(
        "ARG V=1\nFROM busybox:test AS slow\nRUN sleep 1; echo slow\nFROM busybox:test\nENV A=1\n\
         COPY a /a\nRUN echo quick\nCOPY --from=slow /etc/passwd /p\n\
         CMD [\"cat\", \"/a\"]\n",
    );
    let context = case.context().display().to_string();
    let build = || case.rgraph(&["build", "--progress=legacy", "-t", "app:v1", &context]).ok();
    // Ids are hashes: told by what is the same.
    let masked = |text: &str| {
        let mut ids: Vec<String> = Vec::new();
        let words = text.split_inclusive([' ', '\n']).map(|w| {
            let id = w.trim_end();
            if id.len() != 12 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
                return w.to_owned();
            }
            let at = ids.iter().position(|i| i == id).unwrap_or_else(|| {
                ids.push(id.to_owned());
                ids.len() - 1
            });
            w.replace(id, &format!("<{at}>"))
        });
        words.filter(|w| !w.is_empty()).collect::<String>()
    };
    let first = build();
    assert_eq!(first.text(), "", "stdout is data");
    let steps = first.stderr.split_once("Step 1/9").expect("steps").1;
    assert!(first.stderr.starts_with("Build context of 3 files, "), "{}", first.stderr);
    let want = "Step 1/9 : ARG V=1\n\
        Step 2/9 : FROM busybox:test AS slow\n ---> <0>\n\
        Step 3/9 : RUN sleep 1; echo slow\n ---> Running in <1>\nslow\n\
        Removing intermediate container <1>\n ---> <1>\n\
        Step 4/9 : FROM busybox:test\n ---> <0>\n\
        Step 5/9 : ENV A=1\n ---> <0>\n\
        Step 6/9 : COPY a /a\n ---> <2>\n\
        Step 7/9 : RUN echo quick\n ---> Running in <3>\nquick\n\
        Removing intermediate container <3>\n ---> <3>\n\
        Step 8/9 : COPY --from=slow /etc/passwd /p\n ---> <4>\n\
        Step 9/9 : CMD [\"cat\", \"/a\"]\n ---> <4>\n\
        Successfully built <5>\nSuccessfully tagged app:v1\n";
    assert_eq!(masked(&format!("Step 1/9{steps}")), want);
    let again = build();
    assert_eq!(again.stderr.matches(" ---> Using cache\n").count(), 4, "{}", again.stderr);
    assert!(!again.stderr.contains("Running in"), "{}", again.stderr);
    let built = |r: &rgraph_tests::Run| {
        let line = r.stderr.lines().find_map(|l| l.strip_prefix("Successfully built "));
        line.expect("a last line").to_owned()
    };
    assert_eq!(built(&first), built(&again));
    let images = case.rgraph(&["images", "-q", "app:v1"]).ok();
    assert_eq!(images.text().trim(), built(&first));

    case.dockerfile("FROM BASE\nRUN echo before; exit 7\nRUN never\n");
    let failed = case.rgraph(&["build", "--progress=legacy", &context]).fails(1, &["exit code: 7"]);
    assert!(failed.stderr.contains("Step 2/3 : RUN echo before; exit 7\n ---> Running in "));
    assert!(failed.stderr.contains("\nbefore\n") && !failed.stderr.contains("Step 3/3"));
}

fn tool(name: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new(name).args(args).output().expect("a tool that was asked for");
    assert!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}
