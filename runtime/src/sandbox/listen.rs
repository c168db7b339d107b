//! On which ports a step listens, as the kernel tells (proc(5), `/proc/PID/net/tcp`). Nobody connects to
//! it for that, so a program that serves one caller, or logs each, notices nothing.

use std::io;
use std::net::IpAddr;

use rgraph_ir::op::{Port, Protocol};
use rgraph_sys::spawn::PidFd;

/// The kernel's tables: file, protocol, and the state of a socket that waits for others.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    // Bound, and connected to nobody.
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// A socket that waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: IpAddr,
    /// The port.
    pub port: Port,
}

/// All sockets that wait for others in the network of a process that has one of its own; none while it is
/// still in that of the caller.
///
/// # Errors
/// `NotFound`: it has ended. Else that of reading below `/proc`.
pub fn listening(process: &PidFd) -> io::Result<Vec<Listening>> {
    let ended = || io::Error::from(io::ErrorKind::NotFound);
    let pid = process.number().ok_or_else(ended)?;
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net"));
    if namespace(&pid.to_string())? == namespace("self")? {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for (table, protocol, state) in TABLES {
        match std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) {
            Ok(text) => out.extend(read(&text, protocol, state)),
            // A kernel without IPv6.
            Err(e) if e.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(e) => return Err(e),
        }
    }
    // The number may have become another process's meanwhile.
    if process.number() != Some(pid) { Err(ended()) } else { Ok(out) }
}

fn read<'a>(
    text: &'a str,
    protocol: Protocol,
    state: &'a str,
) -> impl Iterator<Item = Listening> + 'a {
    text.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_ascii_whitespace();
        let (address, number) = words.nth(1)?.split_once(':')?;
        let is = words.nth(1)?;
        let number = u16::from_str_radix(number, 16).ok()?;
        let port = Port { number, protocol };
        (is == state).then_some(Listening { address: self::address(address)?, port })
    })
}

/// An address as the kernel writes it: words of four bytes, each as this machine reads them.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => word(0).map(IpAddr::from),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(bytes))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel() {
        let own = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let (local, zero) = (own([127, 0, 0, 1]), own([0; 4]));
        let text = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue\n\
             \x20  0: {local}:1538 00000000:0000 0A 00000000:00000000\n\
             \x20  1: {zero}:0050 00000000:0000 0A 00000000:00000000\n\
             \x20  2: {local}:0050 0100007F:8000 01 00000000:00000000\n\
             \x20  3: {zero}{zero}{zero}{}:0051 0:0 0A\n\
             \x20  4: zz:0050 0:0 0A\n   5: {local}\n\n",
            own([0, 0, 0, 1])
        );
        let got: Vec<_> =
            read(&text, Protocol::Tcp, "0A").map(|l| format!("{} {}", l.address, l.port)).collect();
        assert_eq!(got, ["127.0.0.1 5432/tcp", "0.0.0.0 80/tcp", "::1 81/tcp"]);
    }
}
