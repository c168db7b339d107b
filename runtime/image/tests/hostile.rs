//! Hostile archives stay inside or are refused (SECU-01, SECU-02, SECU-03, SECU-06).

use std::fs;
use std::io::{Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rgraph_image::layer::{
    ArchiveOptions, Below, LayerError, UnpackOptions, is_archive, unpack_archive, unpack_layer,
};
use rgraph_image::tar::{Kind, Member, TarReader, TarWriter};

fn root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED: needs root: owners and device nodes");
    false
}

/// A member: kind, name, link target or content.
type M<'a> = (Kind, &'a str, &'a str);

fn tar(members: &[M<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut w = TarWriter::new(&mut out);
    for (kind, name, text) in members {
        let mut m = Member::new(name.as_bytes().to_vec(), *kind);
        m.mode = if *kind == Kind::Dir { 0o755 } else { 0o644 };
        let mut content = &b""[..];
        match kind {
            Kind::File => {
                content = text.as_bytes();
                m.size = content.len() as u64;
            }
            Kind::Symlink | Kind::Hardlink => m.link = text.as_bytes().to_vec(),
            Kind::Char => (m.dev_major, m.dev_minor) = (1, 3),
            _ => {}
        }
        w.member(&m, content).unwrap();
    }
    w.finish().unwrap();
    out
}

/// A folder with a victim beside the place to unpack to.
struct Jail {
    dir: tempfile::TempDir,
}

impl Jail {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("host")).unwrap();
        fs::write(dir.path().join("host/victim"), "safe").unwrap();
        fs::set_permissions(dir.path().join("host/victim"), fs::Permissions::from_mode(0o640))
            .unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn host(&self) -> String {
        self.dir.path().join("host").display().to_string()
    }

    fn check(&self, what: &str) {
        let host = self.dir.path().join("host");
        let names: Vec<_> = fs::read_dir(&host).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"], "{what}");
        let m = fs::symlink_metadata(host.join("victim")).unwrap();
        assert_eq!((m.mode() & 0o7777, m.nlink()), (0o640, 1), "{what}");
        assert_eq!(fs::read(host.join("victim")).unwrap(), b"safe", "{what}");
        let mut beside: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.sort();
        assert_eq!(beside, ["host", "root"], "{what}");
    }
}

fn layer(tar: &[u8], dest: &Path) -> Result<(), LayerError> {
    unpack_layer(tar, dest, &UnpackOptions::default()).map(drop)
}

fn add(tar: &[u8], root: &Path) -> Result<(), LayerError> {
    let root = fs::File::open(root).unwrap();
    unpack_archive(tar, root.as_fd(), b"/", &ArchiveOptions::default()).map(drop)
}

#[test]
fn nothing_leaves_the_root() {
    if !root() {
        return;
    }
    use Kind::{Dir, File, Hardlink, Symlink};
    // `HOST` is the folder beside the root, by its absolute path.
    let sets: &[&[M<'_>]] = &[
        &[(File, "../host/x", "evil")],
        &[(File, "/../host/x", "evil")],
        &[(File, "a/../../host/x", "evil")],
        &[(File, "HOST/x", "evil")],
        &[(Dir, "..", "")],
        &[(Dir, "../host", "")],
        &[(Symlink, "l", "HOST"), (File, "l/x", "evil")],
        &[(Symlink, "l", "../host"), (File, "l/x", "evil")],
        &[(Symlink, "l", "HOST/victim"), (File, "l", "evil")],
        &[(Symlink, "l", "HOST"), (Dir, "l", ""), (File, "l/x", "evil")],
        &[(Symlink, "l", "HOST"), (Dir, "l/", "")],
        &[(Symlink, "a", "b"), (Symlink, "b", "../host"), (File, "a/x", "evil")],
        &[(Dir, "d", ""), (Symlink, "d/l", "../../host"), (File, "d/l/x", "evil")],
        &[(Symlink, "l", ".."), (File, "l/host/x", "evil")],
        &[(Symlink, "l", "l"), (File, "l/x", "evil")],
        &[(Symlink, "l", "/proc/self/root/HOST"), (File, "l/x", "evil")],
        &[(Symlink, "l", "/proc/self/cwd"), (File, "l/x", "evil")],
        &[(Hardlink, "v", "../host/victim"), (File, "v", "evil")],
        &[(Hardlink, "v", "HOST/victim"), (File, "v", "evil")],
        &[(Symlink, "l", "HOST"), (Hardlink, "v", "l/victim"), (File, "v", "evil")],
        &[(Symlink, "l", "HOST/victim"), (Hardlink, "v", "l"), (File, "v", "evil")],
        &[(Hardlink, "v", "v")],
        &[(Hardlink, "v", "")],
        &[(Symlink, "l", "HOST"), (Kind::Char, "l/null", "")],
        &[(Symlink, "l", "HOST"), (Kind::Fifo, "l/pipe", "")],
        &[(Symlink, "l", "HOST"), (Symlink, "l/s", "x")],
        &[(Symlink, "l", "HOST"), (File, "l/.wh.victim", "")],
        &[(Symlink, "l", "../host"), (File, "l/.wh..wh..opq", "")],
        &[(File, "../host/.wh.victim", "")],
        &[(File, ".wh.../host", "")],
    ];
    for set in sets {
        for how in [layer, add] {
            let jail = Jail::new();
            let host = jail.host();
            let texts: Vec<_> = set
                .iter()
                .map(|(k, n, t)| (*k, n.replace("HOST", &host), t.replace("HOST", &host)))
                .collect();
            let members: Vec<M<'_>> =
                texts.iter().map(|(k, n, t)| (*k, n.as_str(), t.as_str())).collect();
            let _ = how(&tar(&members), &jail.root());
            jail.check(&format!("{set:?}"));
        }
    }
}

#[test]
fn pax_names_are_checked_like_others() {
    let long = format!("{}/../../host/x", "d".repeat(200));
    for set in
        [vec![(Kind::File, long.as_str(), "evil")], vec![(Kind::Hardlink, "v", long.as_str())]]
    {
        let jail = Jail::new();
        assert!(layer(&tar(&set), &jail.root()).is_err());
        assert!(add(&tar(&set), &jail.root()).is_err());
        jail.check("pax");
    }
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh...", ".wh.x/y"] {
        let jail = Jail::new();
        let e = layer(&tar(&[(Kind::File, name, "")]), &jail.root()).unwrap_err();
        assert!(matches!(e, LayerError::Refused { .. }), "{name}: {e}");
    }
}

#[test]
fn layers_over_links_of_lower_layers_go_through_them_inside() {
    if !root() {
        return;
    }
    let jail = Jail::new();
    let low = jail.root().join("low");
    fs::create_dir_all(low.join("usr/lib")).unwrap();
    fs::set_permissions(low.join("usr/lib"), fs::Permissions::from_mode(0o711)).unwrap();
    symlink("usr/lib", low.join("lib")).unwrap();
    symlink("/usr/lib", low.join("abs")).unwrap();
    symlink(jail.host(), low.join("out")).unwrap();
    symlink("../../../../../..", low.join("up")).unwrap();
    fs::write(low.join("usr/lib/old"), "old").unwrap();
    let lowers = [low];
    let unpack = |members: &[M<'_>]| {
        let up = tempfile::tempdir_in(jail.root()).unwrap();
        let opts = UnpackOptions { below: Below::Known(&lowers), ..UnpackOptions::default() };
        unpack_layer(tar(members).as_slice(), up.path(), &opts).map(|_| up)
    };
    for name in ["lib/x", "abs/x", "up/usr/lib/x", "lib/../x"] {
        let got = unpack(&[(Kind::File, name, "new")]);
        if name.contains("..") {
            assert!(got.is_err());
            continue;
        }
        let up = got.unwrap();
        assert_eq!(fs::read(up.path().join("usr/lib/x")).unwrap(), b"new", "{name}");
        // The folder is as it is below.
        let mode = fs::metadata(up.path().join("usr/lib")).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o711, "{name}");
    }
    let up = unpack(&[(Kind::File, "out/x", "evil")]).unwrap();
    assert!(up.path().join(jail.host().trim_start_matches('/')).join("x").exists());
    let up = unpack(&[(Kind::File, "lib/.wh.old", ""), (Kind::File, "lib/.wh.never", "")]).unwrap();
    let m = fs::symlink_metadata(up.path().join("usr/lib/old")).unwrap();
    assert!(m.file_type().is_char_device() && m.rdev() == 0);
    assert!(fs::symlink_metadata(up.path().join("usr/lib/never")).is_err());
    // A link to a file below copies it up.
    let up = unpack(&[(Kind::Hardlink, "again", "lib/old")]).unwrap();
    assert_eq!(fs::read(up.path().join("again")).unwrap(), b"old");
    assert_eq!(fs::metadata(up.path().join("usr/lib/old")).unwrap().nlink(), 2);
    // A folder in place of a link does not merge with what the link led to.
    let up = unpack(&[(Kind::Dir, "lib", ""), (Kind::File, "lib/x", "x")]).unwrap();
    assert!(up.path().join("lib/x").exists() && !up.path().join("usr").exists());

    // Layers below that are still to come: asked for once, and only where they matter.
    {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let later = || {
            asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(vec![jail.root().join("low")])
        };
        let up = tempfile::tempdir_in(jail.root()).unwrap();
        let opts = UnpackOptions { below: Below::Later(&later), ..UnpackOptions::default() };
        let members = tar(&[(Kind::File, "lib/x", "x"), (Kind::File, "lib/.wh.old", "")]);
        unpack_layer(members.as_slice(), up.path(), &opts).unwrap();
        assert!(up.path().join("usr/lib/x").exists());
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
        let up = tempfile::tempdir_in(jail.root()).unwrap();
        let members = tar(&[(Kind::Dir, ".", ""), (Kind::Dir, "a", ""), (Kind::File, "a/b", "x")]);
        unpack_layer(members.as_slice(), up.path(), &opts).unwrap();
        assert_eq!(
            asked.load(std::sync::atomic::Ordering::SeqCst),
            1,
            "all parents are in the layer"
        );
        let gone = || Err(std::io::Error::other("not made"));
        let up = tempfile::tempdir_in(jail.root()).unwrap();
        let opts = UnpackOptions { below: Below::Later(&gone), ..UnpackOptions::default() };
        let members = tar(&[(Kind::File, "lib/x", "x")]);
        let e = unpack_layer(members.as_slice(), up.path(), &opts).unwrap_err();
        assert!(matches!(e, LayerError::Below(_)), "{e}");
    }
    drop(up);
    fs::remove_dir_all(jail.root().join("low")).unwrap();
    jail.check("lowers");
}

#[test]
fn later_members_replace_earlier_ones() {
    if !root() {
        return;
    }
    use Kind::{Dir, File, Symlink};
    for (set, want) in [
        (&[(File, "a", "1"), (File, "a", "2")][..], "a=2"),
        (&[(Dir, "a", ""), (File, "a/b", "1"), (File, "a", "2")], "a=2"),
        (&[(File, "a", "1"), (Dir, "a", ""), (File, "a/b", "2")], "a/b=2"),
        (&[(Symlink, "a", "b"), (Dir, "a", ""), (File, "a/c", "2")], "a/c=2"),
        (&[(Dir, "a", ""), (File, "a/b", "2"), (Dir, "a/", "")], "a/b=2"),
        (&[(File, "./a//b/./c", "2")], "a/b/c=2"),
        (&[(Dir, "d", ""), (Symlink, "l", "d"), (File, "l/x", "2")], "d/x=2"),
    ] {
        for how in [layer, add] {
            let jail = Jail::new();
            how(&tar(set), &jail.root()).unwrap();
            let (path, text) = want.split_once('=').unwrap();
            assert_eq!(fs::read_to_string(jail.root().join(path)).unwrap(), text, "{set:?}");
        }
    }
}

#[test]
fn overlay_attributes_and_the_whiteout_device_are_no_content() {
    if !root() {
        return;
    }
    let mut out = Vec::new();
    let mut w = TarWriter::new(&mut out);
    let mut m = Member::new(b"d/".to_vec(), Kind::Dir);
    m.mode = 0o755;
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.opaque"] {
        m.xattrs.push((name.as_bytes().to_vec(), b"y".to_vec()));
    }
    w.begin(&m).unwrap();
    w.finish().unwrap();
    let jail = Jail::new();
    let stats = unpack_layer(out.as_slice(), &jail.root(), &UnpackOptions::default()).unwrap();
    assert_eq!(stats.skipped_xattrs, 3);
    let mut list = [0u8; 256];
    assert_eq!(rustix::fs::llistxattr(jail.root().join("d"), &mut list[..]).unwrap(), 0);

    let mut out = Vec::new();
    let mut w = TarWriter::new(&mut out);
    w.begin(&Member::new(b"c".to_vec(), Kind::Char)).unwrap();
    w.finish().unwrap();
    assert!(layer(&out, &jail.root()).is_err());
    assert!(add(&out, &jail.root()).is_err());
}

/// A header block by hand.
fn header(name: &str, flag: u8, size: &[u8]) -> [u8; 512] {
    let mut h = [0u8; 512];
    h[..name.len()].copy_from_slice(name.as_bytes());
    h[100..107].copy_from_slice(b"0000644");
    h[108..115].copy_from_slice(b"0000000");
    h[116..123].copy_from_slice(b"0000000");
    h[124..124 + size.len()].copy_from_slice(size);
    h[136..147].copy_from_slice(b"00000000000");
    h[156] = flag;
    h[257..265].copy_from_slice(b"ustar\x0000");
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    h
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let pax = |records: &str| {
        let mut out = header("p", b'x', format!("{:011o}", records.len()).as_bytes()).to_vec();
        out.extend_from_slice(records.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
        out
    };
    let record = |k: &str, v: &str| {
        let rest = k.len() + v.len() + 3;
        let mut n = rest;
        while n != rest + n.to_string().len() {
            n = rest + n.to_string().len();
        }
        format!("{n} {k}={v}\n")
    };
    let file = || header("f", b'0', b"00000000000").to_vec();
    let petabyte = (1u64 << 50).to_string();
    let sparse = format!(
        "{}{}{}{}",
        record("GNU.sparse.major", "1"),
        record("GNU.sparse.minor", "0"),
        record("GNU.sparse.name", "big"),
        record("GNU.sparse.realsize", &petabyte)
    );
    let mut sparse_map = b"0\n".to_vec();
    sparse_map.resize(512, 0);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("2 GiB pax header", [&header("p", b'x', b"20000000000")[..], &[0; 4096]].concat()),
        ("2 GiB long name", header("p", b'L', b"20000000000").to_vec()),
        ("size 2^62 by pax", [pax(&record("size", &(1u64 << 62).to_string())), file()].concat()),
        ("size over u64 by pax", [pax(&record("size", &"9".repeat(19))), file()].concat()),
        ("path of 5000", [pax(&record("path", &"p/".repeat(2500))), file()].concat()),
        (
            "negative size",
            header("f", b'0', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").to_vec(),
        ),
        (
            "1 PB sparse",
            [pax(&sparse), header("f", b'0', b"00000001000").to_vec(), sparse_map].concat(),
        ),
        ("uid -1", [pax(&record("uid", "4294967295")), file()].concat()),
        ("pax alone", pax(&record("path", "x"))),
        ("unknown type", header("f", b'Q', b"00000000000").to_vec()),
        ("bad checksum", {
            let mut h = file();
            h[0] = b'g';
            h
        }),
        ("garbage", vec![b'x'; 1024]),
        ("half a header", file()[..100].to_vec()),
    ];
    for (what, bytes) in cases {
        let jail = Jail::new();
        assert!(layer(&bytes, &jail.root()).is_err(), "{what}");
        assert!(add(&bytes, &jail.root()).is_err(), "{what}");
        let left: u64 =
            fs::read_dir(jail.root()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(left < 1 << 20, "{what}");
    }
}

#[test]
fn zeros_take_no_room() {
    let jail = Jail::new();
    let mut content = vec![0u8; 8 << 20];
    content[5 << 20] = 7;
    let mut out = Vec::new();
    let mut w = TarWriter::new(&mut out);
    let mut m = Member::new(b"zeros".to_vec(), Kind::File);
    m.size = content.len() as u64;
    w.member(&m, &content).unwrap();
    w.finish().unwrap();
    unpack_layer(out.as_slice(), &jail.root(), &UnpackOptions::default()).unwrap();
    let path = jail.root().join("zeros");
    assert!(fs::read(&path).unwrap() == content);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 2 << 20);
    fs::remove_file(path).unwrap();
}

#[test]
fn content_is_limited_when_asked() {
    if !root() {
        return;
    }
    let members = tar(&[(Kind::File, "a", "12345"), (Kind::File, "b", "12345")]);
    for (limit, ok) in [(10, true), (9, false)] {
        let jail = Jail::new();
        let opts = UnpackOptions { max_content: limit, ..UnpackOptions::default() };
        assert_eq!(unpack_layer(members.as_slice(), &jail.root(), &opts).is_ok(), ok);
    }
}

#[test]
fn a_cut_tar_is_an_error_at_every_byte_of_a_member() {
    if !root() {
        return;
    }
    let text = "x".repeat(700);
    let whole = tar(&[(Kind::File, "a", &text), (Kind::File, &"n".repeat(200), &text)]);
    let end = whole.len() - 1024;
    for cut in (1..end).step_by(13) {
        let jail = Jail::new();
        // Between members, and in the padding of a whole one, the end cannot be told from the end.
        let whole_member = cut == 1536 || (1212..1536).contains(&cut) || cut + 324 > end;
        assert_eq!(layer(&whole[..cut], &jail.root()).is_err(), !whole_member, "{cut}");
    }
}

#[test]
fn the_reader_survives_any_flipped_byte() {
    let long = "n".repeat(200);
    let whole = tar(&[
        (Kind::Dir, "d/", ""),
        (Kind::File, &long, "content"),
        (Kind::Symlink, "s", &long),
        (Kind::Hardlink, "h", "d"),
        (Kind::Char, "c", ""),
    ]);
    for i in 0..whole.len() {
        for flip in [1u8, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[i] ^= flip;
            let mut r = TarReader::new(bytes.as_slice());
            let mut members = 0;
            while let Ok(Some(_)) = r.next_member() {
                while let Ok(Some(_)) = r.chunk() {}
                members += 1;
                assert!(members < 20);
            }
        }
    }
}

#[test]
fn sparse_files_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let f = fs::File::create(dir.path().join("f")).unwrap();
    std::os::unix::fs::FileExt::write_at(&f, b"middle", 1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&f, b"late", 3 << 20).unwrap();
    f.set_len(5 << 20).unwrap();
    let want = fs::read(dir.path().join("f")).unwrap();
    for format in ["gnu", "posix"] {
        for version in ["0.0", "0.1", "1.0"] {
            let made = std::process::Command::new("tar")
                .args(["-S", "--format", format, "--sparse-version", version, "-cf", "-", "f"])
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(made.status.success() && made.stdout.len() < 1 << 20);
            let mut r = TarReader::new(made.stdout.as_slice());
            let m = r.next_member().unwrap().unwrap();
            assert_eq!((m.path.as_slice(), m.size), (&b"f"[..], 5 << 20), "{format} {version}");
            let mut got = vec![0u8; 5 << 20];
            while let Some(c) = r.chunk().unwrap() {
                let at = usize::try_from(c.offset).unwrap();
                got[at..at + c.data.len()].copy_from_slice(c.data);
            }
            assert!(got == want, "{format} {version}");
            assert!(r.next_member().unwrap().is_none());
        }
    }
}

#[test]
fn archives_are_told_by_content_and_unpacked_like_tar() {
    if !root() {
        return;
    }
    let plain = tar(&[
        (Kind::Dir, "./", ""),
        (Kind::File, "sub/.wh.x", "kept"),
        (Kind::File, ".wh..wh..opq", "kept"),
    ]);
    let run = |program: &str| {
        let mut child = std::process::Command::new(program)
            .arg("-c")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&plain).unwrap();
        let mut out = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        assert!(child.wait().unwrap().success());
        out
    };
    let mut forms = vec![plain.clone(), zstd::encode_all(plain.as_slice(), 3).unwrap()];
    forms.extend(["gzip", "bzip2", "xz"].map(run));
    for form in &forms {
        assert!(is_archive(form.as_slice()));
        let jail = Jail::new();
        fs::set_permissions(jail.root(), fs::Permissions::from_mode(0o700)).unwrap();
        let root = fs::File::open(jail.root()).unwrap();
        let opts = ArchiveOptions { owner: Some((7, 8)), ..ArchiveOptions::default() };
        let stats = unpack_archive(form.as_slice(), root.as_fd(), b"/new/dest/", &opts).unwrap();
        assert_eq!(stats.members, 3);
        let dest = jail.root().join("new/dest");
        assert_eq!(fs::read(dest.join("sub/.wh.x")).unwrap(), b"kept");
        assert_eq!(fs::read(dest.join(".wh..wh..opq")).unwrap(), b"kept");
        let m = fs::metadata(dest.join("sub/.wh.x")).unwrap();
        assert_eq!((m.uid(), m.gid()), (7, 8), "what the archive lists has the owner too");
        let m = fs::metadata(jail.root().join("new")).unwrap();
        assert_eq!((m.uid(), m.gid(), m.mtime()), (7, 8, 0));
        assert_eq!(fs::metadata(jail.root()).unwrap().mode() & 0o7777, 0o700);
    }
    let gz_of_text = {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(b"no tar").unwrap();
        e.finish().unwrap()
    };
    for no in [&b""[..], b"text", &[0; 1024], &gz_of_text, &forms[2][..10], b"BZh9garbage"] {
        assert!(!is_archive(no));
    }
}
