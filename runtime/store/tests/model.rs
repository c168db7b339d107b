//! The store against a model of it: any order of puts, tags, gc, crashes of the index-free kind
//! (reopen) and reboots gives what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proptest::prelude::*;
use rgraph_ir::{BlobDigest, CacheKey, ConfigDigest, ManifestDigest, SnapshotId};
use rgraph_store::*;

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Image(u8),
    Tag(u8, u8),
    Untag(u8),
    /// A snapshot on the n-th last one, recorded under a key.
    Commit(u8, Option<u8>),
    /// Prepared and dropped.
    Abandon,
    Gc {
        all: bool,
    },
    Reopen,
    /// Another boot: what is not durable counts no more, unless it can be checked.
    Reboot,
    Lease,
    EndLease,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6u8).prop_map(Step::Put),
        2 => (0..4u8).prop_map(Step::Image),
        2 => (0..3u8, 0..4u8).prop_map(|(t, i)| Step::Tag(t, i)),
        1 => (0..3u8).prop_map(Step::Untag),
        4 => (0..8u8, proptest::option::of(0..4u8)).prop_map(|(k, p)| Step::Commit(k, p)),
        1 => Just(Step::Abandon),
        2 => any::<bool>().prop_map(|all| Step::Gc { all }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Reboot),
        1 => Just(Step::Lease),
        1 => Just(Step::EndLease),
    ]
}

#[derive(Debug, Default)]
struct Model {
    blobs: BTreeSet<Vec<u8>>,
    images: BTreeSet<u8>,
    tags: BTreeMap<u8, u8>,
    /// Parent and text.
    snaps: BTreeMap<SnapshotId, (Option<SnapshotId>, u8)>,
    results: BTreeMap<u8, SnapshotId>,
    /// Everything a live lease made or looked at.
    held_snaps: BTreeSet<SnapshotId>,
    held_blobs: BTreeSet<Vec<u8>>,
}

fn blob(n: u8) -> Vec<u8> {
    vec![n; usize::from(n) * 100]
}

fn manifest(n: u8) -> Vec<u8> {
    format!("manifest {n}").into_bytes()
}

fn key(n: u8) -> CacheKey {
    CacheKey::from_bytes([n; 32])
}

impl Model {
    fn gc(&mut self, all: bool) {
        let mut blobs = self.held_blobs.clone();
        blobs.extend(self.tags.values().map(|i| manifest(*i)));
        if all {
            self.images.retain(|i| blobs.contains(&manifest(*i)));
        }
        for i in &self.images {
            blobs.insert(manifest(*i));
            blobs.insert(blob(*i));
        }
        self.blobs.retain(|b| blobs.contains(b));
        let mut live = BTreeSet::new();
        let mark = |live: &mut BTreeSet<_>, id| {
            let mut next = Some(id);
            while let Some(id) = next {
                live.insert(id);
                next = self.snaps.get(&id).and_then(|s| s.0);
            }
        };
        for id in &self.held_snaps {
            mark(&mut live, *id);
        }
        if all {
            self.results.retain(|_, id| live.contains(id));
        } else {
            for id in self.results.values() {
                mark(&mut live, *id);
            }
        }
        self.snaps.retain(|id, _| live.contains(id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        let mut boot = 1u8;
        let open = |boot: u8| {
            Store::open(&root, OpenOptions { boot_id: Some([boot; 16]), ..OpenOptions::default() })
                .unwrap()
        };
        let mut s = open(boot);
        let mut m = Model::default();
        let mut lease: Option<Lease> = None;
        for step in steps {
            let held = lease.is_some();
            match step {
                Step::Put(n) => {
                    s.put_blob(&blob(n)).unwrap();
                    m.blobs.insert(blob(n));
                    if held { m.held_blobs.insert(blob(n)); }
                }
                Step::Image(n) => {
                    for b in [manifest(n), blob(n)] {
                        s.put_blob(&b).unwrap();
                        m.blobs.insert(b.clone());
                        if held { m.held_blobs.insert(b); }
                    }
                    s.put_image(&ImageRow {
                        manifest: ManifestDigest::of(&manifest(n)),
                        config: ConfigDigest::of(&blob(n)),
                        platform: String::new(),
                        size: 0,
                        created: None,
                        layers: Vec::new(),
                        snapshot: None,
                    }).unwrap();
                    m.images.insert(n);
                }
                Step::Tag(t, i) => {
                    if m.images.contains(&i) {
                        let manifest = ManifestDigest::of(&manifest(i));
                        s.tag(&format!("tag {t}"), &ImageRef { manifest }).unwrap();
                        m.tags.insert(t, i);
                    }
                }
                Step::Untag(t) => {
                    let had = s.untag(&format!("tag {t}")).unwrap();
                    prop_assert_eq!(had, m.tags.remove(&t).is_some());
                }
                Step::Commit(k, back) => {
                    let own;
                    let l = match &lease { Some(l) => l, None => { own = s.lease().unwrap(); &own } };
                    let parent = back.and_then(|b| m.snaps.keys().rev().nth(usize::from(b)).copied());
                    let p = s.prepare(l).unwrap();
                    fs::write(p.fs().join("f"), [k]).unwrap();
                    let id = s.commit(p, NewSnapshot { parent, ..NewSnapshot::default() }).unwrap();
                    prop_assert!(m.snaps.insert(id, (parent, k)).is_none(), "ids are not used again");
                    s.put_result(&ResultRow {
                        key: key(k),
                        canonical: key(k),
                        op: [0; 32],
                        outputs: vec![id],
                        recipe: vec![k],
                        slot: String::new(),
                        tree: None,
                        created: 0,
                    took: None,
                    }).unwrap();
                    m.results.insert(k, id);
                    if held { m.held_snaps.insert(id); }
                }
                Step::Abandon => {
                    let own;
                    let l = match &lease { Some(l) => l, None => { own = s.lease().unwrap(); &own } };
                    let p = s.prepare(l).unwrap();
                    fs::write(p.fs().join("f"), "x").unwrap();
                }
                Step::Gc { all } => {
                    s.gc(&if all { Policy::all() } else { Policy::default() }).unwrap();
                    m.gc(all);
                }
                Step::Reopen | Step::Reboot => {
                    lease = None;
                    m.held_snaps.clear();
                    m.held_blobs.clear();
                    if matches!(step, Step::Reboot) {
                        boot += 1;
                        // No folder was made durable here, and none has a blob.
                        m.snaps.clear();
                        m.results.clear();
                    }
                    drop(s);
                    s = open(boot);
                    // Rows of snapshots go at their first use.
                    let ids: Vec<_> = (1..200).map(SnapshotId).collect();
                    for id in ids { s.snapshot(id).unwrap(); }
                }
                Step::Lease => {
                    if lease.is_none() { lease = Some(s.lease().unwrap()); }
                }
                Step::EndLease => {
                    lease = None;
                    m.held_snaps.clear();
                    m.held_blobs.clear();
                }
            }
            // Looks through another handle, which holds nothing.
            let look = open(boot);
            for n in 0..6 {
                let d = BlobDigest::of(&blob(n));
                prop_assert_eq!(look.has_blob(&d).unwrap(), m.blobs.contains(&blob(n)), "blob {}", n);
            }
            for k in 0..8 {
                let got = look.result(&key(k)).unwrap().map(|r| r.outputs[0]);
                prop_assert_eq!(got, m.results.get(&k).copied(), "result {}", k);
            }
            for (id, (parent, k)) in &m.snaps {
                let r = look.snapshot(*id).unwrap().unwrap();
                prop_assert_eq!(r.parent, *parent);
                prop_assert_eq!(fs::read(r.dir.unwrap().join("f")).unwrap(), [*k]);
            }
            prop_assert_eq!(fs::read_dir(look.layout().snapshots()).unwrap().count(), m.snaps.len());
            let tags: Vec<_> = look.tags().unwrap().into_iter().map(|t| t.manifest).collect();
            let want: Vec<_> = m.tags.values().map(|i| ManifestDigest::of(&manifest(*i))).collect();
            prop_assert_eq!(tags, want);
            prop_assert_eq!(look.images().unwrap().len(), m.images.len());
        }
    }
}
