//! Waiting for several things at once, and being woken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

/// What is waited for at a descriptor. Its other end being gone, or an error, counts as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// That something can be read.
    Reading,
    /// That something can be written.
    Writing,
}

/// Waits until one of `fds` can be read or its other end is gone, and says for each which.
/// `None` as timeout waits for ever; all false: the time is over.
///
/// # Errors
/// The error of `poll(2)`.
pub fn readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    poll(fds.iter().map(|fd| (*fd, For::Reading)), timeout)
}

/// As [`readable`], for both directions.
///
/// # Errors
/// The error of `poll(2)`.
pub fn poll<'a>(
    fds: impl IntoIterator<Item = (BorrowedFd<'a>, For)>,
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut polls: Vec<PollFd<'a>> = fds
        .into_iter()
        .map(|(fd, what)| {
            let flags = match what {
                For::Reading => PollFlags::IN,
                For::Writing => PollFlags::OUT,
            };
            PollFd::from_borrowed_fd(fd, flags)
        })
        .collect();
    let timeout = timeout.map(|t| Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut polls, timeout.as_ref()) {
        Ok(_) => Ok(polls.iter().map(|p| !p.revents().is_empty()).collect()),
        // As if nothing had happened; the caller comes again.
        Err(rustix::io::Errno::INTR) => Ok(vec![false; polls.len()]),
        Err(e) => Err(e.into()),
    }
}

/// True when nobody reads from the pipe any more that `write_end` is an end of.
///
/// # Errors
/// The error of `poll(2)`.
pub fn reader_is_gone(write_end: impl AsFd) -> io::Result<bool> {
    let fd = write_end.as_fd();
    let mut polls = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    rustix::event::poll(&mut polls, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(polls[0].revents().contains(PollFlags::ERR))
}

/// Tells that something in a folder is written, made, renamed or removed. To be waited for with
/// [`readable`].
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// From now on.
    ///
    /// # Errors
    /// Those of `inotify_init1(2)` and `inotify_add_watch(2)`.
    pub fn of(folder: &std::path::Path) -> io::Result<Self> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        add_watch(&fd, folder, what)?;
        Ok(Self(fd))
    }

    /// Forgets what was told until now.
    pub fn seen(&self) {
        let mut buf = [0; 4096];
        while matches!(crate::channel::read(&self.0, &mut buf), Ok(1..)) {}
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A flag that can be waited for with [`readable`]; once set it stays.
#[derive(Debug)]
pub struct Flag(OwnedFd);

impl Flag {
    /// A flag that is not set.
    ///
    /// # Errors
    /// The error of `eventfd(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Sets it; setting it again does nothing.
    pub fn set(&self) {
        // It can only fail when the counter is full, and then it is set.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_which() {
        let (a, b) = (Flag::new().unwrap(), Flag::new().unwrap());
        let ask = || readable(&[a.as_fd(), b.as_fd()], Some(Duration::ZERO)).unwrap();
        assert_eq!(ask(), [false, false]);
        b.set();
        assert_eq!(ask(), [false, true]);
        assert_eq!(ask(), [false, true], "a flag stays set");
    }

    #[test]
    fn a_folder_that_changes() {
        let dir = tempfile::tempdir().unwrap();
        let changes = Changes::of(dir.path()).unwrap();
        let told = || readable(&[changes.as_fd()], Some(Duration::ZERO)).unwrap()[0];
        assert!(!told());
        std::fs::write(dir.path().join("new"), "x").unwrap();
        assert!(told());
        changes.seen();
        assert!(!told());
    }

    #[test]
    fn a_pipe_without_reader() {
        let (r, w) = crate::channel::pipe().unwrap();
        assert!(!reader_is_gone(&w).unwrap());
        drop(r);
        assert!(reader_is_gone(&w).unwrap());
    }
}
