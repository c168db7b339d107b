//! Pairs of terminal ends: one for a program, the other for whoever plays its screen and keyboard.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

/// Both ends of a new terminal.
#[derive(Debug)]
pub struct Pair {
    /// What is written here is typed; what is read was printed.
    pub ours: OwnedFd,
    /// The program's.
    pub theirs: OwnedFd,
}

/// A new terminal of the devpts whose multiplexer is at `ptmx`.
///
/// # Errors
/// The error of opening or unlocking it.
pub fn open(ptmx: &str) -> io::Result<Pair> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::open(ptmx, flags, Mode::empty())?;
    unlockpt(&ours)?;
    // By handle: the name in /dev/pts could be anything by now.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    Ok(Pair { ours, theirs })
}

/// Makes it the controlling terminal of this process, which leads a session without one.
///
/// # Errors
/// The error of the `TIOCSCTTY` call.
pub fn control(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Sets its height and width, in characters; the program hears of it (SIGWINCH).
///
/// # Errors
/// The error of the `TIOCSWINSZ` call.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Its height and width, in characters; `None` when it is no terminal.
pub fn size(terminal: impl AsFd) -> Option<(u16, u16)> {
    tcgetwinsize(terminal).ok().map(|s| (s.ws_row, s.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_arrives_and_the_size_is_told() {
        let Pair { ours, theirs } = open("/dev/ptmx").unwrap();
        resize(&ours, 33, 101).unwrap();
        assert_eq!(size(&theirs), Some((33, 101)));
        rustix::io::write(&ours, b"hello\n").unwrap();
        let mut buf = [0; 16];
        let n = rustix::io::read(&theirs, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"hello\n");
        assert_eq!(size(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
