//! A network through `pasta`, where this process has no right on the host's: in a user namespace,
//! on a host of the test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rgraph_runtime::sandbox::*;

use crate::image::*;

/// The host's address; the link leads nowhere.
const HOST: &str = "192.0.2.2";
const SETUP: &str = "ip link set lo up; ip link add up0 type veth peer name w0; ip link set w0 up; \
    ip addr add 192.0.2.2/24 dev up0; ip link set up0 up; ip route add default via 192.0.2.1; \
    exec unshare --user --mount sh -ec 'echo ready; read go; exec \"$0\" --in-user-namespace' \"$0\"";

fn lacks() -> Option<&'static str> {
    for (tool, what) in [("pasta", "`pasta` (package passt)"), ("ip", "`ip`")] {
        let found = |d: &&str| Path::new(d).join(tool).exists();
        if !["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(found) {
            return Some(what);
        }
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    device.is_err().then_some("/dev/net/tun")
}

pub fn connects_steps_without_rights(_: &Runner) {
    if let Some(what) = lacks() {
        println!("\n*** SKIPPED, NOT TESTED: a network by pasta, for there is no {what} ***\n");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let mut build = Command::new("unshare")
        .args(["--net", "sh", "-ec", SETUP])
        .arg(exe)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    build.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", build.id()), "0 0 65536").unwrap();
    }
    build.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let ran = build.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}{said}", String::from_utf8_lossy(&ran.stdout));
}

/// Answers every connection.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let answer = |s: &mut TcpStream| {
        // An answer that comes before its question is told twice by some versions of `pasta`.
        s.read_exact(&mut [0; 4]).and_then(|()| s.write_all(b"the host\n")).is_ok()
    };
    std::thread::spawn(move || listener.incoming().flatten().all(|mut s| answer(&mut s)));
}

/// The build of the test above.
pub fn build() -> ExitCode {
    let runner = Runner::start().unwrap();
    serve(&format!("{HOST}:7001"));
    serve("127.0.0.1:7002");
    assert_eq!(
        runner.probe_network().unwrap().unwrap(),
        "steps have their own, connected by `pasta`"
    );
    let start = Instant::now();
    assert_eq!(runner.connect().unwrap().unwrap(), Vec::<String>::new());
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    for _ in 0..2 {
        let image = Image::new();
        let mut spec = image.sh(&format!(
            "ask() {{ echo who | busybox timeout 10 nc -w 3 $1 $2; }}; ask {HOST} 7001; \
             for a in 127.0.0.1 {HOST} gateway; do ask $a 7002; done; \
             cat /etc/resolv.conf; ls /sys/class/net"
        ));
        spec.rootfs.userxattr = true;
        spec.network = Network::Private;
        spec.extra_hosts = vec![ExtraHost { host: "gateway".into(), ip: "host-gateway".into() }];
        let ran = run(&runner, &spec);
        assert_eq!(ran.outcome, Outcome::Exited(0), "{}{}", ran.out, ran.err);
        assert_eq!(ran.out, "the host\nnameserver 169.254.1.1\neth0\nlo\n", "{}", ran.err);
    }
    ExitCode::SUCCESS
}
