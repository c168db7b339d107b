//! Whole command lines to typed options.

use std::path::PathBuf;

use rgraph_ir::Platform;
use rgraph_ir::op::NetworkMode;
use rgraph_ir::request::{ImageOutput, OutputSpec};

use super::*;
use crate::args::{Command, parse};

fn convert(words: &[&str], vars: &[(&str, &str)]) -> Result<BuildOptions, OptionsError> {
    let line = ["rgraph", "build"].iter().chain(words).map(Into::into);
    let env = Environment::from_vars(vars.iter().map(|(k, v)| (k.into(), v.into())));
    match parse(line).unwrap_or_else(|e| panic!("{words:?}: {e}")).command {
        Command::Build(b) => BuildOptions::new(*b, &env, Terminals::default()),
        other => panic!("{words:?}: {other:?}"),
    }
}

fn ok(words: &[&str]) -> BuildOptions {
    convert(words, &[]).unwrap_or_else(|e| panic!("{words:?}: {e}"))
}

#[test]
fn plain_builds() {
    let o = ok(&["."]);
    assert_eq!(o.context, ContextSpec::Folder(".".into()));
    assert_eq!((&o.file, o.pull, o.call), (&FileSpec::Default, Pull::Missing, Call::Build));
    assert_eq!((o.progress, o.tty_log_lines), (ProgressMode::Plain, 6));
    assert!(o.outputs.is_empty() && o.tags.is_empty() && o.platforms.listed().is_empty());
    let o =
        ok(&["-t", "app", "-t", "localhost:5000/a:1", "-f", "sub/My.Dockerfile", "--pull", "x"]);
    assert_eq!(o.tags, ["docker.io/library/app:latest", "localhost:5000/a:1"]);
    assert_eq!(o.file, FileSpec::Path(PathBuf::from("sub/My.Dockerfile")));
    assert_eq!(o.pull, Pull::Always);
    let o = ok(&["--platform", "linux/amd64,linux/arm64/v8", "--platform", "amd64", "."]);
    assert_eq!(o.platforms.listed(), [Platform::linux_amd64(), Platform::new("linux", "arm64")]);
    let o = ok(&["--no-cache-filter", "a,b", "--no-cache-filter=c", "--shm-size", "64m", "."]);
    assert_eq!((o.no_cache_filter.join(" "), o.shm_size), ("a b c".to_owned(), Some(64 << 20)));
}

/// Nothing that was given is given in vain.
#[test]
fn names_of_outputs_and_tags_are_all_given() {
    let o = ok(&["-t", "a:1", "-t", "a:1", "-o", "type=image,name=b:1", "-o", "type=image", "."]);
    assert_eq!(o.tags, ["docker.io/library/a:1"]);
    let names: Vec<_> = o
        .outputs
        .iter()
        .map(|o| match o {
            OutputSpec::Image(i) => i.names.join(" "),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["docker.io/library/a:1 docker.io/library/b:1", ""]);
    for words in [&["-t", "sha256:abc", "."][..], &["-o", "type=image,name=sha256:abc", "."]] {
        assert!(convert(words, &[]).unwrap_err().is_usage(), "{words:?}");
    }
}

#[test]
fn times_and_tries_of_steps() {
    let second = std::time::Duration::from_secs(1);
    let o = ok(&["."]);
    assert_eq!((o.timeouts, o.retries), (Timeouts::default(), 0));
    let o = ok(&["--timeout", "1m30s", "--timeout=build=1h", "--retry", "3", "."]);
    assert_eq!((o.timeouts.step, o.timeouts.build), (Some(90 * second), Some(3600 * second)));
    assert_eq!(o.retries, 3);
    assert_eq!(ok(&["--timeout", "step=1s", "."]).timeouts.step, Some(second));
    for words in [
        &["--timeout", "0", "."][..],
        &["--timeout", "10", "."],
        &["--timeout", "buid=1h", "."],
        &["--retry", "x", "."],
        &["--retry", "101", "."],
    ] {
        assert!(convert(words, &[]).unwrap_err().is_usage(), "{words:?}");
    }
}

#[test]
fn networks_that_are_and_are_not_to_be_used() {
    for words in [
        &["--offline", "--pull", "."][..],
        &["--offline", "--pull=newer", "."],
        &["--offline", "--push", "-t", "x", "."],
        &["--offline", "-o", "type=image,push=true", "-t", "x", "."],
        &["--offline", "-o", "type=registry", "-t", "x", "."],
    ] {
        let e = convert(words, &[]).unwrap_err();
        assert!(e.is_usage() && e.to_string().contains("--offline"), "{words:?}: {e}");
    }
    for words in [&["--offline", "."][..], &["--offline", "--pull=never", "-t", "x", "."]] {
        assert!(ok(words).offline, "{words:?}");
    }
    let line = ["rgraph", "graph", "--offline", "--pull", "."].iter().map(Into::into);
    let Command::Graph(g) = parse(line).unwrap().command else { panic!("no graph") };
    let g = GraphOptions::new(*g, &Environment::default(), Terminals::default()).unwrap();
    assert_eq!((g.build.offline, g.build.pull), (true, Pull::Always));
}

#[test]
fn lock_files() {
    for (words, want) in [
        (&["."][..], None),
        (&["--locked", "sub"], Some("sub/rgraph.lock")),
        (&["--locked", "-f", "a/My.Dockerfile", "sub"], Some("a/rgraph.lock")),
        (&["--locked", "-f", "My.Dockerfile", "sub"], Some("rgraph.lock")),
        (&["--locked", "-f", "-", "sub"], Some("sub/rgraph.lock")),
        (&["--locked=x/y", "sub"], Some("x/y")),
        (&["--locked=", "sub"], Some("sub/rgraph.lock")),
    ] {
        assert_eq!(ok(words).locked, want.map(PathBuf::from), "{words:?}");
    }
    let lock = |words: &[&str]| {
        let line = ["rgraph", "lock"].iter().chain(words).map(Into::into);
        let Command::Lock(l) = parse(line).unwrap().command else { panic!("no lock") };
        LockOptions::new(*l, &Environment::default(), Terminals::default())
    };
    let o = lock(&["-f", "a/D", "--platform", "arm64", "."]).unwrap();
    assert_eq!((&o.dest, o.check), (&LockDest::File("a/rgraph.lock".into()), false));
    assert_eq!((o.build.pull, o.build.platforms.listed().len()), (Pull::Missing, 1));
    assert_eq!(lock(&["-o", "-", "."]).unwrap().dest, LockDest::Stdout);
    assert_eq!(lock(&["-o", "x", "."]).unwrap().dest, LockDest::File("x".into()));
    for (words, pull) in [
        (&["--check", "."][..], Pull::Always),
        (&["--check", "--offline", "."], Pull::Missing),
        (&["--check", "--pull=newer", "."], Pull::Newer),
    ] {
        let o = lock(words).unwrap();
        assert_eq!((o.check, o.build.pull, o.build.call), (true, pull, Call::Build), "{words:?}");
    }
    for words in [
        &["-o", "x", "-o", "y", "."][..],
        &["-o", "", "."],
        &["-o", "-", "--check", "."],
        &["--locked", "."],
        &["--offline", "--pull", "."],
    ] {
        assert!(lock(words).unwrap_err().is_usage(), "{words:?}");
    }
}

#[test]
fn a_cache_can_have_a_time_to_live() {
    assert_eq!(ok(&["."]).cache_ttl, None);
    assert_eq!(ok(&["--cache-ttl", "1d", "."]).cache_ttl, "24h".parse().ok());
    assert!(convert(&["--cache-ttl=1.5h", "."], &[]).unwrap_err().is_usage());
}

#[test]
fn build_args_come_from_the_environment_by_name_only() {
    let o = convert(
        &["--build-arg", "A=1=2", "--build-arg", "B", "--build-arg", "C", "--build-arg=D=", "."],
        &[("B", "env"), ("A", "not this")],
    )
    .unwrap();
    let got: Vec<_> = o.build_args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(got, ["A=1=2", "B=env", "D="]);
}

#[test]
fn the_epoch_of_an_argument_beats_the_environment() {
    let env = [("SOURCE_DATE_EPOCH", "7")];
    for (words, want) in [
        (&["."][..], Some(7)),
        (&["--build-arg", "SOURCE_DATE_EPOCH=8", "."], Some(8)),
        (&["--build-arg", "SOURCE_DATE_EPOCH=", "."], None),
    ] {
        let o = convert(words, &env).unwrap();
        assert_eq!(o.source_date_epoch, want, "{words:?}");
        assert_eq!(
            o.build_args["SOURCE_DATE_EPOCH"],
            want.map_or(String::new(), |n| n.to_string())
        );
    }
    assert!(convert(&["."], &[("SOURCE_DATE_EPOCH", "now")]).unwrap_err().is_usage());
}

#[test]
fn network_host_on_the_command_line_is_a_grant() {
    let o = ok(&["--network", "host", "."]);
    assert_eq!((o.network, o.allow.network_host), (Some(NetworkMode::Host), true));
    let o = ok(&["--network", "none", "."]);
    assert_eq!((o.network, o.allow.network_host), (Some(NetworkMode::None), false));
}

#[test]
fn push_and_load_are_outputs() {
    let count = |o: &BuildOptions| {
        let pushes = |o: &&OutputSpec| {
            matches!(
                o,
                OutputSpec::Registry(ImageOutput { push: true, .. })
                    | OutputSpec::Image(ImageOutput { push: true, .. })
            )
        };
        let images = o.outputs.iter().filter(|o| matches!(o, OutputSpec::Image(_))).count();
        (o.outputs.len(), o.outputs.iter().filter(pushes).count(), images)
    };
    for (words, want) in [
        (&["-t", "a", "--push", "."][..], (1, 1, 0)),
        (&["-t", "a", "--push", "--load", "."], (2, 1, 1)),
        (&["-t", "a", "-o", "type=image", "--push", "."], (1, 1, 1)),
        (&["-o", "type=oci,dest=x", "--load", "."], (2, 0, 1)),
    ] {
        assert_eq!(count(&ok(words)), want, "{words:?}");
    }
    assert!(convert(&["--push", "."], &[]).unwrap_err().is_usage());
}

#[test]
fn progress_is_decided_here() {
    use ProgressMode::{Legacy, Plain, Quiet, RawJson, Tty};
    for (quiet, flag, env, terminal, want) in [
        (false, None, "", true, Tty),
        (false, None, "", false, Plain),
        (false, Some("auto"), "plain", true, Tty),
        (false, Some("tty"), "", false, Plain),
        (false, None, "plain", true, Plain),
        (false, None, "rawjson", true, RawJson),
        (false, Some("legacy"), "", true, Legacy),
        (true, Some("plain"), "", true, Quiet),
        (false, Some("quiet"), "", true, Quiet),
    ] {
        let env = Environment::from_vars([("BUILDKIT_PROGRESS".into(), env.into())]);
        let got = ProgressMode::choose(quiet, flag, &env, terminal).unwrap();
        assert_eq!(got, want, "{quiet} {flag:?} {terminal}");
    }
}

#[test]
fn calls() {
    for (words, want) in [
        (&["--check", "."][..], Call::Check { json: false }),
        (&["--call", "check", "."], Call::Check { json: false }),
        (&["--call=outline,format=json", "."], Call::Outline { json: true }),
        (&["--call=targets", "."], Call::Targets { json: false }),
        (&["--call=build", "."], Call::Build),
    ] {
        assert_eq!(ok(words).call, want, "{words:?}");
    }
}

#[test]
fn legacy_flags_warn_once() {
    assert_eq!(ok(&["--rm", "."]).warnings, ["`--rm` has no meaning here and is ignored"]);
    let o = ok(&["--rm=false", "--force-rm", "--isolation", "hyperv", "."]);
    assert_eq!(
        o.warnings,
        ["`--rm`, `--force-rm`, `--isolation` have no meaning here and are ignored"]
    );
    assert!(ok(&["--provenance=false", "--sbom=false", "."]).warnings.is_empty());
}

#[test]
fn refusals() {
    // (flags, wrong use (exit code 2) or failure (1), part of the text)
    for (words, usage, text) in [
        (&["-t", "UPPER", "."][..], true, "invalid reference format"),
        (&["--network", "hots", "."], true, "invalid value `hots` for `--network`"),
        (&["--progress", "plian", "."], true, "unknown mode"),
        (&["--platform", "linux/amd64,plan10/x/y/z", "."], true, "--platform"),
        (&["--jobs", "0", "."], true, "--jobs"),
        (&["--label", "=x", "."], true, "--label"),
        (&["--build-arg", "=x", "."], true, "--build-arg"),
        (&["--shm-size", "lots", "."], true, "--shm-size"),
        (&["-f", "-", "-"], true, "stdin"),
        (&["-o", "-", "-o", "type=oci", "."], true, "two outputs"),
        (&["-q", "-o", "-", "."], true, "image id"),
        (
            &["-o", "type=oci,dest=s.tar", "-o", "type=tar,dest=./s.tar", "."],
            true,
            "`./s.tar` cannot take two outputs (`-o`, `-o`)",
        ),
        (
            &["--iidfile", "F", "--metadata-file", "F", "."],
            true,
            "`F` cannot take two outputs (`--iidfile`, `--metadata-file`)",
        ),
        (&["--iidfile", "F", "-o", "type=tar,dest=F", "."], true, "(`-o`, `--iidfile`)"),
        (&["--check", "--call", "outline", "."], true, "exclude"),
        (&["--insecure-registry", "http://x:5", "."], true, "--insecure-registry"),
        (&["--squash=some", "."], true, "unknown value"),
        (&["--inherit-annotations", "."], false, "`--inherit-annotations` is not supported yet"),
        (&["--timestamp=now", "."], true, "seconds since 1970"),
        (&["--timestamp=99999999999999", "."], true, "seconds since 1970"),
        (&["--build-arg=SOURCE_DATE_EPOCH=99999999999999", "."], true, "seconds since 1970"),
        (&["--memory", "1x", "."], true, "--memory"),
        (
            &["--provenance", "-o", "type=oci,dest=x,oci-mediatypes=false", "."],
            true,
            "`--attest` needs `oci-mediatypes=true`",
        ),
        (&["--secret", "id=x,src=/nonexistent", "."], false, "secret `x`: cannot read"),
        (&["--ssh", "default", "."], false, "SSH_AUTH_SOCK"),
    ] {
        let e = convert(words, &[]).unwrap_err();
        assert_eq!(e.is_usage(), usage, "{words:?}: {e}");
        assert!(e.to_string().contains(text), "{words:?}: {e}");
    }
}

#[test]
fn the_null_device_takes_every_output() {
    let both = ["-o", "type=tar,dest=/dev/null", "-o", "type=oci,dest=/dev/null", "."];
    assert_eq!(ok(&both).outputs.len(), 2);
}

#[test]
fn an_output_says_that_its_registry_is_insecure() {
    let of = |output: &str| ok(&["-t", "r.example:5/a", "-o", output, "."]).insecure_registries;
    assert_eq!(of("type=registry,registry.insecure=true"), ["r.example:5"]);
    let both = "type=image,push=true,name=other:1/b,registry.insecure=true";
    assert_eq!(of(both), ["r.example:5", "other:1"]);
    assert_eq!(of("type=registry"), [""; 0]);
}

#[test]
fn registries_are_hosts() {
    let env = Environment::from_vars([("RGRAPH_INSECURE_REGISTRIES".into(), "b:1,r.io".into())]);
    let got = insecure_registries(&["10.0.0.1:5000".into(), "b:1".into(), "reg".into()], &env);
    assert_eq!(got.unwrap(), ["10.0.0.1:5000", "b:1", "reg", "r.io"]);
}

#[test]
fn filters_have_names() {
    let known = ["dangling", "label"];
    let got = filters(&["Label=a=b".into()], &known).unwrap();
    assert_eq!(got, [("label".to_owned(), "a=b".to_owned())]);
    let e = filters(&["danglin=true".into()], &known).unwrap_err();
    assert_eq!(e.help(), Some("did you mean `dangling`?"));
    assert!(filters(&["x".into()], &known).is_err());
}
