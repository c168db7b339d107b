//! What the store takes on disk, and how it is kept small.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rgraph_ir::{BlobDigest, CacheKey, ConfigDigest, DiffId, ManifestDigest, SnapshotId};
use rgraph_store::*;

const BOOT: [u8; 16] = [1; 16];

fn open(root: &Path) -> Store {
    Store::open(root, OpenOptions { boot_id: Some(BOOT), ..OpenOptions::default() }).unwrap()
}

fn fresh() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state"));
    (dir, store)
}

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

/// A step that wrote a file of `bytes` in `took`.
fn step(
    s: &Store,
    lease: &Lease,
    n: u8,
    parent: Option<SnapshotId>,
    bytes: usize,
    took: Duration,
) -> SnapshotId {
    let p = s.prepare(lease).unwrap();
    fs::write(p.fs().join("file"), vec![n; bytes]).unwrap();
    let new = NewSnapshot { parent, description: format!("step {n}"), ..NewSnapshot::default() };
    let id = s.commit(p, new).unwrap();
    s.put_result(&ResultRow {
        key: key(n),
        canonical: key(n),
        op: [0; 32],
        outputs: vec![id],
        recipe: vec![n],
        slot: format!("slot {n}"),
        tree: None,
        took: Some(took),
        created: 0,
    })
    .unwrap();
    id
}

fn image(s: &Store, name: &str, snapshot: SnapshotId) -> ManifestDigest {
    let manifest = s.put_blob(format!("manifest {name}").as_bytes()).unwrap().digest.into();
    let config = s.put_blob(format!("config {name}").as_bytes()).unwrap().digest;
    s.put_image(&ImageRow {
        manifest,
        config: ConfigDigest::from(config),
        platform: "linux/amd64".to_owned(),
        size: 1,
        created: None,
        layers: Vec::new(),
        snapshot: Some(snapshot),
    })
    .unwrap();
    s.tag(name, &ImageRef { manifest }).unwrap();
    manifest
}

fn capped(max: u64) -> Policy {
    let limits = Limits { max_used: Some(max), ..Limits::default() };
    Policy { untagged: None, cache: vec![Rule { limits, ..Rule::default() }], dry_run: false }
}

/// As `du -s --block-size=1`: blocks of everything, each file once.
fn blocks_below(root: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut todo = vec![root.to_owned()];
    let mut sum = 0;
    while let Some(path) = todo.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() || seen.insert((m.dev(), m.ino())) {
            sum += m.blocks() * 512;
        }
        if m.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    sum
}

#[test]
fn reported_bytes_are_those_of_the_disk() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let mut parent = None;
    for n in 0..20 {
        parent = Some(step(&s, &lease, n, parent, 3000 * usize::from(n), Duration::ZERO));
    }
    // Hard links, holes, folders, links; a mount point's worth of names.
    let p = s.prepare(&lease).unwrap();
    fs::write(p.fs().join("one"), vec![1; 100_000]).unwrap();
    fs::hard_link(p.fs().join("one"), p.fs().join("two")).unwrap();
    fs::File::create(p.fs().join("hole")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("x".repeat(2000), p.fs().join("link")).unwrap();
    for n in 0..300 {
        fs::create_dir(p.fs().join(format!("folder {n}"))).unwrap();
    }
    let other = s.commit(p, NewSnapshot { parent, ..NewSnapshot::default() }).unwrap();
    s.make_durable(&[], &s.chain(other).unwrap().iter().map(|r| r.id).collect::<Vec<_>>()).unwrap();
    image(&s, "app", other);
    step(&s, &lease, 50, Some(other), 70_000, Duration::ZERO);
    s.put_blob(&vec![3; 123_456]).unwrap();
    fs::write(s.cache_mount("/cache").unwrap().join("f"), vec![1; 50_000]).unwrap();
    fs::write(s.layout().blobs().join("stray"), vec![1; 9000]).unwrap();
    fs::write(s.layout().logs().join("log"), vec![1; 9000]).unwrap();
    fs::create_dir_all(s.layout().snapshot(SnapshotId(4711)).join("fs")).unwrap();
    let p = s.prepare(&lease).unwrap();
    fs::write(p.fs().join("half"), vec![1; 30_000]).unwrap();

    let du = s.du().unwrap();
    assert_eq!(du.total, blocks_below(s.root()), "{du:#?}");
    let again = s.du().unwrap();
    assert_eq!(again.total, du.total);
    let rest: u64 = du.rest.values().sum();
    let parts = [du.images, du.cache, du.mounts, du.leftovers];
    assert_eq!(parts.iter().map(|p| p.bytes).sum::<u64>() + rest, du.total, "{du:#?}");
    assert!(du.images.bytes >= 100_000 + 30_000 && du.images.bytes < 4 << 20, "{du:#?}");
    // The blob too: a live build made it.
    assert!((193_456..240_000).contains(&du.cache.bytes), "{du:#?}");
    assert!((50_000..65_000).contains(&du.mounts.bytes), "{du:#?}");
    assert!(du.leftovers.bytes >= 9000 + 30_000, "{du:#?}");
    assert!(du.rest["index"] > 0 && du.rest["logs"] >= 9000);
    let (shared, own): (Vec<_>, Vec<_>) = du.entries.iter().partition(|e| e.shared);
    assert_eq!((shared.len(), own.len()), (21, 2));
    assert_eq!(shared.iter().map(|e| e.reclaimable).filter(|r| *r).count(), 0);
}

#[test]
fn freed_bytes_are_those_of_the_disk() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    for n in 0..20 {
        step(&s, &lease, n, None, 100_000, Duration::ZERO);
        s.put_blob(&vec![n; 50_000]).unwrap();
    }
    drop(lease);
    s.du().unwrap();
    let index = |s: &Store| s.du().unwrap().rest["index"];
    let before = blocks_below(s.root()) - index(&s);
    let dry = s.gc(&Policy { dry_run: true, ..Policy::all() }).unwrap();
    let r = s.gc(&Policy::all()).unwrap();
    assert_eq!(r, dry);
    let freed = before - (blocks_below(s.root()) - index(&s));
    assert!(r.bytes.abs_diff(freed) * 100 <= freed, "{} of {freed}", r.bytes);
}

#[test]
fn a_cap_is_a_cap() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let base = step(&s, &lease, 0, None, 500_000, Duration::from_secs(9));
    let app = step(&s, &lease, 1, Some(base), 300_000, Duration::from_secs(9));
    image(&s, "app", app);
    for n in 2..30 {
        let parent = (n % 3 == 0).then_some(base);
        step(&s, &lease, n, parent, 10_000 * usize::from(n), Duration::from_millis(n.into()));
    }
    drop(lease);
    let whole = s.cache_size().unwrap();
    assert_eq!(whole, s.du().unwrap().cache.bytes);
    for cap in [whole, whole - 1, 2_000_000, 777_777, 50_000, 0] {
        s.gc(&capped(cap)).unwrap();
        let now = s.du().unwrap();
        assert!(now.cache.bytes <= cap, "{} of {cap}", now.cache.bytes);
        assert!(now.images.bytes >= 800_000, "the image needs its layers");
        assert!(
            cap < 1_000_000 || now.cache.bytes + 400_000 > cap.min(whole),
            "far more than asked"
        );
    }
    assert!(s.result(&key(1)).unwrap().is_some());
}

#[test]
fn a_dear_result_outlives_a_cheap_one() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    step(&s, &lease, 1, None, 1_000_000, Duration::from_secs(600));
    step(&s, &lease, 2, None, 1_000_000, Duration::from_millis(50));
    step(&s, &lease, 3, None, 1_000_000, Duration::from_millis(50));
    drop(lease);
    s.gc(&capped(1_500_000)).unwrap();
    let there = [1, 2, 3].map(|n| s.result(&key(n)).unwrap().is_some());
    assert_eq!(there, [true, false, false]);
    // What was written down is there in another process too, and after a repair.
    assert_eq!(s.result(&key(1)).unwrap().unwrap().took, Some(Duration::from_secs(600)));
    let root = s.root().to_owned();
    drop(s);
    fs::remove_file(root.join("index.db")).unwrap();
    let options = OpenOptions { boot_id: Some(BOOT), ..OpenOptions::default() };
    let (s, _) = Store::rebuild(&root, options).unwrap();
    assert_eq!(s.result(&key(1)).unwrap().unwrap().took, Some(Duration::from_secs(600)));
}

/// Uses are written down late, and not at all within an hour of few builds.
#[test]
fn uses_are_recorded_lazily_and_a_wrong_clock_does_not_stop_them() {
    let (dir, s) = fresh();
    let root = dir.path().join("state");
    let lease = s.lease().unwrap();
    step(&s, &lease, 1, None, 10, Duration::ZERO);
    drop((lease, s));
    let used = |root: &Path| {
        let du = open(root).du().unwrap();
        du.entries.iter().find(|e| e.description == "step 1").unwrap().used.unwrap()
    };
    let use_it = |root: &Path| {
        let s = open(root);
        let lease = s.lease().unwrap();
        assert!(s.result(&key(1)).unwrap().is_some());
        s.flush_uses(&lease).unwrap();
        drop(lease);
        // The check of a build that wrote nothing.
        s.gc_if_needed(&capped(0), &|| false).unwrap()
    };
    assert_eq!(use_it(&root), None, "nothing was written, so nothing is looked at");
    let set = |root: &Path, at: i64| {
        let c = rusqlite::Connection::open(root.join("index.db")).unwrap();
        c.execute("UPDATE results SET used = ?1", [at]).unwrap();
    };
    // In 1969, long ago, in 2100.
    for wrong in [-10, 1000, 4_102_444_800] {
        set(&root, wrong);
        assert_eq!(used(&root), wrong);
        assert!(open(&root).gc(&Policy::default()).unwrap().results == 0);
        let s = open(&root);
        let lease = s.lease().unwrap();
        s.result(&key(1)).unwrap();
        s.flush_uses(&lease).unwrap();
        drop((lease, s));
        let now = used(&root);
        assert!(now > 1_600_000_000 && now < 4_102_444_800, "{wrong}: {now}");
    }
    // After 16 builds that changed something it counts as old, whatever the clock says.
    let mine = |root: &Path| -> i64 {
        let c = rusqlite::Connection::open(root.join("index.db")).unwrap();
        let sql = "SELECT tick FROM results WHERE key = ?1";
        c.query_row(sql, [key(1).as_bytes()], |r| r.get(0)).unwrap()
    };
    let before = mine(&root);
    for n in 2..20 {
        let s = open(&root);
        let lease = s.lease().unwrap();
        step(&s, &lease, n, None, 10, Duration::ZERO);
    }
    use_it_writes(&root);
    assert!(mine(&root) > before + 16);
}

fn use_it_writes(root: &Path) {
    let s = open(root);
    let lease = s.lease().unwrap();
    s.result(&key(1)).unwrap();
    s.flush_uses(&lease).unwrap();
}

#[test]
fn cache_mounts_are_listed_cleared_and_seeded() {
    let (dir, s) = fresh();
    let root = dir.path().join("state");
    let lease = s.lease().unwrap();
    for id in ["/a", "/b", "/b\0", "/b\x001"] {
        fs::write(s.cache_mount(id).unwrap().join("f"), vec![1; 20_000]).unwrap();
    }
    let ids = |s: &Store| {
        let mut ids: Vec<_> = s.du().unwrap().entries.into_iter().map(|e| e.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&s), ["/a", "/b", "/b", "/b"]);
    // In use by this build, as another process sees it.
    let clear = |id: &str| Policy {
        cache: vec![Rule { filter: Filter::cache_mount(id), ..Rule::default() }],
        ..Policy::default()
    };
    let other = open(&root);
    assert_eq!(other.gc(&clear("/a")).unwrap().mounts, 0);
    assert!(other.du().unwrap().entries.iter().all(|e| e.in_use && !e.reclaimable));
    let p = other.prepare(&other.lease().unwrap()).unwrap();
    assert!(matches!(other.seed_cache_mount("/a", p, true), Err(StoreError::Busy { .. })));
    drop(lease);
    assert_eq!(other.gc(&clear("/b")).unwrap().mounts, 3);
    assert_eq!(ids(&s), ["/a"]);
    let lease = other.lease().unwrap();
    let seed = |id: &str, replace| {
        let p = other.prepare(&lease).unwrap();
        fs::write(p.fs().join("seed"), "x").unwrap();
        other.seed_cache_mount(id, p, replace).unwrap()
    };
    assert!(!seed("/a", false), "it has something");
    assert!(seed("/a", true) && seed("/new", false));
    drop(lease);
    let dir = s.cache_mount("/a").unwrap();
    assert!(dir.join("seed").exists() && !dir.join("f").exists());
    assert_eq!(ids(&s), ["/a", "/new"]);
    // Another type of record is not meant, and a prune of all takes them.
    assert_eq!(other.gc(&Policy::all()).unwrap().mounts, 2);
    assert_eq!(fs::read_dir(s.layout().cache_mounts()).unwrap().count(), 0);
}

#[test]
fn the_automatic_gc_keeps_the_cap_and_can_be_interrupted() {
    let (dir, s) = fresh();
    let root = dir.path().join("state");
    let lease = s.lease().unwrap();
    for n in 0..10 {
        step(&s, &lease, n, None, 100_000, Duration::ZERO);
    }
    drop(lease);
    let roomy = capped(1 << 50);
    assert_eq!(s.gc_if_needed(&roomy, &|| false).unwrap(), None);
    // Interrupted before anything, then with the trash full.
    let r = s.gc_if_needed(&capped(300_000), &|| true).unwrap();
    assert!(r.is_none_or(|r| r == Report::default()));
    let looks = std::cell::Cell::new(0);
    let stop = || {
        looks.set(looks.get() + 1);
        looks.get() > 13
    };
    s.gc_if_needed(&capped(300_000), &stop).unwrap();
    let s = open(&root);
    let lease = s.lease().unwrap();
    drop(lease);
    assert_eq!(fs::read_dir(s.layout().trash()).unwrap().count(), 0, "the next build sweeps");
    assert!(s.cache_size().unwrap() <= 300_000);
    // What the build of a live lease made stays, over the cap or not.
    let lease = s.lease().unwrap();
    step(&s, &lease, 99, None, 900_000, Duration::ZERO);
    s.gc_if_needed(&capped(300_000), &|| false).unwrap();
    assert!(s.result(&key(99)).unwrap().is_some());
    drop(lease);
    s.gc_if_needed(&capped(300_000), &|| false).unwrap();
    assert!(s.result(&key(99)).unwrap().is_none());
}

/// A tar made for an archive is no blob to keep: the folder gives it again.
#[test]
fn plain_tars_of_folders_are_garbage() {
    let (_dir, s) = fresh();
    let lease = s.lease().unwrap();
    let a = step(&s, &lease, 1, None, 10, Duration::ZERO);
    let tar = s.put_blob(b"the tar").unwrap();
    let gz = s.put_blob(b"the gz").unwrap();
    let diff_id = DiffId::from_bytes(*tar.digest.as_bytes());
    s.set_layer(a, LayerInfo { diff_id, tar_size: Some(tar.size), blob: None }).unwrap();
    for b in [tar, gz] {
        let media_type = "application/x".to_owned();
        s.add_layer_blob(&diff_id, &BlobRef { digest: b.digest, size: b.size, media_type })
            .unwrap();
    }
    image(&s, "app", a);
    drop(lease);
    s.gc(&Policy::default()).unwrap();
    assert!(!s.has_blob(&tar.digest).unwrap());
    assert!(s.has_blob(&gz.digest).unwrap(), "another form is dear to make");
    // Without a folder it is all there is.
    let lazy = DiffId::of(b"lazy");
    let plain = s.put_blob(b"lazy").unwrap();
    let media_type = "application/x".to_owned();
    let blob = BlobRef { digest: BlobDigest::from(lazy), size: plain.size, media_type };
    let layer = Some(LayerInfo { diff_id: lazy, tar_size: None, blob: Some(blob) });
    let id = s.add_lazy(NewSnapshot { parent: None, layer, description: String::new() }).unwrap();
    image(&s, "lazy", id);
    s.gc(&Policy::default()).unwrap();
    assert!(s.has_blob(&plain.digest).unwrap());
}

#[test]
fn a_cache_mount_that_grew_is_counted_again() {
    let (dir, s) = fresh();
    let root = dir.path().join("state");
    drop(s);
    for (bytes, gone) in [(10_000, 0), (20_000, 0), (2_000_000, 1)] {
        let s = open(&root);
        let lease = s.lease().unwrap();
        fs::write(s.cache_mount("/g").unwrap().join("f"), vec![1; bytes]).unwrap();
        drop(lease);
        assert_eq!(s.gc(&capped(1_000_000)).unwrap().mounts, gone, "{bytes}");
    }
}
