//! What was built here: one small file per build below `builds/`, the newest [`KEPT`].
//!
//! A record is two things: what a person asks about later (`rgraph explain`), and the steps with
//! their keys, to which the next build of the same place is compared. It is written by a temporary
//! name and a rename, without a sync, after everything else: a record that is lost makes an explanation
//! poorer and nothing worse. A cached build writes one too, since a later miss is explained by what
//! the place was last, not by what last ran there.

use std::collections::BTreeSet;
use std::fs::{DirEntry, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rgraph_ir::CacheKey;
use rgraph_ir::TreeDigest;
use rgraph_solver::explain::{MissReason, PastBuild, PastStep};
use rgraph_solver::key::Slot;
use rgraph_store::Store;
use serde::{Deserialize, Serialize};

use crate::cache::files::{now, write};
use crate::logs;

/// How many records are kept.
pub const KEPT: usize = 100;
/// Largest record that is read, bytes.
const MAX_RECORD: u64 = 32 << 20;
/// How many failed builds are looked behind for what a place was.
const LOOK_BACK: usize = 8;
/// A file that is not renamed after this is nobody's.
const UNFINISHED: Duration = Duration::from_secs(3600);
/// Version of the file.
const VERSION: u32 = 1;

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildStatus {
    /// It gave what it was asked for.
    Done,
    /// It did not.
    Failed,
    /// It was stopped.
    Canceled,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    /// A cache answered.
    Cached,
    /// It ran.
    Ran,
    /// It failed.
    Failed,
    /// It was stopped, or the build ended before its turn.
    Canceled,
}

/// One reason for which a step ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// A short name for programs: `files`, `arg`, `base`.
    pub cause: String,
    /// The line.
    pub text: String,
    /// The files it is about; the line names the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// How many more files there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_files: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl From<&MissReason> for Why {
    fn from(r: &MissReason) -> Self {
        let files = r.files();
        Self {
            cause: r.cause().to_owned(),
            text: r.to_string(),
            files: files
                .map(|f| f.files.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            more_files: files.map_or(0, |f| f.more),
        }
    }
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its progress line.
    pub name: String,
    /// Its first line in the Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// How it ended.
    pub status: StepStatus,
    /// How long it worked.
    #[serde(default)]
    pub millis: u64,
    /// Why it ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<Why>,
    /// The number of its log, if it printed anything ([`crate::logs`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<u32>,
}

/// One build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Names it; hex digits.
    pub id: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took.
    pub millis: u64,
    /// The Dockerfile's path.
    pub dockerfile: String,
    /// The target, if one was named; of several, all with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Names of its build arguments.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub args: BTreeSet<String>,
    /// Names that the result was to get.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How it ended.
    pub status: BuildStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The image's or index's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The steps of the Dockerfile, in the order of their lines on the screen.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
}

/// A step with its key, in a file.
#[derive(Serialize, Deserialize)]
struct KeyRecord {
    /// The slot without its place.
    slot: String,
    op: TreeDigest,
    key: CacheKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    canonical: Option<CacheKey>,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct RecordFile {
    version: u32,
    #[serde(flatten)]
    build: BuildRecord,
    keys: Vec<KeyRecord>,
}

/// What one build is compared with, and what is told of it to the next.
pub struct Journal<'a> {
    store: &'a Store,
    place: String,
    at: i128,
    id: String,
    last: OnceLock<PastBuild>,
    own: Mutex<PastBuild>,
}

impl<'a> Journal<'a> {
    /// The journal of a build at `place`.
    pub fn new(store: &'a Store, place: &str) -> Self {
        let place = place.to_owned();
        let at = jiff::Timestamp::now().as_nanosecond();
        let seed = format!("{at}\0{}\0{place}", std::process::id());
        let id = blake3::hash(seed.as_bytes()).to_hex()[..8].to_owned();
        Self { store, place, at, id, last: OnceLock::new(), own: Mutex::default() }
    }

    /// Names the build.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The last build of this place. Read when first asked for.
    pub fn last(&self) -> &PastBuild {
        self.last.get_or_init(|| Builds::new(self.store).last(&self.place))
    }

    /// What the key of a place was in the last build.
    pub fn key_at(&self, slot: &Slot) -> Option<CacheKey> {
        self.last().steps.iter().find(|s| s.slot == *slot).map(|s| s.key)
    }

    /// Whether the last build of this place stood on images, and none of them was the one of `key`.
    pub fn stood_on_others(&self, key: CacheKey) -> bool {
        let kind = |s: &PastStep| s.slot.0.rsplit_once('/').map_or("", |(_, kind)| kind).to_owned();
        let mut images = self.last().steps.iter().filter(|s| kind(s).starts_with("image#"));
        images.next().is_some_and(|first| first.key != key) && images.all(|s| s.key != key)
    }

    /// Takes what this build came to.
    pub fn remember(&self, build: PastBuild) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = build;
    }

    /// Writes the record; its id and arguments are filled in here.
    ///
    /// # Errors
    /// When the file cannot be written. The build is none the worse.
    pub fn end(self, build: BuildRecord) -> std::io::Result<String> {
        let own = self.own.into_inner().unwrap_or_else(PoisonError::into_inner);
        let name = Name::new(self.at, &self.id, &self.place);
        Builds::new(self.store).put(BuildRecord { id: self.id, ..build }, &name, &self.place, own)
    }
}

/// What a slot's text begins with.
fn prefix(place: &str) -> String {
    format!("{}:{place}", place.len())
}

/// Names a place in a file name.
fn place_name(place: &str) -> String {
    blake3::hash(place.as_bytes()).to_hex()[..16].to_owned()
}

/// All records of a store.
pub struct Builds<'a> {
    store: &'a Store,
}

/// The name of a record's file: `NANOSECONDS-ID-PLACE.json`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name(String);

/// Digits of the time in a [`Name`].
const TIME: usize = 20;
/// What the name of an unfinished file begins with.
const TMP: &str = ".tmp-";

impl Name {
    fn new(at: i128, id: &str, place: &str) -> Self {
        Self(format!("{at:0>TIME$}-{id}-{}.json", place_name(place)))
    }

    fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".json")?.split('-');
        let at = parts.next()?;
        let whole = at.len() == TIME && parts.count() == 2;
        whole.then(|| Self(file.to_owned()))
    }

    fn part(&self, at: usize) -> &str {
        self.0.trim_end_matches(".json").split('-').nth(at).unwrap_or_default()
    }

    fn id(&self) -> &str {
        self.part(1)
    }

    fn place(&self) -> &str {
        self.part(2)
    }
}

impl<'a> Builds<'a> {
    /// The records of `store`.
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }

    fn dir(&self) -> PathBuf {
        self.store.layout().builds()
    }

    /// What there is, newest first.
    fn names(&self) -> Vec<Name> {
        self.look().0
    }

    /// As [`Self::names`], and files that are not finished.
    fn look(&self) -> (Vec<Name>, Vec<DirEntry>) {
        let (mut names, mut unfinished) = (Vec::new(), Vec::new());
        let Ok(dir) = std::fs::read_dir(self.dir()) else { return (names, unfinished) };
        for e in dir.flatten() {
            let file = e.file_name();
            let file = file.to_str().unwrap_or_default();
            if file.starts_with(TMP) {
                unfinished.push(e);
            } else {
                names.extend(Name::parse(file));
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        (names, unfinished)
    }

    fn put(
        &self,
        mut build: BuildRecord,
        name: &Name,
        place: &str,
        own: PastBuild,
    ) -> std::io::Result<String> {
        let id = build.id.clone();
        let printed = build.steps.iter().any(|s| s.log.is_some());
        let before = prefix(place);
        build.args = own.args;
        let keys = own.steps.into_iter().map(|s| KeyRecord {
            slot: s.slot.0.strip_prefix(&before).unwrap_or(&s.slot.0).to_owned(),
            op: TreeDigest::from_bytes(s.op),
            key: s.key,
            canonical: (s.canonical != s.key).then_some(s.canonical),
            name: s.name,
        });
        let file = RecordFile { version: VERSION, build, keys: keys.collect() };
        let bytes = serde_json::to_vec(&file).map_err(std::io::Error::other)?;
        let (mut names, unfinished) = self.look();
        let old = names.split_off(names.len().min(KEPT - 1));
        let reused = old.first().is_some_and(|old| self.write_over(old, name, &bytes).is_ok());
        if !reused {
            write(&self.dir().join(&name.0), &bytes, 0)?;
        }
        for old in &old {
            // Another build may have been faster.
            std::fs::remove_file(self.dir().join(&old.0)).unwrap_or(());
            logs::remove(self.store, old.id());
        }
        if printed {
            let known = names.iter().map(|n| n.id().to_owned()).chain([id.clone()]).collect();
            logs::tidy(self.store, &known, &id);
        }
        remove_unfinished(&unfinished);
        Ok(id)
    }

    /// Writes a record into the file of one that goes. To free the blocks of a file and to find others
    /// can take longer than a cached build does its work (a disk is told of each free one, `discard`).
    /// Whoever reads the old one meanwhile finds it damaged.
    fn write_over(&self, old: &Name, new: &Name, bytes: &[u8]) -> std::io::Result<()> {
        let dir = self.dir();
        let tmp = dir.join(format!("{TMP}{}", new.id()));
        std::fs::rename(dir.join(&old.0), &tmp)?;
        let over = || {
            let mut file = File::options().write(true).open(&tmp)?;
            file.write_all(bytes)?;
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if file.metadata()?.len() > length {
                file.set_len(length)?;
            }
            std::fs::rename(&tmp, dir.join(&new.0))
        };
        let written = over();
        if written.is_err() {
            std::fs::remove_file(&tmp).unwrap_or(());
        }
        written
    }

    fn read(&self, name: &Name) -> Option<RecordFile> {
        let path = self.dir().join(&name.0);
        if std::fs::symlink_metadata(&path).ok()?.len() > MAX_RECORD {
            return None;
        }
        let file: RecordFile = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (file.version == VERSION).then_some(file)
    }

    /// All builds that can be read, newest first.
    pub fn list(&self) -> impl Iterator<Item = BuildRecord> + '_ {
        self.names().into_iter().filter_map(|n| Some(self.read(&n)?.build))
    }

    /// The builds whose id begins with `id`, newest first.
    pub fn find(&self, id: &str) -> Vec<BuildRecord> {
        let names = self.names().into_iter().filter(|n| n.id().starts_with(id));
        names.filter_map(|n| Some(self.read(&n)?.build)).collect()
    }

    /// The last build of a place. What a failed build did not come to is taken from the one before.
    fn last(&self, place: &str) -> PastBuild {
        let (wanted, before) = (place_name(place), prefix(place));
        let mut last = PastBuild::default();
        let PastBuild { steps, args } = &mut last;
        for name in self.names().iter().filter(|n| n.place() == wanted).take(LOOK_BACK) {
            let Some(file) = self.read(name) else { continue };
            args.extend(file.build.args);
            for k in file.keys {
                let slot = Slot(format!("{before}{}", k.slot));
                if steps.iter().any(|s| s.slot == slot) {
                    continue;
                }
                let (op, canonical) = (*k.op.as_bytes(), k.canonical.unwrap_or(k.key));
                steps.push(PastStep { slot, op, key: k.key, canonical, name: k.name });
            }
            if file.build.status == BuildStatus::Done {
                break;
            }
        }
        last
    }
}

/// Removes files that a process left when it was killed between writing and renaming.
fn remove_unfinished(files: &[DirEntry]) {
    let is_old = |e: &DirEntry| {
        let age = now().duration_since(e.metadata().ok()?.modified().ok()?).ok()?;
        Some(age > UNFINISHED)
    };
    for e in files.iter().filter(|e| is_old(e) == Some(true)) {
        std::fs::remove_file(e.path()).unwrap_or(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_store::OpenOptions;

    fn record(status: BuildStatus) -> BuildRecord {
        BuildRecord {
            id: String::new(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            millis: 1,
            dockerfile: "/d".to_owned(),
            target: None,
            args: BTreeSet::new(),
            tags: Vec::new(),
            status,
            error: None,
            image: None,
            steps: Vec::new(),
        }
    }

    fn step(place: &str, n: u32, key: u8) -> PastStep {
        PastStep {
            slot: Slot(format!("{}/linux/amd64/1:s/exec#{n}", prefix(place))),
            op: [key; 32],
            key: CacheKey::of(&[key]),
            canonical: CacheKey::of(&[key, key]),
            name: format!("[{n}/3] RUN x"),
        }
    }

    fn end(store: &Store, place: &str, status: BuildStatus, steps: Vec<PastStep>) -> String {
        let journal = Journal::new(store, place);
        journal.remember(PastBuild { steps, ..PastBuild::default() });
        journal.end(record(status)).unwrap()
    }

    #[test]
    fn the_last_build_of_a_place_is_found_behind_failed_ones() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let last = |place: &str| Journal::new(&store, place).last().steps.clone();
        assert_eq!(last("a"), []);
        end(&store, "a", BuildStatus::Done, vec![step("a", 9, 9)]);
        let (one, two) = (step("a", 1, 1), step("a", 2, 2));
        end(&store, "a", BuildStatus::Done, vec![one.clone(), two.clone()]);
        end(&store, "b", BuildStatus::Done, vec![step("b", 1, 7)]);
        assert_eq!(last("a"), [one, two.clone()]);
        let edited = step("a", 1, 3);
        end(&store, "a", BuildStatus::Failed, vec![edited.clone()]);
        assert_eq!(last("a"), [edited, two]);
    }

    #[test]
    fn the_newest_are_kept_and_found_by_the_start_of_their_id() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let ids: Vec<String> =
            (0..KEPT + 5).map(|_| end(&store, "a", BuildStatus::Done, Vec::new())).collect();
        let builds = Builds::new(&store);
        let kept: Vec<String> = builds.list().map(|b| b.id).collect();
        let newest: Vec<String> = ids.iter().rev().take(KEPT).cloned().collect();
        assert_eq!(kept, newest);
        assert_eq!(builds.find(&ids[0]), []);
        assert_eq!(builds.find(&newest[3][..7]).len(), 1);
        // One that is shorter than the one in whose file it is written.
        let (long, short) = (step("a", 1, 1), step("a", 2, 2));
        for _ in 0..KEPT {
            end(&store, "a", BuildStatus::Done, vec![long.clone(), short.clone()]);
        }
        end(&store, "a", BuildStatus::Done, vec![short.clone()]);
        assert_eq!(Journal::new(&store, "a").last().steps, [short]);
        assert_eq!(builds.list().count(), KEPT);
        // What a killed process left goes when it is old.
        for (name, age) in [(".tmp-1-0", UNFINISHED * 2), (".tmp-2-0", Duration::ZERO)] {
            let file = std::fs::File::create(builds.dir().join(name)).unwrap();
            file.set_modified(now() - age).unwrap();
        }
        end(&store, "a", BuildStatus::Done, Vec::new());
        let left = |name: &str| builds.dir().join(name).exists();
        assert_eq!((left(".tmp-1-0"), left(".tmp-2-0")), (false, true));
        std::fs::remove_file(builds.dir().join(".tmp-2-0")).unwrap();
        // A damaged one is none.
        let path = std::fs::read_dir(builds.dir()).unwrap().next().unwrap().unwrap().path();
        std::fs::write(path, "{").unwrap();
        assert_eq!(builds.list().count(), KEPT - 1);
    }
}
