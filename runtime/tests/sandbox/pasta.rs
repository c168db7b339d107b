//! A network through `pasta`, where this process has no right on the host's: in a user namespace,
//! on a host of the test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rgraph_runtime::sandbox::*;

use crate::image::*;
use crate::userns;

/// The host's address; the link leads nowhere.
const HOST: &str = "192.0.2.2";
const SETUP: &str = "ip link set lo up; ip link add up0 type veth peer name w0; ip link set w0 up; \
    ip addr add 192.0.2.2/24 dev up0; ip link set up0 up; ip route add default via 192.0.2.1;";

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
    userns::run(SETUP, "pasta");
}

/// Answers every connection.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let answer = |s: &mut TcpStream| {
        // Who asked hangs up first: some versions of `pasta` tell the rest again and again when
        // both do.
        s.read_exact(&mut [0; 4]).and_then(|()| s.write_all(b"the host\n")).is_ok()
            && s.read(&mut [0; 4]).is_ok()
    };
    std::thread::spawn(move || listener.incoming().flatten().all(|mut s| answer(&mut s)));
}

/// The other half of the test above.
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
            "ask() {{ (echo who; sleep 1) | busybox timeout 10 nc -w 3 $1 $2; }}; ask {HOST} 7001; \
             for a in 127.0.0.1 {HOST} gateway; do ask $a 7002; done; \
             cat /etc/resolv.conf; ls /sys/class/net"
        ));
        spec.rootfs.userxattr = true;
        spec.network = Network::Private;
        spec.extra_hosts = vec![ExtraHost { host: "gateway".into(), ip: "host-gateway".into() }];
        let ran = run(&runner, &spec);
        assert_eq!(ran.outcome, Outcome::Exited(0), "{}{}", ran.out, ran.err);
        assert!(ran.out.starts_with("the host\n"), "{}{}", ran.out, ran.err);
        let rest = ran.out.trim_start_matches("the host\n");
        assert_eq!(rest, "nameserver 169.254.1.1\neth0\nlo\n", "{}", ran.err);
    }
    ExitCode::SUCCESS
}
