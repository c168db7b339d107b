//! `store check`: each damage by its name, and mended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rgraph_ir::{CacheKey, ConfigDigest, ManifestDigest, SnapshotId};
use rgraph_store::*;

fn open(root: &Path) -> Result<Store> {
    Store::open(root, OpenOptions { boot_id: Some([1; 16]), ..OpenOptions::default() })
}

/// Two snapshots with results, an image under a tag, a cache mount, all whole.
fn filled(root: &Path) -> (Vec<SnapshotId>, ManifestDigest) {
    let s = open(root).unwrap();
    let lease = s.lease().unwrap();
    let mut ids: Vec<SnapshotId> = Vec::new();
    for n in 1..=2u8 {
        let p = s.prepare(&lease).unwrap();
        fs::write(p.fs().join("file"), [n; 100]).unwrap();
        let parent = ids.last().copied();
        let description = format!("step {n}");
        ids.push(s.commit(p, NewSnapshot { parent, layer: None, description }).unwrap());
        s.put_result(&ResultRow {
            key: CacheKey::from_bytes([n; 32]),
            canonical: CacheKey::from_bytes([n; 32]),
            op: [9; 32],
            outputs: vec![ids[ids.len() - 1]],
            recipe: vec![n; 40],
            slot: format!("slot {n}"),
            tree: None,
            took: Some(Duration::from_secs(1)),
            created: 0,
        })
        .unwrap();
    }
    let manifest: ManifestDigest = s.put_blob(b"the manifest").unwrap().digest.into();
    let config = s.put_blob(b"the config").unwrap().digest;
    s.put_image(&ImageRow {
        manifest,
        config: ConfigDigest::from(config),
        platform: "linux/amd64".to_owned(),
        size: 7,
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        layers: Vec::new(),
        snapshot: ids.last().copied(),
    })
    .unwrap();
    s.make_durable(&[manifest.into(), config], &ids).unwrap();
    s.tag("app", &ImageRef { manifest }).unwrap();
    fs::write(s.cache_mount("/c").unwrap().join("f"), "x").unwrap();
    (ids, manifest)
}

fn texts(r: &CheckReport) -> Vec<String> {
    r.findings.iter().map(Finding::to_string).collect()
}

/// Every file below the root that has bytes, apart from the index.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(&dir).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if fs::metadata(&path).unwrap().len() > 0
                && !path.file_name().unwrap().to_string_lossy().starts_with("index.db")
            {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// One bit of one byte of each file, at its start, middle and end.
#[test]
fn a_flipped_bit_is_named_and_mended_in_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (_, manifest) = filled(&whole);
    assert_eq!(texts(&open(&whole).unwrap().check(true, false).unwrap()), Vec::<String>::new());
    let mut seen = 0;
    for file in files(&whole) {
        let name = file.strip_prefix(&whole).unwrap().to_string_lossy().into_owned();
        // What is in folders of layers and cache mounts has no digest of the store's.
        if name.contains("/fs/") || name == "cache-mounts" || name.ends_with("/f") {
            continue;
        }
        for at in [0.0, 0.5, 1.0] {
            let root = dir.path().join("hurt");
            let _ = fs::remove_dir_all(&root);
            copy(&whole, &root);
            let path = root.join(&name);
            let mut bytes = fs::read(&path).unwrap();
            let at = ((bytes.len() - 1) as f64 * at) as usize;
            bytes[at] ^= 0x01;
            fs::write(&path, &bytes).unwrap();
            let s = match open(&root) {
                Ok(s) => s,
                Err(e) => {
                    assert_eq!(name, "version", "{e}");
                    continue;
                }
            };
            let r = s.check(true, false).unwrap();
            if name == "version" && at > 0 {
                // The end of the line.
                continue;
            }
            assert!(r.left() > 0, "{name}, byte {at}: {r:?}");
            let r = s.check(true, true).unwrap();
            assert_eq!(r.left(), 0, "{name}, byte {at}: {r:?}");
            let r = s.check(true, false).unwrap();
            assert_eq!(texts(&r), Vec::<String>::new(), "{name}, byte {at}");
            // What was not hurt is still there.
            if !name.contains("blobs") {
                assert_eq!(s.resolve_tag("app").unwrap().unwrap().manifest, manifest);
            }
            seen += 1;
        }
    }
    // Two blobs, two records and results, a tag's and an image's file, a cache mount's.
    assert!(seen >= 3 * 8, "{seen}");
}

/// An image is no image without its layers, and is named by its tags.
#[test]
fn an_image_goes_with_a_layer_that_nobody_has() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, manifest) = filled(dir.path());
    let s = open(dir.path()).unwrap();
    fs::remove_dir_all(s.layout().snapshot(ids[0])).unwrap();
    let want = [
        format!("snapshot {} is missing", ids[0]),
        format!("what snapshot {} lies on is missing", ids[1]),
        format!("a layer of image app ({manifest}) is missing"),
    ];
    let r = s.check(false, false).unwrap();
    assert_eq!((&texts(&r)[..3], r.left()), (&want[..], 3));
    let r = s.check(false, true).unwrap();
    assert_eq!((&texts(&r)[..3], r.left()), (&want[..], 0));
    assert_eq!((s.resolve_tag("app").unwrap(), s.images().unwrap()), (None, Vec::new()));
    assert_eq!(texts(&s.check(true, false).unwrap()), Vec::<String>::new());
}

#[test]
fn an_image_without_its_config_is_named_by_its_tags() {
    let dir = tempfile::tempdir().unwrap();
    let (_, manifest) = filled(dir.path());
    let s = open(dir.path()).unwrap();
    let config = s.images().unwrap()[0].config;
    fs::write(s.layout().blob(&config.into()), b"other").unwrap();
    let r = s.check(false, true).unwrap();
    let want = format!("manifest or config of image app ({manifest}) is missing");
    assert!(texts(&r).contains(&want), "{r:?}");
    assert_eq!(s.resolve_tag("app").unwrap(), None);
}

/// Wherever the index is hurt: it is noticed, or it says what it said; made again from the files it
/// has all that it had.
#[test]
fn a_hurt_index_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (ids, manifest) = filled(&whole);
    {
        // Into the file, so that there is something to hurt.
        let c = rusqlite::Connection::open(whole.join("index.db")).unwrap();
        c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let length = fs::metadata(whole.join("index.db")).unwrap().len() as usize;
    let mut noticed = 0;
    for n in 0..60 {
        let root = dir.path().join("hurt");
        let _ = fs::remove_dir_all(&root);
        copy(&whole, &root);
        let mut bytes = fs::read(root.join("index.db")).unwrap();
        bytes[n * length / 60 + n % 7] ^= 0x10;
        fs::write(root.join("index.db"), bytes).unwrap();
        let options = || OpenOptions { boot_id: Some([1; 16]), ..OpenOptions::default() };
        let checked = open(&root).and_then(|s| s.check(true, false).map(|r| (s, r)));
        let s = match checked {
            Ok((s, r)) if r.left() == 0 => s,
            Ok((s, _)) => {
                noticed += 1;
                match s.check(true, true) {
                    Ok(r) => {
                        assert_eq!(r.left(), 0, "{n}: {r:?}");
                        s
                    }
                    Err(_) => {
                        drop(s);
                        Store::rebuild(&root, options()).unwrap().0
                    }
                }
            }
            Err(StoreError::IndexDamaged { .. } | StoreError::Format { .. }) => {
                noticed += 1;
                let (s, r) = Store::rebuild(&root, options()).unwrap();
                assert_eq!(r.left(), 0, "{n}: {r:?}");
                assert_eq!(s.resolve_tag("app").unwrap().unwrap().manifest, manifest);
                assert_eq!(s.chain(ids[1]).unwrap().len(), 2);
                s
            }
            Err(e) => panic!("{n}: {e:?}"),
        };
        let r = s.check(true, false).unwrap();
        assert_eq!(r.left(), 0, "{n}: {r:?}");
    }
    assert!(noticed > 0);
}

#[test]
fn what_nothing_names_is_named_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    filled(&root);
    let s = open(&root).unwrap();
    let loose = s.put_blob(b"loose").unwrap().digest;
    let strays = ["blobs/sha256/notes.txt", "snapshots/77/fs/f", "snapshots/x/y"];
    for f in strays {
        fs::create_dir_all(root.join(f).parent().unwrap()).unwrap();
        fs::write(root.join(f), "x").unwrap();
    }
    let r = s.check(false, false).unwrap();
    let mut found = texts(&r);
    found.sort();
    let mut want: Vec<String> = ["blobs/sha256/notes.txt", "snapshots/77", "snapshots/x"]
        .iter()
        .map(|f| format!("file {f} is not referenced"))
        .collect();
    want.push(format!("blob {loose} is not referenced"));
    want.sort();
    assert_eq!(found, want);
    assert_eq!(r.left(), 0, "no damage");
    // What a live build made is not for a check to take.
    let lease = s.lease().unwrap();
    let held = s.put_blob(b"held").unwrap().digest;
    assert_eq!(s.check(false, true).unwrap().left(), 0);
    assert!(s.has_blob(&held).unwrap() && !s.has_blob(&loose).unwrap());
    drop(lease);
    assert!(strays.iter().all(|f| !root.join(f).exists()));
    assert_eq!(s.check(true, true).unwrap().findings.len(), 1, "the build has ended");
    assert_eq!(texts(&s.check(true, false).unwrap()), Vec::<String>::new());
}

#[test]
fn a_lost_layer_takes_what_lies_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let (ids, _) = filled(&root);
    let s = open(&root).unwrap();
    fs::remove_dir_all(s.layout().snapshot(ids[0])).unwrap();
    let r = s.check(false, false).unwrap();
    let of_layers = ["snapshot 1 is missing", "what snapshot 2 lies on is missing"];
    assert_eq!(texts(&r)[..2], of_layers);
    assert_eq!(s.check(false, true).unwrap().left(), 0);
    assert_eq!(texts(&s.check(true, false).unwrap()), Vec::<String>::new());
    for n in 1..=2 {
        assert_eq!(s.result(&CacheKey::from_bytes([n; 32])).unwrap(), None, "a miss");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for e in fs::read_dir(from).unwrap() {
        let path = e.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Many that record one key at once: the file says what the row says.
#[test]
fn rows_and_files_are_of_the_same_writer() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let (ids, _) = filled(&root);
    let row = open(&root).unwrap().known_result(&CacheKey::from_bytes([2; 32])).unwrap().unwrap();
    assert_eq!(row.outputs, [ids[1]]);
    let stores: Vec<Store> = (0..4).map(|_| open(&root).unwrap()).collect();
    for round in 0..100 {
        std::thread::scope(|t| {
            for (n, s) in stores.iter().enumerate() {
                let slot = format!("place {n} {round}");
                let row = ResultRow { slot, ..row.clone() };
                let name = format!("tag {n}");
                let other = s.put_blob(name.as_bytes()).unwrap().digest.into();
                t.spawn(move || {
                    s.put_result(&row).unwrap();
                    if n < 2 && round % 20 == 0 {
                        s.tag("moved", &ImageRef { manifest: other }).unwrap();
                    }
                });
            }
        });
        let r = stores[0].check(false, false).unwrap();
        assert_eq!(r.left(), 0, "round {round}: {r:?}");
    }
}

/// Killed between the file and the row of a tag that moves: no damage, and it is not for prune to
/// take the file of a name that is there.
#[test]
fn a_tag_that_was_interrupted_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let (_, manifest) = filled(&root);
    let s = open(&root).unwrap();
    let path = s.layout().ref_file("app");
    let before = fs::read(&path).unwrap();
    let other = s.put_blob(b"another manifest").unwrap().digest.into();
    s.tag("app", &ImageRef { manifest: other }).unwrap();
    let ahead = fs::read(&path).unwrap();
    s.tag("app", &ImageRef { manifest }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::write(&path, &ahead).unwrap();
    let r = s.check(true, false).unwrap();
    assert!(texts(&r).contains(&"record of tag app is not referenced".to_owned()), "{r:?}");
    assert_eq!((r.left(), path.exists()), (0, true));
    assert_eq!(s.check(true, true).unwrap().left(), 0);
    assert_eq!(fs::read(&path).unwrap(), before, "the name means what the index says");
}
