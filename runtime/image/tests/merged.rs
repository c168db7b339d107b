//! Layers in overlay form, seen merged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rgraph_image::layer::{MergedLayers, Owners, make_whiteout, shows_nothing};
use rustix::fs::XattrFlags;

/// Folders of so many layers are held; those of more are found by their paths.
const HANDLES: usize = 16;

/// Some of the layers take part by a handle, the others by their paths: they are read alike.
#[test]
fn layers_without_handles_are_as_those_with() {
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<PathBuf> = (0..HANDLES + 2).map(|n| dir.path().join(n.to_string())).collect();
    for (n, layer) in layers.iter().enumerate() {
        for folder in ["a/b/c", "a/b/o/d"] {
            fs::create_dir_all(layer.join(folder)).unwrap();
            fs::write(layer.join(folder).join(format!("f{n}")), "").unwrap();
        }
    }
    let [.., with, mark, last] = &layers[..] else { unreachable!() };
    let gone = |layer: &Path, folder: &str, name: &str| {
        make_whiteout(fs::File::open(layer.join(folder)).unwrap(), name).unwrap();
    };
    for name in ["w", "v", "u"] {
        fs::create_dir(last.join("a/b/c").join(name)).unwrap();
        fs::write(last.join("a/b/c").join(name).join("x"), "").unwrap();
    }
    fs::write(last.join("a/b/c/y"), "").unwrap();
    gone(with, "a/b/c", "w");
    gone(mark, "a/b/c", "v");
    gone(mark, "a/b/c", "y");
    gone(last, "a/b/c", "z");
    let opaque = "user.overlay.opaque";
    rustix::fs::setxattr(mark.join("a/b/o"), opaque, b"y", XattrFlags::empty()).unwrap();
    // The last three are read by handles when there are no others, and by their paths else.
    for layers in [&layers[HANDLES - 1..], &layers[..]] {
        let merged = MergedLayers::open(layers, true).unwrap();
        let n = HANDLES;
        for (path, want) in [
            (format!("a/b/c/f{}", n - 1), true),
            (format!("a/b/c/f{n}"), true),
            (format!("a/b/c/f{}", n + 1), true),
            ("a/b/c/none".into(), false),
            ("a/b/c/w".into(), false),
            ("a/b/c/w/x".into(), false),
            ("a/b/c/v".into(), false),
            ("a/b/c/v/x".into(), false),
            ("a/b/c/u/x".into(), true),
            ("a/b/c/y".into(), false),
            ("a/b/c/z".into(), false),
            (format!("a/b/o/d/f{}", n - 1), true),
            (format!("a/b/o/d/f{n}"), true),
            (format!("a/b/o/d/f{}", n + 1), false),
            ("a/b/o/d".into(), true),
        ] {
            let shown = merged.shows(Path::new(&path)).unwrap();
            assert_eq!(shown, want, "{path} of {} layers", layers.len());
        }
    }
}

/// A layer is left out of a mount only when nobody can see that it is.
#[test]
fn an_empty_layer_shows_its_root_alone() {
    fn set(dir: &Path, name: &str, value: &[u8]) {
        rustix::fs::setxattr(dir, name, value, XattrFlags::empty()).unwrap();
    }
    fn set_mode(dir: &Path, mode: u32) {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
    }
    type Change = fn(&Path);
    let cases: [(&str, Change, bool); 8] = [
        ("nothing", |_| {}, true),
        ("a mark", |d| set(d, "user.overlay.impure", b"y"), true),
        ("a file", |d| fs::write(d.join("f"), "").unwrap(), false),
        ("a folder", |d| fs::create_dir(d.join("d")).unwrap(), false),
        ("a deletion", |d| make_whiteout(fs::File::open(d).unwrap(), "f").unwrap(), false),
        ("a mode", |d| set_mode(d, 0o711), false),
        ("an attribute", |d| set(d, "user.x", b"1"), false),
        ("opaque", |d| set(d, "user.overlay.opaque", b"y"), false),
    ];
    for (what, change, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (below, upper) = (dir.path().join("below"), dir.path().join("upper"));
        for dir in [&below, &upper] {
            fs::create_dir(dir).unwrap();
            set_mode(dir, 0o755);
        }
        fs::write(below.join("f"), "").unwrap();
        change(&upper);
        assert_eq!(shows_nothing(&upper, &below, Owners::Kernel).unwrap(), want, "{what}");
    }
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    shows_nothing(&none, dir.path(), Owners::Kernel).unwrap_err();
    // The owner of what is recorded is the recorded one.
    let (below, upper) = (dir.path().join("below"), dir.path().join("upper"));
    for dir in [&below, &upper] {
        fs::create_dir(dir).unwrap();
        Owners::Recorded.give(fs::File::open(dir).unwrap(), 5, 6).unwrap();
    }
    assert!(shows_nothing(&upper, &below, Owners::Recorded).unwrap());
    Owners::Recorded.give(fs::File::open(&upper).unwrap(), 5, 7).unwrap();
    assert!(!shows_nothing(&upper, &below, Owners::Recorded).unwrap());
}
