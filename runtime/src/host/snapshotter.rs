//! How layers are laid over each other: the kernel does it, or a program, or they are copied. Decided
//! once, by trying, when it is first needed.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use rgraph_store::{Prepared, StoreError};
use rgraph_sys::mount::{self, OverlaySpec};

use super::Host;
use crate::snapshot::fuse::{FuseMount, Layers};

/// Who lays layers over each other, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshotter {
    /// The kernel's overlayfs.
    Overlayfs,
    /// The program of that name, by FUSE.
    FuseOverlayfs,
    /// Nobody: each step gets a copy of all files, and what it changed is found by comparing.
    Native,
}

impl Snapshotter {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Overlayfs, Self::FuseOverlayfs, Self::Native];

    /// As containerd names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Native => "native",
        }
    }

    /// What it does, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Overlayfs => "layers are stacked, nothing is copied",
            Self::FuseOverlayfs => "layers are stacked by a program, which is slower",
            Self::Native => "each step works on a copy of all its files, which is slow",
        }
    }
}

impl fmt::Display for Snapshotter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Snapshotter {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|s| s.name() == name);
        found.ok_or_else(|| format!("`{name}` is none of overlayfs, fuse-overlayfs, native"))
    }
}

/// Why one is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Which.
    pub of: Snapshotter,
    /// What is wrong.
    pub why: String,
    /// What helps; empty: nothing is known to.
    pub help: &'static str,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}", self.of, self.why)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, ": {}", self.help) }
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Who does it.
    pub snapshotter: Snapshotter,
    /// Why it is none that is better. Empty when one was asked for.
    pub lacks: Vec<Lack>,
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.snapshotter, self.snapshotter.words())?;
        self.lacks.iter().try_for_each(|lack| write!(f, "; {lack}"))
    }
}

/// The decision, before and after it was made. Copies share it.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// The one that was asked for.
    pub asked: Option<Snapshotter>,
    decided: Arc<OnceLock<Decided>>,
}

impl Host {
    /// How layers are laid over each other whose folders are where `scratch` is made, to try it in.
    pub fn snapshotter(&self, scratch: impl FnOnce() -> Result<Prepared, StoreError>) -> &Decided {
        self.choice.decided.get_or_init(|| match self.choice.asked {
            Some(snapshotter) => Decided { snapshotter, lacks: Vec::new() },
            None => decide(scratch(), self.userxattr),
        })
    }
}

fn decide(scratch: Result<Prepared, StoreError>, userxattr: bool) -> Decided {
    let mut lacks = Vec::new();
    let scratch = scratch.map_err(|e| crate::report(&e));
    for snapshotter in Snapshotter::ALL {
        let scratch = match &scratch {
            Ok(scratch) => scratch.fs(),
            Err(why) => {
                lacks.push(Lack { of: snapshotter, why: why.clone(), help: "" });
                break;
            }
        };
        let tried = match snapshotter {
            Snapshotter::Overlayfs => in_folders(scratch, |layers| {
                let spec = OverlaySpec {
                    lowers: layers.lowers,
                    upper: layers.upper,
                    volatile: true,
                    userxattr,
                };
                let help = help(scratch);
                mount::overlay(&spec).map(drop).map_err(|e| (format!("{e}: {}", e.source), help))
            }),
            Snapshotter::FuseOverlayfs => in_folders(scratch, |layers| {
                let failed = |e: crate::snapshot::fuse::FuseError| (e.to_string(), e.help());
                FuseMount::start(layers).and_then(FuseMount::end).map_err(failed)
            }),
            Snapshotter::Native => Ok(()),
        };
        match tried {
            Ok(()) => return Decided { snapshotter, lacks },
            Err((why, help)) => lacks.push(Lack { of: snapshotter, why, help }),
        }
    }
    Decided { snapshotter: Snapshotter::Native, lacks }
}

/// What helps where overlayfs cannot be mounted.
fn help(scratch: &Path) -> &'static str {
    match rustix::fs::statfs(scratch).map(|s| s.f_type as u64) {
        Ok(OVERLAYFS) => {
            "the state root is on an overlayfs itself: put it on another file system (`--root DIR`, \
             RGRAPH_ROOT; in a container a volume)"
        }
        _ => {
            "it takes Linux 5.11 without root; in a container its system call filter has to allow \
             mounts (`--security-opt seccomp=unconfined`)"
        }
    }
}

/// `OVERLAYFS_SUPER_MAGIC`.
const OVERLAYFS: u64 = 0x794c_7630;

/// Tries with folders of its own.
fn in_folders(
    scratch: &Path,
    try_it: impl FnOnce(&Layers<'_>) -> Result<(), (String, &'static str)>,
) -> Result<(), (String, &'static str)> {
    let base = scratch.join("probe");
    let [lower, upper, work] = ["l", "u", "w"].map(|d| base.join(d));
    let made = [&lower, &upper, &work].into_iter().try_for_each(std::fs::create_dir_all);
    let tried = made
        .map_err(|e| (format!("cannot make {}: {e}", base.display()), ""))
        .and_then(|()| try_it(&Layers { lowers: &[lower], upper: Some((&upper, &work)) }));
    // The mount is gone with its descriptor; what cannot be removed goes with `scratch`.
    let _ = std::fs::remove_dir_all(&base);
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for s in Snapshotter::ALL {
            assert_eq!(s.name().parse(), Ok(s));
        }
        for bad in ["", "overlay", "Native", "vfs"] {
            assert!(bad.parse::<Snapshotter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_decision_says_what_is_missing() {
        let why = "it is not installed".to_owned();
        let lacks = vec![Lack { of: Snapshotter::FuseOverlayfs, why, help: "install it" }];
        let decided = Decided { snapshotter: Snapshotter::Native, lacks };
        let text = decided.to_string();
        assert!(text.starts_with("native: each step works on a copy"), "{text}");
        assert!(text.ends_with("; no fuse-overlayfs: it is not installed: install it"), "{text}");
    }

    #[test]
    fn what_was_asked_for_is_not_tried() {
        let choice = Choice { asked: Some(Snapshotter::FuseOverlayfs), ..Choice::default() };
        let host = Host { choice, ..Host::root() };
        let decided = host.snapshotter(|| unreachable!("nothing is tried"));
        assert_eq!(decided.snapshotter, Snapshotter::FuseOverlayfs);
    }
}
