//! Definitions built by hand against the digests that BuildKit's own client gave (first 16 hex
//! digits, every op and the terminal one), and hostile bytes.

use std::collections::BTreeSet;

use prost::Message;
use rgraph_ir::limits::{MAX_LLB, MAX_LLB_FIELDS};
use rgraph_ir::op::{
    ActionRef, CopyAction, ExecOp, FileAction, FileActionKind, FileOp, GitSource, HttpSource,
    ImageSource, LocalSource, MergeOp, MkdirAction, MkfileAction, Mount, MountKind, NetworkMode,
    Owner, OwnerId, ResolveMode, SecretMount, SecurityMode, SourceOp, SshMount, Ulimit,
};
use rgraph_ir::{Edge, Env, Graph, GraphBuilder, InputIndex, Op, Platform, VertexMeta};

use crate::{DecodeError, LlbDigest, decode, encode, pb};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Default)]
struct B(GraphBuilder);

impl B {
    fn add(&mut self, op: Op, inputs: &[Edge], platform: bool) -> Edge {
        let platform = platform.then(|| Platform::linux_amd64().into());
        Edge::main(self.0.add(op, inputs.to_vec(), platform, VertexMeta::default()))
    }

    fn source(&mut self, op: SourceOp) -> Edge {
        let platform = matches!(op, SourceOp::Image(_));
        self.add(Op::Source(op), &[], platform)
    }

    fn image(&mut self, name: &str) -> Edge {
        let reference = format!("docker.io/library/{name}");
        self.source(SourceOp::Image(ImageSource { reference, resolve: ResolveMode::Default }))
    }

    fn file(&mut self, base: ActionRef, kind: FileActionKind, inputs: &[Edge]) -> Edge {
        self.add(Op::File(FileOp { actions: vec![FileAction { base, kind }] }), inputs, false)
    }

    fn exec(&mut self, op: ExecOp, inputs: &[Edge]) -> Edge {
        self.add(op.into(), inputs, true)
    }
}

fn input(i: u32) -> ActionRef {
    ActionRef::Input(InputIndex(i))
}

fn run(line: &str) -> ExecOp {
    ExecOp {
        args: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        env: Env::new().with("PATH", PATH),
        cwd: "/".to_owned(),
        user: String::new(),
        root: Some(InputIndex(0)),
        mounts: Vec::new(),
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: Vec::new(),
        proxy_env: None,
        extra_hosts: Vec::new(),
        hostname: None,
        ulimits: Vec::new(),
        cgroup_parent: None,
        services: Vec::new(),
    }
}

/// A copy from the context or a stage when `wild`, else from a URL, repository or heredoc.
fn copy(from: ActionRef, src: &str, dest: &str, wild: bool) -> FileActionKind {
    FileActionKind::Copy(Box::new(CopyAction {
        from,
        src: src.to_owned(),
        dest: dest.to_owned(),
        owner: None,
        mode: None,
        follow_symlink: wild,
        dir_copy_contents: wild,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: wild,
        allow_empty_wildcard: wild,
        timestamp: None,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        required_paths: Vec::new(),
    }))
}

/// Names of all ops, the terminal one included, cut as in the corpus.
fn names(graph: &Graph, root: Edge) -> BTreeSet<String> {
    let def = pb::Definition::decode(encode(graph, Some(root)).bytes.as_slice()).unwrap();
    def.def.iter().map(|op| LlbDigest::of(op).hex()[..16].to_owned()).collect()
}

fn check(build: impl FnOnce(&mut B) -> Edge, want: &[&str]) {
    let mut b = B::default();
    let root = build(&mut b);
    let graph = b.0.finish();
    let got = names(&graph, root);
    let want: BTreeSet<String> = want.iter().map(|s| (*s).to_owned()).collect();
    assert_eq!(got, want);
    let def = encode(&graph, Some(root));
    let read = decode(&def.bytes).unwrap();
    assert_eq!(read.ops.len(), def.ids.len());
    assert!(read.ops.iter().all(|op| def.ids.contains_key(&op.digest)));
}

#[test]
fn heredoc_on_scratch() {
    check(
        |b| {
            let file = FileActionKind::Mkfile(MkfileAction {
                path: "/EOF".to_owned(),
                mode: 0o644,
                data: b"hello\n".as_slice().into(),
                owner: None,
                timestamp: None,
            });
            let file = b.file(ActionRef::Scratch, file, &[]);
            b.file(ActionRef::Scratch, copy(input(0), "/EOF", "/foo", false), &[file])
        },
        &["556fbb7cc8fc0f8e", "d6f8816da86bbade", "eac1ef47c3b44489"],
    );
}

#[test]
fn download() {
    check(
        |b| {
            let url = b.source(SourceOp::Http(Box::new(HttpSource {
                url: "http://example.com/foo".to_owned(),
                filename: "foo".to_owned(),
                checksum: None,
            })));
            b.file(ActionRef::Scratch, copy(input(0), "/foo", "/dest/", false), &[url])
        },
        &["a8eee06244482855", "a8f92dccc88e5be0", "acb326ae4f72501a"],
    );
}

#[test]
fn named_owner_and_user() {
    check(
        |b| {
            let base = b.image("nanoserver:latest");
            let user = "ContainerAdministrator".to_owned();
            let owner =
                Owner { user: Some(OwnerId::Name(user.clone())), group: None, lookup: input(0) };
            let dir = FileActionKind::Mkdir(MkdirAction {
                path: "/mydir".to_owned(),
                mode: 0o755,
                make_parents: true,
                owner: Some(owner),
                timestamp: None,
            });
            let dir = b.file(input(0), dir, &[base]);
            let line = "icacls \\mydir | findstr Administrators >nul || exit /b 1";
            b.exec(ExecOp { cwd: "/mydir".to_owned(), user, ..run(line) }, &[dir])
        },
        &["06e43d6f25657f67", "42b8b0ee347c3e9d", "773db9e8e8888508", "fd9f5058c6faf074"],
    );
}

fn secret(id: &str, required: bool) -> Mount {
    let id = id.to_owned();
    let dest = format!("/run/secrets/{id}");
    let kind = MountKind::Secret(SecretMount { id, uid: 0, gid: 0, mode: 0o400, required });
    Mount { dest, kind }
}

#[test]
fn secret_mount() {
    check(
        |b| {
            let base = b.image("alpine:latest");
            let mounts = vec![secret("mysecret", true)];
            b.exec(ExecOp { mounts, ..run("cat /run/secrets/mysecret") }, &[base])
        },
        &["0b064cd647138226", "55de73947d146493", "a7f9733e307dd352"],
    );
}

#[test]
fn agent_and_its_variable() {
    for declared in [false, true] {
        check(
            |b| {
                let base = b.image("alpine:latest");
                let dest = "/run/buildkit/ssh_agent.0".to_owned();
                let id = "ssh2".to_owned();
                let kind =
                    MountKind::Ssh(SshMount { id, uid: 0, gid: 0, mode: 0o600, required: false });
                let mut op = run("true");
                if declared {
                    op.env = op.env.with("SSH_AUTH_SOCK", &dest);
                }
                // The agent comes first here, last on the wire.
                op.mounts = vec![Mount { dest, kind }, secret("unused", false)];
                b.exec(op, &[base])
            },
            &["a3145462b940d051", "a7f9733e307dd352", "ab09f6603a2a578e"],
        );
    }
}

#[test]
fn limits_of_the_process() {
    check(
        |b| {
            let base = b.image("busybox:latest");
            let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
            let ulimits = vec![limit("nofile", 1024, 2048), limit("nproc", 64, 64)];
            b.exec(ExecOp { ulimits, ..run("invalidcmd") }, &[base])
        },
        &["84065a49790293c6", "e1432b8e2054abb0", "ff03b2acc66d31a8"],
    );
}

#[test]
fn shared_memory_and_copy_out_of_a_step() {
    check(
        |b| {
            let base = b.image("busybox:latest");
            let kind = MountKind::Tmpfs { size: 128 << 20 };
            let mounts = vec![Mount { dest: "/dev/shm".to_owned(), kind }];
            let step = ExecOp { mounts, ..run("mount | grep /dev/shm > /tmpfssize") };
            let step = b.exec(step, &[base]);
            b.file(ActionRef::Scratch, copy(input(0), "/tmpfssize", "/", true), &[step])
        },
        &["505464d600d0ba5e", "78a406a2a5365be5", "e1432b8e2054abb0", "e156dcd9513cfa38"],
    );
}

#[test]
fn repository_and_merge_are_named_like_buildkits() {
    let mut b = B::default();
    let git = b.source(SourceOp::Git(Box::new(GitSource {
        remote: "github.com/alpinelinux/aports.git".to_owned(),
        full_url: "https://github.com/alpinelinux/aports.git".to_owned(),
        reference: Some("3.24-stable".to_owned()),
        subdir: None,
        keep_git_dir: false,
        checksum: None,
        skip_submodules: false,
        fetch_by_commit: false,
        ssh: false,
        mtime: None,
    })));
    let base = b.image("alpine:3.24");
    let merged = b.add(Op::Merge(MergeOp {}), &[base, git], false);
    let def = encode(&b.0.finish(), Some(merged));
    let read = decode(&def.bytes).unwrap();
    let Some(pb::Kind::Merge(m)) = &read.ops[2].op.kind else { panic!("not a merge") };
    assert_eq!(m.inputs.iter().map(|i| i.input).collect::<Vec<_>>(), [0, 1]);
    let Some(pb::Kind::Source(s)) = &read.ops[1].op.kind else { panic!("not a source") };
    assert_eq!(s.identifier, "git://github.com/alpinelinux/aports.git#3.24-stable");
    assert_eq!(s.attrs.len(), 3);
}

#[test]
fn order_of_bytes() {
    let mut b = B::default();
    let local = b.source(SourceOp::Local(Box::new(LocalSource {
        name: "context".to_owned(),
        follow_paths: Some(vec!["<a>".to_owned(), "b\"&".to_owned()]),
        include: Vec::new(),
        exclude: vec!["!x".to_owned()],
        shared_key_hint: None,
    })));
    let graph = b.0.finish();
    let def = pb::Definition::decode(encode(&graph, Some(local)).bytes.as_slice()).unwrap();
    // constraints (field 11, empty) first, then the source (field 3) with its attrs sorted
    let op = &def.def[0];
    assert_eq!(op[..3], [0x5a, 0x00, 0x1a]);
    let text = String::from_utf8_lossy(op);
    let exclude = text.find("local.excludepatterns").unwrap();
    assert!(exclude < text.find("local.followpaths").unwrap());
    assert!(text.contains(r#"["\u003ca\u003e","b\"\u0026"]"#));
    // the terminal op is one input and nothing else
    let terminal = pb::Op::decode(def.def[1].as_slice()).unwrap();
    assert_eq!(terminal.constraints, None);
    assert_eq!(terminal.inputs[0].digest, LlbDigest::of(op).to_string());
}

#[test]
fn only_what_is_needed_and_equal_ops_once() {
    let mut b = B::default();
    let base = b.image("a:latest");
    let other = b.image("b:latest");
    // Two vertices that LLB cannot tell apart.
    let one = b.exec(run("x"), &[base]);
    let op = ExecOp { cgroup_parent: Some(String::new()), ..run("x") }.into();
    let meta = VertexMeta { ignore_cache: true, ..VertexMeta::default() };
    let two = Edge::main(b.0.add(op, vec![base], Some(Platform::linux_amd64().into()), meta));
    assert_ne!(one, two);
    let root = b.add(Op::Merge(MergeOp {}), &[one, two], false);
    let def = encode(&b.0.finish(), Some(root));
    assert_eq!(def.ids.len(), 3);
    assert!(def.ids.values().all(|v| *v != other.vertex && *v != two.vertex));
    let read = decode(&def.bytes).unwrap();
    assert!(read.ops[1].metadata.ignore_cache);
    assert_eq!(read.root.unwrap().digest, read.ops[2].digest.to_string());
}

#[test]
fn nothing_is_no_bytes() {
    assert!(encode(&Graph::default(), None).bytes.is_empty());
    assert_eq!(decode(&[]).unwrap(), Default::default());
}

#[test]
fn a_long_chain_needs_no_stack() {
    let mut b = B::default();
    let mut at = b.image("a:latest");
    for i in 0..20_000 {
        at = b.exec(run(&i.to_string()), &[at]);
    }
    assert_eq!(encode(&b.0.finish(), Some(at)).ids.len(), 20_001);
}

fn definition(ops: &[pb::Op]) -> Vec<u8> {
    let def = ops.iter().cloned().map(pb::Op::to_bytes).collect();
    pb::Definition { def, ..Default::default() }.encode_to_vec()
}

#[test]
fn hostile_bytes_are_errors() {
    let source =
        pb::Op { kind: Some(pb::Kind::Source(pb::SourceOp::default())), ..pb::Op::default() };
    let name = LlbDigest::of(&source.clone().to_bytes()).to_string();
    let of = |digest: &str, index| pb::Op {
        inputs: vec![pb::Input { digest: digest.to_owned(), index }],
        ..pb::Op::default()
    };
    let merge = |input| pb::Op {
        kind: Some(pb::Kind::Merge(pb::MergeOp { inputs: vec![pb::OneInput { input }] })),
        ..of(&name, 0)
    };
    let file = |input| pb::Op {
        kind: Some(pb::Kind::File(pb::FileOp {
            actions: vec![pb::FileAction { input, ..Default::default() }],
        })),
        ..of(&name, 0)
    };
    assert!(decode(&definition(&[source.clone(), of(&name, 0)])).is_ok());
    assert!(decode(&definition(&[source.clone(), merge(-1), of(&name, 0)])).is_ok());
    type Want = fn(&DecodeError) -> bool;
    let cases: &[(Vec<u8>, Want)] = &[
        (vec![0xff; 40], |e| matches!(e, DecodeError::Definition(_))),
        (vec![0x0a, 0x01, 0xff], |e| matches!(e, DecodeError::Op { index: 0, .. })),
        (definition(&[pb::Op::default(), pb::Op::default()]), |e| {
            matches!(e, DecodeError::Kind { index: 0 })
        }),
        (definition(std::slice::from_ref(&source)), |e| matches!(e, DecodeError::Terminal)),
        (definition(&[of(&name, 0), source.clone()]), |e| matches!(e, DecodeError::Kind { .. })),
        (definition(&[source.clone(), of("sha256:..", 0)]), |e| {
            matches!(e, DecodeError::Input { index: 1, .. })
        }),
        (definition(&[source.clone(), of(&name, -1)]), |e| matches!(e, DecodeError::Index { .. })),
        (definition(&[source.clone(), merge(1), of(&name, 0)]), |e| {
            matches!(e, DecodeError::Index { index: 1, input: 1 })
        }),
        (definition(&[source.clone(), file(-2), of(&name, 0)]), |e| {
            matches!(e, DecodeError::Index { input: -2, .. })
        }),
        (definition(&[source.clone(), file(1), of(&name, 0)]), |e| {
            matches!(e, DecodeError::Index { input: 1, .. })
        }),
    ];
    for (i, (bytes, want)) in cases.iter().enumerate() {
        let got = decode(bytes).unwrap_err();
        assert!(want(&got), "case {i}: {got:?}");
    }
}

#[test]
fn limits_hold_at_and_past() {
    // One op with n empty mounts: three fields around them, two bytes each.
    let bomb = |n: usize| {
        let mut exec = Vec::new();
        for _ in 0..n {
            exec.extend([0x12, 0x00]);
        }
        let wrap = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag];
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            out.extend_from_slice(inner);
            out
        };
        wrap(0x0a, &wrap(0x12, &exec))
    };
    assert!(matches!(decode(&bomb(MAX_LLB_FIELDS - 2)), Err(DecodeError::Index { .. })));
    assert!(matches!(decode(&bomb(MAX_LLB_FIELDS - 1)), Err(DecodeError::TooManyFields)));
    let mut long = vec![0u8; MAX_LLB + 1];
    assert!(matches!(decode(&long), Err(DecodeError::TooLarge { .. })));
    long.pop();
    assert!(matches!(decode(&long), Err(DecodeError::Definition(_))));
}
