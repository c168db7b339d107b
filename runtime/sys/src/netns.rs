//! Network namespaces: making, entering, and whose they are.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::ns::single_threaded;

/// Asks for the user namespace that owns another namespace.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// The calling thread's network namespace. It lasts as long as the handle.
///
/// # Errors
/// That of opening it below `/proc`.
pub fn current() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(c"/proc/thread-self/ns/net", flags, Mode::empty())?)
}

/// Moves this process into a new network namespace, in which nothing is switched on.
///
/// # Errors
/// The error of `unshare(2)`, or `Other` when there is a second thread.
pub fn enter_new() -> io::Result<()> {
    single_threaded()?;
    // SAFETY: only the network namespace is unshared; what makes `unshare` unsafe is CLONE_FILES,
    // which would give threads different descriptor tables, and there is only one thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Moves this process into a network namespace.
///
/// # Errors
/// The error of `setns(2)`, or `Other` when there is a second thread.
pub fn enter(namespace: impl AsFd) -> io::Result<()> {
    single_threaded()?;
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?)
}

/// True when this process's user namespace or one below it owns a network namespace: its rights
/// then count there. A user namespace without a network of its own shows somebody else's.
///
/// # Errors
/// The error of `ioctl(2)`.
pub fn is_own(namespace: impl AsFd) -> io::Result<bool> {
    // SAFETY: this request takes no argument and writes to no memory; it returns a new descriptor
    // or -1.
    let owner = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::PermissionDenied { Ok(false) } else { Err(e) };
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(owner) });
    Ok(true)
}

/// Whether anything of the processes that were in a network namespace is still there: a socket
/// whose last packets are on their way, or a port that may not be used again yet.
#[derive(Debug)]
pub struct Leftovers(OwnedFd);

impl Leftovers {
    /// Of the calling thread's namespace.
    ///
    /// # Errors
    /// That of opening its list below `/proc`.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = c"/proc/thread-self/net/sockstat";
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// One that was received from another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// True when nothing is left.
    pub fn none(&self) -> bool {
        let mut bytes = [0; 1024];
        let read = rustix::io::pread(&self.0, &mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]);
        nothing_left(&text)
    }
}

impl AsFd for Leftovers {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads what `sockstat` says; what is not understood counts as something left.
fn nothing_left(text: &str) -> bool {
    let number = |line: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(line))?;
        let mut words = line.split_whitespace();
        words.find(|w| *w == name)?;
        words.next()?.parse().ok()
    };
    number("sockets:", "used") == Some(0) && number("TCP:", "tw") == Some(0)
}

/// Writes a setting of the calling thread's network namespace, `ipv4/ip_forward` for one.
///
/// # Errors
/// That of opening or writing the file; `NotFound`: the kernel has no such setting.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(Path::new("/proc/sys/net").join(name), value)
}

/// Reads a setting of the calling thread's network namespace.
///
/// # Errors
/// That of reading the file.
pub fn get(name: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(Path::new("/proc/sys/net").join(name))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_sockets() {
        let text = |used, tw| {
            format!(
                "sockets: used {used}\nTCP: inuse 0 orphan 9 tw {tw} alloc 3 mem 0\nUDP: inuse 0\n"
            )
        };
        assert!(nothing_left(&text(0, 0)));
        assert!(!nothing_left(&text(1, 0)));
        assert!(!nothing_left(&text(0, 1)));
        assert!(!nothing_left(""));
        assert!(!nothing_left("sockets: used x\nTCP: tw 0\n"));
        // This process's own namespace has sockets: those of whoever runs the tests, or this.
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!Leftovers::open().unwrap().none());
    }
}
