//! Stores of other versions: older ones are brought up to date, newer ones left alone.

use std::fs;
use std::path::Path;

use rgraph_ir::{CacheKey, SnapshotId};
use rgraph_store::*;

/// The schema of index version 1.
const SCHEMA_1: &str = include_str!("versions/index-1.sql");

const BOOT: [u8; 16] = [1; 16];

fn open(root: &Path) -> Result<Store> {
    Store::open(root, OpenOptions { boot_id: Some(BOOT), ..OpenOptions::default() })
}

/// A store as version 1 left it: one result, one image's tag, one cache mount.
fn version_1(root: &Path) -> rusqlite::Connection {
    drop(open(root).unwrap());
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = fs::remove_file(root.join(name));
    }
    let c = rusqlite::Connection::open(root.join("index.db")).unwrap();
    c.pragma_update(None, "journal_mode", "WAL").unwrap();
    c.execute_batch(SCHEMA_1).unwrap();
    c.pragma_update(None, "user_version", 1).unwrap();
    c.execute(
        "INSERT INTO snapshots(id, on_disk, boot, description) VALUES(5, 1, ?1, 'old step')",
        [BOOT],
    )
    .unwrap();
    c.execute(
        "INSERT INTO results(key, canonical, op, outputs, recipe, slot)
         VALUES(?1, ?1, ?1, x'0000000000000005', x'00', 's')",
        [[1u8; 32]],
    )
    .unwrap();
    let dir = root.join("snapshots/5");
    fs::create_dir_all(dir.join("fs")).unwrap();
    let record = format!(
        r#"{{"format":1,"id":5,"boot":"{}","parent":null,"description":"old step","layer":null}}"#,
        "01".repeat(16)
    );
    fs::write(dir.join("record.json"), record).unwrap();
    let hex = "01".repeat(32);
    let result = format!(
        r#"{{"format":1,"key":"blake3:{hex}","canonical":"blake3:{hex}","op":"blake3:{hex}","tree":null,"outputs":[5],"slot":"s","recipe":"00"}}"#
    );
    fs::write(dir.join("result.json"), result).unwrap();
    let mount = root.join("cache-mounts").join(blake3::hash(b"/c").to_hex().as_str());
    fs::create_dir(&mount).unwrap();
    fs::write(mount.join("f"), "kept").unwrap();
    c
}

#[test]
fn version_1_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    drop(version_1(&root));
    // By several at once.
    std::thread::scope(|t| {
        for _ in 0..4 {
            t.spawn(|| drop(open(&root).unwrap()));
        }
    });
    let s = open(&root).unwrap();
    let r = s.result(&CacheKey::from_bytes([1; 32])).unwrap().unwrap();
    assert_eq!((r.outputs, r.took), (vec![SnapshotId(5)], None));
    assert_eq!(s.check(true, false).unwrap().findings, []);
    let du = s.du().unwrap();
    assert_eq!(du.mounts.count, 1, "{du:?}");
    let lease = s.lease().unwrap();
    assert_eq!(fs::read(s.cache_mount("/c").unwrap().join("f")).unwrap(), b"kept");
    let ids: Vec<_> = s.du().unwrap().entries.into_iter().map(|e| e.id).collect();
    assert_eq!(ids, ["5", "/c"]);
    drop((lease, s));
    // Its records are still read when the index is lost.
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = fs::remove_file(root.join(name));
    }
    let options = OpenOptions { boot_id: Some(BOOT), ..OpenOptions::default() };
    let (s, _) = Store::rebuild(&root, options).unwrap();
    assert!(s.result(&CacheKey::from_bytes([1; 32])).unwrap().is_some());
    assert!(s.has_cache_mount("/c").unwrap());
}

/// A migration that fails half-way leaves the old index, whole.
#[test]
fn a_migration_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    let c = version_1(&root);
    // The last step of the migration fails.
    c.execute_batch("CREATE TABLE cache_mounts(x)").unwrap();
    assert!(open(&root).is_err());
    let version: i64 = c.query_row("PRAGMA user_version", [], |r| r.get(0)).unwrap();
    let columns: i64 =
        c.query_row("SELECT count(*) FROM pragma_table_info('results')", [], |r| r.get(0)).unwrap();
    assert_eq!((version, columns), (1, 10));
    c.execute_batch("DROP TABLE cache_mounts").unwrap();
    assert!(open(&root).unwrap().result(&CacheKey::from_bytes([1; 32])).unwrap().is_some());
}

#[test]
fn a_newer_index_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("state");
    drop(open(&root).unwrap());
    let c = rusqlite::Connection::open(root.join("index.db")).unwrap();
    c.pragma_update(None, "user_version", 99).unwrap();
    match open(&root) {
        Err(e @ StoreError::Format { .. }) => assert!(e.to_string().contains("index 99"), "{e}"),
        r => panic!("{r:?}"),
    }
}
