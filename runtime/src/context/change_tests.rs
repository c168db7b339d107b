//! What lists and layers say of two trees.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;
use rgraph_ir::op::Selector;
use rgraph_ir::pattern::PatternSet;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// A tree of `path=text`, `path@target` (a link), `path&first` (a hard link) and `path/` (a folder),
/// with modes after `:`.
fn tree(lines: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for line in lines {
        put(dir.path(), line);
    }
    dir
}

fn put(root: &Path, line: &str) {
    let (line, mode) = line.split_once(':').unwrap_or((line, ""));
    let at = line.find(['=', '@', '&', '!']).unwrap_or(line.len());
    let path = root.join(line[..at].trim_end_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match line[at..].chars().next() {
        Some('=') => fs::write(&path, &line[at + 1..]).unwrap(),
        Some('@') => symlink(&line[at + 1..], &path).unwrap(),
        Some('&') => fs::hard_link(root.join(&line[at + 1..]), &path).unwrap(),
        // Overlayfs's mark for a name that is gone.
        Some(_) => mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0).unwrap(),
        None => fs::create_dir_all(&path).unwrap(),
    }
    if let Ok(mode) = u32::from_str_radix(mode, 8) {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn list_of(dir: &Path, sel: &Selector, rules: &[&str]) -> FileList {
    let set = PatternSet::new(rules).unwrap();
    let root = fs::File::open(dir).unwrap();
    let scan = scan(root.as_fd(), sel, Some(&set), None, Owners::Kernel).unwrap();
    let rules: Vec<String> = rules.iter().map(|r| (*r).to_owned()).collect();
    FileList::of(&scan, &rules)
}

fn lines(changes: &rgraph_solver::explain::FileChanges) -> Vec<String> {
    changes.files.iter().map(ToString::to_string).collect()
}

#[test]
fn lists_name_what_changed() {
    let base = ["a=1", "d/x=1", "d/y=1", "h&a", "l@a", "m=1:644"];
    let table: [(&[&str], &[&str], &[&str]); 13] = [
        (&["h=1"], &["h"], &["h: no hard link of a any more"]),
        (&["m&a"], &["m"], &["m: a hard link of a now"]),
        (&["h&d/x"], &["h"], &["h: a hard link of d/x, not of a"]),
        (&["a=2"], &[], &["a changed", "h changed"]),
        (&["n=1"], &[], &["n is new"]),
        (&["n/o=1", "n/p=1"], &[], &["n is new"]),
        (&[], &["m"], &["m is gone"]),
        (&[], &["d/x"], &["d/x is gone"]),
        (&[], &["d"], &["d is gone"]),
        (&["m=1:755"], &[], &["m: mode 644 to 755"]),
        (&["m=2:755"], &[], &["m changed", "m: mode 644 to 755"]),
        (&["l@m"], &["l"], &["l: link target a to m"]),
        (&["l=1"], &["l"], &["l: link to file"]),
    ];
    for (put_in, taken_out, want) in table {
        let (old, new) = (tree(&base), tree(&base));
        for path in taken_out {
            let path = new.path().join(path);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        for line in put_in {
            put(new.path(), line);
        }
        let of = |dir: &tempfile::TempDir| list_of(dir.path(), &Selector::all(), &[]);
        let (old, new) = (of(&old), of(&new));
        assert_eq!(lines(&new.changes_since(&old)), want, "{put_in:?} {taken_out:?}");
        assert!(new.changes_since(&new).is_empty());
        assert_eq!(FileList::from_bytes(&new.to_bytes().unwrap()), Some(new));
    }
}

#[test]
fn only_what_counts_is_told_and_by_the_names_that_were_asked_for() {
    let (old, new) = (tree(&["s/a=1:644", "l@s"]), tree(&["s/a=1:755", "l@s"]));
    let mut sel = Selector::path("/l");
    let changes = |sel: &Selector, rules: &[&str]| {
        let old = list_of(old.path(), sel, &[]);
        lines(&list_of(new.path(), sel, rules).changes_since(&old))
    };
    assert_eq!(changes(&sel, &[]), ["l/a: mode 644 to 755"]);
    sel.mode = false;
    assert!(changes(&sel, &[]).is_empty());
    let named =
        Selector { paths: ["/s", "/l"].map(|p| Selector::path(p).paths.remove(0)).into(), ..sel };
    assert!(changes(&named, &[]).is_empty(), "picks in another order than a walk's");
    assert_eq!(changes(&Selector::all(), &["s/a"]), ["s/a: the ignore rule `s/a` hides it now"]);
}

#[test]
fn a_damaged_list_is_none() {
    let dir = tree(&["a=1", "b/c@a", "b/d=2"]);
    let bytes = list_of(dir.path(), &Selector::all(), &["x"]).to_bytes().unwrap();
    assert!(FileList::from_bytes(&bytes).is_some());
    for end in 0..bytes.len() {
        assert_eq!(FileList::from_bytes(&bytes[..end]), None, "{end}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(FileList::from_bytes(&longer), None);
}

proptest! {
    /// Whatever the bytes: an answer, never a panic.
    #[test]
    fn any_bytes_read_as_a_list_or_not(mut bytes: Vec<u8>, at: usize, with: u8) {
        FileList::from_bytes(&bytes);
        bytes.splice(0..0, b"rgraph files 2\n\0".iter().copied());
        FileList::from_bytes(&bytes);
        let dir = tree(&["a=1", "b/c@a"]);
        let mut good = list_of(dir.path(), &Selector::all(), &[]).to_bytes().unwrap();
        let at = at % good.len();
        good[at] ^= with;
        if let Some(list) = FileList::from_bytes(&good) {
            list.changes_since(&FileList::default());
        }
    }
}

#[test]
fn layers_are_compared_where_they_differ() {
    type Layers<'a> = &'a [&'a [&'a str]];
    let shared: Layers<'_> = &[&["etc/base=1", "etc/old=1", "usr/x=1"]];
    let table: [(Layers<'_>, Layers<'_>, &[&str]); 10] = [
        (&[&["o=1", "p=1"]], &[&["o=1", "p&o"]], &["p: a hard link of o now"]),
        (&[&["o=1"]], &[&["o=2"]], &["o changed"]),
        (&[&["o=1"]], &[&["o=22"]], &["o changed"]),
        (&[&["o=1"]], &[&["o=1"]], &[]),
        (&[&["o=1"]], &[&["p=1"]], &["o is gone", "p is new"]),
        // What lies below decides between new and changed, gone and back.
        (&[&["o=1"]], &[&["o=1", "etc/base=2"]], &["etc/base changed"]),
        (&[&["etc/old!"]], &[&["o=1"]], &["etc/old is new", "o is new"]),
        (&[&["o=1"]], &[&["o=1", "etc/old!"]], &["etc/old is gone"]),
        // Upper layers win, and a file in a folder's place hides what was in it.
        (&[&["o=1"], &["o=2"]], &[&["o=2"]], &[]),
        (&[&["d/a=1"], &["d=1"]], &[&["d/a=1"]], &["d: file to folder"]),
    ];
    for (old, new, want) in table {
        let make = |layers: Layers<'_>| layers.iter().map(|l| tree(l)).collect::<Vec<_>>();
        let open = |dirs: &[tempfile::TempDir]| {
            dirs.iter().map(|d| fs::File::open(d.path()).unwrap()).collect::<Vec<_>>()
        };
        let dirs = [make(shared), make(old), make(new)];
        let shared = || Some(open(&dirs[0]));
        let got = layers_changed(&shared, &open(&dirs[1]), &open(&dirs[2]));
        assert_eq!(lines(&got.unwrap().unwrap()), want, "{old:?} {new:?}");
    }
}

/// Two layers are the same when their digests are, whichever way that is found out.
#[test]
fn layers_are_the_same_when_their_digests_are() {
    let base = ["a=1", "d/x=1:600", "h&a", "l@a", "gone!"];
    let table: [(&[&str], &[&str], bool); 9] = [
        (&[], &[], true),
        (&["a=1"], &[], true),
        (&["a=2"], &[], false),
        (&["a=12"], &[], false),
        (&["d/x=1:644"], &[], false),
        (&["l@d"], &["l"], false),
        (&["h=1"], &["h"], false),
        (&[], &["gone"], false),
        (&["n/"], &[], false),
    ];
    for (put_in, taken_out, same) in table {
        let (old, new) = (tree(&base), tree(&base));
        for path in taken_out {
            fs::remove_file(new.path().join(path)).unwrap();
        }
        for line in put_in {
            put(new.path(), line);
        }
        let [old, new] = [&old, &new].map(|d| fs::File::open(d.path()).unwrap());
        assert_eq!(
            same_layer(old.as_fd(), new.as_fd(), Owners::Kernel).unwrap(),
            same,
            "{put_in:?} {taken_out:?}"
        );
        let [old, new] = [&old, &new].map(|d| layer_digest(d.as_fd(), Owners::Kernel).unwrap());
        assert_eq!(old == new, same, "{put_in:?} {taken_out:?}");
    }
}
