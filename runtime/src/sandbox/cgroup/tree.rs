//! The hierarchies of this host, and where in them groups of ours can be.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::setting::{Controller, Version};

/// The folder of ours.
pub(super) const OURS: &str = "rgraph";
/// Says of a group of version 2 what the groups in it can have.
const SUBTREE: &str = "cgroup.subtree_control";
/// Says of a group of version 2 what it has.
const HAS: &str = "cgroup.controllers";

/// Why a step cannot have a group.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{help}", help = help.map(|h| format!(": {h}")).unwrap_or_default())]
pub struct NoGroups {
    /// In one line.
    pub cause: String,
    /// What helps, when that is known.
    pub help: Option<&'static str>,
}

impl NoGroups {
    fn new(cause: String, help: &'static str) -> Self {
        Self { cause, help: Some(help) }
    }

    pub(super) fn io(what: &str, path: &Path, e: &io::Error) -> Self {
        let help = match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(
                "run rgraph as root, or in a group that is delegated to this user \
                 (systemd-run --user --scope -p Delegate=yes rgraph ...)",
            ),
            io::ErrorKind::ResourceBusy => Some(
                "run rgraph in a control group with no other processes, or give --cgroup-parent",
            ),
            _ => None,
        };
        Self { cause: format!("cannot {what} `{}`: {e}", path.display()), help }
    }
}

/// One tree of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    pub controllers: Vec<Controller>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The group of the process in it, seen from the mount.
    pub own: PathBuf,
}

/// All trees that have controllers that steps may need.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Hierarchies(pub Vec<Hierarchy>);

impl Hierarchies {
    /// Looks at what this process sees.
    pub fn find() -> Self {
        Self::seen("self")
    }

    /// As [`Self::find`], with the groups of another process for its own.
    pub fn of(pid: i32) -> Self {
        Self::seen(&pid.to_string())
    }

    fn seen(process: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let v2 = |mount: &Path| fs::read_to_string(mount.join(HAS)).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read(&format!("/proc/{process}/cgroup")), v2)
    }

    /// `v2` reads what the root of a tree of version 2 has.
    fn parse(mounts: &str, own: &str, v2: impl Fn(&Path) -> String) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mounts.lines() {
            // ID PARENT DEVICE ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let before: Vec<&str> = before.split(' ').collect();
            let after: Vec<&str> = after.split(' ').collect();
            let (&[_, _, _, root, mount, ..], &[kind, _, options, ..]) =
                (before.as_slice(), after.as_slice())
            else {
                continue;
            };
            let mount = PathBuf::from(mount);
            let (version, names) = match kind {
                "cgroup" => (Version::V1, options.replace(',', " ")),
                "cgroup2" => (Version::V2, v2(&mount)),
                _ => continue,
            };
            let names: Vec<&str> = names.split_whitespace().collect();
            let controllers: Vec<Controller> = Controller::ALL
                .into_iter()
                .filter(|c| names.contains(&c.name()))
                .filter(|c| !found.iter().any(|h| h.controllers.contains(c)))
                .collect();
            let Some(own) = own_group(own, version, &controllers, root) else { continue };
            found.push(Hierarchy { version, controllers, mount, own });
        }
        found.retain(|h| !h.controllers.is_empty());
        Self(found)
    }

    /// The trees for these controllers, each once.
    pub fn with(&self, wanted: &[Controller]) -> Result<Vec<&Hierarchy>, NoGroups> {
        for c in wanted {
            if !self.0.iter().any(|h| h.controllers.contains(c)) {
                let cause = match self.0.is_empty() {
                    true => "this host has no control groups".to_owned(),
                    false => format!("this host has no control groups for `{}`", c.name()),
                };
                let help = "mount them at /sys/fs/cgroup, or leave the limits out";
                return Err(NoGroups::new(cause, help));
            }
        }
        let needed = |h: &&Hierarchy| h.controllers.iter().any(|c| wanted.contains(c));
        Ok(self.0.iter().filter(needed).collect())
    }
}

/// The group of this process, below what is mounted; `None`: it cannot be seen from there.
fn own_group(
    text: &str,
    version: Version,
    controllers: &[Controller],
    root: &str,
) -> Option<PathBuf> {
    let line = text.lines().find_map(|line| {
        let (id, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let ours = match version {
            Version::V2 => id == "0",
            Version::V1 => names.split(',').any(|n| controllers.iter().any(|c| c.name() == n)),
        };
        ours.then_some(path)
    })?;
    let below = Path::new(line).strip_prefix(root).unwrap_or(Path::new(""));
    // A group outside of this process's view is written with `..`.
    let plain = below.components().all(|c| matches!(c, Component::Normal(_)));
    Some(if plain { below.to_owned() } else { PathBuf::new() })
}

impl Hierarchy {
    /// The folder of ours, made and ready to have groups in it with these controllers.
    pub fn folder(&self, parent: Option<&str>, wanted: &[Controller]) -> Result<Folder, NoGroups> {
        let wanted: Vec<Controller> =
            wanted.iter().copied().filter(|c| self.controllers.contains(c)).collect();
        if let Some(parent) = parent {
            let parent = self.mount.join(below_root(parent)?);
            return self.ready(&parent, &wanted);
        }
        let mut refused = None;
        for above in self.places() {
            match self.ready(&above, &wanted) {
                Ok(folder) => return Ok(folder),
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        Err(refused.unwrap_or_else(|| NoGroups {
            cause: format!("no control groups below {}", self.mount.display()),
            help: None,
        }))
    }

    /// Where the folder of ours may be. In version 2 a group with processes has no groups with
    /// limits in it, so that is the nearest one above.
    fn places(&self) -> Vec<PathBuf> {
        let own = self.mount.join(&self.own);
        match self.version {
            Version::V1 => vec![own],
            Version::V2 => own
                .ancestors()
                .take_while(|p| p.starts_with(&self.mount))
                .map(Path::to_owned)
                .collect(),
        }
    }

    /// Where a folder of ours may be left.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.places().into_iter().map(|p| p.join(OURS)).collect()
    }

    /// The folder of ours below a parent that was asked for.
    pub fn folder_in(&self, parent: &str) -> Option<PathBuf> {
        Some(self.mount.join(below_root(parent).ok()?).join(OURS))
    }

    fn ready(&self, above: &Path, wanted: &[Controller]) -> Result<Folder, NoGroups> {
        let folder = above.join(OURS);
        let below = folder.strip_prefix(&self.mount).unwrap_or(Path::new(OURS));
        let mut at = self.mount.clone();
        let mut made = Vec::new();
        for part in below.components() {
            if self.version == Version::V2 {
                pass_on(&at, wanted)?;
            }
            let from = at.clone();
            at.push(part);
            match fs::create_dir(&at) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(NoGroups::io("make the control group", &at, &e));
                }
                Err(_) => {}
                Ok(()) => made.push(at.clone()),
            }
            if self.version == Version::V1 && self.controllers.contains(&Controller::Cpuset) {
                inherit(&from, &at)?;
            }
        }
        if self.version == Version::V2 {
            pass_on(&at, wanted)?;
        }
        Ok(Folder { path: at, made })
    }
}

/// A folder for groups of ours.
#[derive(Debug)]
pub(super) struct Folder {
    pub path: PathBuf,
    /// It and what is above it, as far as that was not there; the lowest last.
    pub made: Vec<PathBuf>,
}

/// Lets groups in a group of version 2 have these controllers.
fn pass_on(group: &Path, wanted: &[Controller]) -> Result<(), NoGroups> {
    let file = group.join(SUBTREE);
    let has = fs::read_to_string(&file)
        .map_err(|e| NoGroups::io("read what a control group passes on in", group, &e))?;
    for c in wanted {
        if !has.split_whitespace().any(|n| n == c.name()) {
            fs::write(&file, format!("+{}", c.name())).map_err(|e| {
                NoGroups::io(&format!("pass `{}` on in the control group", c.name()), group, &e)
            })?;
        }
    }
    Ok(())
}

/// A new cpuset of version 1 has neither processors nor memory.
pub(super) fn inherit(from: &Path, to: &Path) -> Result<(), NoGroups> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let failed = |e: io::Error| NoGroups::io("give processors to the control group", to, &e);
        let now = fs::read_to_string(to.join(file)).map_err(failed)?;
        if now.trim().is_empty() {
            let value = fs::read_to_string(from.join(file)).map_err(failed)?;
            fs::write(to.join(file), value.trim()).map_err(failed)?;
        }
    }
    Ok(())
}

/// A path as `--cgroup-parent` gives it.
fn below_root(parent: &str) -> Result<PathBuf, NoGroups> {
    let path = Path::new(parent.trim_start_matches('/'));
    match path.components().all(|c| matches!(c, Component::Normal(_))) {
        true => Ok(path.to_owned()),
        false => Err(NoGroups::new(
            format!("`{parent}` is no control group"),
            "--cgroup-parent is a path below the root of the control groups",
        )),
    }
}

/// Which limits steps can have, tried by making a group and removing it. In words.
///
/// # Errors
/// Why there are none.
pub fn probe() -> Result<String, NoGroups> {
    let found = Hierarchies::find();
    let all: Vec<Controller> = Controller::ALL
        .into_iter()
        .filter(|c| found.0.iter().any(|h| h.controllers.contains(c)))
        .collect();
    let trees = found.with(if all.is_empty() { &Controller::ALL } else { &all })?;
    for tree in &trees {
        tree.folder(None, &all)?;
    }
    super::group::sweep(&found);
    let names = |v| {
        let of = trees.iter().filter(|t| t.version == v).flat_map(|t| &t.controllers);
        of.map(|c| c.name()).collect::<Vec<_>>().join(", ")
    };
    let (v1, v2) = (names(Version::V1), names(Version::V2));
    let missing: Vec<&str> =
        Controller::ALL.iter().filter(|c| !all.contains(c)).map(|c| c.name()).collect();
    let mut text = match (v1.as_str(), v2.as_str()) {
        (v1, "") if has_unified() => {
            format!("version 1 beside version 2 without controllers (hybrid): limits on {v1}")
        }
        (v1, "") => format!("version 1: limits on {v1}"),
        ("", v2) => format!("version 2: limits on {v2}"),
        (v1, v2) => format!("hybrid: limits on {v1} by version 1, on {v2} by version 2"),
    };
    if !missing.is_empty() {
        text.push_str(&format!("; none on {}", missing.join(", ")));
    }
    Ok(text)
}

fn has_unified() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|l| l.contains(" - cgroup2 "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 20 0:9 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 20 0:8 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 20 0:7 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
    const UNIFIED: &str = "33 20 0:6 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "33 20 0:6 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const INSIDE: &str = "33 20 0:6 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";

    fn found(mounts: &str, own: &str, v2: &str) -> Vec<String> {
        let all = Hierarchies::parse(mounts, own, |_| v2.to_owned());
        let text = |h: &Hierarchy| {
            let names: Vec<_> = h.controllers.iter().map(|c| c.name()).collect();
            let own = h.mount.join(&h.own);
            format!("{:?} {} {}", h.version, names.join(","), own.display())
        };
        all.0.iter().map(text).collect()
    }

    #[test]
    fn hierarchies() {
        let own1 = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/\n";
        let cpu = "V1 cpu /sys/fs/cgroup/cpu,cpuacct/";
        for (mounts, own, v2, want) in [
            ("", "", "", vec![]),
            (V1, own1, "", vec!["V1 memory /sys/fs/cgroup/memory/a/b", cpu]),
            (
                &format!("{V1}{UNIFIED}"),
                own1,
                "hugetlb",
                vec!["V1 memory /sys/fs/cgroup/memory/a/b", cpu],
            ),
            (
                &format!("{V1}{UNIFIED}"),
                own1,
                "memory pids",
                vec!["V1 memory /sys/fs/cgroup/memory/a/b", cpu, "V2 pids /sys/fs/cgroup/unified/"],
            ),
            (
                V2,
                "0::/user.slice/x.scope\n",
                "cpuset cpu io memory pids\n",
                vec!["V2 memory,cpu,cpuset,pids /sys/fs/cgroup/user.slice/x.scope"],
            ),
            // A container sees its own group as the root, or by a path that is not below it.
            (INSIDE, "4:memory:/docker/x/y\n", "", vec!["V1 memory /sys/fs/cgroup/memory/y"]),
            (INSIDE, "4:memory:/\n", "", vec!["V1 memory /sys/fs/cgroup/memory/"]),
            (V2, "0::/../other\n", "pids", vec!["V2 pids /sys/fs/cgroup/"]),
            ("nonsense\n1 - cgroup\n", "", "", vec![]),
        ] {
            assert_eq!(found(mounts, own, v2), want, "{mounts}");
        }
    }

    #[test]
    fn places_in_version_2_go_up() {
        let all = Hierarchies::parse(V2, "0::/a/b\n", |_| "pids".into());
        let places: Vec<_> = all.0[0].places().iter().map(|p| p.display().to_string()).collect();
        assert_eq!(places, ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = Hierarchies::default().with(&[Controller::Cpu]).unwrap_err();
        assert!(none.to_string().contains("this host has no control groups: "), "{none}");
        let all = Hierarchies::parse(V2, "0::/\n", |_| "pids".into());
        let e = all.with(&[Controller::Pids, Controller::Memory]).unwrap_err();
        assert!(e.to_string().contains("`memory`"), "{e}");
        assert_eq!(all.with(&[Controller::Pids]).unwrap().len(), 1);
    }

    #[test]
    fn parents() {
        for (text, want) in [
            ("/a/b", Some("a/b")),
            ("a", Some("a")),
            ("/", Some("")),
            ("a/../..", None),
            ("/../x", None),
        ] {
            assert_eq!(below_root(text).ok(), want.map(PathBuf::from), "{text}");
        }
    }

    /// Plain files stand for the kernel's.
    #[test]
    fn version_2_passes_controllers_on_from_the_top() {
        let dir = tempfile::tempdir().unwrap();
        for at in ["", "a", "a/rgraph"] {
            fs::create_dir_all(dir.path().join(at)).unwrap();
            fs::write(dir.path().join(at).join(SUBTREE), "cpu\n").unwrap();
        }
        let tree = Hierarchy {
            version: Version::V2,
            controllers: vec![Controller::Memory, Controller::Cpu],
            mount: dir.path().to_owned(),
            own: "a".into(),
        };
        let folder = tree.folder(None, &Controller::ALL).unwrap();
        assert_eq!((folder.path, folder.made.len()), (dir.path().join("a/rgraph"), 0));
        for at in ["", "a", "a/rgraph"] {
            let text = fs::read_to_string(dir.path().join(at).join(SUBTREE)).unwrap();
            assert_eq!(text, "+memory", "{at}");
        }
        let e = tree.folder(Some("../x"), &[Controller::Memory]).unwrap_err();
        assert!(e.to_string().contains("--cgroup-parent"), "{e}");
    }
}
