//! Real folders: what changes a digest and what must not, ways out of the root, the stat cache.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use rgraph_ir::TreeDigest;
use rgraph_ir::op::{SelectedPath, Selector};
use rgraph_ir::pattern::PatternSet;
use tempfile::TempDir;

use super::*;

/// A folder with two files in a sub-folder, a link and a file at the top.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    fs::create_dir_all(at("src/deep")).unwrap();
    fs::write(at("src/main.c"), "int main;").unwrap();
    fs::write(at("src/deep/util.h"), "util").unwrap();
    symlink("src/main.c", at("link")).unwrap();
    fs::write(at("top"), "top").unwrap();
    dir
}

fn pick(path: &str) -> SelectedPath {
    Selector::path(path).paths.remove(0)
}

fn sel(path: SelectedPath) -> Selector {
    Selector { paths: vec![path], owner: true, mode: true }
}

fn wild(path: &str) -> Selector {
    sel(SelectedPath { wildcard: true, ..pick(path) })
}

fn digest_of(dir: &Path, sel: &Selector) -> TreeDigest {
    digest(File::open(dir).unwrap().as_fd(), sel, None, None).unwrap()
}

fn paths_of(dir: &Path, sel: &Selector, ignore: &str) -> Vec<String> {
    let ignore = PatternSet::parse(ignore.as_bytes()).unwrap();
    let entries = list(File::open(dir).unwrap().as_fd(), sel, Some(&ignore), None).unwrap();
    entries.into_iter().map(|e| String::from_utf8(e.path).unwrap()).collect()
}

#[test]
fn what_counts_and_what_does_not() {
    type Edit = fn(&Path);
    let set_mode = |p: &Path, m| fs::set_permissions(p, Permissions::from_mode(m)).unwrap();
    let edits: &[(&str, Edit, bool)] = &[
        ("nothing", |_| {}, false),
        ("content", |d| fs::write(d.join("src/main.c"), "int mein;").unwrap(), true),
        ("name", |d| fs::rename(d.join("src/main.c"), d.join("src/m.c")).unwrap(), true),
        ("new file", |d| fs::write(d.join("src/deep/x"), "").unwrap(), true),
        ("empty folder", |d| fs::create_dir(d.join("src/e")).unwrap(), true),
        ("elsewhere", |d| fs::write(d.join("top"), "other").unwrap(), false),
        (
            "times",
            |d| {
                let f = File::options().write(true).open(d.join("src/main.c")).unwrap();
                let old = std::time::UNIX_EPOCH;
                f.set_times(FileTimes::new().set_modified(old).set_accessed(old)).unwrap();
            },
            false,
        ),
        ("link", |d| symlink("a", d.join("src/l")).unwrap(), true),
        (
            "type",
            |d| {
                fs::remove_file(d.join("src/main.c")).unwrap();
                fs::create_dir(d.join("src/main.c")).unwrap();
            },
            true,
        ),
        (
            "attribute",
            |d| {
                let flags = rustix::fs::XattrFlags::empty();
                let file = d.join("src/main.c");
                rustix::fs::setxattr(&file, "user.rgraph", b"1", flags).unwrap();
            },
            true,
        ),
    ];
    for (name, edit, changes) in edits {
        let dir = tree();
        let before = digest_of(dir.path(), &Selector::path("/src"));
        edit(dir.path());
        let after = digest_of(dir.path(), &Selector::path("/src"));
        assert_eq!(before != after, *changes, "{name}");
    }
    let dir = tree();
    let plain = Selector { mode: false, owner: false, ..Selector::path("/src") };
    let (strict, loose) =
        (digest_of(dir.path(), &Selector::path("/src")), digest_of(dir.path(), &plain));
    set_mode(&dir.path().join("src/main.c"), 0o755);
    assert_ne!(digest_of(dir.path(), &Selector::path("/src")), strict);
    assert_eq!(digest_of(dir.path(), &plain), loose);
}

/// Of the names of one file, those that one copy makes count, and no others.
#[test]
fn hard_links_count_as_far_as_a_copy_keeps_them() {
    let link = |d: &Path, of: &str, to: &str| fs::hard_link(d.join(of), d.join(to)).unwrap();
    let put = |d: &Path, to: &str| fs::write(d.join(to), "util").unwrap();
    let both = Selector { paths: ["/src", "/top"].map(pick).into(), owner: true, mode: true };
    let only_h = sel(SelectedPath { include: vec!["**/*.h".to_owned()], ..pick("/src") });
    let src = Selector::path("/src");
    // A second name of `src/deep/util.h` in the place of a copy of it.
    for (name, selector, at, counts) in [
        ("beside it", &src, "src/a.h", true),
        ("after it", &src, "src/z.h", true),
        ("outside", &src, "same", false),
        ("under another source", &both, "same", false),
        ("hidden by a pattern", &only_h, "src/x.c", false),
        ("shown by a pattern", &only_h, "src/x.h", true),
        ("of a whole tree", &Selector::all(), "same", true),
    ] {
        let (apart, one) = (tree(), tree());
        put(apart.path(), at);
        link(one.path(), "src/deep/util.h", at);
        let differ = digest_of(apart.path(), selector) != digest_of(one.path(), selector);
        assert_eq!(differ, counts, "{name}");
    }
    // Three names of two files: which two are one is said.
    let three = |a: &str, b: &str| {
        let dir = tree();
        put(dir.path(), "src/a");
        put(dir.path(), "src/b");
        link(dir.path(), &format!("src/{a}"), &format!("src/{b}"));
        digest_of(dir.path(), &src)
    };
    assert_ne!(three("a", "c"), three("b", "c"));
    // A layer says it too: its tar does.
    let layer =
        |d: &TempDir| layer_digest(File::open(d.path()).unwrap().as_fd(), Owners::Kernel).unwrap();
    let (apart, one) = (tree(), tree());
    put(apart.path(), "same");
    link(one.path(), "src/deep/util.h", "same");
    assert_ne!(layer(&apart), layer(&one));
}

#[test]
fn names_count_when_asked_for() {
    let dir = tree();
    fs::write(dir.path().join("copy"), "top").unwrap();
    let named = |p: &str| sel(SelectedPath { name: true, ..pick(p) });
    let d = |s: &Selector| digest_of(dir.path(), s);
    assert_eq!(d(&Selector::path("/top")), d(&Selector::path("/copy")));
    assert_ne!(d(&named("/top")), d(&named("/copy")));
    assert_ne!(d(&wild("/to*")), d(&wild("/cop*")));
}

#[test]
fn what_is_missing_is_part_of_the_digest() {
    let dir = tree();
    let s = Selector::path("/later");
    let before = digest_of(dir.path(), &s);
    assert_eq!(before, digest_of(dir.path(), &Selector::path("/top/below/a/file")));
    fs::write(dir.path().join("later"), "").unwrap();
    assert_ne!(digest_of(dir.path(), &s), before);
    assert_eq!(paths_of(dir.path(), &Selector::path("/none"), ""), [""; 0]);
}

#[test]
fn links_stay_inside_the_root() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), "s").unwrap();
    let root = outer.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("etc/passwd"), "inside").unwrap();
    for (name, to) in [
        ("up", "../../../../secret"),
        ("abs", "/etc/passwd"),
        ("a/b/climb", "../../../../etc/passwd"),
        ("self", "self"),
        ("dangling", "nowhere"),
        ("dir", "/etc"),
        ("proc", "/proc/self/root/etc/passwd"),
        ("through", "etc/passwd/.."),
    ] {
        symlink(to, root.join(name)).unwrap();
    }
    for (path, want) in [
        ("/up", ""),
        ("/abs", "/etc/passwd"),
        ("/a/b/climb", "/etc/passwd"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/self", ""),
        ("/dangling", ""),
        ("/dir/passwd", "/etc/passwd"),
        ("/proc", ""),
        ("/through", ""),
    ] {
        let got = paths_of(&root, &Selector::path(path), "").concat();
        assert_eq!(got, want, "{path}");
    }
    // Not followed at the end, and never below a folder.
    let nofollow = sel(SelectedPath { follow: false, ..pick("/abs") });
    assert_eq!(paths_of(&root, &nofollow, ""), ["/abs"]);
    let all = paths_of(&root, &Selector::all(), "");
    assert!(all.contains(&"/dir".to_owned()) && !all.contains(&"/dir/passwd".to_owned()));
}

#[test]
fn ignored_files_are_not_there_whatever_way_is_taken() {
    let dir = tree();
    let at = |p: &str| dir.path().join(p);
    symlink("src/deep", at("way")).unwrap();
    symlink("top", at("hiddenlink")).unwrap();
    let rules = "src/deep\n!src/deep/keep\nhiddenlink\n";
    fs::write(at("src/deep/keep"), "k").unwrap();
    let p = |s: &Selector| paths_of(dir.path(), s, rules);
    let kept = ["/src", "/src/deep", "/src/deep/keep", "/src/main.c"];
    assert_eq!(p(&Selector::path("/src")), kept);
    assert_eq!(p(&Selector::path("/src/deep/util.h")), [""; 0]);
    assert_eq!(p(&Selector::path("/way/util.h")), [""; 0]);
    assert_eq!(p(&Selector::path("/hiddenlink")), [""; 0]);
    assert_eq!(p(&wild("/src/*/*")), ["/src/deep/keep"]);
    assert_eq!(p(&wild("/w*/*.h")), [""; 0]);
    assert_eq!(p(&Selector::path("/way")), ["/src/deep", "/src/deep/keep"]);
    // What is hidden does not change the digest; a hidden folder in which nothing is free is not there.
    let ignore = PatternSet::parse(b"src/deep\n!src/nothing\n").unwrap();
    let root = File::open(dir.path()).unwrap();
    let d = || digest(root.as_fd(), &Selector::all(), Some(&ignore), None).unwrap();
    let before = d();
    fs::write(at("src/deep/util.h"), "changed").unwrap();
    fs::remove_dir_all(at("src/deep")).unwrap();
    assert_eq!(d(), before);
}

#[test]
fn wildcards_pick_by_component() {
    let dir = tree();
    fs::write(dir.path().join("src/b.h"), "").unwrap();
    fs::write(dir.path().join("src/[x].c"), "").unwrap();
    for (pattern, want) in [
        ("/src/*.h", vec!["/src/b.h"]),
        ("/**/*.h", vec!["/src/b.h", "/src/deep/util.h"]),
        ("/src/**/**/util.?", vec!["/src/deep/util.h"]),
        ("/*/deep", vec!["/src/deep", "/src/deep/util.h"]),
        ("/l*k", vec!["/src/main.c"]),
        ("/src/\\[x].c", vec!["/src/[x].c"]),
        ("/top/*", vec![]),
        ("/no*/x", vec![]),
        ("/src/[m-n]*", vec!["/src/main.c"]),
    ] {
        assert_eq!(paths_of(dir.path(), &wild(pattern), ""), want, "{pattern}");
    }
    let root = File::open(dir.path()).unwrap();
    let bad = digest(root.as_fd(), &wild("/["), None, None).unwrap_err();
    assert!(matches!(bad, ContextError::Pattern { .. }));
}

#[test]
fn include_and_exclude_are_relative_to_the_selected_folder() {
    let dir = tree();
    let with = |include: &[&str], exclude: &[&str]| {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let s = SelectedPath { include: own(include), exclude: own(exclude), ..pick("/src") };
        paths_of(dir.path(), &sel(s), "")
    };
    assert_eq!(with(&["deep/util.h"], &[]), ["/src", "/src/deep", "/src/deep/util.h"]);
    assert_eq!(with(&["nothing"], &[]), [""; 0]);
    assert_eq!(with(&[], &["deep"]), ["/src", "/src/main.c"]);
    assert_eq!(with(&["**/*.h"], &["deep"]), [""; 0]);
    assert_eq!(with(&[], &["**", "!main.c"]), ["/src", "/src/main.c"]);
}

#[test]
fn pipes_and_odd_names_are_recorded_without_opening() {
    let dir = tree();
    let pipe = dir.path().join("src/pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"src/\xff\n");
    fs::write(dir.path().join(odd), "odd").unwrap();
    let root = File::open(dir.path()).unwrap();
    // Opening the pipe would wait for a writer that never comes.
    let all = list(root.as_fd(), &Selector::path("/src"), None, None).unwrap();
    assert!(all.iter().any(|e| e.kind == Kind::Fifo && e.path == b"/src/pipe"));
    assert!(all.iter().any(|e| e.path == b"/src/\xff\n" && e.size == 3));
    let one = list(root.as_fd(), &Selector::path("/src/pipe"), None, None).unwrap();
    assert_eq!(one.len(), 1);
}

#[test]
fn deep_chains_need_few_handles_and_have_a_limit() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let dir = tempfile::tempdir().unwrap();
    let open = |at: std::os::fd::BorrowedFd<'_>, name: &Path| {
        openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    let mut fd = open(CWD, dir.path());
    // Each level adds 16 bytes; the first has no slash in front.
    let name = "a".repeat(15);
    let deep = rgraph_ir::limits::MAX_TAR_PATH / 16;
    for _ in 0..deep {
        mkdirat(&fd, name.as_str(), Mode::RWXU).unwrap();
        fd = open(fd.as_fd(), Path::new(&name));
    }
    let root = File::open(dir.path()).unwrap();
    let all = list(root.as_fd(), &Selector::all(), None, None).unwrap();
    assert_eq!(all.len(), deep + 1);
    mkdirat(&fd, "b", Mode::RWXU).unwrap();
    let past = list(root.as_fd(), &Selector::all(), None, None).unwrap_err();
    assert!(matches!(past, ContextError::TooLong { len: 4097, .. }), "{past}");
}

/// Counts, and has all the time in the world.
struct Counting {
    inner: MemoryStatCache,
    recorded: AtomicUsize,
}

impl Counting {
    fn new() -> Self {
        Self { inner: MemoryStatCache::new(|| i64::MAX), recorded: AtomicUsize::new(0) }
    }
}

impl StatCache for Counting {
    fn lookup(&self, stamp: &Stamp) -> Option<FileDigest> {
        self.inner.lookup(stamp)
    }
    fn record(&self, stamp: Stamp, digest: FileDigest) {
        self.recorded.fetch_add(1, Ordering::Relaxed);
        self.inner.record(stamp, digest);
    }
    fn now(&self) -> i64 {
        self.inner.now()
    }
}

#[test]
fn only_changed_files_are_read_again() {
    let dir = tree();
    let root = File::open(dir.path()).unwrap();
    let cache = Counting::new();
    let d = || digest(root.as_fd(), &Selector::all(), None, Some(&cache)).unwrap();
    let first = d();
    assert_eq!(cache.recorded.swap(0, Ordering::Relaxed), 3);
    assert_eq!(d(), first);
    assert_eq!(cache.recorded.load(Ordering::Relaxed), 0);
    assert_eq!(digest_of(dir.path(), &Selector::all()), first);

    // Same size, same modification time: the change time tells.
    let path = dir.path().join("top");
    let old = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "pot").unwrap();
    let f = File::options().write(true).open(&path).unwrap();
    f.set_times(FileTimes::new().set_modified(old)).unwrap();
    assert_ne!(d(), first);
    assert_eq!(cache.recorded.load(Ordering::Relaxed), 1);
    assert_eq!(digest_of(dir.path(), &Selector::all()), d());
}

#[test]
fn young_files_are_read_but_not_remembered() {
    let dir = tree();
    let root = File::open(dir.path()).unwrap();
    let cache =
        Counting { inner: MemoryStatCache::new(|| 1_000_000_000), recorded: AtomicUsize::new(0) };
    let d = digest(root.as_fd(), &Selector::all(), None, Some(&cache)).unwrap();
    assert_eq!(cache.recorded.load(Ordering::Relaxed), 0);
    assert_eq!(d, digest_of(dir.path(), &Selector::all()));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "files get their times from this clock")]
fn settled_content_is_found_after_a_storm_of_writes() {
    let dir = tree();
    let path = dir.path().join("top");
    let stop = AtomicBool::new(false);
    let now = || {
        let t = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        t.as_nanos() as i64
    };
    let cache = MemoryStatCache::new(now);
    let root = File::open(dir.path()).unwrap();
    let seen = Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut n = 0u32;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                fs::write(&path, format!("{:08}", n % 10)).unwrap();
            }
            fs::write(&path, "settled!").unwrap();
        });
        for _ in 0..200 {
            let d = digest(root.as_fd(), &Selector::all(), None, Some(&cache)).unwrap();
            seen.lock().unwrap().insert(d);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let after = digest(root.as_fd(), &Selector::all(), None, Some(&cache)).unwrap();
    assert_eq!(after, digest_of(dir.path(), &Selector::all()));
    assert!(!seen.into_inner().unwrap().is_empty());
}

#[test]
fn several_places_keep_their_order() {
    let dir = tree();
    let two =
        |a: &str, b: &str| Selector { paths: vec![pick(a), pick(b)], owner: true, mode: true };
    let d = |s: &Selector| digest_of(dir.path(), s);
    assert_ne!(d(&two("/top", "/src")), d(&two("/src", "/top")));
    assert_ne!(d(&two("/top", "/none")), d(&two("/none", "/top")));
    assert_ne!(d(&two("/top", "/none")), d(&Selector::path("/top")));
}

/// Every path below `dir`, each with its kind.
fn all_paths(dir: &Path, at: &str, out: &mut Vec<(String, bool)>) {
    for e in fs::read_dir(dir.join(at)).unwrap() {
        let e = e.unwrap();
        let name = e.file_name().into_string().unwrap();
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let is_dir = e.file_type().unwrap().is_dir();
        out.push((path.clone(), is_dir));
        if is_dir {
            all_paths(dir, &path, out);
        }
    }
}

#[test]
fn marks_of_opaque_folders_count_in_layers_only() {
    let dir = tree();
    let root = File::open(dir.path()).unwrap();
    let layer = || layer_digest(root.as_fd(), Owners::Kernel).unwrap();
    let (plain, before) = (digest_of(dir.path(), &Selector::all()), layer());
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.path().join("src"), "user.overlay.opaque", b"y", flags).unwrap();
    assert_eq!(digest_of(dir.path(), &Selector::all()), plain);
    assert_ne!(layer(), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// A walk that skips what it can gives what asking about every path gives.
    #[test]
    fn pruning_hides_nothing_that_is_free(
        files in prop::collection::vec("[ab]/[ab]/[abc]|[ab]/[abc]|c", 1..12),
        rules in prop::collection::vec("!?(a|b|\\*|\\*\\*)(/(a|b|c|\\*|\\*\\*)){0,2}", 0..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for f in &files {
            let path = dir.path().join(f);
            // One name may be wanted as file and as folder; the first one stays.
            let _ = fs::create_dir_all(path.parent().unwrap()).and_then(|()| File::create(path));
        }
        let rules = rules.join("\n");
        let set = PatternSet::parse(rules.as_bytes()).unwrap();
        let mut all = Vec::new();
        all_paths(dir.path(), "", &mut all);
        let free = |p: &str| !set.matches_or_parent(p);
        let mut want: Vec<String> = all
            .iter()
            .filter(|(p, is_dir)| {
                let below = format!("{p}/");
                free(p) || (*is_dir && all.iter().any(|(q, _)| q.starts_with(&below) && free(q)))
            })
            .map(|(p, _)| format!("/{p}"))
            .chain(["/".to_owned()])
            .collect();
        want.sort();
        let mut got = paths_of(dir.path(), &Selector::all(), &rules);
        got.sort();
        prop_assert_eq!(got, want);
    }
}

/// What several threads find of a large folder is what one finds.
#[test]
fn a_long_walk_finds_what_a_short_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    // Some are found before the walk turns out long, some after; hidden folders count for what is
    // below them; names of one file are in folders of different threads.
    for top in 0..12 {
        for sub in 0..=top % 4 {
            let folder = format!("t{top}/s{sub}/{}", "d/".repeat(top));
            fs::create_dir_all(at(&folder)).unwrap();
            for n in 0..300 {
                fs::write(at(&format!("{folder}f{n}")), "").unwrap();
            }
            fs::hard_link(at("t0/s0/f7"), at(&format!("{folder}g"))).unwrap();
            symlink("f1", at(&format!("{folder}l"))).unwrap();
        }
    }
    fs::create_dir(at("t5/empty")).unwrap();
    for rules in ["", "**/f1*\n", "t3\n!t3/s0/d/d/d/f2\nt7\nt9\n!t9/s1/none\n"] {
        let ignore = PatternSet::parse(rules.as_bytes()).unwrap();
        let root = File::open(dir.path()).unwrap();
        let tree = Tree::new(root.as_fd(), Some(&ignore));
        let walked = |most| {
            let filter = Filter { ignore: tree.ignore, most, ..Filter::default() };
            let top = tree.resolve(b"", false).unwrap().unwrap();
            walk(&tree, top, b"", &filter).unwrap()
        };
        let (one, several) = (walked(usize::MAX - 1), walked(usize::MAX));
        assert!(one.len() > 5000, "{}", one.len());
        assert_eq!(one.len(), several.len(), "{rules:?}");
        for (a, b) in one.iter().zip(&several) {
            assert_eq!(format!("{a:?}"), format!("{b:?}"), "{rules:?}");
        }
        assert!(one.iter().filter(|e| e.twin.is_some()).count() > 10);
    }
}
