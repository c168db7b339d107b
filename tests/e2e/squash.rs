//! Images made smaller in words or layers: `--squash`, `--omit-history`, `--inherit-labels`, `--timestamp`,
//! names for images that have none.

use rgraph_tests::{Case, Image, need};

/// What a container of the image sees below /t: paths, kinds, modes and content.
fn seen(case: &Case, name: &str) -> String {
    let script = "cd /t && find . | sort | while read f; do stat -c '%n %F %a %u' $f; \
                  [ -f $f ] && cat $f; done; true";
    let args = ["run", "--rm", "--network=none", name, "sh", "-c", script];
    case.rgraph(&args).ok().text().to_owned()
}

/// A base with files to hide, and steps that hide, replace and bring back.
const STEPS: &str = "FROM BASE AS b\nRUN mkdir -p /t/d/sub /t/e && echo 1 > /t/d/a && echo 1 > /t/d/sub/x \
    && echo 1 > /t/f && echo 1 > /t/e/only && ln -s f /t/l\nLABEL from=base\nFROM b\n\
    RUN rm /t/d/a && echo new > /t/d/b && echo tmp > /t/tmp\n\
    RUN rm -r /t/e && mkdir /t/e && echo 2 > /t/e/fresh\n\
    RUN rm /t/tmp && rm /t/f && mkdir /t/f && echo in > /t/f/in\n\
    RUN rm -r /t/d/sub && echo file > /t/d/sub && chmod 700 /t/d && chown 1234 /t/d/b\n\
    RUN rm -r /t/f && echo again > /t/f && rm /t/e/fresh\n";

fn whiteouts(image: &Image) -> Vec<String> {
    let paths = image.top().paths().into_iter();
    paths.filter(|p| p.contains(".wh.")).map(str::to_owned).collect()
}

#[test]
fn one_layer_shows_what_many_show() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(STEPS);
    case.build(&["--network=none", "-t", "many"]).ok();
    let many = seen(&case, "many");
    let layers = |name: &str| {
        let args = ["inspect", "--format", "{{len .RootFS.Layers}}", name];
        case.rgraph(&args).ok().text().trim().to_owned()
    };
    assert_eq!(layers("many"), "7");
    case.build(&["--network=none", "--target=b", "-t", "below"]).ok();
    // On a base image of its own.
    let steps = STEPS.split_once("FROM b\n").expect("two stages").1;
    case.file("Dockerfile", format!("FROM below\n{steps}"));
    for (flag, name, count) in
        [("--squash", "own", "3"), ("--squash=all", "all", "1"), ("--squash=false", "none", "7")]
    {
        let first = case.build(&["--network=none", flag, "-t", name]).ok().image();
        assert_eq!((&*layers(name), seen(&case, name)), (count, many.clone()), "{flag}");
        // The same again, and what is archived is the same image.
        assert_eq!(case.build(&["--network=none", flag, "-t", name]).ok().image(), first);
        let image = case.image(&["--network=none", flag]);
        assert_eq!(image.layers.len().to_string(), count);
        match flag {
            // What the base has is hidden, what only came and went is not told.
            "--squash" => assert_eq!(
                whiteouts(&image),
                ["t/d/.wh.a", "t/e/.wh..wh..opq"],
                "{:?}",
                image.top().paths()
            ),
            "--squash=all" => assert_eq!(whiteouts(&image), [""; 0]),
            _ => {}
        }
        let history = image.config["history"].as_array().expect("a history");
        let with_layer = history.iter().filter(|h| h["empty_layer"] != true).count();
        assert_eq!(with_layer.to_string(), count, "{history:#?}");
        let told = history
            .iter()
            .filter(|h| h["created_by"].as_str().is_some_and(|c| c.contains("rm /t/tmp")));
        assert_eq!(told.count(), 1);
        if flag != "--squash=false" {
            assert_eq!(
                history.last().expect("lines")["comment"].as_str().map(|c| &c[..5]),
                Some("merge")
            );
        }
    }
    // Steps on such an image see it so.
    case.file(
        "Dockerfile",
        "FROM own\nRUN test ! -e /t/tmp && test ! -e /t/d/a && cat /t/d/b > /t/g\n",
    );
    case.build(&["--network=none"]).ok();
    case.rgraph(&["store", "check"]).ok();
}

#[test]
fn an_image_tells_less_when_asked() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nLABEL from=base\n");
    case.build(&["-t", "labelled"]).ok();
    case.file("Dockerfile", "FROM labelled\nRUN echo x > /x\nLABEL own=1\n");
    let image = case.image(&["--network=none", "--omit-history", "--inherit-labels=false"]);
    assert!(image.config["history"].as_array().is_none_or(Vec::is_empty), "{}", image.config);
    assert_eq!(image.config["config"]["Labels"], serde_json::json!({"own": "1"}));
    let image = case.image(&["--network=none", "--inherit-annotations=false"]);
    assert_eq!(image.config["config"]["Labels"], serde_json::json!({"from": "base", "own": "1"}));
    assert!(image.config["history"].as_array().is_some_and(|h| h.len() > 2));
    // It is a base all the same.
    case.build(&["--network=none", "--omit-history", "-t", "short"]).ok();
    case.file("Dockerfile", "FROM short\nRUN cat /x\n");
    case.build(&["--network=none"]).ok();
    assert_eq!(case.rgraph(&["history", "-q", "short"]).ok().text().lines().count(), 2);
}

#[test]
fn a_time_for_the_image_and_its_files() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo \"[$SOURCE_DATE_EPOCH]\" > /x\n");
    let image = case.image(&["--network=none", "--timestamp=1700000001"]);
    assert_eq!(image.config["created"], "2023-11-14T22:13:21Z");
    assert_eq!(image.top().get("x").mtime, 1_700_000_001);
    assert_eq!(image.read("x"), "[]\n", "no step is told");
    let run = case
        .build(&["--network=none", "-o", "type=image,rewrite-timestamp=true", "--timestamp=1"])
        .ok();
    assert!(
        run.stderr.contains("files of an image in the store keep their times"),
        "{}",
        run.stderr
    );
}

#[test]
fn an_image_without_a_name_is_called_by_its_digest() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo x > /x\n");
    let output = "type=image,dangling-name-prefix=left/over";
    case.build(&["--network=none", "-o", output]).ok();
    let names = case.rgraph(&[
        "images",
        "--digests",
        "--format",
        "{{.Repository}}@{{.Digest}}",
        "left/over",
    ]);
    let name = names.ok().text().trim().to_owned();
    case.rgraph(&["run", "--rm", "--network=none", &name, "cat", "/x"]).ok();
    case.build(&["-o", "type=image,dangling-name-prefix=a:b:c"])
        .fails(2, &["no name without a tag"]);
}

#[test]
fn times_are_cut_in_every_form_of_archive() {
    need!(Root, Tool("skopeo"));
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo made > /made\n");
    for (form, kind) in [
        ("type=docker", "docker-archive"),
        ("type=oci,compression=uncompressed", "oci-archive"),
        ("type=oci", "oci-archive"),
    ] {
        let file = case.out("i.tar").display().to_string();
        let output = format!("{form},dest={file}");
        case.build(&["--network=none", "--timestamp=1700000001", "-o", &output]).ok();
        let out = std::process::Command::new("skopeo")
            .args(["inspect", &format!("{kind}:{file}")])
            .output()
            .expect("skopeo runs");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.contains("2023-11-14T22:13:21Z"), "{form}: {text}");
    }
}

/// A layer that is lost and made again stands elsewhere: the image knows where.
#[test]
fn an_image_outlives_the_loss_of_a_layer() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo made > /made\n");
    let build = || case.build(&["--network=none", "-t", "x:1"]).ok();
    build();
    let snapshots = case.root().join("snapshots");
    let made = |p: &std::path::Path| p.join("fs/made").exists();
    let all = std::fs::read_dir(&snapshots).expect("a folder");
    let lost = all.map(|e| e.expect("an entry").path()).find(|p| made(p)).expect("the layer");
    std::fs::remove_dir_all(lost).expect("it goes");
    build();
    let run = case.rgraph(&["run", "--rm", "--network=none", "x:1", "cat", "/made"]).ok();
    assert_eq!(run.text(), "made\n");
    let file = case.out("x.tar").display().to_string();
    case.rgraph(&["save", "-o", &file, "x:1"]).ok();
}
