//! Layers in overlay form, seen merged.

use std::fs;
use std::path::{Path, PathBuf};

use rgraph_image::layer::{MergedLayers, make_whiteout};
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
