//! Mounts of a step against a hostile context, stage and step, and secrets that stay secret: as root, and as an
//! unprivileged user with many ids and with one (SECU-05, 07, 20).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rgraph_tests::{Case, Ids, has_process, need, wait_until};
use rustix::process::Signal;

const WHO: [Option<Ids>; 3] = [None, Some(Ids::Range), Some(Ids::One)];

fn case(ids: Option<Ids>) -> Case {
    let case = match ids {
        Some(ids) => Case::new().of_user(ids),
        None => Case::new(),
    };
    case.import_base(rgraph_tests::BASE);
    case
}

/// A folder that no step may read or change, open to everybody who gets there.
struct Host {
    dir: PathBuf,
    before: BTreeMap<PathBuf, (u32, u64, String)>,
}

const TOKEN: &str = "c1a8f0e2-token-of-the-host";
/// What a step may read.
const OWN: &str = "77d0b1c4-token-of-the-tree";

impl Host {
    fn new(case: &Case) -> Self {
        let dir = case.out("host");
        for sub in ["sub", "deep/er"] {
            fs::create_dir_all(dir.join(sub)).expect("folders");
        }
        for file in ["token", "sub/token", "deep/er/token"] {
            fs::write(dir.join(file), TOKEN).expect("a file");
        }
        for open in ["", "sub", "deep", "deep/er"] {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(dir.join(open), mode).expect("our folder");
        }
        let before = look(&dir);
        Self { dir, before }
    }

    #[track_caller]
    fn is_untouched(&self, what: &str, said: &str) {
        assert_eq!(look(&self.dir), self.before, "{what}");
        assert!(!said.contains(TOKEN), "{what}: {said}");
    }
}

/// Mode, number of names and content of all that is below a folder.
fn look(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, String)> {
    let mut out = BTreeMap::new();
    for e in fs::read_dir(dir).expect("our folder").flatten() {
        let meta = fs::symlink_metadata(e.path()).expect("just listed");
        let text = fs::read_to_string(e.path()).unwrap_or_default();
        out.insert(e.path(), (meta.mode(), meta.nlink(), text));
        if meta.is_dir() {
            out.extend(look(&e.path()));
        }
    }
    out
}

#[test]
fn sources_stay_in_their_tree() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for ids in WHO {
        let case = case(ids);
        let host = Host::new(&case);
        let dir = host.dir.display();
        symlink(&host.dir, case.context().join("out")).expect("a link");
        symlink("../host", case.context().join("up")).expect("a link");
        case.file("d/token", OWN);
        let stage = format!(
            "FROM BASE AS a\nRUN ln -s {dir} /out; ln -s ../../../../../../..{dir} /up; \
             mkdir /d; echo {OWN} > /d/token\n"
        );
        let context = |source: &str| format!("FROM BASE\nRUN --mount=source={source},target=/m");
        let of_stage = |kind: &str, source: &str| {
            format!("{stage}FROM BASE\nRUN --mount={kind}from=a,source={source},target=/m")
        };
        let commands = format!("cat /m/token /m{dir}/token /m/host/token; echo bad > /m/written");
        let build = |mount: &str| {
            case.dockerfile(&format!("{mount} {commands}; false\n"));
            case.build(&["--network", "none"]).fails(1, &[])
        };
        // What these commands can read in a tree is seen.
        for mount in [context("d"), of_stage("", "/d"), of_stage("type=cache,id=own,", "/d")] {
            let run = build(&mount);
            assert!(run.stderr.contains(&format!(" {OWN}\n")), "{ids:?} {mount}: {}", run.stderr);
        }
        for mount in [
            context("out"),
            context("out/sub"),
            context("up"),
            context("../host"),
            context("/../../../../../../../..").replace("target=/m", &format!("target=/m{dir}")),
            of_stage("", "/out"),
            of_stage("", "/up/sub"),
            of_stage("", "../../out"),
            of_stage("type=cache,id=out,", "/out"),
            of_stage("type=cache,id=up,", "/up"),
        ] {
            let run = build(&mount);
            host.is_untouched(&format!("{ids:?} {mount}"), &run.stderr);
        }
        // A name is a name: it may hold anything, and is the same cache again.
        for id in [
            format!("../../../../../../../..{dir}"),
            dir.to_string(),
            "../../host".to_owned(),
            "..".to_owned(),
        ] {
            let line = format!("RUN --mount=type=cache,id={id},target=/c");
            case.dockerfile(&format!(
                "FROM BASE\n{line} ls /c; echo kept > /c/written\n{line} cat /c/written; rm /c/*\n"
            ));
            let run = case.build(&["--network", "none", "--no-cache"]).ok();
            host.is_untouched(&format!("{ids:?} {id}"), &run.stderr);
            assert!(run.stderr.contains(" kept"), "{}", run.stderr);
        }
    }
}

/// One step swaps a folder of a shared cache for a link to the host as fast as it can, while others
/// have mounts in it.
#[test]
fn a_folder_of_a_shared_cache_may_be_swapped_at_any_time() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for ids in WHO {
        let case = case(ids);
        let host = Host::new(&case);
        let dir = host.dir.display();
        case.file("d/m/f", "f");
        let cache = "--mount=type=cache,id=c,target=/c";
        case.dockerfile(&format!(
            "FROM BASE\nRUN {cache} touch /c/go; while test -e /c/go; do rm -rf /c/sub; mkdir /c/sub; \
             rm -rf /c/sub; ln -s {dir} /c/sub; done\n"
        ));
        let args = ["--network", "none", "--no-cache"];
        let racer = case.start(&case.build_args(&args));
        let inner = [
            "--mount=type=tmpfs,target=/c/sub/deep/er",
            "--mount=type=bind,source=d,target=/c/sub/deep/er",
            "--mount=type=cache,id=o,target=/c/sub/new/er",
            "--mount=type=bind,source=d/m/f,target=/c/sub/token",
        ];
        for (n, mount) in inner.into_iter().cycle().take(24).enumerate() {
            let path = case.context().join(format!("D{n}"));
            let text = format!(
                "FROM {}\nRUN {cache} {mount} cat /c/sub/token; echo bad > /c/sub/written; \
                 rm -rf /c/sub/deep; true\n",
                rgraph_tests::BASE
            );
            fs::write(&path, text).expect("a file");
            // There may be no place to mount on just now.
            let file = path.display().to_string();
            let run = case.build(&[&args[..], &["-f", &file]].concat());
            assert!([0, 1].contains(&run.code), "{}", run.stderr);
            host.is_untouched(&format!("{ids:?} {mount}"), &run.stderr);
        }
        case.dockerfile(&format!("FROM BASE\nRUN {cache} rm /c/go\n"));
        case.build(&args).ok();
        racer.finish().ok();
        host.is_untouched("afterwards", "");
    }
}

const SECRET: &str = "5ec7e7-Zr2Q-x9wT4mLp0";

/// The ways in which a secret might be written down: as it is, backwards, and in two common notations, of
/// which the second depends on what stands before.
fn forms() -> Vec<Vec<u8>> {
    let plain = SECRET.as_bytes();
    let reversed: Vec<u8> = plain.iter().rev().copied().collect();
    let hex: String = plain.iter().map(|b| format!("{b:02x}")).collect();
    let mut out =
        vec![plain.to_vec(), reversed, hex.clone().into_bytes(), hex.to_uppercase().into()];
    out.extend((0..3).map(|skip| base64(&plain[skip..])));
    out
}

/// Whole groups of three bytes alone: what follows may be anything.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |c: &[u8]| u32::from_be_bytes([0, c[0], c[1], c[2]]);
    let digits = |n: u32| [18, 12, 6, 0].map(|shift| DIGITS[(n >> shift) as usize & 63]);
    bytes.chunks_exact(3).flat_map(|c| digits(group(c))).collect()
}

/// The files below a folder that hold the secret.
fn holders(dir: &Path) -> Vec<PathBuf> {
    let forms = forms();
    let mut out = Vec::new();
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        match e.file_type() {
            Ok(t) if t.is_dir() => out.extend(holders(&e.path())),
            Ok(t) if t.is_file() => {
                let bytes = fs::read(e.path()).unwrap_or_default();
                if forms.iter().any(|f| bytes.windows(f.len()).any(|w| w == f)) {
                    out.push(e.path());
                }
            }
            _ => {}
        }
    }
    out
}

#[test]
fn a_secret_is_nowhere_afterwards() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    assert_eq!(base64(b"ManMan"), b"TWFuTWFu");
    for ids in WHO {
        let mut case = case(ids);
        // Where it is written down it is found.
        let control = case.out("control");
        for form in forms() {
            fs::write(&control, [b"a", &form[..], b"b"].concat()).expect("a file");
            assert_eq!(holders(case.dir()), std::slice::from_ref(&control));
        }
        fs::remove_file(&control).expect("our file");
        case.env("PW", SECRET);
        let file = "--mount=type=secret,id=f,uid=7,gid=8,mode=0440,required=true";
        let env = "--mount=type=secret,id=e,env=PASSWORD";
        let steps = format!(
            "RUN --mount=type=secret,id=f stat -c %a:%u:%g /run/secrets/f | grep '^400:0:0$'\n\
             RUN {file} stat -c %a:%u:%g /run/secrets/f | grep '^440:7:8$'\n\
             RUN {file} {env} cat /run/secrets/f; echo $PASSWORD >&2; test $PASSWORD = $(cat /run/secrets/f)\n\
             RUN ! test -e /run/secrets/f && test -z \"$PASSWORD\"\n"
        );
        case.dockerfile(&format!("FROM BASE\n{steps}"));
        let at = |name: &str| case.out(name).display().to_string();
        let (image, cache) =
            (format!("type=oci,compression=uncompressed,dest={}", at("i.tar")), at("cache"));
        let cache = format!("type=local,compression=uncompressed,dest={cache},mode=max");
        let metadata = at("metadata");
        let secrets = ["--secret", "id=f,env=PW", "--secret", "id=e,env=PW", "--network", "none"];
        let outputs =
            ["-o", &image, "--cache-to", &cache, "--metadata-file", &metadata, "--provenance"];
        let args = [&secrets[..], &outputs, &["-t", "app"]].concat();
        let run = case.build(&args).ok();
        assert!(run.stderr.contains("***") && !run.stderr.contains(SECRET), "{}", run.stderr);
        // Another value is no other step.
        case.env("PW", "other-0ne");
        case.build(&args).ok().all_cached();
        case.env("PW", SECRET);
        case.dockerfile(&format!("FROM BASE\nRUN {file} true\n"));
        case.build(&["--network", "none"]).fails(1, &["Dockerfile:2", "`f`"]);

        // While it is there it is in memory alone, and in no command line.
        case.dockerfile(&format!(
            "FROM BASE\nRUN {file} {env} echo be''gun; sleep 1{}\n",
            std::process::id()
        ));
        let mut build = case.start(&case.build_args(&secrets));
        build.wait_for(" begun");
        // Its own command line, not that of the shell that starts it.
        let step = format!("sleep\x001{}\0", std::process::id());
        let soon = std::time::Duration::from_secs(10);
        assert!(wait_until(soon, || has_process(&step)), "{ids:?}: no step to be seen");
        assert!(!has_process(SECRET), "{ids:?}");
        assert_eq!(holders(case.dir()), Vec::<PathBuf>::new(), "{ids:?}, while a step has it");
        build.signal(Signal::KILL);
        build.finish();
        let root = case.root().display().to_string();
        assert!(wait_until(soon, || !has_process(&root) && !has_process(&step)), "{ids:?}");
        assert_eq!(holders(case.dir()), Vec::<PathBuf>::new(), "{ids:?}, afterwards");
    }
}
