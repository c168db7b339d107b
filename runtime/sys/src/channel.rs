//! Messages between processes: a byte string with open files attached.
//!
//! `SOCK_SEQPACKET` keeps messages whole, so several threads may send without a lock, and the end
//! of either process is seen by the other at once.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Most files in one message: the kernel's own limit.
pub const MAX_FDS: usize = 253;
/// Largest message, bytes; what may be longer goes into a [`parcel`].
pub const MAX_MESSAGE: usize = 16 << 10;

/// Two connected ends, closed on exec.
///
/// # Errors
/// The error of `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SocketType::SEQPACKET;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// A socket of that name in a folder, by which processes of this user can be reached. A name that is
/// there already is taken over.
///
/// # Errors
/// That of the call that failed.
pub fn listen(folder: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let socket = named()?;
    // Before it has a name: the name is made with this mode.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    rustix::net::bind(&socket, &address(folder.as_fd(), name)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to a socket that [`listen`] made.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody is there; otherwise that of the call that failed.
pub fn connect(folder: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let socket = named()?;
    rustix::net::connect(&socket, &address(folder.as_fd(), name)?)?;
    Ok(socket)
}

/// The next one who connects.
///
/// # Errors
/// That of `accept4(2)`.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let accept = || rustix::net::accept_with(&listener, SocketFlags::CLOEXEC);
    Ok(rustix::io::retry_on_intr(accept)?)
}

/// Those who may wait to be accepted.
const BACKLOG: i32 = 64;

fn named() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// The path of a socket has 108 bytes at most, that of a folder has not: so by handle.
fn address(folder: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?)
}

/// Sends one message.
///
/// # Errors
/// `WouldBlock` when the socket does not wait and is full; `BrokenPipe` when the other end is gone; otherwise that of `sendmsg(2)`.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS || bytes.len() > MAX_MESSAGE || bytes.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large or empty"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for file descriptors"));
    }
    let send = || {
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    };
    rustix::io::retry_on_intr(send)?;
    Ok(())
}

/// Waits for a message; `None`: the other end is gone.
///
/// # Errors
/// `WouldBlock` when the socket does not wait and is empty; that of `recvmsg(2)`, or `InvalidData` for a message that does not fit.
pub fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut receive =
            || rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        match rustix::io::retry_on_intr(&mut receive) {
            // A sender that went with unread messages of ours. It is told once, and before what the
            // sender said last.
            Err(Errno::CONNRESET) => match rustix::io::retry_on_intr(&mut receive) {
                Err(Errno::CONNRESET) => return Ok(None),
                got => got?,
            },
            got => got?,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            fds.extend(list);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message was cut"));
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(got.bytes);
    Ok(Some((bytes, fds)))
}

/// Bytes in memory that can be handed over as a file, at its start.
///
/// # Errors
/// That of `memfd_create(2)` or of writing.
pub fn parcel(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("rgraph", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads a [`parcel`], at most `limit` bytes.
///
/// # Errors
/// That of reading, or `InvalidData` when it is longer.
pub fn unpack(fd: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    (&mut file).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// A pipe, read end first, closed on exec.
///
/// # Errors
/// The error of `pipe2(2)`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Reading and writing `fd` shall not wait.
///
/// # Errors
/// The error of `fcntl(2)`.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)? | rustix::fs::OFlags::NONBLOCK;
    Ok(rustix::fs::fcntl_setfl(&fd, flags)?)
}

/// Reads what is there; 0 is the end.
///
/// # Errors
/// `WouldBlock` when nothing is there; otherwise that of `read(2)`.
pub fn read(fd: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut *buf))?)
}

/// True when `fd` is a socket.
pub fn is_socket(fd: impl AsFd) -> bool {
    rustix::net::sockopt::socket_type(fd).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_bytes_and_files() {
        let (a, b) = pair().unwrap();
        let file = parcel(b"inside").unwrap();
        send(&a, b"hello", &[file.as_fd(), file.as_fd()]).unwrap();
        send(&a, b"again", &[]).unwrap();
        let (bytes, mut fds) = receive(&b).unwrap().unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (&b"hello"[..], 2));
        assert_eq!(unpack(fds.remove(0), 6).unwrap(), b"inside");
        assert_eq!(receive(&b).unwrap().unwrap().0, b"again");
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn what_was_said_last_is_heard_of_one_that_did_not_listen() {
        let (a, b) = pair().unwrap();
        send(&b, b"unread", &[]).unwrap();
        send(&a, b"the end", &[]).unwrap();
        drop(a);
        assert_eq!(receive(&b).unwrap().unwrap().0, b"the end");
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn a_socket_in_a_deep_folder() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let folder = std::fs::File::open(&deep).unwrap();
        assert_eq!(connect(&folder, "s").unwrap_err().kind(), io::ErrorKind::NotFound);
        let first = listen(&folder, "s").unwrap();
        let mode = std::fs::symlink_metadata(deep.join("s")).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        drop(first);
        assert_eq!(connect(&folder, "s").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listener = listen(&folder, "s").unwrap();
        let a = connect(&folder, "s").unwrap();
        let b = accept(&listener).unwrap();
        send(&a, b"hello", &[]).unwrap();
        assert_eq!(receive(&b).unwrap().unwrap().0, b"hello");
    }

    #[test]
    fn limits() {
        let (a, b) = pair().unwrap();
        assert!(send(&a, &vec![0; MAX_MESSAGE + 1], &[]).is_err());
        assert!(send(&a, b"", &[]).is_err(), "an empty message would look like the end");
        assert!(unpack(parcel(b"1234").unwrap(), 3).is_err());
        drop(b);
        assert_eq!(send(&a, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
