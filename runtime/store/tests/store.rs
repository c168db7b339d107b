//! One store, one process: what each door promises.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rgraph_ir::{
    BlobDigest, CacheKey, ConfigDigest, DiffId, ManifestDigest, SnapshotId, TreeDigest,
};
use rgraph_store::*;

const BOOT_1: [u8; 16] = [1; 16];
const BOOT_2: [u8; 16] = [2; 16];

fn open_in(root: &Path, boot: [u8; 16]) -> Store {
    Store::open(root, OpenOptions { boot_id: Some(boot), ..OpenOptions::default() }).unwrap()
}

fn fresh() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_in(&dir.path().join("state"), BOOT_1);
    (dir, store)
}

fn count(dir: impl AsRef<Path>) -> usize {
    fs::read_dir(dir).unwrap().count()
}

fn snapshot(s: &Store, lease: &Lease, parent: Option<SnapshotId>, text: &str) -> SnapshotId {
    let p = s.prepare(lease).unwrap();
    fs::write(p.fs().join("file"), text).unwrap();
    s.commit(p, NewSnapshot { parent, description: text.to_owned(), ..NewSnapshot::default() })
        .unwrap()
}

fn blob_ref(d: BlobDigest, size: u64) -> BlobRef {
    BlobRef { digest: d, size, media_type: "application/x-tar".to_owned() }
}

fn layer(text: &str, blob: Option<BlobRef>) -> LayerInfo {
    LayerInfo { diff_id: DiffId::of(text.as_bytes()), tar_size: Some(7), blob }
}

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

fn result(n: u8, outputs: &[SnapshotId]) -> ResultRow {
    ResultRow {
        key: key(n),
        canonical: key(n),
        op: [9; 32],
        outputs: outputs.to_vec(),
        recipe: vec![n, 0, 255],
        slot: format!("slot {n}"),
        tree: Some(TreeDigest::from_bytes([n; 32])),
        created: 1_700_000_000 + i64::from(n),
        took: Some(std::time::Duration::from_millis(u64::from(n))),
    }
}

fn image(s: &Store, name: &str, snapshot: Option<SnapshotId>) -> ImageRow {
    let manifest = s.put_blob(format!("manifest {name}").as_bytes()).unwrap().digest;
    let config = s.put_blob(format!("config {name}").as_bytes()).unwrap().digest;
    let row = ImageRow {
        manifest: manifest.into(),
        config: ConfigDigest::from(config),
        platform: "linux/amd64".to_owned(),
        size: 12,
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        layers: vec![DiffId::of(b"a"), DiffId::of(b"b")],
        snapshot,
    };
    s.put_image(&row).unwrap();
    row
}

/// The cache may take so many bytes.
fn capped(max_used: u64) -> Policy {
    let limits = Limits { max_used: Some(max_used), ..Limits::default() };
    Policy { untagged: None, cache: vec![Rule { limits, ..Rule::default() }], dry_run: false }
}

fn all() -> Policy {
    Policy::all()
}

#[test]
fn a_blob_is_named_only_when_it_is_what_was_announced() {
    let (_dir, s) = fresh();
    let right = BlobDigest::of(b"hello");
    let other = BlobDigest::of(b"other");
    for (digest, size, ok) in [
        (None, None, true),
        (Some(right), Some(5), true),
        (Some(other), None, false),
        (Some(right), Some(4), false),
        (None, Some(6), false),
    ] {
        let mut w = s.blob_writer().unwrap();
        w.write_all(b"hel").unwrap();
        w.write_all(b"lo").unwrap();
        let r = w.commit(Expect { digest, size });
        match (ok, r) {
            (true, Ok(i)) => assert_eq!(i, BlobInfo { digest: right, size: 5 }),
            (false, Err(StoreError::DigestMismatch { want, got })) => {
                assert_eq!((want, got), (other, right));
            }
            (false, Err(StoreError::SizeMismatch { got: 5, .. })) => {}
            (_, r) => panic!("{digest:?} {size:?}: {r:?}"),
        }
        assert_eq!(count(s.layout().tmp()), 1, "only the trash is left in tmp");
    }
    assert!(!s.has_blob(&other).unwrap());
    assert_eq!(s.read_blob_verified(&right, 5).unwrap(), b"hello");
    assert!(matches!(
        s.read_blob_verified(&right, 4),
        Err(StoreError::TooLarge { size: 5, max: 4, .. })
    ));
    assert!(matches!(s.read_blob_verified(&other, 9), Err(StoreError::NoBlob { .. })));
}

#[test]
fn a_writer_stops_at_its_limit_and_leaves_nothing() {
    let (_dir, s) = fresh();
    let mut w = s.blob_writer().unwrap().limit(5);
    w.write_all(b"12345").unwrap();
    assert!(w.write_all(b"6").is_err());
    drop(w);
    assert_eq!(count(s.layout().tmp()), 1);
    assert_eq!(count(s.layout().blobs()), 0);
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let (dir, s) = fresh();
    let d = BlobDigest::of(b"abcdef");
    let info = BlobInfo { digest: d, size: 6 };
    let mut first = s.download(&d).unwrap();
    assert!(first.front().unwrap().is_none());
    first.write_all(b"abcd").unwrap();
    // Who brings the same blob meanwhile has a file of its own.
    let mut other = s.download(&d).unwrap();
    assert!(other.front().unwrap().is_none());
    other.write_all(b"ab").unwrap();
    drop(other);
    assert_eq!(count(s.layout().tmp()), 2, "trash and the part");
    drop(first);
    drop(s);
    // A lease clears away what dead processes left; this stays.
    let s = open_in(&dir.path().join("state"), BOOT_1);
    let lease = s.lease().unwrap();
    let mut again = s.download(&d).unwrap();
    let mut front = String::new();
    again.front().unwrap().unwrap().read_to_string(&mut front).unwrap();
    assert_eq!(front, "abcd");
    again.write_all(b"abcdef").unwrap();
    again.commit(info).unwrap();
    assert_eq!(s.read_blob_verified(&d, 6).unwrap(), b"abcdef");
    // Too long, and of another blob: the end is cut off.
    let d = BlobDigest::of(b"xy");
    s.download(&d).unwrap().write_all(b"wrong and long").unwrap();
    let mut again = s.download(&d).unwrap();
    again.write_all(b"xy").unwrap();
    again.commit(BlobInfo { digest: d, size: 2 }).unwrap();
    assert_eq!(s.read_blob_verified(&d, 2).unwrap(), b"xy");
    // What is wrong or short does not stay.
    let d = BlobDigest::of(b"never");
    s.download(&d).unwrap().write_all(b"ne").unwrap();
    s.download(&d).unwrap().discard();
    assert!(s.download(&d).unwrap().front().unwrap().is_none());
    let mut short = s.download(&d).unwrap();
    short.write_all(b"ne").unwrap();
    assert!(short.commit(BlobInfo { digest: d, size: 5 }).is_err());
    assert_eq!(count(s.layout().tmp()), 1);
    drop(lease);
}

#[test]
fn parts_are_bounded_and_gc_takes_them() {
    let (_dir, s) = fresh();
    let part = |n: u8| {
        let d = BlobDigest::of(&[n]);
        s.download(&d).unwrap().write_all(b"part").unwrap();
    };
    (0..20).for_each(part);
    let left = count(s.layout().tmp());
    assert!(left <= 10, "{left}");
    let mut held = s.download(&BlobDigest::of(b"held")).unwrap();
    held.write_all(b"x").unwrap();
    s.gc(&Policy::default()).unwrap();
    assert_eq!(count(s.layout().tmp()), 2, "trash and the one in the making");
}

#[test]
fn damage_is_seen_and_the_blob_can_be_made_again() {
    for how in ["flip", "cut", "grow", "remove", "link"] {
        let (dir, s) = fresh();
        let d = s.put_blob(b"hello").unwrap().digest;
        let path = s.layout().blob(&d);
        match how {
            "flip" => fs::write(&path, b"hellO").unwrap(),
            "cut" => fs::write(&path, b"hell").unwrap(),
            "grow" => fs::write(&path, b"hello!").unwrap(),
            "remove" => fs::remove_file(&path).unwrap(),
            _ => {
                let other = dir.path().join("other");
                fs::write(&other, b"hello").unwrap();
                fs::remove_file(&path).unwrap();
                symlink(&other, &path).unwrap();
            }
        }
        let mut text = Vec::new();
        let read = match s.open_blob_verified(&d) {
            Ok(Some(mut r)) => r.read_to_end(&mut text).map(Some).map_err(drop),
            Ok(None) => Ok(None),
            Err(_) => Err(()),
        };
        assert!(!matches!(read, Ok(Some(_))), "{how}: {text:?}");
        if how != "link" {
            assert!(!s.has_blob(&d).unwrap(), "{how}: forgotten");
            s.put_blob(b"hello").unwrap();
            assert_eq!(s.read_blob_verified(&d, 5).unwrap(), b"hello", "{how}");
        }
    }
}

#[test]
fn another_boot_checks_what_was_never_made_durable() {
    let (dir, s) = fresh();
    let root = dir.path().join("state");
    let lease = s.lease().unwrap();
    let good = s.put_blob(b"good").unwrap().digest;
    let torn = s.put_blob(b"torn").unwrap().digest;
    let layer_blob = s.put_blob(b"a layer").unwrap();
    let plain = snapshot(&s, &lease, None, "plain");
    let with_blob = snapshot(&s, &lease, None, "with blob");
    let l = layer("x", Some(blob_ref(layer_blob.digest, layer_blob.size)));
    s.set_layer(with_blob, l.clone()).unwrap();
    let synced = snapshot(&s, &lease, None, "synced");
    let on_plain = snapshot(&s, &lease, Some(plain), "on plain");
    s.put_result(&result(1, &[plain])).unwrap();
    s.put_result(&result(2, &[on_plain])).unwrap();
    s.put_result(&result(3, &[synced])).unwrap();
    s.make_durable(&[], &[synced]).unwrap();
    // What a power loss does to a file: its size came, its bytes did not.
    fs::write(s.layout().blob(&torn), b"\0\0\0\0").unwrap();
    drop((lease, s));

    let s = open_in(&root, BOOT_1);
    assert!(s.snapshot(plain).unwrap().unwrap().dir.is_some(), "same boot: trusted");
    assert!(s.result(&key(2)).unwrap().is_some());
    drop(s);

    let s = open_in(&root, BOOT_2);
    assert!(s.has_blob(&good).unwrap());
    assert!(!s.has_blob(&torn).unwrap());
    assert!(s.result(&key(2)).unwrap().is_none(), "its parent is not to be trusted");
    assert!(s.result(&key(1)).unwrap().is_none());
    assert!(s.snapshot(plain).unwrap().is_none());
    assert!(s.result(&key(3)).unwrap().is_some(), "durable");
    let lazy = s.snapshot(with_blob).unwrap().unwrap();
    assert_eq!((lazy.dir, lazy.layer), (None, Some(l)));
    assert!(!s.layout().snapshot(plain).exists());
    // A third boot trusts the blob only if the second wrote down that it looked.
    fs::write(s.layout().blob(&good), b"GOOD").unwrap();
    assert!(s.has_blob(&good).unwrap(), "checked once in this boot");
}

#[test]
fn a_prepared_tree_is_gone_unless_committed() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let p = s.prepare(&lease).unwrap();
    assert_eq!(fs::metadata(p.fs()).unwrap().permissions().mode() & 0o7777, 0o755);
    // What overlayfs leaves in its work directory.
    fs::create_dir(p.work().join("work")).unwrap();
    fs::set_permissions(p.work().join("work"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(p.fs().join("f"), "x").unwrap();
    let dir = p.fs().parent().unwrap().to_owned();
    drop(p);
    assert!(!dir.exists());
    let none = s.commit(
        s.prepare(&lease).unwrap(),
        NewSnapshot { parent: Some(SnapshotId(99)), ..NewSnapshot::default() },
    );
    assert!(matches!(none, Err(StoreError::NoSnapshot { id: SnapshotId(99) })));
    assert_eq!(count(s.layout().snapshots()), 0);
    let a = snapshot(&s, &lease, None, "a");
    let b = snapshot(&s, &lease, Some(a), "b");
    let chain = s.chain(b).unwrap();
    assert_eq!(chain.iter().map(|r| r.id).collect::<Vec<_>>(), [a, b]);
    assert_eq!(fs::read(chain[1].dir.as_ref().unwrap().join("file")).unwrap(), b"b");
    assert!(!s.layout().snapshot(b).join("work").exists());
    drop(lease);
    assert_eq!(count(s.layout().work()), 0);
    assert_eq!(count(s.layout().leases()), 0);
}

#[test]
fn a_folder_without_a_row_gives_way() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let orphan = s.layout().snapshot(SnapshotId(1));
    fs::create_dir_all(orphan.join("fs/half")).unwrap();
    let id = snapshot(&s, &lease, None, "a");
    assert_eq!(id, SnapshotId(1));
    assert_eq!(count(orphan.join("fs")), 1);
    assert_eq!(fs::read(orphan.join("fs/file")).unwrap(), b"a");
}

#[test]
fn lazy_snapshots_have_one_id_per_parent_and_layer() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let d = BlobDigest::of(b"remote");
    let new = |parent, text| NewSnapshot {
        parent,
        layer: Some(layer(text, Some(blob_ref(d, 6)))),
        description: String::new(),
    };
    let a = s.add_lazy(new(None, "a")).unwrap();
    let b = s.add_lazy(new(Some(a), "b")).unwrap();
    assert_eq!(s.add_lazy(new(None, "a")).unwrap(), a);
    assert_eq!(s.add_lazy(new(Some(a), "b")).unwrap(), b);
    assert_ne!(s.add_lazy(new(None, "b")).unwrap(), b);
    assert!(s.add_lazy(NewSnapshot::default()).is_err());
    assert_eq!(s.snapshot(a).unwrap().unwrap().dir, None);
    for text in ["first", "second"] {
        let p = s.prepare(&lease).unwrap();
        fs::write(p.fs().join("file"), text).unwrap();
        s.materialise(a, p).unwrap();
        let dir = s.snapshot(a).unwrap().unwrap().dir.unwrap();
        assert_eq!(fs::read(dir.join("file")).unwrap(), b"first", "the first one stays");
    }
    assert_eq!(s.add_lazy(new(None, "a")).unwrap(), a);
    let second = blob_ref(BlobDigest::of(b"zstd"), 3);
    s.add_layer_blob(&DiffId::of(b"a"), &second).unwrap();
    assert_eq!(s.layer_blobs(&DiffId::of(b"a")).unwrap().len(), 2);
    s.forget_snapshot(a).unwrap();
    assert_eq!(s.snapshot(a).unwrap().unwrap().dir, None, "lazy again");
}

#[test]
fn results_are_misses_without_their_snapshots() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let a = snapshot(&s, &lease, None, "a");
    let b = snapshot(&s, &lease, Some(a), "b");
    let r = result(1, &[b, a]);
    assert!(matches!(
        s.put_result(&result(1, &[SnapshotId(77)])),
        Err(StoreError::NoSnapshot { id: SnapshotId(77) })
    ));
    s.put_result(&r).unwrap();
    assert_eq!(s.result(&key(1)).unwrap(), Some(r.clone()));
    assert_eq!(s.result(&key(2)).unwrap(), None);
    assert_eq!(s.last_in_slot("slot 1").unwrap(), Some(r.clone()));
    s.forget_snapshot(a).unwrap();
    assert_eq!(s.result(&key(1)).unwrap(), None, "what b lies on is gone");
    assert_eq!(s.last_in_slot("slot 1").unwrap(), Some(r), "but it still explains");
    assert_eq!(s.content(&key(1), &[4; 32]).unwrap(), None);
    let t = TreeDigest::from_bytes([5; 32]);
    s.put_content(&key(1), &[4; 32], &t).unwrap();
    assert_eq!(s.content(&key(1), &[4; 32]).unwrap(), Some(t));
}

#[test]
fn stats_answer_for_the_very_same_state_only() {
    let (_dir, s) = fresh();
    // Below and above the number from which rows are scanned.
    for n in [3u64, 1000] {
        let k = |i: u64| StatKey {
            dev: u64::MAX,
            ino: (i * 7).wrapping_sub(9),
            size: i,
            mtime_ns: -5 + i as i64,
            ctime_ns: i64::MAX,
        };
        let rows: Vec<_> = (0..n).map(|i| (k(i), [i as u8; 32])).collect();
        s.put_stats(&rows).unwrap();
        let mut keys: Vec<_> = (0..n).rev().map(k).collect();
        keys.push(k(1));
        keys.push(StatKey { size: 9, ..k(2) });
        keys.push(StatKey { mtime_ns: 9, ..k(2) });
        keys.push(StatKey { ctime_ns: 9, ..k(2) });
        keys.push(StatKey { dev: 3, ..k(2) });
        let got = s.stats(&keys).unwrap();
        let want = (0..n).rev().map(|i| Some([i as u8; 32]));
        let want: Vec<_> = want.chain([Some([1; 32]), None, None, None, None]).collect();
        assert_eq!(got, want, "{n}");
    }
}

#[test]
fn tags_move_and_go() {
    let (dir, s) = fresh();
    let a = image(&s, "a", None);
    let b = image(&s, "b", None);
    s.tag("x:1", &ImageRef { manifest: a.manifest }).unwrap();
    s.tag("x:1", &ImageRef { manifest: b.manifest }).unwrap();
    s.tag("x:2", &ImageRef { manifest: a.manifest }).unwrap();
    assert_eq!(s.resolve_tag("x:1").unwrap().unwrap().manifest, b.manifest);
    assert_eq!(s.tags().unwrap().len(), 2);
    assert_eq!(s.image_record(&a.manifest).unwrap(), Some(a.clone()));
    assert_eq!(s.images().unwrap().len(), 2);
    assert!(s.untag("x:2").unwrap());
    assert!(!s.untag("x:2").unwrap());
    drop(s);
    let s = open_in(&dir.path().join("state"), BOOT_2);
    assert_eq!(s.tags().unwrap().len(), 1);
}

#[test]
fn what_a_registry_said_lasts_until_the_name_is_given_here() {
    let (_dir, s) = fresh();
    let a = image(&s, "a", None).manifest;
    let b = image(&s, "b", None).manifest;
    assert_eq!(s.remote_tag("x:1").unwrap(), None);
    s.put_remote_tag("x:1", &a).unwrap();
    assert_eq!(s.remote_tag("x:1").unwrap(), Some(a));
    s.tag("x:1", &ImageRef { manifest: b }).unwrap();
    assert_eq!(s.remote_tag("x:1").unwrap(), None);
    s.put_remote_tag("x:1", &a).unwrap();
    assert_eq!(s.remote_tag("x:1").unwrap(), Some(a));
    // The tag means that already, but the registry was asked since.
    s.tag("x:1", &ImageRef { manifest: b }).unwrap();
    assert_eq!(s.remote_tag("x:1").unwrap(), None);
    s.put_remote_tag("x:1", &a).unwrap();
    assert!(s.untag("x:1").unwrap());
    assert_eq!(s.remote_tag("x:1").unwrap(), None);
}

#[test]
fn what_a_registry_said_is_kept_until_a_prune() {
    let (_dir, s) = fresh();
    let top = s.put_blob(b"index").unwrap().digest;
    let below = s.put_blob(b"layer").unwrap().digest;
    let other = s.put_blob(b"other").unwrap().digest;
    s.link_blobs(&top, &[below]).unwrap();
    s.put_remote_tag("x:1", &top.into()).unwrap();
    s.gc(&Policy::default()).unwrap();
    assert!(s.has_blob(&top).unwrap() && s.has_blob(&below).unwrap());
    assert!(!s.has_blob(&other).unwrap());
    s.gc(&Policy { untagged: Some(0), ..Policy::default() }).unwrap();
    assert!(!s.has_blob(&below).unwrap());
    assert_eq!(s.remote_tag("x:1").unwrap(), None);
}

#[test]
fn a_result_made_again_is_as_old_as_its_last_run() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let id = snapshot(&s, &lease, None, "a");
    let old = ResultRow { created: 5, ..result(1, &[id]) };
    s.put_result(&old).unwrap();
    assert_eq!(s.created(&key(1)).unwrap(), Some(5));
    s.put_result(&ResultRow { created: 9, ..old }).unwrap();
    assert_eq!(s.result(&key(1)).unwrap().unwrap().created, 9);
    assert_eq!(s.created(&key(2)).unwrap(), None);
}

#[test]
fn make_durable_names_what_is_missing() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let b = s.put_blob(b"b").unwrap().digest;
    let id = snapshot(&s, &lease, None, "a");
    let no = BlobDigest::of(b"no");
    assert!(
        matches!(s.make_durable(&[b, no], &[]), Err(StoreError::NoBlob { digest }) if digest == no)
    );
    assert!(matches!(
        s.make_durable(&[], &[SnapshotId(9)]),
        Err(StoreError::NoSnapshot { id: SnapshotId(9) })
    ));
    s.make_durable(&[b], &[]).unwrap();
    s.make_durable(&[b], &[id]).unwrap();
}

#[test]
fn gc_takes_what_nothing_names() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let base = snapshot(&s, &lease, None, "base");
    let app = snapshot(&s, &lease, Some(base), "app");
    let cached = snapshot(&s, &lease, Some(base), "cached");
    let loose = snapshot(&s, &lease, None, "loose");
    let rubbish = s.put_blob(b"rubbish").unwrap().digest;
    s.put_result(&result(1, &[app])).unwrap();
    s.put_result(&result(2, &[cached])).unwrap();
    let tagged = image(&s, "tagged", Some(app));
    let untagged = image(&s, "untagged", None);
    s.tag("t", &ImageRef { manifest: tagged.manifest }).unwrap();
    fs::write(s.layout().blobs().join("f".repeat(64)), "orphan").unwrap();
    fs::create_dir_all(s.layout().snapshot(SnapshotId(4711)).join("fs")).unwrap();

    // All of it is newer than the lease.
    let r = s.gc(&all()).unwrap();
    assert_eq!((r.snapshots, r.blobs, r.images), (0, 0, 0));
    assert!(!s.layout().snapshot(SnapshotId(4711)).exists(), "no row: rubbish of a crash");
    assert_eq!(count(s.layout().blobs()), 5);
    drop(lease);

    let dry = s.gc(&Policy { dry_run: true, ..Policy::default() }).unwrap();
    assert_eq!((dry.snapshots, dry.blobs, dry.results, dry.images), (1, 1, 0, 0));
    assert!(s.snapshot(loose).unwrap().is_some());
    let r = s.gc(&Policy::default()).unwrap();
    assert_eq!(r, dry);
    assert!(s.snapshot(loose).unwrap().is_none());
    assert!(!s.has_blob(&rubbish).unwrap());
    assert!(s.result(&key(2)).unwrap().is_some());
    assert!(s.image_record(&untagged.manifest).unwrap().is_some());

    let lately = Policy {
        cache: vec![Rule { unused_for: Some(1000), ..Rule::default() }],
        ..Policy::default()
    };
    assert!(s.gc(&lately).unwrap().results == 0, "used lately");
    let used = s.du().unwrap();
    assert!(used.cache.reclaimable > 0 && used.images.bytes > used.images.reclaimable);
    let r = s.gc(&all()).unwrap();
    assert_eq!((r.results, r.snapshots, r.images, r.blobs), (1, 1, 1, 2));
    assert!(s.result(&key(2)).unwrap().is_none());
    assert!(s.result(&key(1)).unwrap().is_some(), "the tagged image needs it");
    assert_eq!(s.chain(app).unwrap().len(), 2);
    let used = s.du().unwrap();
    assert_eq!((used.cache.reclaimable, used.images.reclaimable), (0, 0));

    s.untag("t").unwrap();
    s.gc(&all()).unwrap();
    assert_eq!(count(s.layout().snapshots()), 0);
    assert_eq!(count(s.layout().blobs()), 0);
    assert_eq!(count(s.layout().trash()), 0);
    assert_eq!(count(s.layout().refs()), 0);
}

#[test]
fn gc_keeps_what_a_lease_looked_up() {
    let (dir, s) = fresh();
    let lease = s.lease().unwrap();
    let a = snapshot(&s, &lease, None, "a");
    let b = snapshot(&s, &lease, Some(a), "b");
    let c = snapshot(&s, &lease, None, "c");
    s.put_result(&result(1, &[b])).unwrap();
    s.put_result(&result(2, &[c])).unwrap();
    let kept = s.put_blob(b"kept").unwrap().digest;
    let gone = s.put_blob(b"gone").unwrap().digest;
    drop(lease);
    let lease = s.lease().unwrap();
    assert!(s.result(&key(1)).unwrap().is_some());
    assert!(s.has_blob(&kept).unwrap());
    let other = open_in(&dir.path().join("state"), BOOT_1);
    other.gc(&all()).unwrap();
    assert_eq!(s.chain(b).unwrap().len(), 2);
    assert!(s.snapshot(c).unwrap().is_none());
    assert!(s.has_blob(&kept).unwrap());
    assert!(!s.has_blob(&gone).unwrap());
    drop(lease);
    other.gc(&all()).unwrap();
    assert!(s.snapshot(b).unwrap().is_none());
}

#[test]
fn gc_takes_the_oldest_of_equals_down_to_a_size() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    for n in 1..=3u8 {
        let p = s.prepare(&lease).unwrap();
        fs::write(p.fs().join("big"), vec![n; 1 << 20]).unwrap();
        let id = s.commit(p, NewSnapshot::default()).unwrap();
        s.put_result(&result(n, &[id])).unwrap();
    }
    drop(lease);
    let r = s.gc(&capped(2_300_000)).unwrap();
    assert_eq!((r.results, r.snapshots), (1, 1));
    assert!(r.bytes >= 1 << 20);
    assert!(s.result(&key(1)).unwrap().is_none(), "the oldest");
    assert!(s.result(&key(3)).unwrap().is_some());
}

#[test]
fn an_index_of_images_keeps_its_manifests() {
    let (_dir, s) = fresh();
    let a = image(&s, "a", None);
    let index = s.put_blob(b"index").unwrap().digest;
    s.link_blobs(&index, &[a.manifest.into()]).unwrap();
    assert_eq!(s.linked_blobs(&index).unwrap(), [a.manifest.into()]);
    s.tag("multi", &ImageRef { manifest: ManifestDigest::from(index) }).unwrap();
    let r = s.gc(&all()).unwrap();
    assert_eq!((r.blobs, r.images), (0, 0));
}

#[test]
fn roots_that_are_not_ours_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n);
    let try_open = |p: &Path| Store::open(p, OpenOptions::default()).map(drop);
    let refused = |p: &Path, what: &str| match try_open(p) {
        Err(e @ StoreError::Root { .. }) => assert!(e.to_string().contains(what), "{e}"),
        r => panic!("{what}: {r:?}"),
    };
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full").join("thesis.txt"), "").unwrap();
    refused(&at("full"), "not empty");
    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
    refused(&at("open"), "others may write");
    fs::write(at("file"), "").unwrap();
    refused(&at("file"), "not a directory");
    fs::create_dir_all(at("planted")).unwrap();
    symlink("/tmp", at("planted").join("blobs")).unwrap();
    refused(&at("planted"), "`blobs` in it is not a directory");
    try_open(&at("good")).unwrap();
    fs::remove_dir(at("good").join("snapshots")).unwrap();
    symlink(dir.path(), at("good").join("snapshots")).unwrap();
    refused(&at("good"), "`snapshots` in it is not a directory");
    // A link of one's own to another disk is fine.
    fs::create_dir(at("disk")).unwrap();
    fs::create_dir(at("disk").join("lost+found")).unwrap();
    symlink(at("disk"), at("link")).unwrap();
    try_open(&at("link")).unwrap();
    assert_eq!(fs::metadata(at("disk")).unwrap().permissions().mode() & 0o777, 0o700);
    if rustix::process::geteuid().is_root() {
        fs::create_dir(at("foreign")).unwrap();
        std::os::unix::fs::chown(at("foreign"), Some(12345), None).unwrap();
        refused(&at("foreign"), "belongs to user 12345");
    }
}

#[test]
fn other_formats_are_refused() {
    let (dir, s) = fresh();
    drop(s);
    let root = dir.path().join("state");
    fs::write(root.join("version"), "3\n").unwrap();
    match Store::open(&root, OpenOptions::default()) {
        Err(e @ StoreError::Format { want: 1, .. }) => assert!(e.to_string().contains("format 3")),
        r => panic!("{r:?}"),
    }
}

#[test]
fn a_read_only_store_answers_and_takes_nothing() {
    let (dir, s) = fresh();
    let lease = s.lease().unwrap();
    let id = snapshot(&s, &lease, None, "a");
    s.put_result(&result(1, &[id])).unwrap();
    let b = s.put_blob(b"b").unwrap().digest;
    drop((lease, s));
    let root = dir.path().join("state");
    let read = || OpenOptions { read_only: true, boot_id: Some(BOOT_1) };
    let s = Store::open(&root, read()).unwrap();
    assert!(s.result(&key(1)).unwrap().is_some());
    assert!(s.has_blob(&b).unwrap());
    assert!(s.du().unwrap().leftovers.bytes >= 4096, "nothing names the blob");
    assert!(matches!(s.put_blob(b"c"), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(s.lease(), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(s.gc(&all()), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(s.untag("x"), Err(StoreError::ReadOnly { .. })));
    drop(s);
    let none = Store::open(&dir.path().join("none"), read());
    assert!(matches!(none, Err(StoreError::Root { .. })));
    assert!(!dir.path().join("none").exists());
}

#[test]
fn a_damaged_index_is_named_and_made_again() {
    let (dir, s) = fresh();
    let root = dir.path().join("state");
    let lease = s.lease().unwrap();
    let a = snapshot(&s, &lease, None, "a");
    let b = snapshot(&s, &lease, Some(a), "b");
    s.set_layer(b, layer("b", None)).unwrap();
    s.put_result(&result(1, &[b])).unwrap();
    let i = image(&s, "i", Some(b));
    s.make_durable(&[i.manifest.into(), i.config.into()], &[a, b]).unwrap();
    s.tag("t", &ImageRef { manifest: i.manifest }).unwrap();
    let want = (s.chain(b).unwrap(), s.result(&key(1)).unwrap(), s.images().unwrap());
    drop((lease, s));
    fs::write(root.join("index.db"), [7u8; 8192]).unwrap();
    fs::remove_file(root.join("index.db-wal")).unwrap();
    match Store::open(&root, OpenOptions::default()) {
        Err(e @ StoreError::IndexDamaged { .. }) => assert!(e.to_string().contains("--repair")),
        r => panic!("{r:?}"),
    }
    // As if it had never been: gc must not take everything for garbage.
    fs::remove_file(root.join("index.db")).unwrap();
    let s = open_in(&root, BOOT_1);
    assert!(matches!(s.gc(&all()), Err(StoreError::NeedsRepair { .. })));
    assert_eq!(found(&s.check(false, false).unwrap()), ["the index is missing"]);
    drop(s);
    for boot in [BOOT_1, BOOT_2] {
        let options = OpenOptions { boot_id: Some(boot), ..OpenOptions::default() };
        let (s, report) = Store::rebuild(&root, options).unwrap();
        assert_eq!(found(&report), ["the index is missing"]);
        let mut got = (s.chain(b).unwrap(), s.result(&key(1)).unwrap(), s.images().unwrap());
        for (g, w) in got.0.iter_mut().zip(&want.0) {
            g.created = w.created;
        }
        assert_eq!(got, want);
        assert_eq!(s.resolve_tag("t").unwrap().unwrap().manifest, i.manifest);
        assert_eq!(s.gc(&all()).unwrap().snapshots, 0);
        assert_eq!(found(&s.check(true, true).unwrap()), Vec::<String>::new());
    }
}

fn found(r: &CheckReport) -> Vec<String> {
    r.findings.iter().map(Finding::to_string).collect()
}

#[test]
fn check_names_damage_and_mends_it() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let flipped = s.put_blob(b"flipped").unwrap().digest;
    let lost = s.put_blob(b"lost").unwrap().digest;
    let id = snapshot(&s, &lease, None, "a");
    fs::write(s.layout().blob(&flipped), b"flippeD").unwrap();
    fs::remove_file(s.layout().blob(&lost)).unwrap();
    fs::remove_dir_all(s.layout().snapshot(id)).unwrap();
    assert_eq!(s.check(false, false).unwrap().left(), 2, "bytes were not read");
    let r = s.check(true, true).unwrap();
    assert_eq!((r.findings.len(), r.left()), (3, 0), "{r:?}");
    assert!(found(&r).contains(&format!("blob {flipped} is damaged")));
    assert!(found(&r).contains(&format!("blob {lost} is missing")));
    assert_eq!(found(&s.check(true, false).unwrap()), Vec::<String>::new());
}

#[test]
fn a_lock_is_waited_for_by_threads_and_can_be_given_up() {
    let (_dir, s) = fresh();
    let held = s.key_lock("k", &mut |_| panic!("free")).unwrap();
    assert!(s.try_key_lock("k").unwrap().is_none());
    assert!(s.try_key_lock("other").unwrap().is_some());
    let mut looks = Vec::new();
    let r = s.key_lock("k", &mut |w| {
        looks.push(w);
        looks.len() < 2
    });
    assert!(matches!(r, Err(StoreError::Cancelled)));
    let holder = Some(std::process::id());
    assert_eq!(looks, [Wait { holder, first: true }, Wait { holder, first: false }]);
    let n = std::sync::Mutex::new(held).into_inner().unwrap();
    std::thread::scope(|t| {
        let waiter = t.spawn(|| s.key_lock("k", &mut |_| true).map(drop));
        drop(n);
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(count(s.layout().key_locks()), 0, "no lock file stays");
}

#[test]
fn steps_lock_their_own_keys_alone() {
    let (_dir, s) = fresh();
    let (a, b) = (CacheKey::from_bytes([7; 32]), CacheKey::from_bytes([11; 32]));
    let (held, waited) = s.step_lock(&a, &mut |_| panic!("free")).unwrap();
    assert!(!waited);
    assert!(!s.step_lock(&b, &mut |_| panic!("another one's")).unwrap().1);
    let mut looks = Vec::new();
    let r = s.step_lock(&a, &mut |w| {
        looks.push(w);
        looks.len() < 2
    });
    assert!(matches!(r, Err(StoreError::Cancelled)));
    let holder = Some(std::process::id());
    assert_eq!(looks, [Wait { holder, first: true }, Wait { holder, first: false }]);
    std::thread::scope(|t| {
        let (said, hears) = std::sync::mpsc::channel();
        let s = &s;
        let waiter = t.spawn(move || {
            let mut wait = |_| said.send(()).map_or(true, |()| true);
            s.step_lock(&a, &mut wait).map(|(_, waited)| waited)
        });
        hears.recv().unwrap();
        drop(held);
        assert!(waiter.join().unwrap().unwrap(), "it waited");
    });
}

#[test]
fn hostile_trees_are_removed_and_links_are_not_followed() {
    let (dir, s) = fresh();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let lease = s.lease().unwrap();
    let p = s.prepare(&lease).unwrap();
    symlink(&outside, p.fs().join("link")).unwrap();
    let closed = p.fs().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("f"), "").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // Deeper than a path may be long.
    let mut at = rustix::fs::open(
        p.fs(),
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "deep", rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(
            &at,
            "deep",
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
    }
    let id = s.commit(p, NewSnapshot::default()).unwrap();
    drop(lease);
    assert_eq!(s.gc(&all()).unwrap().snapshots, 1);
    assert!(!s.layout().snapshot(id).exists());
    assert_eq!(count(s.layout().trash()), 0);
    assert!(outside.join("precious").exists());
}
