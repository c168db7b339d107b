//! Layers against the kernel's overlayfs: what is unpacked from a written layer merges to the tree
//! it was written from (ROB-24, PROP-04). Needs root for mounts; says so loudly where it is not.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rgraph_image::layer::{
    ArchiveOptions, Below, LayerSource, LayerStats, LayerWriteOptions, UnpackOptions,
    unpack_archive, unpack_layer, write_layer,
};
use rgraph_image::tar::{Kind, Member, TarWriter};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

fn root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED: needs root: overlay mounts and device nodes");
    false
}

/// An overlay mount that goes away with the value.
struct Overlay(PathBuf);

impl Overlay {
    fn new(base: &Path, name: &str, lowers: &[PathBuf], upper: &Path) -> Self {
        let (work, merged) = (base.join(format!("{name}.w")), base.join(format!("{name}.m")));
        fs::create_dir(&work).unwrap();
        fs::create_dir(&merged).unwrap();
        let empty = base.join(format!("{name}.e"));
        fs::create_dir(&empty).unwrap();
        let mut dirs: Vec<_> = lowers.iter().map(|p| p.display().to_string()).collect();
        dirs.push(empty.display().to_string());
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=nofollow,index=off,metacopy=off",
            dirs.join(":"),
            upper.display(),
            work.display()
        );
        let data = std::ffi::CString::new(options).unwrap();
        mount("overlay", &merged, "overlay", MountFlags::empty(), Some(data.as_c_str())).unwrap();
        Self(merged)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[derive(Debug, PartialEq, Eq, Clone)]
struct Node {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    rdev: u64,
    mtime: (i64, i64),
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of several names of one file: the first.
    same: Option<PathBuf>,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0u8; 4096];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut out = BTreeMap::new();
    for name in names.filter(|n| !n.starts_with(b"trusted.overlay.")) {
        let mut value = vec![0u8; 4096];
        let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        out.insert(name.to_vec(), value[..n].to_vec());
    }
    out
}

/// Everything below `dir`, without `dir` itself.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Node> {
    let mut out = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(d) = todo.pop() {
        for e in fs::read_dir(&d).unwrap() {
            let path = e.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            let content = if m.is_file() {
                fs::read(&path).unwrap()
            } else if m.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                Vec::new()
            };
            if m.is_dir() {
                todo.push(path.clone());
            }
            let name = path.strip_prefix(dir).unwrap().to_owned();
            if !m.is_dir() && m.nlink() > 1 {
                names.entry((m.dev(), m.ino())).or_insert_with(Vec::new).push(name.clone());
            }
            let node = Node {
                same: None,
                kind: m.mode() & 0o170_000,
                mode: m.mode() & 0o7777,
                owner: (m.uid(), m.gid()),
                rdev: m.rdev(),
                mtime: (m.mtime(), m.mtime_nsec()),
                content,
                xattrs: xattrs(&path),
            };
            out.insert(name, node);
        }
    }
    for group in names.into_values() {
        let first = group.iter().min().cloned();
        for name in group {
            out.get_mut(&name).unwrap().same.clone_from(&first);
        }
    }
    out
}

fn layer(upper: &Path, lowers: &[PathBuf]) -> (Vec<u8>, LayerStats) {
    let mut tar = Vec::new();
    let src = LayerSource { upper, lowers };
    let stats = write_layer(&src, &LayerWriteOptions::default(), &mut tar).unwrap();
    assert_eq!(stats.size, tar.len() as u64);
    (tar, stats)
}

#[derive(Debug, Clone)]
enum Act {
    Mkdir(Vec<u8>),
    Write(Vec<u8>, Vec<u8>),
    Sparse(Vec<u8>, u16),
    Remove(Vec<u8>),
    Replace(Vec<u8>),
    Symlink(Vec<u8>, Vec<u8>),
    Hardlink(Vec<u8>, Vec<u8>),
    Rename(Vec<u8>, Vec<u8>),
    Chmod(Vec<u8>, u32),
    Chown(Vec<u8>, u32, u32),
    Capability(Vec<u8>, u32, bool),
    Xattr(Vec<u8>, u8, Vec<u8>),
    Fifo(Vec<u8>),
    Device(Vec<u8>, u32),
    Time(Vec<u8>, i64, u32),
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => Just(b"a".to_vec()),
        4 => Just(b"b".to_vec()),
        2 => Just("é".as_bytes().to_vec()),
        1 => Just(b"\xff\n".to_vec()),
        1 => Just(vec![b'n'; 120]),
        1 => Just(vec![b'm'; 255]),
    ];
    prop::collection::vec(name, 1..4).prop_map(|parts| parts.join(&b'/'))
}

fn act() -> impl Strategy<Value = Act> {
    let small = || prop::collection::vec(any::<u8>(), 0..2000);
    prop_oneof![
        4 => path().prop_map(Act::Mkdir),
        4 => (path(), small()).prop_map(|(p, c)| Act::Write(p, c)),
        1 => (path(), any::<u16>()).prop_map(|(p, n)| Act::Sparse(p, n)),
        3 => path().prop_map(Act::Remove),
        2 => path().prop_map(Act::Replace),
        1 => (path(), path()).prop_map(|(p, t)| Act::Symlink(p, t)),
        2 => (path(), path()).prop_map(|(a, b)| Act::Hardlink(a, b)),
        1 => (path(), path()).prop_map(|(a, b)| Act::Rename(a, b)),
        2 => (path(), 0u32..0o10000).prop_map(|(p, m)| Act::Chmod(p, m)),
        1 => (path(), 0u32..3_000_000, 0u32..3_000_000).prop_map(|(p, u, g)| Act::Chown(p, u, g)),
        1 => (path(), any::<u32>(), any::<bool>()).prop_map(|(p, c, e)| Act::Capability(p, c, e)),
        1 => (path(), 0u8..3, small()).prop_map(|(p, n, v)| Act::Xattr(p, n, v)),
        1 => path().prop_map(Act::Fifo),
        1 => (path(), 1u32..300).prop_map(|(p, n)| Act::Device(p, n)),
        1 => (path(), -5_000_000_000i64..50_000_000_000, 0u32..1_000_000_000)
            .prop_map(|(p, s, n)| Act::Time(p, s, n)),
    ]
}

/// Does it where it is possible; what the kernel refuses is no part of the tree.
fn apply(root: &Path, act: &Act) {
    let at = |p: &[u8]| root.join(OsStr::from_bytes(p));
    let remove = |p: &Path| {
        let _ = fs::remove_dir_all(p);
        let _ = fs::remove_file(p);
    };
    match act {
        Act::Mkdir(p) => {
            let _ = fs::create_dir_all(at(p));
        }
        Act::Write(p, c) => {
            if !fs::symlink_metadata(at(p)).is_ok_and(|m| !m.is_file()) {
                let _ = fs::write(at(p), c);
            }
        }
        Act::Sparse(p, n) => {
            if let Ok(f) = fs::File::create_new(at(p)) {
                let _ = f.write_at(b"end", u64::from(*n) * 16);
            }
        }
        Act::Remove(p) => remove(&at(p)),
        Act::Replace(p) => {
            remove(&at(p));
            let _ = fs::create_dir(at(p));
            let _ = fs::write(at(p).join("new"), b"new");
        }
        Act::Symlink(p, t) => {
            let _ = symlink(OsStr::from_bytes(t), at(p));
        }
        Act::Hardlink(a, b) => {
            let _ = fs::hard_link(at(a), at(b));
        }
        Act::Rename(a, b) => {
            let _ = fs::rename(at(a), at(b));
        }
        Act::Chmod(p, m) => {
            if fs::symlink_metadata(at(p)).is_ok_and(|m| !m.is_symlink()) {
                let _ = fs::set_permissions(at(p), fs::Permissions::from_mode(*m));
            }
        }
        Act::Chown(p, u, g) => {
            let (u, g) = (Some(Uid::from_raw(*u)), Some(Gid::from_raw(*g)));
            let _ = rustix::fs::chownat(CWD, at(p), u, g, AtFlags::SYMLINK_NOFOLLOW);
        }
        Act::Capability(p, caps, effective) => {
            // `vfs_cap_data`, version 2: permitted and inheritable, twice 32 bits.
            let head = 0x0200_0000 | u32::from(*effective);
            let value: Vec<u8> =
                [head, *caps, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
            let _ =
                rustix::fs::lsetxattr(at(p), "security.capability", &value, XattrFlags::empty());
        }
        Act::Xattr(p, n, v) => {
            let name = ["user.a", "user.b", "trusted.c"][*n as usize];
            let _ = rustix::fs::lsetxattr(at(p), name, v, XattrFlags::empty());
        }
        Act::Fifo(p) => {
            let _ = rustix::fs::mknodat(CWD, at(p), FileType::Fifo, Mode::from_raw_mode(0o644), 0);
        }
        Act::Device(p, n) => {
            let kind = if n % 2 == 0 { FileType::CharacterDevice } else { FileType::BlockDevice };
            let dev = rustix::fs::makedev(*n, n * 3);
            let _ = rustix::fs::mknodat(CWD, at(p), kind, Mode::from_raw_mode(0o600), dev);
        }
        Act::Time(p, s, n) => {
            let t = Timespec { tv_sec: *s, tv_nsec: i64::from(*n) };
            let t = Timestamps { last_access: t, last_modification: t };
            let _ = rustix::fs::utimensat(CWD, at(p), &t, AtFlags::SYMLINK_NOFOLLOW);
        }
    }
}

/// How many rows of trees: `RGRAPH_TREES`.
#[expect(clippy::disallowed_methods, reason = "how whoever starts it says how long it runs")]
fn cases() -> u32 {
    let text = std::env::var("RGRAPH_TREES").ok();
    text.map_or(200, |t| t.parse().unwrap_or_else(|_| panic!("RGRAPH_TREES={t} is no number")))
}

/// Where trees are made: most of them in memory, where a folder costs no wait for a disk.
fn scratch(in_memory: bool) -> tempfile::TempDir {
    /// `TMPFS_MAGIC`
    const TMPFS: u64 = 0x0102_1994;
    let memory = Path::new("/dev/shm");
    let is_memory = rustix::fs::statfs(memory).is_ok_and(|s| s.f_type as u64 == TMPFS);
    match in_memory && is_memory {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// Runs the property on all processors, each with trees of its own.
#[test]
fn unpacked_layers_merge_to_the_tree_they_were_written_from() {
    if !root() {
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let each = cases().div_ceil(threads);
    let run = move || {
        let config =
            ProptestConfig { cases: each, failure_persistence: None, ..ProptestConfig::default() };
        let steps = prop::collection::vec(prop::collection::vec(act(), 1..25), 1..4);
        // Now and then where files really are.
        let disk = (0u32..10).prop_map(|n| n == 0);
        TestRunner::new(config).run(&(steps, disk), |(steps, disk)| merges(&steps, disk))
    };
    let running: Vec<_> = (0..threads).map(|_| std::thread::spawn(run)).collect();
    for thread in running {
        if let Err(e) = thread.join().expect("no panic outside the property") {
            panic!("{e}");
        }
    }
}

fn merges(steps: &[Vec<Act>], disk: bool) -> Result<(), TestCaseError> {
    let dir = scratch(!disk);
    let base = dir.path();
    let (mut uppers, mut copies) = (Vec::<PathBuf>::new(), Vec::<PathBuf>::new());
    for (i, acts) in steps.iter().enumerate() {
        let upper = base.join(format!("u{i}"));
        fs::create_dir(&upper).unwrap();
        {
            let m = Overlay::new(base, &format!("o{i}"), &uppers, &upper);
            for a in acts {
                apply(&m.0, a);
            }
        }
        let (tar, _) = layer(&upper, &uppers);
        prop_assert!(tar == layer(&upper, &uppers).0, "not deterministic");
        let copy = base.join(format!("c{i}"));
        fs::create_dir(&copy).unwrap();
        // As where layers are unpacked at the same time: what lies below comes when it is asked for.
        let below = || Ok(copies.clone());
        let opts = UnpackOptions { below: Below::Later(&below), ..UnpackOptions::default() };
        unpack_layer(tar.as_slice(), &copy, &opts).unwrap();
        // The layer of the copy is the layer it was made from.
        let again = layer(&copy, &copies).0;
        prop_assert!(again == tar, "written again it differs");
        uppers.insert(0, upper);
        copies.insert(0, copy);
        let (a, b) = (base.join(format!("ea{i}")), base.join(format!("eb{i}")));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let want = Overlay::new(base, &format!("wa{i}"), &uppers, &a);
        let got = Overlay::new(base, &format!("wb{i}"), &copies, &b);
        prop_assert_eq!(tree(&want.0), tree(&got.0));
    }
    Ok(())
}

#[test]
fn only_what_changed_is_written() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    let (low, up) = (base.join("low"), base.join("up"));
    fs::create_dir(&low).unwrap();
    fs::create_dir(&up).unwrap();
    fs::create_dir_all(low.join("a/b/c")).unwrap();
    fs::create_dir_all(low.join("gone/x")).unwrap();
    fs::create_dir_all(low.join("again/x")).unwrap();
    fs::write(low.join("a/b/c/f"), "old").unwrap();
    fs::write(low.join("a/b/keep"), "old").unwrap();
    let lowers = [low];
    {
        let m = Overlay::new(base, "o", &lowers, &up);
        // Copies a, a/b and a/b/c up without a change, then changes only the file.
        fs::set_permissions(m.0.join("a/b/c/f"), fs::Permissions::from_mode(0o600)).unwrap();
        let f = fs::File::open(m.0.join("a/b/keep")).unwrap();
        drop(f);
        fs::remove_dir_all(m.0.join("gone")).unwrap();
        fs::remove_dir_all(m.0.join("again")).unwrap();
        fs::create_dir(m.0.join("again")).unwrap();
    }
    let names = |tar: &[u8]| {
        let mut a = tar::Archive::new(tar);
        let names = a
            .entries()
            .unwrap()
            .map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap());
        names.collect::<Vec<_>>()
    };
    let (tar, stats) = layer(&up, &lowers);
    assert_eq!(
        names(&tar),
        ["a/", "a/b/", "a/b/c/", "a/b/c/f", "again/", "again/.wh..wh..opq", ".wh.gone"]
    );
    assert_eq!((stats.members, stats.whiteouts), (7, 2));

    // A folder that was only copied up adds nothing.
    let up2 = base.join("up2");
    fs::create_dir(&up2).unwrap();
    {
        let m = Overlay::new(base, "o2", &lowers, &up2);
        fs::set_permissions(m.0.join("a/b"), m.0.join("a/b").metadata().unwrap().permissions())
            .unwrap();
    }
    assert!(up2.join("a/b").is_dir());
    let (tar, stats) = layer(&up2, &lowers);
    assert_eq!(names(&tar), Vec::<String>::new());
    assert_eq!(stats.members, 0);
    assert_eq!(tar.len(), 1024);
}

#[test]
fn hard_links_holes_and_odd_owners_survive() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (up, copy) = (dir.path().join("up"), dir.path().join("copy"));
    fs::create_dir(&up).unwrap();
    fs::create_dir(&copy).unwrap();
    fs::write(up.join("one"), "x").unwrap();
    fs::hard_link(up.join("one"), up.join("two")).unwrap();
    symlink("nowhere", up.join("l1")).unwrap();
    fs::hard_link(up.join("l1"), up.join("l2")).unwrap();
    fs::write(up.join("setuid"), "x").unwrap();
    std::os::unix::fs::chown(up.join("setuid"), Some(4_000_000_000), Some(2_097_152)).unwrap();
    fs::set_permissions(up.join("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();
    let cap = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::lsetxattr(up.join("setuid"), "security.capability", &cap, XattrFlags::empty())
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(up.join("socket")).unwrap();
    let (tar, _) = layer(&up, &[]);
    unpack_layer(tar.as_slice(), &copy, &UnpackOptions::default()).unwrap();
    let ino = |n: &str| fs::symlink_metadata(copy.join(n)).unwrap().ino();
    assert_eq!(ino("one"), ino("two"));
    assert_eq!(ino("l1"), ino("l2"));
    assert!(!copy.join("socket").exists());
    fs::remove_file(up.join("socket")).unwrap();
    assert_eq!(tree(&up), tree(&copy));
    assert_eq!(tree(&copy)[Path::new("setuid")].xattrs[&b"security.capability"[..]], cap);

    // GNU tar reads the same from it.
    let gnu = dir.path().join("gnu");
    fs::create_dir(&gnu).unwrap();
    fs::write(dir.path().join("layer.tar"), &tar).unwrap();
    let status = std::process::Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "../layer.tar"])
        .current_dir(&gnu)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(tree(&gnu), tree(&up));
}

#[test]
fn owners_and_modes_do_not_depend_on_what_new_files_are_given() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let up = dir.path().join("up");
    fs::create_dir(&up).unwrap();
    let owners = [(0, 0), (0, 50), (7, 0), (7, 50)];
    for (n, (uid, gid)) in owners.into_iter().enumerate() {
        for mode in [0o644, 0o755, 0o600, 0o666, 0o777, 0o4755, 0o2755, 0o1644, 0, 0o111] {
            let path = up.join(format!("{n}-{mode:o}"));
            fs::write(&path, "x").unwrap();
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let link = up.join(format!("{n}-link"));
        symlink("nowhere", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(uid), Some(gid)).unwrap();
    }
    let (tar, _) = layer(&up, &[]);
    // A mask, and a folder that gives its group to what is made in it.
    for (mask, group) in [(0o022, None), (0o077, None), (0, Some(50)), (0o027, Some(50))] {
        let copy = dir.path().join(format!("copy-{mask:o}-{group:?}"));
        fs::create_dir(&copy).unwrap();
        if group.is_some() {
            std::os::unix::fs::chown(&copy, None, group).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o2755)).unwrap();
        }
        let before = rustix::process::umask(Mode::from_raw_mode(mask));
        unpack_layer(tar.as_slice(), &copy, &UnpackOptions::default()).unwrap();
        rustix::process::umask(before);
        assert_eq!(tree(&copy), tree(&up), "{mask:o} {group:?}");
    }
}

/// Empty files of these names.
fn tar_of(names: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut tar = TarWriter::new(&mut out);
    for name in names {
        tar.begin(&Member::new(name.as_bytes().to_vec(), Kind::File)).unwrap();
    }
    tar.finish().unwrap();
    out
}

#[test]
fn folders_that_no_member_lists_are_found_however_deep() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let depth = 900;
    let deep = "a/".repeat(depth);
    let at = |name: &str| format!("{deep}{name}");
    let unpacked = |name: &str, names: &[&str], below: &[PathBuf]| {
        let to = dir.path().join(name);
        fs::create_dir(&to).unwrap();
        let names: Vec<String> = names.iter().map(|n| at(n)).collect();
        let tar = tar_of(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let opts = UnpackOptions { below: Below::Known(below), ..UnpackOptions::default() };
        let stats = unpack_layer(tar.as_slice(), &to, &opts).unwrap();
        assert_eq!(stats.implied_dirs, depth as u64, "{name}");
        to
    };
    let bottom = unpacked("bottom", &["f", "g"], &[]);
    let middle = unpacked("middle", &[".wh.f", ".wh.none", "h"], std::slice::from_ref(&bottom));
    let below = [middle.clone(), bottom];
    let top = unpacked("top", &[".wh.f", ".wh.g", ".wh.h"], &below);
    let names = |root: &Path| {
        let mut names = Vec::new();
        for entry in fs::read_dir(root.join(&deep)).unwrap() {
            let entry = entry.unwrap();
            let mark = if entry.metadata().unwrap().file_type().is_file() { "" } else { "-" };
            names.push(format!("{mark}{}", entry.file_name().display()));
        }
        names.sort();
        names
    };
    // What is deleted already is not deleted again, nor what never was.
    assert_eq!(
        (names(&middle), names(&top)),
        (vec!["-f".into(), "h".into()], vec!["-g".into(), "-h".into()])
    );
    // Where a layer hides all below it there is nothing to delete.
    let opaque = tar_of(&["a/.wh..wh..opq", &at(".wh.g")]);
    let to = dir.path().join("opaque");
    fs::create_dir(&to).unwrap();
    let opts = UnpackOptions { below: Below::Known(&below), ..UnpackOptions::default() };
    unpack_layer(opaque.as_slice(), &to, &opts).unwrap();
    assert_eq!(names(&to), Vec::<String>::new());
}

#[test]
fn archives_may_be_deep() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = format!("{}f", "a/".repeat(900));
    let tar = tar_of(&[&name]);
    let root = fs::File::open(dir.path()).unwrap();
    let opts = ArchiveOptions::default();
    // Far less than threads of the program have: nothing goes as deep as the archive.
    let unpack = || unpack_archive(tar.as_slice(), root.as_fd(), b"to", &opts).unwrap();
    let stats = std::thread::scope(|s| {
        std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(s, unpack).unwrap().join()
    });
    assert_eq!(stats.unwrap().implied_dirs, 901);
    assert!(dir.path().join("to").join(&name).is_file());
}

#[test]
fn rootless_marks_are_read_and_written() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (up, copy) = (dir.path().join("up"), dir.path().join("copy"));
    fs::create_dir_all(up.join("d")).unwrap();
    fs::create_dir(&copy).unwrap();
    let opaque = "user.overlay.opaque";
    rustix::fs::lsetxattr(up.join("d"), opaque, b"y", XattrFlags::empty()).unwrap();
    fs::write(up.join("d/f"), "x").unwrap();
    let write = |upper: &Path, userxattr| {
        let mut tar = Vec::new();
        let opts = LayerWriteOptions { userxattr, ..LayerWriteOptions::default() };
        write_layer(&LayerSource { upper, lowers: &[] }, &opts, &mut tar).map(|s| (tar, s)).unwrap()
    };
    assert_eq!(write(&up, false).1.whiteouts, 0);
    let (tar, stats) = write(&up, true);
    assert_eq!(stats.whiteouts, 1);
    let opts = UnpackOptions { userxattr: true, ..UnpackOptions::default() };
    unpack_layer(tar.as_slice(), &copy, &opts).unwrap();
    let mut value = [0u8; 4];
    assert_eq!(rustix::fs::lgetxattr(copy.join("d"), opaque, &mut value[..]).unwrap(), 1);
    assert_eq!(write(&copy, true).0, tar);
}

#[test]
fn names_that_mean_deletions_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".wh.x"), "").unwrap();
    let src = LayerSource { upper: dir.path(), lowers: &[] };
    let e = write_layer(&src, &LayerWriteOptions::default(), &mut Vec::new()).unwrap_err();
    assert!(e.to_string().contains(".wh.x"), "{e}");
}

#[test]
fn times_are_clamped_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let up = dir.path().join("up");
    fs::create_dir(&up).unwrap();
    fs::write(up.join("new"), "x").unwrap();
    fs::write(up.join("old"), "x").unwrap();
    let t = Timespec { tv_sec: 5, tv_nsec: 0 };
    let t = Timestamps { last_access: t, last_modification: t };
    rustix::fs::utimensat(CWD, up.join("old"), &t, AtFlags::empty()).unwrap();
    let mut tar = Vec::new();
    let opts = LayerWriteOptions { clamp_mtime: Some(100), ..LayerWriteOptions::default() };
    write_layer(&LayerSource { upper: &up, lowers: &[] }, &opts, &mut tar).unwrap();
    let mut a = tar::Archive::new(tar.as_slice());
    let got: Vec<_> = a.entries().unwrap().map(|e| e.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(got, [100, 5]);
}
