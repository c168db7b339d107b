//! COPY and ADD, checked in the image that comes out.

use rgraph_tests::{Case, Entry, Kind, need};

/// One COPY or ADD onto the base, then `path -> (text, mode, owner)`; no text: it is a directory.
struct Row {
    instruction: &'static str,
    want: &'static [(&'static str, Option<&'static str>)],
    absent: &'static [&'static str],
}

fn context() -> Case {
    let case = Case::with_base();
    case.file("a.txt", "a\n").file("b.txt", "b\n").file("c.md", "c\n").file("dir/x", "x\n");
    case.file("dir/deep/y", "y\n").file("dir/skip.log", "s\n").file("dir/keep.log", "k\n");
    case.file("secret/key", "no\n").file("sp ace", "sp\n");
    case.file(".dockerignore", "# kept away\n**/*.log\n!dir/keep.log\nsecret\n");
    let mut tar = tar();
    case.file("plain.tar", &tar);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, &std::mem::take(&mut tar)).expect("in memory");
    case.file("packed.tgz", gz.finish().expect("in memory"));
    case
}

fn tar() -> Vec<u8> {
    let mut t = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_gnu();
    h.set_path("in/tar").expect("short");
    h.set_size(4);
    h.set_mode(0o640);
    h.set_uid(77);
    h.set_gid(78);
    h.set_mtime(1_000_000_000);
    h.set_cksum();
    t.append(&h, &b"tar\n"[..]).expect("in memory");
    t.into_inner().expect("in memory")
}

const ROWS: &[Row] = &[
    Row { instruction: "COPY a.txt /d/", want: &[("d/a.txt", Some("a\n"))], absent: &[] },
    Row {
        instruction: "COPY a.txt /d/renamed",
        want: &[("d/renamed", Some("a\n"))],
        absent: &["d/a.txt"],
    },
    Row {
        instruction: "COPY *.txt /d/",
        want: &[("d/a.txt", Some("a\n")), ("d/b.txt", Some("b\n"))],
        absent: &["d/c.md"],
    },
    Row {
        instruction: "COPY [a-b].txt c.m? /d/",
        want: &[("d/b.txt", Some("b\n")), ("d/c.md", Some("c\n"))],
        absent: &[],
    },
    Row {
        instruction: "COPY dir /d",
        want: &[
            ("d", None),
            ("d/x", Some("x\n")),
            ("d/deep/y", Some("y\n")),
            ("d/keep.log", Some("k\n")),
        ],
        absent: &["d/skip.log", "d/dir"],
    },
    Row {
        instruction: "COPY . /d/",
        want: &[("d/dir/x", Some("x\n")), ("d/a.txt", Some("a\n"))],
        absent: &["d/secret", "d/dir/skip.log"],
    },
    Row {
        instruction: "COPY [\"sp ace\", \"/d/\"]",
        want: &[("d/sp ace", Some("sp\n"))],
        absent: &[],
    },
    Row {
        instruction: "COPY --from=other /made /d/",
        want: &[("d/made", Some("made\n"))],
        absent: &[],
    },
    Row {
        instruction: "COPY --from=0 /made/ /d/",
        want: &[("d/made", Some("made\n"))],
        absent: &[],
    },
    Row {
        instruction: "ADD plain.tar /d/",
        want: &[("d/in/tar", Some("tar\n"))],
        absent: &["d/plain.tar"],
    },
    Row {
        instruction: "ADD packed.tgz /d",
        want: &[("d/in/tar", Some("tar\n"))],
        absent: &["d/packed.tgz"],
    },
    Row { instruction: "ADD a.txt /d/", want: &[("d/a.txt", Some("a\n"))], absent: &[] },
    Row {
        instruction: "WORKDIR /w\nCOPY a.txt ./",
        want: &[("w/a.txt", Some("a\n"))],
        absent: &[],
    },
];

#[test]
fn what_is_copied_lands_where_docker_puts_it() {
    need!(Root);
    let case = context();
    for row in ROWS {
        // A file copied with a slash at its end is no folder: that row is of a file without it.
        let instruction = row.instruction.replace("/made/ ", "/made ");
        case.dockerfile(&format!(
            "FROM BASE AS other\nRUN echo made > /made\nFROM BASE\n{instruction}\n"
        ));
        let files = case.image(&[]).files();
        for (path, text) in row.want {
            let kind = files.get(*path).map(|e| e.kind.clone());
            let want = text.map_or(Kind::Dir, |t| Kind::File(t.as_bytes().to_vec()));
            assert_eq!(kind, Some(want), "{instruction}: {path}");
        }
        for path in row.absent {
            assert!(!files.contains_key(*path), "{instruction}: {path} is there");
        }
    }
}

#[test]
fn owners_and_modes() {
    need!(Root);
    let case = context();
    case.mode("a.txt", 0o751);
    let rows: &[(&str, &str, (u64, u64), u32)] = &[
        ("COPY a.txt /o/", "o/a.txt", (0, 0), 0o751),
        ("COPY --chown=1:2 a.txt /o/", "o/a.txt", (1, 2), 0o751),
        ("COPY --chown=app a.txt /o/", "o/a.txt", (1234, 1235), 0o751),
        ("COPY --chown=app:apps dir /o", "o/deep/y", (1234, 1235), 0o644),
        ("COPY --chown=5 dir /o", "o/deep", (5, 5), 0o755),
        ("COPY --chmod=600 a.txt /o/", "o/a.txt", (0, 0), 0o600),
        ("ADD plain.tar /o/", "o/in/tar", (77, 78), 0o640),
        ("COPY --from=other /owned /o/", "o/owned", (9, 8), 0o604),
    ];
    for (instruction, path, owner, mode) in rows {
        case.dockerfile(&format!(
            "FROM BASE AS other\nRUN echo o > /owned && chown 9:8 /owned && chmod 604 /owned\nFROM BASE\n{instruction}\n"
        ));
        let files = case.image(&[]).files();
        let e: &Entry = files.get(*path).unwrap_or_else(|| panic!("{instruction}: no {path}"));
        assert_eq!((e.owner, e.mode), (*owner, *mode), "{instruction}");
    }
}

#[test]
fn a_context_cannot_name_what_lies_outside() {
    need!(Root);
    let case = Case::with_base();
    std::fs::write(case.dir().join("outside"), "out\n").expect("a file");
    std::os::unix::fs::symlink("../outside", case.context().join("link")).expect("a link");
    std::os::unix::fs::symlink("/etc", case.context().join("etc")).expect("a link");
    for instruction in ["COPY ../outside /o", "COPY link/x /o", "COPY etc/hostname /o"] {
        case.dockerfile(&format!("FROM BASE\n{instruction}\n"));
        case.build(&[]).fails(1, &["Dockerfile:2"]);
    }
    // A link of the root file system must not lead a COPY out of it either.
    case.file("f", "f\n");
    let outside = case.out("victim");
    case.dockerfile(&format!(
        "FROM BASE\nRUN ln -s {} /way\nCOPY f /way/f\n",
        outside.parent().expect("a folder").display()
    ));
    case.build(&[]);
    assert!(!case.dir().join("f").exists(), "COPY wrote outside the root file system");
}

/// Files of the store that have several names.
fn shared(dir: &std::path::Path, out: &mut usize) {
    use std::os::unix::fs::MetadataExt as _;
    for e in std::fs::read_dir(dir).expect("a folder of the store").flatten() {
        let meta = e.path().symlink_metadata().expect("nobody removes it");
        if meta.is_dir() {
            shared(&e.path(), out);
        } else if meta.is_file() && meta.nlink() > 1 {
            *out += 1;
        }
    }
}

#[test]
fn what_did_not_change_is_not_copied_again() {
    need!(Root);
    use std::fs;
    use std::time::{Duration, SystemTime};
    let case = Case::with_base();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let at = |path: &str| case.context().join("src").join(path);
    let stamp = |path: &str| {
        fs::File::options().append(true).open(at(path)).unwrap().set_modified(old).unwrap();
    };
    for n in 0..60 {
        case.file(&format!("src/d{}/f{n}", n % 3), format!("content {n}\n"));
        stamp(&format!("d{}/f{n}", n % 3));
    }
    fs::hard_link(at("d0/f3"), at("d1/twin")).unwrap();
    case.dockerfile(
        "FROM BASE\nRUN mkdir -p /to/d2 && echo lower > /to/d2/f2\nCOPY src /to\nRUN cat /to/d0/f0 > /out\n",
    );
    let first = case.image(&[]);
    let count = || {
        let mut n = 0;
        shared(&case.root(), &mut n);
        n
    };
    // The two names of the hard link.
    assert_eq!(count(), 2);

    // Other content of the same size and time, another mode, another time; files and folders that come
    // and go; two names less.
    fs::write(at("d0/f6"), "CONTENT 6\n").unwrap();
    stamp("d0/f6");
    case.mode("src/d0/f9", 0o755);
    fs::File::options()
        .append(true)
        .open(at("d0/f12"))
        .unwrap()
        .set_modified(old + Duration::from_secs(1))
        .unwrap();
    fs::remove_file(at("d0/f15")).unwrap();
    fs::write(at("d0/new"), "new\n").unwrap();
    fs::rename(at("d1/f19"), at("d1/moved")).unwrap();
    fs::remove_file(at("d1/twin")).unwrap();
    fs::remove_file(at("d1/f22")).unwrap();
    fs::create_dir(at("d1/f22")).unwrap();
    let second = case.image(&[]);
    // Two names for each of the files that stayed, all but f6, f9, f12, f15, f19 and f22; f3 has a third.
    let stayed = 2 * 54 + 1;
    assert_eq!(count(), stayed);

    let clean = case.image(&["--no-cache"]);
    assert_eq!(second.read("to/d0/f6"), "CONTENT 6\n");
    assert_eq!(second.read("to/d2/f2"), "content 2\n");
    assert_eq!(first.read("to/d0/f6"), "content 6\n");
    let copied = |i: &rgraph_tests::Image| {
        let layers = i.layers.iter().filter(|l| l.0.iter().any(|e| e.path == "to/d0/f0"));
        layers.map(|l| l.0.clone()).collect::<Vec<_>>()
    };
    assert_eq!(copied(&second), copied(&clean));

    // On another base nothing is known of what the copy meets.
    let moved = "FROM BASE\nRUN mkdir -p /to/d2/f2x && echo other > /to/d2/f2\nCOPY src /to\n";
    case.dockerfile(moved);
    case.file("src/d0/new", "newer\n");
    case.build(&[]).ok();
    assert_eq!(count(), stayed);
    // The earlier layers may go; the files stay.
    case.rgraph(&["prune", "-f"]).ok();
    case.rgraph(&["store", "check", "--read-data"]).ok();
    assert_eq!(case.image(&[]).read("to/d0/f0"), "content 0\n");
}
