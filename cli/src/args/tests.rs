//! What is typed arrives.

use super::*;

fn cli(words: &[&str]) -> Result<Cli, clap::Error> {
    parse(std::iter::once("rgraph").chain(words.iter().copied()).map(OsString::from))
}

fn build(words: &[&str]) -> BuildArgs {
    match cli(words).unwrap_or_else(|e| panic!("{words:?}: {e}")).command {
        Command::Build(b) => *b,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn the_grammar_is_sound() {
    grammar().debug_assert();
    lenient(grammar()).debug_assert();
    short_grammar::<BuildArgs>("build").debug_assert();
    short_grammar::<RunArgs>("run").debug_assert();
    short_grammar::<ExecArgs>("exec").debug_assert();
    short_grammar::<LogsArgs>("logs").debug_assert();
}

#[test]
fn the_short_grammar_leaves_help_and_mistakes_to_the_whole_one() {
    let short = |words: &[&str]| {
        let words: Vec<OsString> =
            ["rgraph"].iter().chain(words).map(|w| OsString::from(*w)).collect();
        parse_short(&words).is_some()
    };
    assert!(short(&["--root", "/r", "build", "-D", "-t", "a", "."]));
    assert!(short(&["graph", "--offline", "."]));
    assert!(short(&["run", "--rm", "-it", "-h", "me", "box", "ls", "--help"]));
    assert!(short(&["exec", "-it", "c", "sh", "-c", "x"]) && short(&["ps"]));
    assert!(short(&["rm", "-f", "c", "--root", "/r"]));
    for words in [
        &["build", "--help"][..],
        &["build", "-h"],
        &["run", "--help"],
        &["exec", "--help"],
        &["--help"],
        &["help"],
        &["-v"],
        &[],
    ] {
        assert!(!short(words), "{words:?}");
        assert!(cli(words).is_err_and(|e| e.exit_code() == 0 || words.is_empty()), "{words:?}");
    }
    for words in [
        &["build"][..],
        &["build", "--nope", "."],
        &["images"],
        &["build", "--no-cache=false", "."],
        &["run", "--rm=false", "box"],
        &["run"],
        &["run", "--nope", "box"],
        &["exec", "c"],
        &["--nope", "ps"],
    ] {
        assert!(!short(words), "{words:?}");
    }
}

/// Asks for the help of a command and of all below it: what is told of it in the list that it is in is
/// told there too.
fn look_at_help(path: &mut Vec<String>, c: &clap::Command) -> usize {
    let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let help = cli(&words).err().filter(|e| e.kind() == ErrorKind::DisplayHelp);
    // What comes after a name of later is not looked at.
    if let Some(help) = &help {
        let about = c.get_about().unwrap().to_string();
        assert!(help.to_string().starts_with(&about), "{path:?}: {help}");
    }
    let mut seen = usize::from(help.is_some());
    for below in c.get_subcommands().filter(|c| c.get_name() != "help") {
        path.push(below.get_name().to_owned());
        seen += look_at_help(path, below);
        path.pop();
    }
    seen
}

#[test]
fn what_is_put_together_late_is_all_there() {
    assert!(look_at_help(&mut Vec::new(), &late_grammar()) > 90);
    for (words, shown) in [
        (&["lock", "--help"][..], "rgraph.lock beside the Dockerfile"),
        (&["fetch", "--help"], "Say nothing but errors"),
        (&["images", "--help"], "--filter"),
    ] {
        let help = cli(words).unwrap_err().to_string();
        assert!(help.contains(shown) && !help.contains("--cache-to"), "{words:?}: {help}");
    }
    for words in
        [&["images", "-q"][..], &["image", "ls"], &["lock", "."], &["help"], &["--version"]]
    {
        let words: Vec<OsString> =
            ["rgraph"].iter().chain(words).map(|w| OsString::from(*w)).collect();
        let [late, whole] = [late_grammar(), grammar()].map(|g| g.try_get_matches_from(&words));
        assert_eq!(format!("{late:?}"), format!("{whole:?}"), "{words:?}");
    }
}

#[test]
fn values_as_docker_writes_them() {
    for words in [
        &["build", "-t", "u/n:v2", "."][..],
        &["build", "-t=u/n:v2", "."],
        &["build", "-tu/n:v2", "."],
        &["build", ".", "--tag", "u/n:v2"],
        &["build", "--tag=u/n:v2", "."],
        &["image", "build", "-t", "u/n:v2", "."],
        &["builder", "build", "-t", "u/n:v2", "."],
        &["buildx", "build", "-t", "u/n:v2", "."],
        &["build", "-qt", "u/n:v2", "."],
    ] {
        let b = build(words);
        assert_eq!(b.tag, ["u/n:v2"], "{words:?}");
        assert_eq!(b.context, ".", "{words:?}");
    }
    let b = build(&["build", "-f", "a", "-f", "b", "-t", "x", "-t", "y", "-"]);
    assert_eq!(b.file.unwrap(), PathBuf::from("b"), "the last wins");
    assert_eq!(b.tag, ["x", "y"], "lists grow");
    assert_eq!(b.context, "-");
    let b = build(&["build", "--build-arg", "-x=1", "--label=a=b=c", "."]);
    assert_eq!((b.build_arg, b.label), (vec!["-x=1".to_owned()], vec!["a=b=c".to_owned()]));
}

#[test]
fn optional_values_do_not_swallow_the_context() {
    for (words, want) in [
        (&["build", "--pull", "."][..], Some(PullArg::Always)),
        (&["build", "--pull=never", "."], Some(PullArg::Never)),
        (&["build", "--pull=true", "."], Some(PullArg::Always)),
        (&["build", "--pull=false", "."], Some(PullArg::Missing)),
        (&["build", "."], None),
    ] {
        let b = build(words);
        assert_eq!((b.shared.pull, b.context.to_str()), (want, Some(".")), "{words:?}");
    }
    assert_eq!(build(&["build", "--squash", "."]).squash.as_deref(), Some("true"));
    assert_eq!(build(&["build", "--squash=a", "."]).squash.as_deref(), Some("a"));
    assert_eq!(build(&["build", "--locked", "."]).locked.as_deref(), Some("".as_ref()));
    assert_eq!(build(&["build", "--locked=a/b", "."]).locked.as_deref(), Some("a/b".as_ref()));
    assert_eq!(build(&["build", "--rm", "."]).legacy.rm.as_deref(), Some("true"));
}

#[test]
fn switches_take_true_and_false() {
    for (words, want) in [
        (&["build", "--no-cache", "."][..], true),
        (&["build", "--no-cache=true", "."], true),
        (&["build", "--no-cache=1", "."], true),
        (&["build", "--no-cache=false", "."], false),
        (&["build", "--no-cache", "--quiet=false", "."], true),
        (&["--debug=false", "build", "--no-cache=f", "."], false),
    ] {
        let b = build(words);
        assert_eq!((b.shared.no_cache, b.shared.quiet), (want, false), "{words:?}");
    }
    assert_eq!(cli(&["build", "--no-cache=maybe", "."]).unwrap_err().exit_code(), 2);
}

#[test]
fn root_and_debug_stand_anywhere() {
    for words in [
        &["--root", "/r", "-D", "build", "."][..],
        &["build", "--root", "/r", "-D", "."],
        &["image", "build", ".", "--root=/r", "--debug"],
        &["store", "--root", "/r", "check", "-D"],
        &["images", "-D", "--root", "/r"],
    ] {
        let c = cli(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        assert_eq!((c.root.as_deref(), c.debug), (Some("/r".as_ref()), true), "{words:?}");
    }
}

#[test]
fn wrong_use_is_2_and_names_the_near_word() {
    for (words, near) in [
        (&["biuld", "."][..], "'build'"),
        (&["build", "--buildarg", "x=1", "."], "'--build-arg'"),
        (&["build"], "<CONTEXT>"),
        (&["build", ".", "extra"], "'extra'"),
        (&["graph", "--format", "dto", "."], "dot"),
        (&["build", "--pull=sometimes", "."], "always"),
        (&["tag", "a"], "<TARGET>"),
        (&["rmi"], "<IMAGE>"),
        (&["store", "chekc"], "'check'"),
    ] {
        let e = cli(words).unwrap_err();
        assert!(e.use_stderr() && e.exit_code() == 2, "{words:?}: {e}");
        assert!(e.to_string().contains(near), "{words:?}: {e}");
    }
}

#[test]
fn help_and_version_are_data() {
    for words in [&["--version"][..], &["-v"], &["--help"], &["help", "build"], &["build", "-h"]] {
        let e = cli(words).unwrap_err();
        assert!(!e.use_stderr() && e.exit_code() == 0, "{words:?}: {e}");
    }
    let e = cli(&["--version"]).unwrap_err().to_string();
    assert_eq!(e, format!("rgraph {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn commands_of_later_are_known() {
    for (words, name) in [
        (&["analyze", "-h"][..], "analyze"),
        (&["watch", "x"], "watch"),
        (&["network", "ls", "-q"], "network"),
    ] {
        match cli(words).unwrap_or_else(|e| panic!("{words:?}: {e}")).command {
            Command::Later(l) => assert_eq!(l.name(), name),
            other => panic!("{words:?}: {other:?}"),
        }
    }
}

#[test]
fn what_the_instruments_call() {
    cli(&[
        "build",
        "--progress",
        "plain",
        "-f",
        "/c/Dockerfile",
        "--build-arg",
        "A",
        "--build-arg",
        "B=",
        "--build-context",
        "n=docker-image://busybox",
        "--label",
        "a=b",
        "--secret",
        "id=s,src=/f",
        "--add-host",
        "h:1.2.3.4",
        "--ulimit",
        "nofile=1:2",
        "--target",
        "t",
        "--platform",
        "linux/amd64,linux/arm64",
        "--network",
        "none",
        "--shm-size",
        "1",
        "--no-cache",
        "--no-cache-filter",
        "s",
        "--allow",
        "network.host",
        "--ssh",
        "default=/s",
        "--cache-to",
        "type=local,dest=/d,mode=max",
        "--cache-from",
        "type=local,src=/d",
        "-o",
        "type=oci,dest=/o",
        "/c",
    ])
    .unwrap();
    cli(&[
        "graph",
        "--format",
        "llb",
        "--offline",
        "--metadata-file",
        "/m",
        "-f",
        "/d",
        "--pull",
        "--cgroup-parent",
        "/p",
        "/c",
    ])
    .unwrap();
    cli(&["graph", "--offline", "--format", "json", "-f", "/c/D", "/c"]).unwrap();
    cli(&["save", "-o", "/f", "t"]).unwrap();
    cli(&["load", "-i", "/f"]).unwrap();
    cli(&["prune", "-f"]).unwrap();
    cli(&["import", "-", "busybox", "-c", "CMD sh", "-m=text"]).unwrap();
    cli(&["system", "df", "-v"]).unwrap();
    cli(&["history", "-H=false", "--no-trunc", "x"]).unwrap();
}

#[test]
fn the_environment_is_typed() {
    let pairs = [
        ("RGRAPH_ROOT", "/r"),
        ("RGRAPH_INSECURE_REGISTRIES", "a:1, b ,,"),
        ("NO_COLOR", ""),
        ("XDG_DATA_HOME", "relative"),
        ("DOCKER_CONFIG", "/d"),
        ("REGISTRY_AUTH_FILE", "/a.json"),
        ("EMPTY", ""),
    ];
    let e = Environment::from_vars(pairs.map(|(k, v)| (k.into(), v.into())));
    assert_eq!(e.root, Some("/r".into()));
    assert_eq!(e.insecure_registries, ["a:1", "b"]);
    assert_eq!((e.no_color, e.xdg_data_home.clone()), (false, None));
    assert_eq!(e.var("EMPTY"), Some(OsStr::new("")));
    assert_eq!(e.var("NONE"), None);
    assert_eq!(e.auth_files(), [PathBuf::from("/d/config.json"), "/a.json".into()]);
}

use std::ffi::OsStr;
