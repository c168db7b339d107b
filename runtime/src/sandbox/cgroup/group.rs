//! The group of one step: made, entered, read, removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rgraph_sys::spawn;
use serde::{Deserialize, Serialize};

use super::setting::{Controller, Limits, Version};
use super::tree::{Folder, Hierarchies, Hierarchy, NoGroups, inherit};

/// Tries to remove a group whose last process is still being taken apart, and the pause between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// A limit that a step ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hit {
    /// Processes of it were killed for want of memory.
    Memory,
    /// It could not make more processes.
    Processes,
}

/// Makes the groups of one runner.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Groups {
    found: Option<Hierarchies>,
    made: u64,
    /// To be removed at the end, when nobody else has groups in them.
    folders: Vec<PathBuf>,
}

impl Groups {
    /// Removes what runners have left that are gone.
    pub fn sweep(&mut self) {
        sweep(self.found.get_or_insert_with(Hierarchies::find));
    }

    /// Makes the group of a step.
    pub fn make(&mut self, limits: &Limits) -> Result<Group, NoGroups> {
        let found = self.found.get_or_insert_with(Hierarchies::find).clone();
        let mut wanted: Vec<Controller> = limits.settings.iter().map(|s| s.controller()).collect();
        if wanted.is_empty() {
            // A parent alone: its own limits are what counts, in every tree that there is.
            let there = |c: &Controller| found.0.iter().any(|h| h.controllers.contains(c));
            wanted = Controller::ALL.into_iter().filter(there).collect();
            if wanted.is_empty() {
                wanted = Controller::ALL.to_vec();
            }
        }
        self.made += 1;
        let name = format!("{}-{}", runner_name(), self.made);
        let mut group = Group { parts: Vec::new() };
        for tree in found.with(&wanted)? {
            let path = loop {
                let folder = tree.folder(limits.parent.as_deref(), &wanted)?;
                self.keep(&folder);
                let path = folder.path.join(&name);
                match fs::create_dir(&path) {
                    // Another runner removed the folder, which was empty.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    made => made.map_err(|e| NoGroups::io("make the control group", &path, &e))?,
                }
                if tree.version == Version::V1 && tree.controllers.contains(&Controller::Cpuset) {
                    inherit(&folder.path, &path)?;
                }
                break path;
            };
            let has = |c| tree.controllers.contains(&c);
            group.parts.push(Part { path: path.clone(), version: tree.version });
            for setting in limits.settings.iter().filter(|s| has(s.controller())) {
                for entry in setting.entries(tree.version) {
                    match fs::write(path.join(entry.file), &entry.value) {
                        Err(e) if entry.optional && e.kind() == io::ErrorKind::NotFound => {}
                        done => done.map_err(|e| {
                            let what = format!("write `{}` to {} of", entry.value, entry.file);
                            NoGroups::io(&what, &path, &e)
                        })?,
                    }
                }
            }
        }
        Ok(group)
    }

    fn keep(&mut self, folder: &Folder) {
        for path in folder.made.iter().chain([&folder.path]) {
            if !self.folders.contains(path) {
                self.folders.push(path.clone());
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for folder in self.folders.iter().rev() {
            // Not empty: it is another runner's too.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Unlike a process id alone, never used again while this system runs.
fn runner_name() -> String {
    let id = std::process::id();
    format!("{id}-{}", spawn::began(id.cast_signed()).unwrap_or(0))
}

/// Removes groups of runners that are gone. One with a process in it stays: the kernel keeps it.
pub(super) fn sweep(found: &Hierarchies) {
    found
        .0
        .iter()
        .flat_map(Hierarchy::folders)
        .for_each(|f| sweep_folder(&f, |g| drop(fs::remove_dir(g))));
}

/// Removes groups of a runner that was just killed, whose step had these limits.
pub(crate) fn sweep_after(limits: &Limits) {
    if limits.is_none() {
        return;
    }
    let found = Hierarchies::find();
    let folders = |h: &Hierarchy| match &limits.parent {
        None => h.folders(),
        Some(parent) => h.folder_in(parent).into_iter().collect(),
    };
    found.0.iter().flat_map(folders).for_each(|f| sweep_folder(&f, remove));
}

fn sweep_folder(folder: &Path, remove: impl Fn(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) && is_left(&entry.file_name()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

fn is_left(name: &std::ffi::OsStr) -> bool {
    let Some(parts) = name.to_str().map(|n| n.split('-').collect::<Vec<_>>()) else { return false };
    let &[id, time, _] = parts.as_slice() else { return false };
    let (Ok(id), Ok(time)) = (id.parse::<i32>(), time.parse::<u64>()) else { return false };
    spawn::began(id) != Some(time)
}

/// A step's group, in each tree that it needs. Removed with this.
#[derive(Debug)]
pub(in crate::sandbox) struct Group {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    version: Version,
}

impl Group {
    /// The files by which a process enters it. Opened here, since the process that enters may see
    /// the trees no more.
    pub fn doors(&self) -> Result<Vec<File>, NoGroups> {
        let open = |part: &Part| {
            let path = part.path.join("cgroup.procs");
            let door = fs::OpenOptions::new().write(true).open(&path);
            door.map_err(|e| NoGroups::io("open", &path, &e))
        };
        self.parts.iter().map(open).collect()
    }

    /// What the step ran into.
    pub fn hit(&self) -> Option<Hit> {
        let count = |part: &Part, file: &str, key: &str| {
            let text = fs::read_to_string(part.path.join(file)).unwrap_or_default();
            number(&text, key).unwrap_or(0)
        };
        let killed = |part: &Part| match part.version {
            Version::V1 => count(part, "memory.oom_control", "oom_kill"),
            Version::V2 => count(part, "memory.events", "oom_kill"),
        };
        if self.parts.iter().any(|p| killed(p) > 0) {
            return Some(Hit::Memory);
        }
        let refused = |p: &Part| count(p, "pids.events", "max") > 0;
        self.parts.iter().any(refused).then_some(Hit::Processes)
    }
}

/// Moves the calling process through the door of a group.
pub(in crate::sandbox) fn enter(mut door: File) -> io::Result<()> {
    door.write_all(b"0")
}

impl Drop for Group {
    fn drop(&mut self) {
        for part in &self.parts {
            remove(&part.path);
        }
    }
}

fn remove(path: &Path) {
    for _ in 0..TRIES {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
            // Gone, or not to be removed: the next build tries again.
            _ => return,
        }
    }
}

/// The number behind a word at the beginning of a line.
pub(super) fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.split_once(' ').filter(|(k, _)| *k == key)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(number(v1, "oom_kill"), Some(3));
        assert_eq!(number(v2, "oom_kill"), Some(1));
        assert_eq!(number("max 5\n", "max"), Some(5));
        assert_eq!(number("", "max"), None);
    }

    #[test]
    fn names_of_runners_that_are_gone() {
        let own = format!("{}-1", runner_name());
        let other = format!("{}-1-1", std::process::id());
        for (name, left) in [
            (own.as_str(), false),
            (other.as_str(), true),
            ("4194999-1-1", true),
            ("somebody", false),
            ("1-x-1", false),
        ] {
            assert_eq!(is_left(std::ffi::OsStr::new(name)), left, "{name}");
        }
    }
}
