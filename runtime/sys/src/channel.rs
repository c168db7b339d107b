//! Messages between processes: a byte string with open files attached.
//!
//! `SOCK_SEQPACKET` keeps messages whole, so several threads may send without a lock, and the end
//! of either process is seen by the other at once.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
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

/// Sends one message.
///
/// # Errors
/// `BrokenPipe` when the other end is gone; otherwise that of `sendmsg(2)`.
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
/// That of `recvmsg(2)`, or `InvalidData` for a message that does not fit.
pub fn receive(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut receive =
            || rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        match rustix::io::retry_on_intr(&mut receive) {
            // A sender that died with unread messages of ours.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
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
    fn limits() {
        let (a, b) = pair().unwrap();
        assert!(send(&a, &vec![0; MAX_MESSAGE + 1], &[]).is_err());
        assert!(send(&a, b"", &[]).is_err(), "an empty message would look like the end");
        assert!(unpack(parcel(b"1234").unwrap(), 3).is_err());
        drop(b);
        assert_eq!(send(&a, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
