//! Ports of containers on the host.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rgraph_tests::{BASE, Case, Ids, need, shout, wait_until};

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
    assert!(shown.contains("->9/udp"), "{shown}");
    text(&case, &["rm", "-f", "web"]);
    case.rgraph(&["run", "-p", "80:80/sctp", BASE]).fails(125, &["not supported yet"]);
    if rgraph_tests::setting("RGRAPH_ROOTLESS", 0) != 0 {
        let run = case.rgraph(&["run", "--rm", "-p", "127.0.0.1:81:80", BASE, "true"]);
        run.fails(125, &["cannot be opened by this user", "1024"]);
    }
}

/// What root may, and the one thing that a user may not.
#[test]
fn a_users_ports_lead_into_the_container() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("pasta"));
    let case = Case::new().of_user(Ids::Range);
    if !case.open_tun() {
        return shout("ports of a user: there is no /dev/net/tun");
    }
    case.import_base(BASE);
    case.dockerfile(
        "FROM BASE\nEXPOSE 80\nCMD [\"sh\", \"-c\", \"mkdir /w; echo p > /w/p; exec httpd -f -h /w\"]\n",
    );
    case.build(&["-t", "web:1"]).ok();
    let map = format!("127.0.0.1:{}:80", free_port());
    for (name, flags) in [("all", &["-P"][..]), ("one", &["-p", &map])] {
        let run = [&["run", "-d", "--name", name], flags, &["web:1"]].concat();
        case.rgraph(&run).ok();
        let line = text(&case, &["port", name, "80/tcp"]);
        let port = line.lines().next().and_then(|l| l.rsplit_once(':')).expect("an address").1;
        let port: u16 = port.parse().expect("a number");
        let there = || fetch(port, "/p").ends_with("p\n");
        assert!(wait_until(Duration::from_secs(20), there), "no page at {port}");
    }
    let refused = |map: &str, said: &[&str]| {
        case.rgraph(&["run", "--rm", "-p", map, BASE, "true"]).fails(125, said);
    };
    refused(&map, &["is already in use"]);
    refused("127.0.0.1:81:80", &["cannot be opened by this user", "1024"]);
    assert_eq!(text(&case, &["ps", "-aq"]).lines().count(), 2, "what was refused left something");
    text(&case, &["rm", "-f", "all", "one"]);
}

/// An image with a program that answers.
fn echo(case: &Case) {
    let source = case.out("echo.c");
    std::fs::write(&source, include_str!("echo.c")).expect("a file");
    let made = std::process::Command::new("gcc")
        .args(["-static", "-O1", "-o"])
        .arg(case.context().join("echo"))
        .arg(&source)
        .status();
    assert!(made.is_ok_and(|s| s.success()), "gcc");
    case.dockerfile("FROM BASE\nCOPY echo /bin/echo-port\nEXPOSE 53/udp\n");
    case.build(&["-t", "echo:1"]).ok();
}

#[test]
fn datagrams_come_in_and_answers_go_back() {
    need!(Root, Tool("gcc"), Tool("newuidmap"), Tool("setpriv"));
    let user = Case::new().of_user(Ids::Range);
    if !user.open_tun() {
        shout("ports of a user: there is no /dev/net/tun");
    }
    user.import_base(BASE);
    for case in [Case::with_base(), user] {
        echo(&case);
        let args = ["run", "-d", "--name", "dns", "-p", "127.0.0.1::53/udp", "-p", "53"];
        let args = [&args[..], &["-P", "echo:1", "echo-port", "53"]].concat();
        let run = case.rgraph(&args).ok();
        if run.stderr.contains("ports are not published") {
            text(&case, &["rm", "-f", "dns"]);
            shout("containers have no network of their own here");
            continue;
        }
        // Both protocols of one number.
        let told = text(&case, &["port", "dns", "53/udp"]);
        let at: SocketAddr = told.trim().parse().expect("an address");
        assert_eq!(text(&case, &["port", "dns", "53/tcp"]).lines().count(), 2);
        let shown = text(&case, &["ps", "--format", "{{.Ports}}"]);
        assert!(shown.contains(&format!("{at}->53/udp")) && shown.contains("->53/tcp"), "{shown}");
        let format = "{{(index (index .NetworkSettings.Ports \"53/udp\") 0).HostPort}}";
        assert_eq!(text(&case, &["inspect", "-f", format, "dns"]), format!("{}\n", at.port()));
        let ask = |socket: &UdpSocket, what: &[u8]| -> Option<Vec<u8>> {
            socket.send(what).ok()?;
            let mut answer = vec![0; 65536];
            let n = socket.recv(&mut answer).ok()?;
            answer.truncate(n);
            Some(answer)
        };
        let client = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
            // Answers of others do not come to it.
            socket.connect(at).expect("an address");
            socket
        };
        let first = client();
        let up = || ask(&first, b"hello").is_some_and(|a| a == b"hello");
        assert!(wait_until(Duration::from_secs(20), up), "no answer");
        // Late answers to the questions before are taken first.
        while first.recv(&mut [0; 64]).is_ok() {}
        // Each gets its own, an empty and a large one too; more than there are places for.
        for n in 0..300_u32 {
            let (socket, what) = (client(), n.to_string());
            let there = || ask(&socket, what.as_bytes()).is_some_and(|a| a == what.as_bytes());
            assert!(wait_until(Duration::from_secs(20), there), "no answer to {n}");
        }
        let large = vec![7; 40_000];
        let there = || ask(&first, &large).is_some_and(|a| a == large);
        assert!(wait_until(Duration::from_secs(20), there), "no answer to a large one");
        assert_eq!(ask(&client(), b""), Some(Vec::new()));
        // The port is taken, and free afterwards.
        let map = format!("{at}:53/udp");
        let busy = case.rgraph(&["run", "--rm", "-p", &map, BASE, "true"]);
        busy.fails(125, &["is already in use"]);
        text(&case, &["rm", "-f", "dns"]);
        assert!(wait_until(Duration::from_secs(10), || UdpSocket::bind(at).is_ok()));
    }
}

#[test]
fn each_side_of_a_connection_ends_by_itself() {
    need!(Root, Tool("gcc"));
    let case = Case::with_base();
    echo(&case);
    let args = ["run", "-d", "--name", "count", "-p", "127.0.0.1::80", "echo:1"];
    let args = [&args[..], &["echo-port", "80", "count"]].concat();
    // With few files there is one place: the others wait, and nobody is turned away.
    for few in [false, true] {
        let run = if few { case.rgraph_with_files(100, &args) } else { case.rgraph(&args) }.ok();
        if run.stderr.contains("ports are not published") {
            text(&case, &["rm", "-f", "count"]);
            return shout("containers have no network of their own here");
        }
        let at: SocketAddr = text(&case, &["port", "count", "80"]).trim().parse().expect("one");
        let count = |bytes: usize| -> std::io::Result<String> {
            let mut socket = TcpStream::connect(at)?;
            socket.set_read_timeout(Some(Duration::from_secs(20)))?;
            socket.write_all(&vec![1; bytes])?;
            socket.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let up = || count(7).is_ok_and(|a| a == "7\n");
        assert!(wait_until(Duration::from_secs(20), up), "no answer");
        std::thread::scope(|s| {
            let ask = |n: usize| s.spawn(move || (n, count(n * 50_000).expect("an answer")));
            let all: Vec<_> = (1..9).map(ask).collect();
            for one in all {
                let (n, answer) = one.join().expect("a thread");
                assert_eq!(answer, format!("{}\n", n * 50_000));
            }
        });
        text(&case, &["rm", "-f", "count"]);
    }
}
