//! The program `pasta`: it connects a network namespace without any right on the host's network.
//!
//! It gives up most rights before it opens the namespace, and could not open that of a process
//! with more rights below `/proc`, nor any descriptor in its newer versions, which close them. So
//! it finds the namespace as a file, in a mount namespace that it alone has.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rgraph_sys::mount::{self, AttrFlags};
use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::{channel, ns, tree, wait};

use super::NoNetwork;

/// Where it is looked for: the runner has no environment.
const PROGRAMS: [&str; 5] = [
    "/usr/local/bin/pasta",
    "/usr/bin/pasta",
    "/usr/local/sbin/pasta",
    "/usr/sbin/pasta",
    "/run/current-system/sw/bin/pasta",
];
/// Questions for names that are sent here go to the host's own resolver.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The namespace's own address, and the one it believes its router to have. Not the host's: that
/// one shall stay what steps reach the host by.
const ADDRESS: &str = "169.254.2.2";
const GATEWAY: &str = "169.254.2.1";
/// An address to ask the host for its own by; nothing is sent there.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 254), 9);
/// Where `pasta` itself needs a folder: it mounts its own empty root there.
const FOLDER: &str = "/tmp";
/// The namespace, in that folder.
const NAMESPACE: &str = "rgraph-netns";
/// Longest text of it that is told.
const MAX_TEXT: u64 = 4 << 10;

/// A `pasta` that runs. It ends with this.
#[derive(Debug)]
pub(in crate::sandbox) struct Pasta {
    /// What it connects. The links of steps lead there when nobody is in it any more.
    _namespace: OwnedFd,
    process: PidFd,
    said: OwnedFd,
    host: Option<IpAddr>,
}

impl Pasta {
    /// Connects a network namespace. It is connected when it has a default route.
    pub fn start(namespace: OwnedFd) -> Result<Self, NoNetwork> {
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        device.map_err(|e| NoNetwork {
            cause: format!("/dev/net/tun cannot be opened: {e}"),
            help: "make it usable for this user (`chmod 666 /dev/net/tun`)".into(),
        })?;
        let program = PROGRAMS.iter().find(|p| Path::new(p).exists()).ok_or_else(|| NoNetwork {
            cause: "without root the program `pasta` is needed, and it is not installed".into(),
            help: "install the package `passt`".into(),
        })?;
        let failed = |e: io::Error| NoNetwork {
            cause: format!("cannot start `{program}`: {e}"),
            help: String::new(),
        };
        let netns = format!("{FOLDER}/{NAMESPACE}");
        let resolver = RESOLVER.to_string();
        let args = [
            program,
            "--foreground",
            "--quiet",
            "--config-net",
            "--netns-only",
            "--netns",
            &netns,
            "--address",
            ADDRESS,
            "--netmask",
            "24",
            "--gateway",
            GATEWAY,
            "--no-map-gw",
            "--dns-forward",
            &resolver,
            "--tcp-ports",
            "none",
            "--udp-ports",
            "none",
            "--tcp-ns",
            "none",
            "--udp-ns",
            "none",
        ];
        let c_text = |text: &str| std::ffi::CString::new(text).map_err(|e| failed(e.into()));
        let args: Vec<_> = args.into_iter().map(c_text).collect::<Result<_, _>>()?;
        let said = channel::parcel(b"").map_err(failed)?;
        let process = spawn::copy_self(|| {
            let ready = ns::die_with_parent()
                .and_then(|()| show(&namespace))
                .and_then(|()| spawn::set_stdio(1, &said))
                .and_then(|()| spawn::set_stdio(2, &said))
                .and_then(|()| spawn::seal_fds())
                .and_then(|()| spawn::default_signals());
            match ready {
                Ok(()) => say(&said, "run it", &spawn::execute(&args[0], &args, &[])),
                Err(e) => say(&said, "prepare it", &e),
            }
            127
        })
        .map_err(failed)?;
        Ok(Self { _namespace: namespace, process, said, host: own_address() })
    }

    /// Who answers for names.
    pub fn resolver(&self) -> IpAddr {
        RESOLVER.into()
    }

    /// Where the host answers.
    pub fn host(&self) -> Option<IpAddr> {
        self.host
    }

    /// What it said when it ended; `None`: it runs.
    pub fn failure(&self) -> Option<NoNetwork> {
        let now = Some(Duration::ZERO);
        if !wait::readable(&[self.process.as_fd()], now).is_ok_and(|r| r[0]) {
            return None;
        }
        let said = self.said.try_clone().and_then(|fd| channel::unpack(fd, MAX_TEXT));
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).trim().replace('\n', "; ");
        Some(NoNetwork { cause: format!("`pasta` ended: {said}"), help: String::new() })
    }
}

impl AsFd for Pasta {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Makes a network namespace a file that this process alone sees.
fn show(namespace: &OwnedFd) -> io::Result<()> {
    ns::unshare_mounts()?;
    let options = [("mode", Some("0755")), ("size", Some("64k"))];
    let inert = AttrFlags::NOSUID.with(AttrFlags::NODEV);
    let folder = mount::filesystem("tmpfs", &options, inert).map_err(io::Error::other)?;
    let file = tree::make_file(&folder, OsStr::new(NAMESPACE), 0o600)?;
    let place = mount::open_dir(Path::new(FOLDER))?;
    mount::attach(&folder, place, FOLDER).map_err(io::Error::other)?;
    let view = mount::clone_fd(namespace, false).map_err(io::Error::other)?;
    mount::attach(view, file, NAMESPACE).map_err(io::Error::other)
}

/// Leaves word of why there is no `pasta`, where it would have said so itself.
fn say(said: &OwnedFd, what: &str, why: &io::Error) {
    let mut text = format!("cannot {what}: {why}");
    let mut cause = why.get_ref().and_then(|e| e.source());
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    // Without these words the error still says that it ended.
    let _ = said.try_clone().and_then(|fd| std::fs::File::from(fd).write_all(text.as_bytes()));
}

/// The address by which the host sends to others.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
