//! The processes of a container, as the host sees them: all of its process namespace (proc(5)).
//!
//! Not by control group: containers without limits have none. A user sees all of them, since the user
//! namespace that they are in is the user's own; so this is to be asked from outside of it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};
use rgraph_ir::limits::MAX_COMMAND_LINE;
use rgraph_sys::spawn;

use super::{ContainerError, Record, State, at};

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its effective user.
    pub user: u32,
    /// Its threads.
    pub threads: u64,
    /// The device number of its terminal; 0: it has none.
    pub terminal: u32,
    /// When it began: ticks since the machine did.
    pub began: u64,
    /// What it used of processors, ticks.
    pub used: u64,
    /// What its children used that it has waited for, ticks.
    pub used_by_ended: u64,
    /// Its arguments with blanks between them; `[name]` when there are none.
    pub line: String,
}

/// The clock of [`Process`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// Ticks in a second.
    pub ticks: u64,
    /// When the machine began, seconds since 1970.
    pub boot: i64,
}

impl Clock {
    /// This machine's.
    ///
    /// # Errors
    /// `/proc/stat` cannot be read.
    pub fn read() -> Result<Self, ContainerError> {
        let path = Path::new("/proc/stat");
        let text = fs::read_to_string(path).map_err(at("read", path))?;
        let boot = text.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok());
        Ok(Self { ticks: ticks(), boot: boot.unwrap_or(0) })
    }
}

/// Ticks in a second (sysconf(3)).
pub(super) fn ticks() -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0).unwrap_or(100)
}

/// The processes of a container, by number.
///
/// # Errors
/// [`ContainerError::NotRunning`], or `/proc` cannot be read. A process that ends meanwhile is left out.
pub fn processes(record: &Record) -> Result<Vec<Process>, ContainerError> {
    found(record, |pid| {
        let mut process = read(pid)?;
        if let Some(line) = command_line(pid) {
            process.line = line;
        }
        Some(process)
    })
}

/// As [`processes`], as far as `read` gives something of each.
pub(super) fn found(
    record: &Record,
    read: impl Fn(i32) -> Option<Process>,
) -> Result<Vec<Process>, ContainerError> {
    let not_running = || ContainerError::NotRunning(record.short().to_owned());
    let State::Running { pid, born, .. } = record.state else { return Err(not_running()) };
    let namespace = namespace(pid).map_err(|_| not_running())?;
    let all = all().map_err(at("read", Path::new("/proc")))?;
    let mut found: Vec<Process> =
        all.filter(|pid| is_in(*pid, &namespace)).filter_map(read).collect();
    // The number was nobody else's meanwhile.
    if spawn::began(pid) != Some(born) {
        return Err(not_running());
    }
    found.sort_by_key(|p| p.pid);
    Ok(found)
}

/// Numbers of all processes that there are.
pub(super) fn all() -> io::Result<impl Iterator<Item = i32>> {
    let number = |e: fs::DirEntry| e.file_name().to_str().and_then(|n| n.parse().ok());
    Ok(fs::read_dir("/proc")?.flatten().filter_map(number))
}

/// The process namespace of a process.
pub(super) fn namespace(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

/// Whether a process is in a process namespace.
pub(super) fn is_in(pid: i32, namespace_of_it: &Path) -> bool {
    namespace(pid).is_ok_and(|n| n == namespace_of_it)
}

/// All but its arguments.
pub(super) fn read(pid: i32) -> Option<Process> {
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let text = |name| file(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let mut process = parse(&text("stat")?)?;
    let status = text("status")?;
    let users = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    process.user = users.split_whitespace().nth(1)?.parse().ok()?;
    Some(process)
}

/// The beginning of a process's arguments, with blanks between them; `None`: it has none.
fn command_line(pid: i32) -> Option<String> {
    let mut words = Vec::new();
    // The process chooses how long this is. What was read before an error is what there is.
    let file = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    let _ = file.take(MAX_COMMAND_LINE).read_to_end(&mut words);
    let words = words.strip_suffix(b"\0").unwrap_or(&words);
    (!words.is_empty()).then(|| String::from_utf8_lossy(words).replace('\0', " "))
}

/// What a line of `/proc/PID/stat` says; the user is in another file.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    // The name may hold anything; the last parenthesis ends it.
    let (name, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the manual's page is the first here. Times of children may be below zero.
    let number = |n: usize| fields.get(n - 3)?.parse::<i64>().ok();
    let count = |n| number(n).map(|v| u64::try_from(v).unwrap_or(0));
    Some(Process {
        pid: pid.parse().ok()?,
        parent: i32::try_from(number(4)?).ok()?,
        user: 0,
        terminal: u32::try_from(number(7)?).unwrap_or(0),
        used: count(14)?.saturating_add(count(15)?),
        used_by_ended: count(16)?.saturating_add(count(17)?),
        threads: count(20)?,
        began: count(22)?,
        line: format!("[{name}]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let stat = "42 (a) b) (c) S 7 42 42 34817 42 4194560 1 2 3 4 100 20 3 -1 20 0 5 0 123456 0";
        let p = parse(stat).unwrap();
        assert_eq!((p.pid, p.parent, p.terminal, p.threads), (42, 7, 34817, 5));
        assert_eq!((p.used, p.used_by_ended, p.began), (120, 3, 123_456));
        assert_eq!(p.line, "[a) b) (c]");
        for bad in ["", "1", "1 (x", "1 (x) S 1", "x (y) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_process_is_among_all() {
        let own = std::process::id().cast_signed();
        assert!(all().unwrap().any(|pid| pid == own));
        assert!(is_in(own, &namespace(own).unwrap()));
        let me = read(own).unwrap();
        assert!(me.threads >= 1 && me.line.starts_with('['), "{me:?}");
        let first = std::env::args().next().unwrap();
        assert!(command_line(own).is_some_and(|line| line.starts_with(&first)));
        assert_eq!(me.user, rustix::process::geteuid().as_raw());
    }
}
