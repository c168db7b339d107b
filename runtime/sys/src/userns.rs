//! User namespaces: entering one, and giving it ids.
//!
//! The calling process moves, and stays the process it is: its number, its group, its terminal, and
//! so whatever signals it gets. Only the programs that may give away ids of others have to run outside
//! the new namespace. They are started before, as copies of this process that wait for a word.
//!
//! See user_namespaces(7), newuidmap(1).

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::thread::UnshareFlags;

use crate::spawn::{self, Ended, PidFd};
use crate::{channel, ns};

/// Longest text of a helper program that is told, bytes.
const MAX_TEXT: u64 = 4 << 10;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first one outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// A program that maps ids of others, and what it is to map.
#[derive(Debug, Clone)]
pub struct Helper {
    /// `newuidmap` or `newgidmap`.
    pub program: PathBuf,
    /// Id 0 inside, then as many as there are, one range after the other.
    pub ranges: Vec<IdRange>,
}

/// Which ids the new namespace has.
#[derive(Debug, Clone)]
pub enum IdMap {
    /// This process's user as 0, and ranges of its own beside it.
    Ranges {
        /// Users.
        users: Helper,
        /// Groups.
        groups: Helper,
    },
    /// This process's user as 0 and nobody else.
    Single,
}

/// Why there is no user namespace.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The kernel, or what guards it, makes none for this user.
    #[error("the kernel makes no user namespace for this user")]
    Refused(#[source] io::Error),
    /// A helper program did not do its work.
    #[error("`{program}` failed: {said}")]
    Helper {
        /// Its path.
        program: String,
        /// What it said.
        said: String,
    },
    /// Something else on the way.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn at(what: &'static str) -> impl FnOnce(io::Error) -> EnterError {
    move |source| EnterError::Io { what, source }
}

/// Moves this process into a user namespace of its own, in which it has all rights, and a mount
/// namespace that belongs to it. There is no way back, also when it fails half way.
///
/// # Errors
/// [`EnterError`]; with more than one thread nothing is tried.
pub fn enter(map: &IdMap) -> Result<(), EnterError> {
    ns::single_threaded().map_err(at("look for threads"))?;
    spawn::remember_binary().map_err(at("see where this program is"))?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match map {
        IdMap::Ranges { users, groups } => {
            let (wait, mut go) = channel::pipe().map_err(at("make a pipe"))?;
            let users = Waiting::start(users, uid, &wait, &mut go)?;
            let groups = Waiting::start(groups, gid, &wait, &mut go)?;
            unshare()?;
            // One byte for each; they work at the same time.
            std::fs::File::from(go).write_all(b"gg").map_err(at("tell the helper programs"))?;
            let (users, groups) = (users.finish(), groups.finish());
            users.and(groups)
        }
        IdMap::Single => {
            unshare()?;
            // Without rights outside, groups may be given to nobody before they can be set.
            write("setgroups", "deny").map_err(at("deny the setting of groups"))?;
            write("uid_map", &format!("0 {uid} 1")).map_err(at("map this user"))?;
            write("gid_map", &format!("0 {gid} 1")).map_err(at("map this group"))
        }
    }
}

/// True when this process's ids are the machine's: it is in no user namespace but the first.
///
/// # Errors
/// Those of reading `/proc/self/uid_map`.
pub fn is_first() -> io::Result<bool> {
    let map = std::fs::read_to_string("/proc/self/uid_map")?;
    Ok(map.split_whitespace().eq(["0", "0", "4294967295"]))
}

fn unshare() -> Result<(), EnterError> {
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
    // SAFETY: what makes `unshare` unsafe is CLONE_FILES, which would give threads different
    // descriptor tables; it is not among the flags, and there is only one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| EnterError::Refused(e.into()))
}

fn write(file: &str, text: &str) -> io::Result<()> {
    // One write: the kernel takes these files whole or not at all.
    std::fs::OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/self").join(file))?
        .write_all(text.as_bytes())
}

/// A helper that waits until there is something to map, then works.
struct Waiting {
    process: PidFd,
    said: OwnedFd,
    program: String,
}

impl Waiting {
    /// Makes it. It goes on with a byte from `wait`, and ends when `go`, the other end, is closed.
    fn start(
        helper: &Helper,
        own: u32,
        wait: &OwnedFd,
        go: &mut OwnedFd,
    ) -> Result<Self, EnterError> {
        let program = helper.program.display().to_string();
        let args: Vec<CString> = arguments(&program, std::process::id(), own, &helper.ranges)
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()
            .map_err(|e| at("write a command line")(e.into()))?;
        let said = channel::parcel(b"").map_err(at("make a file"))?;
        let process = spawn::copy_self(|| {
            // The copy's own writing end would hide that the other process is gone.
            let told = spawn::disarm(go)
                .and_then(|()| ns::die_with_parent())
                .and_then(|()| channel::read(wait, &mut [0; 1]));
            if !matches!(told, Ok(1)) {
                return 127;
            }
            let ready = spawn::set_stdio(1, &said)
                .and_then(|()| spawn::set_stdio(2, &said))
                .and_then(|()| spawn::seal_fds())
                .and_then(|()| spawn::default_signals());
            if ready.is_ok() {
                let error = spawn::execute(&args[0], &args, &[]);
                // To the file that is read by who waits; without it there is the exit code.
                let _ = writeln!(io::stderr(), "it cannot be run: {error}");
            }
            127
        })
        .map_err(at("copy this process"))?;
        Ok(Self { process, said, program })
    }

    fn finish(self) -> Result<(), EnterError> {
        let ended = self.process.wait().map_err(at("wait for a helper program"))?;
        if ended == Ended::Exited(0) {
            return Ok(());
        }
        let said = channel::unpack(self.said, MAX_TEXT).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        let said = if said.is_empty() { format!("{ended:?}") } else { said };
        Err(EnterError::Helper { program: self.program, said })
    }
}

/// Its command line: the process, then triples of inside, outside, count.
fn arguments(program: &str, process: u32, own: u32, ranges: &[IdRange]) -> Vec<String> {
    let mut args = vec![program.to_owned(), process.to_string()];
    let mut inside = 0u32;
    let own = IdRange { outside: own, count: 1 };
    for range in std::iter::once(&own).chain(ranges) {
        // 4294967295 is no id.
        let count = range.count.min(u32::MAX - inside);
        if count > 0 {
            args.extend([inside, range.outside, count].map(|n| n.to_string()));
        }
        inside += count;
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other() {
        let range = |outside, count| IdRange { outside, count };
        for (ranges, want) in [
            (vec![], "p 7 0 1000 1"),
            (vec![range(100_000, 65_536)], "p 7 0 1000 1 1 100000 65536"),
            (
                vec![range(100_000, 10), range(5, 0), range(300_000, 5)],
                "p 7 0 1000 1 1 100000 10 11 300000 5",
            ),
            (vec![range(2000, u32::MAX), range(9, 9)], "p 7 0 1000 1 1 2000 4294967294"),
        ] {
            assert_eq!(arguments("p", 7, 1000, &ranges).join(" "), want);
        }
    }

    #[test]
    fn the_first_namespace_is_known() {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(is_first().unwrap(), map.contains("4294967295") && map.trim().starts_with('0'));
    }
}
