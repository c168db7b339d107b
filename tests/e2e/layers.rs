//! Layers hold exactly what a step changed.

use rgraph_tests::{Case, Kind, Layer, need};

/// The layer of one RUN on the base with some files.
fn layer(script: &str) -> Layer {
    let case = Case::with_base();
    case.dockerfile(&format!(
        "FROM BASE\n\
         RUN mkdir -p /d/sub /keep && echo 1 > /d/one && echo 2 > /d/sub/two && echo k > /keep/k\n\
         RUN {script}\n"
    ));
    case.image(&[]).top().clone()
}

/// Members that are no directories on the way.
fn changed(l: &Layer) -> Vec<&str> {
    let mut out: Vec<_> = l.0.iter().filter(|e| e.kind != Kind::Dir).map(|e| &e.path[..]).collect();
    out.sort_unstable();
    out
}

#[test]
fn steps_leave_what_they_changed() {
    need!(Root);
    let rows: &[(&str, &[&str])] = &[
        ("true", &[]),
        ("ls -R / > /dev/null", &[]),
        ("touch /new", &["new"]),
        ("rm /d/one", &["d/.wh.one"]),
        ("rm -r /d", &[".wh.d"]),
        ("echo x >> /d/one", &["d/one"]),
        ("mv /d/one /d/uno", &["d/.wh.one", "d/uno"]),
        ("ln /d/one /d/again", &["d/again", "d/one"]),
        ("touch /tmp/x && rm /tmp/x", &[]),
        ("rm -r /d && mkdir /d && echo n > /d/n", &["d/.wh..wh..opq", "d/n"]),
        ("rm -r /d && echo file > /d", &["d"]),
    ];
    for (script, want) in rows {
        assert_eq!(changed(&layer(script)), *want, "{script}");
    }
}

#[test]
fn no_stub_of_the_sandbox_is_left() {
    need!(Root);
    let l = layer(
        "--mount=type=tmpfs,target=/t --mount=type=cache,target=/c/deep touch /t/a /c/deep/b /new",
    );
    for path in
        ["proc", "sys", "dev", "etc/resolv.conf", "etc/hosts", "etc/hostname", "t", "c", "c/deep"]
    {
        assert!(!l.paths().contains(&path), "{path} is in {:?}", l.paths());
    }
    assert_eq!(changed(&l), ["new"]);
}

#[test]
fn links_attributes_and_odd_files_survive() {
    need!(Root);
    let l = layer(
        "mkdir /odd && echo f > /odd/f && ln /odd/f /odd/g && ln -s f /odd/s && mkfifo /odd/p && \
         chown 12:34 /odd/f && chmod 4755 /odd/f && touch -d @1000000000 /odd/f",
    );
    let (f, g) = (l.get("odd/f"), l.get("odd/g"));
    let target = |k: &Kind| match k {
        Kind::Hardlink(t) => Some(t.trim_start_matches("./").to_owned()),
        _ => None,
    };
    let (first, second) = if target(&f.kind).is_some() { (g, f) } else { (f, g) };
    assert_eq!(first.kind, Kind::File(b"f\n".to_vec()));
    assert_eq!(target(&second.kind), Some(first.path.clone()));
    assert_eq!((first.mode, first.owner, first.mtime), (0o4755, (12, 34), 1_000_000_000));
    assert_eq!(l.get("odd/s").kind, Kind::Symlink("f".into()));
    assert_eq!(l.get("odd/p").kind, Kind::Other);
}

#[test]
fn attributes_come_through_copy_and_a_further_step() {
    need!(Root, Tool("setcap"));
    let case = Case::with_base();
    case.file("tool", "#!/bin/sh\n").mode("tool", 0o755);
    let status = std::process::Command::new("setcap")
        .args(["cap_net_raw+ep", &case.context().join("tool").display().to_string()])
        .status()
        .expect("setcap runs");
    assert!(status.success(), "setcap");
    case.dockerfile("FROM BASE AS a\nCOPY tool /bin/tool\nFROM BASE\nCOPY --from=a /bin/tool /bin/tool\nRUN touch /bin/tool\n");
    let image = case.image(&[]);
    let e = image.top().get("bin/tool");
    assert!(e.xattrs.contains_key("security.capability"), "{:?}", e.xattrs.keys());
}

/// Layers of steps that write nothing are left out of what later steps stand on, but not what such a
/// step did to the root.
#[test]
fn steps_that_write_nothing_keep_what_they_did_to_the_root() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE AS a\nRUN :\nRUN : 2\nRUN chmod 711 / && chown 3:4 /\nRUN :\nRUN echo x > /x\nRUN : 3\n\
         RUN rm /x\nRUN : 4\nRUN : 5\n\
         RUN test ! -e /x && stat -c '%a %u:%g' / > /root-is\n\
         FROM scratch\nCOPY --from=a /root-is /\n",
    );
    let dest = case.out("out");
    case.build(&["-o", &format!("type=local,dest={}", dest.display())]).ok();
    assert_eq!(std::fs::read_to_string(dest.join("root-is")).unwrap(), "711 3:4\n");
}
