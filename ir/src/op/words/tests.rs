use std::sync::Arc;

use super::*;
use crate::env::Env;
use crate::fields::{FieldList, KeyFields};
use crate::op::*;
use crate::platform::Platform;

fn owner(user: &str, group: u32) -> Option<Owner> {
    let user = Some(OwnerId::Name(user.into()));
    let lookup = ActionRef::Input(InputIndex(0));
    Some(Owner { user, group: Some(OwnerId::Id(group)), lookup })
}

fn service() -> Service {
    let run = ServiceRun {
        args: vec!["postgres".into()],
        env: vec!["PGDATA=/data".into(), "A=1".into()],
        cwd: "/".into(),
        user: String::new(),
        ports: Vec::new(),
        patience: std::time::Duration::from_secs(1),
    };
    Service {
        name: "db".into(),
        root: InputIndex(3),
        image: "sha256:a".into(),
        set: vec!["A=1".into()],
        run,
    }
}

fn exec() -> ExecOp {
    let mount = |dest: &str, kind| Mount { dest: dest.into(), kind };
    let secret = SecretMount { id: "s".into(), uid: 1, gid: 2, mode: 0o400, required: true };
    let ssh = SshMount { id: "k".into(), uid: 1, gid: 2, mode: 0o600, required: true };
    let cache = CacheMount {
        id: "c".into(),
        sharing: CacheSharing::Shared,
        from: Some(InputIndex(1)),
        selector: "/seed".into(),
        readonly: false,
    };
    let from = Some(InputIndex(2));
    ExecOp {
        args: ["/bin/sh", "-c", "make"].map(str::to_owned).to_vec(),
        env: Env::from_iter([("PATH", "/bin"), ("V", "1")]),
        cwd: "/src".into(),
        user: "app".into(),
        root: Some(InputIndex(0)),
        mounts: vec![
            mount("/b", MountKind::Bind { from, selector: "/x".into(), readonly: true }),
            mount("/c", MountKind::Cache(cache)),
            mount("/t", MountKind::Tmpfs { size: 1 }),
            mount("/s", MountKind::Secret(secret)),
            mount("/k", MountKind::Ssh(ssh)),
        ],
        network: NetworkMode::None,
        security: SecurityMode::Insecure,
        secret_env: vec![
            SecretEnv { id: "a".into(), name: "A".into(), required: true },
            SecretEnv { id: "b".into(), name: "B".into(), required: false },
        ],
        devices: vec![Device { name: "d".into(), required: true }],
        proxy_env: None,
        extra_hosts: vec![HostIp { host: "h".into(), ip: "1.2.3.4".into() }],
        hostname: Some("n".into()),
        ulimits: vec![Ulimit { name: "nofile".into(), soft: 1, hard: 2 }],
        cgroup_parent: None,
        services: vec![service()],
    }
}

fn copy() -> CopyAction {
    CopyAction {
        from: ActionRef::Input(InputIndex(1)),
        src: "/a".into(),
        dest: "/x/".into(),
        owner: owner("app", 5),
        mode: Some(FileMode::Bits(0o755)),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: true,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: Some(1),
        include_patterns: vec!["i".into(), "j".into()],
        exclude_patterns: vec!["e".into()],
        required_paths: vec!["r".into()],
    }
}

fn file(actions: Vec<FileActionKind>) -> Op {
    let base = |i: usize| match i.checked_sub(1) {
        None => ActionRef::Input(InputIndex(0)),
        Some(before) => ActionRef::Action(before as u32),
    };
    let action = |(i, kind)| FileAction { base: base(i), kind };
    Op::File(FileOp { actions: actions.into_iter().enumerate().map(action).collect() })
}

/// Ops in which every field of every kind has a value.
fn samples() -> Vec<Op> {
    let (timestamp, path) = (Some(1), "/p".to_owned());
    let data = Arc::from(&b"text"[..]);
    let git = GitSource {
        remote: "r".into(),
        full_url: "u".into(),
        reference: Some("m".into()),
        subdir: Some("s".into()),
        keep_git_dir: true,
        checksum: Some("c".into()),
        skip_submodules: true,
        fetch_by_commit: true,
        ssh: true,
        mtime: Some("commit".into()),
    };
    let local = LocalSource {
        name: "context".into(),
        follow_paths: Some(vec!["f".into()]),
        include: vec!["i".into()],
        exclude: vec!["e".into()],
        shared_key_hint: None,
    };
    let http = HttpSource { url: "u".into(), filename: "f".into(), checksum: Some("c".into()) };
    let image = ImageSource { reference: "i".into(), resolve: ResolveMode::Default };
    let layout = OciLayoutSource { reference: "o".into(), store: "s".into() };
    let symlink =
        SymlinkAction { target: "t".into(), path: path.clone(), owner: owner("a", 1), timestamp };
    let mkdir = MkdirAction {
        path: path.clone(),
        mode: 0o755,
        make_parents: true,
        owner: owner("a", 1),
        timestamp,
    };
    let rm = RmAction { path: path.clone(), allow_not_found: true, allow_wildcard: true };
    vec![
        Op::Source(SourceOp::Image(image)),
        Op::Source(SourceOp::Local(Box::new(local))),
        Op::Source(SourceOp::Http(Box::new(http))),
        Op::Source(SourceOp::Git(Box::new(git))),
        Op::Source(SourceOp::OciLayout(layout)),
        Op::Exec(Box::new(exec())),
        file(vec![
            FileActionKind::Copy(Box::new(copy())),
            FileActionKind::Copy(Box::new(CopyAction { src: "/b".into(), ..copy() })),
        ]),
        file(vec![FileActionKind::Mkfile(MkfileAction {
            path: path.clone(),
            mode: 0o644,
            data,
            owner: owner("a", 1),
            timestamp,
        })]),
        file(vec![FileActionKind::Mkdir(mkdir)]),
        file(vec![FileActionKind::Rm(rm)]),
        file(vec![FileActionKind::Symlink(symlink)]),
        Op::Merge(MergeOp {}),
        Op::Diff(DiffOp {}),
    ]
}

fn told(c: &FieldChange) -> &str {
    match c {
        FieldChange::Value { words, .. } | FieldChange::Member { words, .. } => words,
        _ => "",
    }
}

/// Whatever single field differs, some words say so, and none of them is a path of the description.
#[test]
fn every_field_has_its_words() {
    let platform =
        Platform { variant: "v7".into(), os_version: "1".into(), ..Platform::new("linux", "arm") };
    let mut seen = 0;
    for op in samples() {
        let mut all = FieldList::of("", &op as &dyn KeyFields);
        all.extend(FieldList::of("platform", &platform));
        for at in 0..all.len() {
            for gone in [false, true] {
                let mut other = all.clone();
                if gone {
                    drop(other.remove(at))
                } else {
                    other[at].1.push('9')
                }
                let path = &all[at].0;
                let got = changes(&all, &other);
                assert!(!got.is_empty(), "{path} is not compared");
                for c in &got {
                    let words = told(c);
                    let raw = [
                        "exec.",
                        "file.",
                        "source.",
                        "platform.",
                        "copy.",
                        "mkfile.",
                        "mkdir.",
                        "rm.",
                        "symlink.",
                        "[",
                    ];
                    assert!(!raw.iter().any(|r| words.contains(r)), "{path} is told as `{words}`");
                    assert!(words != path, "{path} has no words");
                }
                // Inputs are told by who knows them.
                let wiring =
                    ["root", ".bind", "from", "base.", "lookup."].iter().any(|w| path.contains(w));
                if !gone && !wiring {
                    assert_ne!(got, [FieldChange::Wiring], "{path} has no words");
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 200, "{seen}");
}

/// What is done to an op, and what is told of it.
type Edit<'a, T> = (fn(&mut T), &'a [&'a str]);

fn lines(old: &Op, new: &Op) -> Vec<String> {
    let value = |v: Option<String>| v.unwrap_or_else(|| "-".into());
    changes(&FieldList::of("", old), &FieldList::of("", new))
        .into_iter()
        .map(|c| match c {
            FieldChange::Value { words, old, new } => {
                format!("{words}: {} to {}", value(old), value(new))
            }
            FieldChange::Member { words, added } => {
                format!("{}{words}", if added { '+' } else { '-' })
            }
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_run_in_words() {
    let run = |edit: fn(&mut ExecOp)| {
        let mut op = exec();
        edit(&mut op);
        Op::Exec(Box::new(op))
    };
    fn cache(o: &mut ExecOp) -> &mut CacheMount {
        match &mut o.mounts[1].kind {
            MountKind::Cache(c) => c,
            other => panic!("{other:?}"),
        }
    }
    const STARTS: &str = "--mount=type=cache,target=/c from, source, uid, gid or mode: - to -";
    let table: [Edit<'_, ExecOp>; 25] = [
        (
            |o| cache(o).selector = "/s".into(),
            &["--mount=type=cache,target=/c source: /seed to /s"],
        ),
        (|o| cache(o).selector = "/cache".into(), &[STARTS]),
        (|o| cache(o).from = None, &[STARTS]),
        (|o| cache(o).from = Some(InputIndex(3)), &["Wiring"]),
        (|_| (), &[]),
        (|o| o.cwd = "/".into(), &["WORKDIR: /src to /"]),
        (|o| o.user.clear(), &["USER: app to root"]),
        (|o| o.user = "root".into(), &["USER: app to root"]),
        (|o| o.network = NetworkMode::Host, &["--network: none to host"]),
        (|o| o.security = SecurityMode::Sandbox, &["--security: insecure to sandbox"]),
        (|o| o.hostname = None, &["host name: n to -"]),
        (|o| drop(o.mounts.remove(1)), &["---mount=type=cache,target=/c"]),
        (|o| drop(o.secret_env.remove(0)), &["---mount=type=secret,env=A"]),
        (|o| o.secret_env[1].id = "z".into(), &["--mount=type=secret,env=B id: b to z"]),
        (|o| o.extra_hosts[0].ip = "::1".into(), &["--add-host h address: 1.2.3.4 to ::1"]),
        (|o| o.ulimits[0].soft = 9, &["--ulimit nofile soft limit: 1 to 9"]),
        (|o| o.devices.clear(), &["---device d"]),
        (|o| o.services.clear(), &["-service db"]),
        (|o| o.services[0].set[0] = "A=2".into(), &["service db environment: A=1 to A=2"]),
        (|o| o.services[0].run.args.clear(), &[]),
        (
            |o| o.services[0].image = "sha256:b".into(),
            &["Service { name: \"db\", old: \"sha256:a\", new: \"sha256:b\" }"],
        ),
        (|o| o.mounts.swap(0, 2), &["MemberOrder { words: \"--mount\" }"]),
        (|o| o.root = None, &["Wiring"]),
        (
            |o| {
                let MountKind::Secret(s) = &mut o.mounts[3].kind else { panic!() };
                s.mode = 0o440;
            },
            &["--mount=type=secret,target=/s mode: 400 to 440"],
        ),
        (
            |o| o.mounts[2].dest = "/u".into(),
            &["---mount=type=tmpfs,target=/t", "+--mount=type=tmpfs,target=/u"],
        ),
    ];
    for (edit, want) in table {
        assert_eq!(lines(&run(|_| ()), &run(edit)), want);
    }
    // Who is root by name has the groups of the image.
    let (nobody, root) = (run(|o| o.user.clear()), run(|o| o.user = "root".into()));
    assert_eq!(lines(&nobody, &root), ["USER: - to root"]);
    assert_eq!(lines(&root, &nobody), ["USER: root to -"]);
}

#[test]
fn a_copy_in_words() {
    let one = |edit: fn(&mut CopyAction)| {
        let mut c = copy();
        edit(&mut c);
        file(vec![FileActionKind::Copy(Box::new(c))])
    };
    let table: [Edit<'_, CopyAction>; 8] = [
        (|c| c.dest = "/y".into(), &["destination: /x/ to /y"]),
        (
            |c| {
                c.src = "/b".into();
                c.allow_wildcard = false
            },
            &["source: /a to /b"],
        ),
        (|c| c.owner = None, &["--chown: app:5 to -"]),
        (|c| c.owner = owner("root", 5), &["--chown: app:5 to root:5"]),
        (|c| c.mode = Some(FileMode::Symbolic("u=r".into())), &["--chmod: 755 to u=r"]),
        (|c| c.exclude_patterns.push("f".into()), &["--exclude: e to e, f"]),
        (|c| c.include_patterns.clear(), &["--parents: i, j to -"]),
        (|c| c.allow_wildcard = false, &["wildcards: true to false"]),
    ];
    for (edit, want) in table {
        assert_eq!(lines(&one(|_| ()), &one(edit)), want);
    }
    let two = samples().remove(6);
    assert_eq!(lines(&one(|_| ()), &two), ["+source /b"]);
    assert_eq!(lines(&two, &one(|c| c.src = "/b".into())), ["-source /a"]);
    let mut linked = one(|_| ());
    if let Op::File(f) = &mut linked {
        f.actions[0].base = ActionRef::Scratch;
    }
    assert_eq!(lines(&one(|_| ()), &linked), ["Base { empty: true }"]);
}
