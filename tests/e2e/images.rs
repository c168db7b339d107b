//! Commands on images of the store: what Docker's users type, and what they see.

use rgraph_tests::{BASE, Case, need};

/// An image `app` with two names on the base.
fn app() -> Case {
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\nRUN echo a > /a\nENV A=1\nLABEL role=web\nCMD [\"sh\", \"-c\", \"ls\"]\n",
    );
    case.build(&["-t", "app:1", "-t", "team/app:2"]).ok();
    case
}

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

#[test]
fn lists_are_filtered_and_formatted() {
    need!(Root);
    let case = app();
    let id = text(&case, &["images", "-q", "--no-trunc", "app:1"]).trim().to_owned();
    let short = &id["sha256:".len()..][..12];
    for (args, want) in [
        (&["--format", "{{.Repository}}:{{.Tag}}", "app"][..], "app:1\n".to_owned()),
        (
            &["--format", r"table {{.Tag}}\t{{.ID}}", "team/*"],
            format!("TAG       IMAGE ID\n2         {short}\n"),
        ),
        (&["-f", "reference=*/app", "--format", "{{.Tag}}"], "2\n".to_owned()),
        (&["-f", "reference=app:1", "--format", "{{.ID}}"], format!("{short}\n")),
        (&["-f", "label=role=web", "-q"], format!("{short}\n{short}\n")),
        (&["-f", "label=role=db", "-q"], String::new()),
        (&["-f", "label=role", "-f", "label=none", "-q"], String::new()),
        (&["-f", "dangling=true", "-q"], String::new()),
        (&["-f", "since=app:1", "-q"], String::new()),
        (&["--format", "{{json .Repository}}", "app:1"], "\"app\"\n".to_owned()),
    ] {
        assert_eq!(text(&case, &[&["images"], args].concat()), want, "{args:?}");
        assert_eq!(text(&case, &[&["image", "ls"], args].concat()), want, "{args:?}");
    }
    let line: serde_json::Value =
        serde_json::from_str(&text(&case, &["images", "--format", "json", "app:1"])).expect("JSON");
    assert_eq!((&line["ID"], &line["Tag"]), (&short.into(), &"1".into()));
    // A build without a name leaves an image without one.
    case.dockerfile("FROM BASE\nRUN echo b > /b\n");
    case.build(&[]).ok();
    let dangling = text(&case, &["images", "-f", "dangling=true"]);
    assert!(dangling.lines().nth(1).is_some_and(|l| l.starts_with("<none>")), "{dangling}");
    for (args, code, part) in [
        (&["images", "--format", "{{.Nope}}"][..], 2, "there is no such field"),
        (&["images", "--format", "{{.ID"], 2, "`{{` is not closed"),
        (&["images", "-f", "colour=red"], 2, "unknown filter `colour`"),
        (&["images", "-f", "before=none:1"], 1, "no such image: none:1"),
    ] {
        case.rgraph(args).fails(code, &[part]);
    }
}

#[test]
fn several_platforms_under_one_name_are_one_row() {
    need!(Root);
    let case = Case::new();
    case.file("f", "x").dockerfile("FROM scratch\nCOPY f /\n");
    case.build(&["--platform=linux/amd64,linux/arm64", "-t", "multi"]).ok();
    let rows = |args: &[&str]| text(&case, &[&["images", "-q"], args].concat()).lines().count();
    assert_eq!((rows(&[]), rows(&["-a"])), (1, 2));
    let platforms = text(&case, &["images", "-a", "--format", "{{.Platform}}"]);
    assert!(platforms.contains("linux/amd64\n") && platforms.contains("linux/arm64\n"));
    case.rgraph(&["rmi", "multi"]).ok();
    assert_eq!(rows(&["-a"]), 0);
}

#[test]
fn history_and_inspect_say_what_was_built() {
    need!(Root);
    let case = app();
    let history =
        text(&case, &["history", "--format", "{{.ID}}|{{.CreatedBy}}|{{.Size}}", "app:1"]);
    let rows: Vec<&str> = history.lines().collect();
    assert_eq!(rows.len(), 5, "{history}");
    assert!(rows[0].ends_with("|CMD [\"sh\" \"-c\" \"ls\"]|0B"), "{history}");
    assert!(rows[1..].iter().all(|r| r.starts_with("<missing>|")), "{history}");
    let at = text(&case, &["history", "-H=false", "app:1"]);
    assert!(at.starts_with("IMAGE") && at.contains("CREATED AT"), "{at}");
    for (format, want) in [
        ("{{.Config.Cmd}}", "[sh -c ls]"),
        ("{{index .Config.Labels \"role\"}}", "web"),
        ("{{json .Config.Entrypoint}}{{.Config.Entrypoint}}", "null[]"),
        ("{{range .RepoTags}}{{.}} {{end}}", "app:1 team/app:2 "),
        ("{{len .RootFS.Layers}} {{.Os}}/{{.Architecture}}", "2 linux/amd64"),
        ("<{{.Variant}}{{.OsVersion}}>", "<>"),
    ] {
        let got = text(&case, &["inspect", "-f", format, "app:1"]);
        assert_eq!(got, format!("{want}\n"), "{format}");
    }
    let run = case.rgraph(&["inspect", "nobody"]).fails(1, &["no such object: nobody"]);
    assert_eq!(run.text(), "[]\n");
    let run = case.rgraph(&["inspect", "--format", "{{.Os}}", "nobody", "app:1"]).fails(1, &[]);
    assert_eq!(run.text(), "linux\n");
}

#[test]
fn names_ids_and_removals() {
    need!(Root);
    let case = app();
    let id = text(&case, &["inspect", "-f", "{{.Id}}", "app:1"]).trim().to_owned();
    let digest = text(&case, &["inspect", "-f", "{{.Descriptor.digest}}", "app:1"]);
    let hex = &id["sha256:".len()..];
    for name in [hex, &hex[..12], &id, &format!("app@{}", digest.trim()), digest.trim()] {
        let got = text(&case, &["inspect", "-f", "{{.Id}}", name]);
        assert_eq!(got.trim(), id, "{name}");
    }
    case.rgraph(&["tag", "app:1", "App:1"]).fails(2, &["invalid reference format"]);
    case.rgraph(&["tag", "nobody", "x"]).fails(1, &["no such image: nobody"]);
    // By id, with several names: only by force.
    case.rgraph(&["rmi", &hex[..12]]).fails(1, &["must be forced", "--force"]);
    // One that is not there does not stop the rest.
    let run = case.rgraph(&["rmi", "nobody", "app:1"]).fails(1, &["no such image: nobody"]);
    assert_eq!(run.text(), "Untagged: app:1\n");
    case.rgraph(&["rmi", "-f", "nobody"]).ok();
    let gone = text(&case, &["rmi", &hex[..12]]);
    assert!(gone.starts_with(&format!("Untagged: team/app:2\nDeleted: {id}\n")), "{gone}");
    let left = text(&case, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(left, format!("{BASE}\n"));
}
