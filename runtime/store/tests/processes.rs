//! Several processes on one store: this program starts itself again as builders, and kills them.
//! It has no test harness: a case is a function, the first failure ends it with a panic.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rgraph_ir::{BlobDigest, CacheKey, SnapshotId};
use rgraph_store::*;
use rgraph_tests::programs::chosen;

fn all() -> Policy {
    Policy::all()
}

fn open(root: &Path) -> Store {
    Store::open(root, OpenOptions::default()).unwrap()
}

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

/// Builds results 0..n, each on the one before, as a build does: look up, lock, look again, make.
fn build(s: &Store, n: u8, lease: &Lease) -> u32 {
    let mut parent = None;
    let mut made = 0;
    for i in 0..n {
        let found = |s: &Store| s.result(&key(i)).unwrap().map(|r| r.outputs[0]);
        let id = found(s).unwrap_or_else(|| {
            let _lock = s.step_lock(&key(i), &mut |_| true).unwrap();
            found(s).unwrap_or_else(|| {
                made += 1;
                let p = s.prepare(lease).unwrap();
                fs::write(p.fs().join("file"), [i]).unwrap();
                let id = s.commit(p, NewSnapshot { parent, ..NewSnapshot::default() }).unwrap();
                s.put_blob(&[i; 1000]).unwrap();
                s.put_result(&ResultRow {
                    key: key(i),
                    canonical: key(i),
                    op: [0; 32],
                    outputs: vec![id],
                    recipe: Vec::new(),
                    slot: format!("slot {i}"),
                    tree: None,
                    created: 0,
                    took: None,
                })
                .unwrap();
                id
            })
        });
        let chain = s.chain(id).unwrap();
        for (j, r) in chain.iter().enumerate() {
            assert_eq!(fs::read(r.dir.as_ref().unwrap().join("file")).unwrap(), [j as u8]);
        }
        parent = Some(id);
    }
    made
}

fn child(args: &[String]) {
    let root = Path::new(&args[1]);
    match args[0].as_str() {
        "build" => {
            let s = open(root);
            let lease = s.lease().unwrap();
            println!("{}", build(&s, 12, &lease));
        }
        "prune" => {
            for _ in 0..30 {
                open(root).gc(&all()).unwrap();
            }
        }
        // Holds everything a build can hold, says so, and waits to be killed.
        "hold" => {
            let s = open(root);
            let lease = s.lease().unwrap();
            let _lock = s.key_lock("held", &mut |_| true).unwrap();
            let _step = s.step_lock(&key(7), &mut |_| true).unwrap();
            let p = s.prepare(&lease).unwrap();
            fs::write(p.fs().join("half"), "x").unwrap();
            let mut w = s.blob_writer().unwrap();
            w.write_all(b"half").unwrap();
            s.put_blob(b"held blob").unwrap();
            println!("ready");
            std::thread::sleep(std::time::Duration::from_secs(600));
        }
        // Builds and tags without end, to be killed at any point.
        "loop" => {
            let s = open(root);
            println!("ready");
            for n in 0u32.. {
                let lease = s.lease().unwrap();
                let b = s.put_blob(&n.to_le_bytes()).unwrap().digest;
                let p = s.prepare(&lease).unwrap();
                fs::write(p.fs().join("file"), n.to_le_bytes()).unwrap();
                s.commit(p, NewSnapshot::default()).unwrap();
                s.make_durable(&[b], &[]).unwrap();
                s.tag("last", &ImageRef { manifest: b.into() }).unwrap();
            }
        }
        other => panic!("no such child: {other}"),
    }
}

fn spawn(what: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", what])
        .arg(root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_line(c: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(c.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn many_builders_make_each_thing_once(root: &Path) {
    // Even the making of the store itself is raced for.
    let mut all: Vec<_> = (0..6).map(|_| spawn("build", root)).collect();
    let made: u32 = all
        .iter_mut()
        .map(|c| {
            let n = wait_line(c).parse::<u32>().unwrap();
            assert!(c.wait().unwrap().success());
            n
        })
        .sum();
    assert_eq!(made, 12, "each step once");
}

fn prune_never_takes_what_a_build_uses(root: &Path) {
    drop(open(root));
    let mut prune = spawn("prune", root);
    for _ in 0..4 {
        let mut two = [spawn("build", root), spawn("build", root)];
        for c in &mut two {
            assert!(c.wait().unwrap().success(), "a builder lost something");
        }
    }
    assert!(prune.wait().unwrap().success());
    let s = open(root);
    s.gc(&all()).unwrap();
    assert_eq!(fs::read_dir(s.layout().snapshots()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(s.layout().blobs()).unwrap().count(), 0);
}

fn a_killed_holder_holds_nothing(root: &Path) {
    let s = open(root);
    let mut c = spawn("hold", root);
    assert_eq!(wait_line(&mut c), "ready");
    let pid = c.id();
    let mut seen = None;
    let r = s.key_lock("held", &mut |w| {
        seen = w.holder;
        false
    });
    assert!(matches!(r, Err(StoreError::Cancelled)));
    assert_eq!(seen, Some(pid));
    let r = s.step_lock(&key(7), &mut |w| {
        seen = w.holder.map(|pid| pid + 1);
        false
    });
    assert!(matches!(r, Err(StoreError::Cancelled)));
    assert_eq!(seen, Some(pid + 1));
    let held = BlobDigest::of(b"held blob");
    s.gc(&all()).unwrap();
    drop(s.lease().unwrap());
    assert!(s.has_blob(&held).unwrap(), "made under a live lease");
    assert_eq!(fs::read_dir(s.layout().work()).unwrap().count(), 2, "its own and overlayfs's");
    assert_eq!(fs::read_dir(s.layout().tmp()).unwrap().count(), 2, "its blob and the trash");
    c.kill().unwrap();
    c.wait().unwrap();
    s.key_lock("held", &mut |_| panic!("a dead process holds a lock")).unwrap();
    s.step_lock(&key(7), &mut |_| panic!("a dead process holds a lock")).unwrap();
    let lease = s.lease().unwrap();
    assert_eq!(fs::read_dir(s.layout().work()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(s.layout().tmp()).unwrap().count(), 1);
    // It is emptied beside the work, and by the end of the lease it is empty.
    drop(lease);
    assert_eq!(fs::read_dir(s.layout().trash()).unwrap().count(), 0);
    s.gc(&all()).unwrap();
    assert!(!s.has_blob(&held).unwrap());
}

fn killed_at_any_point_the_store_is_whole(root: &Path) {
    for round in 0..12u64 {
        let mut c = spawn("loop", root);
        assert_eq!(wait_line(&mut c), "ready");
        std::thread::sleep(std::time::Duration::from_micros(1500 * round));
        c.kill().unwrap();
        c.wait().unwrap();
        let s = open(root);
        let r = s.check(true, false).unwrap();
        assert_eq!(r.left(), 0, "round {round}: {r:?}");
        if let Some(t) = s.resolve_tag("last").unwrap() {
            assert_eq!(s.read_blob_verified(&t.manifest.into(), 4).unwrap().len(), 4);
        }
        // Ids stay free of what the crash left.
        let lease = s.lease().unwrap();
        let p = s.prepare(&lease).unwrap();
        let id = s.commit(p, NewSnapshot::default()).unwrap();
        let dir = s.snapshot(id).unwrap().unwrap().dir.unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
        drop(lease);
        s.gc(&all()).unwrap();
        assert_eq!(fs::read_dir(s.layout().snapshots()).unwrap().count(), 0);
        assert!(s.snapshot(SnapshotId(u64::from(u32::MAX))).unwrap().is_none());
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "child") {
        return child(&args[1..]);
    }
    type Case = (&'static str, fn(&Path));
    let cases: [Case; 4] = [
        ("many_builders_make_each_thing_once", many_builders_make_each_thing_once),
        ("prune_never_takes_what_a_build_uses", prune_never_takes_what_a_build_uses),
        ("a_killed_holder_holds_nothing", a_killed_holder_holds_nothing),
        ("killed_at_any_point_the_store_is_whole", killed_at_any_point_the_store_is_whole),
    ];
    let Some(chosen) = chosen(&cases.map(|c| c.0), &args) else { return };
    for (name, case) in cases.iter().filter(|c| chosen.contains(&c.0)) {
        let dir = tempfile::tempdir().unwrap();
        case(&dir.path().join("state"));
        println!("test {name} ... ok");
    }
}
