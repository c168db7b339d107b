//! The calls that are about owners of files and about who a process is, and what they mean.
//!
//! The kernel knows one user where there is but one id; whoever listens knows more. What a call
//! means is the same on every machine, its number and the order of its arguments are not.

use super::compile::number;

/// When a call is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Always,
    /// When the argument of this number has one of these bits.
    IfBits(u8, u32),
    /// When the argument of this number is this.
    IfIs(u8, u32),
}

/// `O_CREAT`, and the bit of `O_TMPFILE` that is its own.
const CREATES: u32 = 0o100 | 0o20_000_000;
/// `RLIMIT_LOCKS`: what a process carries there ([`crate::other::mark`]) is not to be changed, as
/// `pam_limits` would.
const LOCKS: u32 = 10;

/// By name, as in the profile.
pub(super) const ASKED: &[(&str, Rule)] = &[
    ("chown", Rule::Always),
    ("chroot", Rule::Always),
    ("creat", Rule::Always),
    ("execve", Rule::Always),
    ("execveat", Rule::Always),
    ("fchown", Rule::Always),
    ("fchownat", Rule::Always),
    ("flistxattr", Rule::Always),
    ("fstat", Rule::Always),
    ("getegid", Rule::Always),
    ("geteuid", Rule::Always),
    ("getgid", Rule::Always),
    ("getgroups", Rule::Always),
    ("getresgid", Rule::Always),
    ("getresuid", Rule::Always),
    ("getrlimit", Rule::IfIs(0, LOCKS)),
    ("getuid", Rule::Always),
    ("lchown", Rule::Always),
    ("listxattr", Rule::Always),
    ("llistxattr", Rule::Always),
    ("lstat", Rule::Always),
    ("mkdir", Rule::Always),
    ("mkdirat", Rule::Always),
    ("mknod", Rule::Always),
    ("mknodat", Rule::Always),
    ("newfstatat", Rule::Always),
    ("open", Rule::IfBits(1, CREATES)),
    ("openat", Rule::IfBits(2, CREATES)),
    ("openat2", Rule::Always),
    ("prlimit64", Rule::IfIs(1, LOCKS)),
    ("setfsgid", Rule::Always),
    ("setfsuid", Rule::Always),
    ("setgid", Rule::Always),
    ("setgroups", Rule::Always),
    ("setregid", Rule::Always),
    ("setresgid", Rule::Always),
    ("setresuid", Rule::Always),
    ("setreuid", Rule::Always),
    ("setrlimit", Rule::IfIs(0, LOCKS)),
    ("setuid", Rule::Always),
    ("stat", Rule::Always),
    ("statx", Rule::Always),
    ("symlink", Rule::Always),
    ("symlinkat", Rule::Always),
];

/// What a path argument stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Where a relative path starts: a descriptor of the caller's, or
    /// [`AT_FDCWD`](super::notify::AT_FDCWD).
    pub folder: i32,
    /// Address of the path in the caller; `None`: the call takes a descriptor alone.
    pub path: Option<u64>,
    /// A link at the end is followed.
    pub follow: bool,
    /// An empty path means the folder itself.
    pub empty: bool,
}

/// Users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Users.
    User,
    /// Groups.
    Group,
}

/// A change of ids. `None` leaves an id as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `setuid(2)`: all of them, or the effective one.
    All(u32),
    /// `setreuid(2)`: real, effective.
    Two(Option<u32>, Option<u32>),
    /// `setresuid(2)`: real, effective, saved.
    Three(Option<u32>, Option<u32>, Option<u32>),
    /// `setfsuid(2)`.
    Files(u32),
}

/// A call. Addresses are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Gives away a file; `None` leaves an id as it is.
    Chown(At, Option<u32>, Option<u32>),
    /// Asks about a file; the answer is a `struct stat`.
    Stat(At, u64),
    /// Asks about a file: flags, mask, where to put the answer.
    Statx(At, i32, u32, u64),
    /// Opens a file that may have to be made: flags, mode.
    Open(At, i32, u32),
    /// The same; both are in a `struct open_how` at this address, of this size.
    Open2(At, u64, u64),
    /// Makes a folder.
    MakeDir(At, u32),
    /// Makes a link to the path at this address.
    MakeLink(At, u64),
    /// Makes a file of any kind: mode with the kind, device number.
    MakeNode(At, u32, u32),
    /// Runs a program.
    Exec(At),
    /// Changes the root.
    Chroot,
    /// Lists attributes: where to, size of the room.
    ListAttributes(At, u64, u64),
    /// Changes ids of the process.
    Set(Kind, Change),
    /// Changes the further groups: how many, where they are.
    SetGroups(u64, u64),
    /// The real id.
    Get(Kind),
    /// The effective id.
    GetEffective(Kind),
    /// Real, effective and saved id: where to put them.
    GetThree(Kind, [u64; 3]),
    /// Looks at the limit on file locks, or changes it: where the old one goes.
    Locks(Option<u64>),
    /// The further groups: room, where to put them.
    GetGroups(i32, u64),
}

impl Call {
    /// What a call means; `None`: it is not among those that are asked about.
    pub(super) fn read(column: usize, nr: u32, a: &[u64; 6]) -> Option<Self> {
        let (name, _) = ASKED.iter().find(|(name, _)| number(name, column) == Some(nr))?;
        let here = |path: u64, follow| at(libc::AT_FDCWD, path, follow, false);
        let there = |flags: u64| {
            let has = |bit: i32| flags as i32 & bit != 0;
            let follow = !has(libc::AT_SYMLINK_NOFOLLOW);
            at(a[0] as i32, a[1], follow, has(libc::AT_EMPTY_PATH))
        };
        let fd = At { folder: a[0] as i32, path: None, follow: true, empty: false };
        let id = |n: usize| a[n] as u32;
        let some = |n: usize| Some(a[n] as u32).filter(|id| *id != u32::MAX);
        let (user, group) = (Kind::User, Kind::Group);
        Some(match *name {
            "chown" => Self::Chown(here(a[0], true), some(1), some(2)),
            "lchown" => Self::Chown(here(a[0], false), some(1), some(2)),
            "fchown" => Self::Chown(fd, some(1), some(2)),
            "fchownat" => Self::Chown(there(a[4]), some(2), some(3)),
            "stat" => Self::Stat(here(a[0], true), a[1]),
            "lstat" => Self::Stat(here(a[0], false), a[1]),
            "fstat" => Self::Stat(fd, a[1]),
            "newfstatat" => Self::Stat(there(a[3]), a[2]),
            "statx" => Self::Statx(there(a[2]), a[2] as i32, id(3), a[4]),
            "open" => Self::Open(here(a[0], true), a[1] as i32, id(2)),
            "creat" => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                Self::Open(here(a[0], true), flags, id(1))
            }
            "openat" => Self::Open(there(0), a[2] as i32, id(3)),
            "openat2" => Self::Open2(there(0), a[2], a[3]),
            "mkdir" => Self::MakeDir(here(a[0], false), id(1)),
            "mkdirat" => Self::MakeDir(there(0), id(2)),
            "symlink" => Self::MakeLink(here(a[1], false), a[0]),
            "symlinkat" => Self::MakeLink(at(a[1] as i32, a[2], false, false), a[0]),
            "mknod" => Self::MakeNode(here(a[0], false), id(1), id(2)),
            "mknodat" => Self::MakeNode(there(0), id(2), id(3)),
            "execve" => Self::Exec(here(a[0], true)),
            "execveat" => Self::Exec(there(a[4])),
            "chroot" => Self::Chroot,
            "listxattr" => Self::ListAttributes(here(a[0], true), a[1], a[2]),
            "llistxattr" => Self::ListAttributes(here(a[0], false), a[1], a[2]),
            "flistxattr" => Self::ListAttributes(fd, a[1], a[2]),
            "setuid" => Self::Set(user, Change::All(id(0))),
            "setgid" => Self::Set(group, Change::All(id(0))),
            "setreuid" => Self::Set(user, Change::Two(some(0), some(1))),
            "setregid" => Self::Set(group, Change::Two(some(0), some(1))),
            "setresuid" => Self::Set(user, Change::Three(some(0), some(1), some(2))),
            "setresgid" => Self::Set(group, Change::Three(some(0), some(1), some(2))),
            "setfsuid" => Self::Set(user, Change::Files(id(0))),
            "setfsgid" => Self::Set(group, Change::Files(id(0))),
            "setgroups" => Self::SetGroups(u64::from(id(0)), a[1]),
            "getuid" => Self::Get(user),
            "getgid" => Self::Get(group),
            "geteuid" => Self::GetEffective(user),
            "getegid" => Self::GetEffective(group),
            "getresuid" => Self::GetThree(user, [a[0], a[1], a[2]]),
            "getresgid" => Self::GetThree(group, [a[0], a[1], a[2]]),
            "getrlimit" => Self::Locks(Some(a[1])),
            "setrlimit" => Self::Locks(None),
            "prlimit64" => Self::Locks(Some(a[3]).filter(|to| *to != 0)),
            "getgroups" => Self::GetGroups(a[0] as i32, a[1]),
            _ => return None,
        })
    }
}

fn at(folder: i32, path: u64, follow: bool, empty: bool) -> At {
    At { folder, path: Some(path), follow, empty }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_that_is_asked_about_means_something() {
        for (name, _) in ASKED {
            for column in [0, 2] {
                let Some(nr) = number(name, column) else { continue };
                assert!(Call::read(column, nr, &[0; 6]).is_some(), "{name}");
            }
            assert!(number(name, 0).is_some(), "{name}");
        }
        assert_eq!(Call::read(0, 0, &[0; 6]), None);
    }

    #[test]
    fn arguments_stand_in_their_places() {
        let cwd = libc::AT_FDCWD;
        let path = |folder, path, follow, empty| At { folder, path: Some(path), follow, empty };
        let minus = u64::from(u32::MAX);
        for (column, nr, args, want) in [
            (0, 92, [9, 1, minus, 0, 0, 0], Call::Chown(path(cwd, 9, true, false), Some(1), None)),
            (0, 94, [9, 1, 2, 0, 0, 0], Call::Chown(path(cwd, 9, false, false), Some(1), Some(2))),
            (
                0,
                260,
                [5, 9, 1, 2, 0x1100, 0],
                Call::Chown(path(5, 9, false, true), Some(1), Some(2)),
            ),
            (
                2,
                54,
                [cwd as u32 as u64, 9, 1, 2, 0, 0],
                Call::Chown(path(cwd, 9, true, false), Some(1), Some(2)),
            ),
            (0, 262, [5, 9, 7, 0x1000, 0, 0], Call::Stat(path(5, 9, true, true), 7)),
            (0, 332, [5, 9, 0, 3, 7, 0], Call::Statx(path(5, 9, true, false), 0, 3, 7)),
            (0, 88, [8, 9, 0, 0, 0, 0], Call::MakeLink(path(cwd, 9, false, false), 8)),
            (0, 266, [8, 5, 9, 0, 0, 0], Call::MakeLink(path(5, 9, false, false), 8)),
            (0, 322, [5, 9, 0, 0, 0x100, 0], Call::Exec(path(5, 9, false, false))),
            (
                0,
                117,
                [1, minus, 3, 0, 0, 0],
                Call::Set(Kind::User, Change::Three(Some(1), None, Some(3))),
            ),
        ] {
            assert_eq!(Call::read(column, nr, &args), Some(want), "{nr}");
        }
    }
}
