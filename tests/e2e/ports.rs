//! Ports of containers on the host.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use rgraph_tests::{BASE, Case, need, shout, wait_until};

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

/// What a web server on a port of the host says; empty: nobody is there.
pub fn fetch(port: u16, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(socket, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
        let mut all = String::new();
        socket.read_to_string(&mut all)?;
        Ok(all)
    };
    ask().unwrap_or_default()
}

/// A port that nobody has just now.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.local_addr().expect("its number").port()
}

const SERVE: &str = "mkdir /www; echo page > /www/page; head -c 3000000 /dev/zero > /www/big; \
                     exec httpd -f -p 80 -h /www";

#[test]
fn a_port_of_the_host_leads_into_the_container() {
    need!(Root);
    let case = Case::with_base();
    let port = free_port();
    let map = format!("127.0.0.1:{port}:80");
    let run =
        case.rgraph(&["run", "-d", "--name", "web", "-p", &map, BASE, "sh", "-c", SERVE]).ok();
    if run.stderr.contains("ports are not published") {
        text(&case, &["rm", "-f", "web"]);
        return shout("containers have no network of their own here");
    }
    let there = || fetch(port, "/page").ends_with("page\n");
    assert!(
        wait_until(Duration::from_secs(20), there),
        "no page: {}",
        text(&case, &["logs", "web"])
    );
    // More than any buffer on the way, and many at once.
    std::thread::scope(|s| {
        let all: Vec<_> = (0..20).map(|_| s.spawn(|| fetch(port, "/big").len())).collect();
        for one in all {
            assert!(one.join().expect("a thread") > 3_000_000);
        }
    });
    let host = format!("127.0.0.1:{port}");
    assert_eq!(text(&case, &["port", "web"]), format!("80/tcp -> {host}\n"));
    assert_eq!(text(&case, &["port", "web", "80"]), format!("{host}\n"));
    case.rgraph(&["port", "web", "81"]).fails(1, &["no public port '81/tcp'"]);
    assert_eq!(text(&case, &["ps", "--format", "{{.Ports}}"]), format!("{host}->80/tcp\n"));
    let format = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    let told = case.rgraph(&["inspect", "-f", format, "web"]);
    if told.code == 0 {
        assert_eq!(told.text(), format!("{port}\n"));
    }
    // Taken: told before anything runs, and nothing is left.
    let busy = case.rgraph(&["run", "--rm", "-p", &map, BASE, "true"]);
    busy.fails(125, &["is already in use", &host]);
    assert_eq!(text(&case, &["ps", "-aq"]).lines().count(), 1);
    // Free again when the container has ended, however that was.
    text(&case, &["rm", "-f", "web"]);
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    assert!(wait_until(Duration::from_secs(10), free), "the port is not free");
}

#[test]
fn free_ports_are_found_and_low_ones_refused() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nEXPOSE 80 9/udp\nCMD [\"sh\", \"-c\", \"mkdir /w; echo p > /w/p; exec httpd -f -h /w\"]\n");
    case.build(&["-t", "web:1"]).ok();
    let run = case.rgraph(&["run", "-d", "-P", "--name", "web", "web:1"]).ok();
    if run.stderr.contains("ports are not published") {
        text(&case, &["rm", "-f", "web"]);
        return shout("containers have no network of their own here");
    }
    let line = text(&case, &["port", "web", "80/tcp"]);
    let port = line.lines().next().and_then(|l| l.rsplit_once(':')).expect("an address").1;
    let port: u16 = port.parse().expect("a number");
    let there = || fetch(port, "/p").ends_with("p\n");
    assert!(wait_until(Duration::from_secs(20), there), "no page at {port}");
    let shown = text(&case, &["ps", "--format", "{{.Ports}}"]);
    assert!(shown.starts_with(&format!("0.0.0.0:{port}->80/tcp")), "{shown}");
    assert!(shown.trim_end().ends_with("9/udp"), "{shown}");
    text(&case, &["rm", "-f", "web"]);
    case.rgraph(&["run", "-p", "80:80/udp", BASE]).fails(125, &["not supported yet"]);
    if rgraph_tests::setting("RGRAPH_ROOTLESS", 0) != 0 {
        let run = case.rgraph(&["run", "--rm", "-p", "127.0.0.1:81:80", BASE, "true"]);
        run.fails(125, &["cannot be opened by this user", "1024"]);
    }
}
