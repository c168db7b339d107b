//! Power loss, by recorded operations: a store is filled under `strace`, and each prefix of what it
//! asked of the file system is made a disk again, with what was not synced dropped, kept, or dropped
//! by chance. That disk is a store that opens, and has all that was promised by then.
//!
//! The model is harsher than file systems are: a name is on disk only when its folder was synced,
//! bytes only when their file was, and either may be there without what was asked for before it.

#[path = "power_loss/disk.rs"]
mod disk;
#[path = "power_loss/strace.rs"]
mod strace;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use disk::{Disk, Keep, Op};
use rgraph_ir::{BlobDigest, CacheKey, ConfigDigest, ManifestDigest};
use rgraph_store::*;
use rgraph_tests::programs::chosen;

const ROUNDS: u8 = 4;
/// States looked at, about, besides those around each sync.
const STATES: usize = 120;

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

fn manifest(n: u8) -> Vec<u8> {
    format!("manifest {n}").repeat(50).into_bytes()
}

fn config(n: u8) -> Vec<u8> {
    format!("config {n}").into_bytes()
}

fn content(n: u8) -> Vec<u8> {
    vec![n; 5000]
}

/// Fills a store: results, images and tags, new and moved and taken away, with gc between. Says on
/// stdout what it promised.
fn fill(root: &Path) {
    let s = Store::open(root, OpenOptions::default()).unwrap();
    let mut parent = None;
    for n in 0..ROUNDS {
        let lease = s.lease().unwrap();
        let p = s.prepare(&lease).unwrap();
        fs::write(p.fs().join("file"), content(n)).unwrap();
        let description = format!("step {n}");
        let id = s.commit(p, NewSnapshot { parent, layer: None, description }).unwrap();
        s.put_result(&ResultRow {
            key: key(n),
            canonical: key(n),
            op: [0; 32],
            outputs: vec![id],
            recipe: vec![n; 100],
            slot: "slot".to_owned(),
            tree: None,
            took: None,
            created: 0,
        })
        .unwrap();
        let m: ManifestDigest = s.put_blob(&manifest(n)).unwrap().digest.into();
        let c = s.put_blob(&config(n)).unwrap().digest;
        s.put_image(&ImageRow {
            manifest: m,
            config: ConfigDigest::from(c),
            platform: String::new(),
            size: 0,
            created: None,
            layers: Vec::new(),
            snapshot: Some(id),
        })
        .unwrap();
        let chain: Vec<_> = s.chain(id).unwrap().iter().map(|r| r.id).collect();
        s.make_durable(&[m.into(), c], &chain).unwrap();
        for name in ["last", &format!("round {n}")] {
            s.tag(name, &ImageRef { manifest: m }).unwrap();
            println!("tagged {name}={n}");
        }
        if n == 2 {
            s.untag("round 0").unwrap();
            println!("untagged round 0");
            s.gc(&Policy { untagged: Some(0), ..Policy::default() }).unwrap();
        }
        // A result of no image, on the last one.
        let p = s.prepare(&lease).unwrap();
        fs::write(p.fs().join("file"), content(100 + n)).unwrap();
        let new = NewSnapshot { parent: Some(id), ..NewSnapshot::default() };
        let loose = s.commit(p, new).unwrap();
        s.put_result(&ResultRow {
            key: key(100 + n),
            canonical: key(100 + n),
            op: [0; 32],
            outputs: vec![loose],
            recipe: Vec::new(),
            slot: String::new(),
            tree: None,
            took: None,
            created: 0,
        })
        .unwrap();
        parent = (n % 2 == 0).then_some(id);
    }
}

/// What was promised by some point, and what was being done there.
#[derive(Debug, Clone, Default)]
struct Promised {
    tags: BTreeMap<String, u8>,
}

impl Promised {
    fn hear(&mut self, line: &str) {
        if let Some((name, n)) = line.strip_prefix("tagged ").and_then(|l| l.split_once('=')) {
            self.tags.insert(name.to_owned(), n.parse().unwrap());
        } else if let Some(name) = line.strip_prefix("untagged ") {
            self.tags.remove(name);
        }
    }
}

/// Looks at a disk after a power loss, with `now` promised and `next` the promise after it.
fn look(root: &Path, now: &Promised, next: &Promised, what: &str) {
    let options = OpenOptions { boot_id: Some([9; 16]), ..OpenOptions::default() };
    let s = Store::open(root, options).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    for (name, n) in &now.tags {
        let tag = s.resolve_tag(name).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let may = [Some(n), next.tags.get(name)];
        let is = (0..ROUNDS).find(|n| {
            tag.as_ref().is_some_and(|t| t.manifest == ManifestDigest::of(&manifest(*n)))
        });
        if tag.is_none() {
            assert!(!next.tags.contains_key(name), "{what}: tag {name} is lost");
            continue;
        }
        assert!(is.is_some_and(|is| may.contains(&Some(&is))), "{what}: {name} is {is:?}, not {n}");
    }
    for t in s.tags().unwrap() {
        let row = s.image_record(&t.manifest).unwrap();
        let row = row.unwrap_or_else(|| panic!("{what}: {} has no image", t.name));
        let n = (0..ROUNDS).find(|n| ManifestDigest::of(&manifest(*n)) == t.manifest).unwrap();
        let read = |d: BlobDigest| {
            s.read_blob_verified(&d, 1 << 20).unwrap_or_else(|e| panic!("{what}: {}: {e}", t.name))
        };
        assert_eq!(read(t.manifest.into()), manifest(n), "{what}");
        assert_eq!(read(row.config.into()), config(n), "{what}");
        let chain = s.chain(row.snapshot.unwrap());
        let chain = chain.unwrap_or_else(|e| panic!("{what}: {}: {e}", t.name));
        let top = chain.last().unwrap().dir.as_ref().unwrap();
        assert_eq!(fs::read(top.join("file")).unwrap(), content(n), "{what}: {}", t.name);
    }
    // Everything else is there and right, or a miss.
    for n in (0..ROUNDS).flat_map(|n| [n, 100 + n]) {
        if let Some(r) = s.result(&key(n)).unwrap_or_else(|e| panic!("{what}: {e:?}")) {
            let chain = s.chain(r.outputs[0]).unwrap();
            let top = chain.last().unwrap().dir.as_ref().unwrap();
            assert_eq!(fs::read(top.join("file")).unwrap(), content(n), "{what}: result {n}");
        }
    }
    // And it goes on, without anybody's help.
    let lease = s.lease().unwrap();
    let p = s.prepare(&lease).unwrap();
    fs::write(p.fs().join("new"), "new").unwrap();
    s.commit(p, NewSnapshot::default()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    s.put_blob(b"new").unwrap();
    drop(lease);
    match s.gc(&Policy::default()) {
        Ok(_) => {}
        // Only while nothing was promised: then the index itself may be lost.
        Err(StoreError::NeedsRepair { .. }) if now.tags.is_empty() => {}
        Err(e) => panic!("{what}: {e:?}"),
    }
    for name in now.tags.keys().filter(|n| next.tags.contains_key(*n)) {
        assert!(s.resolve_tag(name).unwrap().is_some(), "{what}: {name} did not survive gc");
    }
}

fn every_prefix_is_a_store(dir: &Path) {
    let root = dir.join("state");
    fs::create_dir(dir).unwrap();
    let log = dir.join("strace");
    let out = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "1000000", "-o"])
        .arg(&log)
        .args(["-e", strace::CALLS])
        .arg(std::env::current_exe().unwrap())
        .args(["child", "fill"])
        .arg(&root)
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let ops = strace::read(&fs::read_to_string(&log).unwrap(), &root);
    let syncs = ops.iter().filter(|o| o.is_sync()).count();
    assert!(ops.len() > 200 && syncs > usize::from(ROUNDS), "{} ops, {syncs} syncs", ops.len());
    // What was promised before each op.
    let mut promises = vec![Promised::default()];
    for op in &ops {
        let mut p = promises[promises.len() - 1].clone();
        if let Op::Said(line) = op {
            p.hear(line);
        }
        promises.push(p);
    }
    let last = promises[ops.len()].clone();
    assert_eq!(last.tags.len(), usize::from(ROUNDS), "all but one round, and the last: {last:?}");
    let next = |at: usize| {
        let later = ops[at..].iter().position(|o| matches!(o, Op::Said(_)));
        later.map_or(&last, |n| &promises[at + n + 1])
    };
    let stride = ops.len().div_ceil(STATES);
    let mut looked = 0;
    for at in 0..=ops.len() {
        let near_sync = (at > 0 && ops[at - 1].is_sync()) || ops.get(at).is_some_and(Op::is_sync);
        if !near_sync && at % stride != 0 && at != ops.len() {
            continue;
        }
        for keep in [Keep::None, Keep::All, Keep::Some(at as u64), Keep::Some(!(at as u64))] {
            let target = dir.join("after");
            Disk::after(&ops[..at], keep).write(&target);
            let store = target.join("state");
            // Before the store is one, there is nothing to promise.
            if store.join("version").exists() {
                look(&store, &promises[at], next(at), &format!("after op {at}, {keep:?}"));
                looked += 1;
            } else {
                assert!(promises[at].tags.is_empty(), "the store is gone after op {at}, {keep:?}");
            }
            fs::remove_dir_all(&target).unwrap();
        }
    }
    println!("{} operations, {syncs} syncs, {looked} states", ops.len());
    assert!(looked > STATES);
}

/// Says so where `.ci/test` reads it too.
#[expect(clippy::disallowed_methods, reason = "how `.ci/test` says where")]
fn skip(name: &str) {
    let line = format!("SKIPPED: {name}: `strace` is not installed (.ci/setup installs it)\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("RGRAPH_SKIPPED") {
        let file = fs::File::options().append(true).create(true).open(path);
        file.and_then(|mut f| f.write_all(line.as_bytes())).unwrap();
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, what, root] = &args[..]
        && (child.as_str(), what.as_str()) == ("child", "fill")
    {
        return fill(Path::new(root));
    }
    let name = "every_prefix_is_a_store";
    if chosen(&[name], &args).is_none_or(|chosen| chosen.is_empty()) {
        return;
    }
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return skip(name);
    }
    let dir = tempfile::tempdir().unwrap();
    every_prefix_is_a_store(&dir.path().join("disk"));
    println!("test {name} ... ok");
}
