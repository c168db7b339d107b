//! Datagrams with the address at which they came in: whoever is answered expects that one (ip(7),
//! ipv6(7)). A socket that is bound to all addresses does not say it by itself.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// The largest datagram, bytes.
pub const MOST: usize = 64 << 10;

/// A datagram that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its bytes in the buffer.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// To which address; `None`: the kernel does not say.
    pub to: Option<IpAddr>,
}

/// From now on [`receive`] is told the address.
///
/// # Errors
/// That of `setsockopt(2)`.
pub fn tell_address(socket: impl AsFd, v6: bool) -> io::Result<()> {
    let socket = socket.as_fd();
    match v6 {
        false => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        true => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// The next datagram, without waiting.
///
/// # Errors
/// `WouldBlock` when there is none; that of `recvmsg(2)`, of an earlier answer too.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let fd = socket.as_fd().as_raw_fd();
    let got = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)?;
    let mut to = None;
    for message in got.cmsgs()? {
        match message {
            // Of the two the one that is this host's.
            ControlMessageOwned::Ipv4PacketInfo(i) => {
                to = Some(Ipv4Addr::from(u32::from_be(i.ipi_spec_dst.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(i) => {
                to = Some(Ipv6Addr::from(i.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
    }
    let from = got.address.as_ref().and_then(address);
    let from = from.ok_or_else(|| io::Error::other("a datagram from nobody"))?;
    Ok(Received { length: got.bytes, from, to })
}

fn address(at: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = at.as_sockaddr_in().map(|a| SocketAddrV4::from(*a).into());
    v4.or_else(|| at.as_sockaddr_in6().map(|a| SocketAddrV6::from(*a).into()))
}

/// Sends a datagram as from this address of the host, without waiting.
///
/// # Errors
/// That of `sendmsg(2)`; `WouldBlock` when there is no room.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let (v4, v6);
    let control = match from {
        Some(IpAddr::V4(ip)) => {
            v4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Some(IpAddr::V6(ip)) => {
            v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                ipi6_ifindex: 0,
            };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
        None => None,
    };
    let control: Vec<ControlMessage<'_>> = control.into_iter().collect();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let fd = socket.as_fd().as_raw_fd();
    sendmsg(fd, &[IoSlice::new(bytes)], &control, flags, Some(&SockaddrStorage::from(to)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_answer_comes_from_where_it_was_asked() {
        for (all, one, v6) in [("0.0.0.0:0", "127.0.0.9", false), ("[::]:0", "::1", true)] {
            let Ok(server) = UdpSocket::bind(all) else { continue };
            tell_address(&server, v6).unwrap();
            let at = SocketAddr::new(one.parse().unwrap(), server.local_addr().unwrap().port());
            let client = UdpSocket::bind((one, 0)).unwrap();
            client.connect(at).unwrap();
            let mut buffer = [0; 16];
            let none = receive(&server, &mut buffer).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            client.send(b"question").unwrap();
            let got = receive(&server, &mut buffer).unwrap();
            let from = client.local_addr().unwrap();
            assert_eq!(got, Received { length: 8, from, to: Some(at.ip()) });
            send(&server, b"answer", got.from, got.to).unwrap();
            // One that is connected takes it from there alone.
            assert_eq!((client.recv(&mut buffer).unwrap(), &buffer[..6]), (6, &b"answer"[..]));
        }
    }
}
