//! The network of steps: what they reach, what they do not, what is left on the host.
//!
//! The host of these tests is a namespace, as is the world that it is connected to.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use rgraph_tests::{Case, HOST, NEIGHBOUR, Net, WORLD, need, wait_until};
use rustix::process::Signal;

/// Longer than the kernel takes to take links away.
const SOON: Duration = Duration::from_secs(20);

/// Answers every connection with `text` and gives the callers' addresses.
fn serve(listener: TcpListener, text: &'static str) -> std::sync::mpsc::Receiver<IpAddr> {
    let (told, callers) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let from = stream.peer_addr().expect("connected").ip();
            let mut request = [0; 1024];
            // Whoever hangs up early has not asked.
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
                stream.write_all(format!("{head}{text}").as_bytes()).unwrap_or(());
            }
            if told.send(from).is_err() {
                return;
            }
        }
    });
    callers
}

/// Answers every question for a name with one address.
fn serve_names(socket: UdpSocket, address: [u8; 4]) {
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut question) {
            let mut answer = question[..n].to_vec();
            let is_a = n > 4 && answer[n - 3] == 1;
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..8].copy_from_slice(&[0, u8::from(is_a)]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address);
            }
            socket.send_to(&answer, from).map(drop).unwrap_or(());
        }
    });
}

fn bind(address: &str) -> TcpListener {
    TcpListener::bind(address).expect("a free port")
}

#[test]
fn steps_reach_the_world_and_not_the_host() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let net = Net::new();
    let callers = serve(net.in_world(|| bind("0.0.0.0:80")), "the world");
    let names = net.in_world(|| UdpSocket::bind("0.0.0.0:53").expect("a free port"));
    serve_names(names, [203, 0, 113, 1]);
    let _closed = serve(net.in_host(|| bind("127.0.0.1:8080")), "the host's own");
    let _open = serve(net.in_host(|| bind("0.0.0.0:8081")), "the host's open");
    let name = std::os::unix::net::SocketAddr::from_abstract_name("rgraph-test").expect("a name");
    let _abstract = net.in_host(|| UnixListener::bind_addr(&name)).expect("an abstract socket");

    let case = Case::with_base();
    case.dockerfile(&format!(
        "FROM BASE\n\
         RUN wget -qO /world http://{WORLD}/ && wget -qO /named http://www.example.com/\n\
         RUN for h in 127.0.0.1 {HOST} gateway; do wget -qO- http://$h:8080/; done 2>&1 | tee /closed\n\
         RUN wget -qO /open http://gateway:8081/\n\
         RUN cat /proc/net/unix > /unix; ls /sys/class/net > /links; cat /etc/resolv.conf > /resolv\n\
         RUN cat /sys/class/net/eth0/mtu > /mtu\n"
    ));
    let path = case.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    let args = ["-o", &out, "--add-host", "gateway:host-gateway"];
    let run = net.build(&case, &args).finish().ok();
    assert_eq!(run.stderr.matches("WARN:").count(), 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("packets that come in by up0, up1 are now passed on"),
        "{}",
        run.stderr
    );
    let image = rgraph_tests::Image::from_archive(&path);
    assert_eq!(image.read("world"), "the world");
    assert_eq!(image.read("named"), "the world");
    let closed = image.read("closed");
    assert_eq!(closed.matches("Connection refused").count(), 3, "{closed}");
    assert_eq!(image.read("open"), "the host's open");
    assert_eq!(image.read("links"), "eth0\nlo\n");
    assert_eq!(image.read("resolv"), format!("nameserver {WORLD}\n"));
    assert_eq!(image.read("mtu"), "1400\n");
    assert!(!image.read("unix").contains("rgraph-test"), "{}", image.read("unix"));
    let host: IpAddr = HOST.parse().expect("an address");
    assert_eq!(callers.try_iter().collect::<Vec<_>>(), [host, host]);
    assert!(wait_until(SOON, || net.links().is_empty()), "{:?}", net.links());

    // What was switched on stays on, and is told once. Other commands do not change that.
    let run = net.build(&case, &["--no-cache", "--add-host", "gateway:host-gateway"]).finish().ok();
    assert!(!run.stderr.contains("WARN:"), "{}", run.stderr);
    let run = net.start(&case, "", &[], &["doctor"]).finish().ok();
    let line = run.text().lines().find(|l| l.starts_with("network")).expect("a line");
    assert!(line.contains(" ok ") && line.contains("nf_tables"), "{line}");
    assert!(net.links().is_empty() || wait_until(SOON, || net.links().is_empty()));
}

/// The host does not become a way from one of its neighbours to another, or to a step.
#[test]
fn neighbours_reach_neither_steps_nor_each_other() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let net = Net::new();
    let _callers = serve(net.in_neighbour(|| bind("0.0.0.0:80")), "the neighbour");
    net.neighbour("ip route add default via 198.51.100.1");
    net.world(&format!(
        "ip route add 10.213.128.0/21 via {HOST}; ip route add 198.51.100.0/24 via {HOST}"
    ));
    let connect = |to: SocketAddr| TcpStream::connect_timeout(&to, Duration::from_secs(1));
    let neighbour: IpAddr = NEIGHBOUR.parse().expect("an address");
    // So it would be on a router.
    net.host("echo 1 > /proc/sys/net/ipv4/ip_forward");
    net.in_world(|| connect((neighbour, 80).into())).expect("a way");
    net.host("echo 0 > /proc/sys/net/ipv4/ip_forward");

    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\n\
         RUN ip -4 -o addr show eth0 | awk '{print \"address \" $4}'; nc -l -p 7777 & sleep 3\n",
    );
    let mut build = net.build(&case, &["--progress=plain"]);
    build.wait_for(" address ");
    let said = build.said();
    let line = said.lines().find_map(|l| l.split_once(" address ")).expect("a line").1;
    let address: IpAddr = line.split('/').next().expect("a range").trim().parse().expect(line);
    // The host may: the step is there.
    assert!(
        wait_until(SOON, || net.in_host(|| connect((address, 7777).into())).is_ok()),
        "{}",
        build.said()
    );
    for to in [(address, 7777), (address, 7778), (neighbour, 80)] {
        let error = net.in_world(|| connect(to.into())).expect_err("no way");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{to:?}");
    }
    build.finish().ok();

    // Somebody makes it a router after all: the next build does not stand in the way.
    net.host("echo 1 > /proc/sys/net/ipv4/ip_forward");
    case.dockerfile("FROM BASE\nRUN true\n");
    net.build(&case, &[]).finish().ok();
    net.in_world(|| connect((neighbour, 80).into())).expect("a way");
}

#[test]
fn steps_do_not_reach_each_other() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let net = Net::new();
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE AS a\n\
         RUN --mount=type=cache,target=/c nc -ll -p 7777 -e true & \\\n\
          until nc -w 1 127.0.0.1 7777 < /dev/null; do sleep 0.1; done; \\\n\
          ip -4 -o addr show eth0 | awk '{print $4}' > /c/new; mv /c/new /c/address; \\\n\
          while [ ! -e /c/done ]; do sleep 0.1; done\n\
         FROM BASE AS b\n\
         RUN --mount=type=cache,target=/c while [ ! -e /c/address ]; do sleep 0.1; done; \\\n\
          a=$(cut -d/ -f1 /c/address); ping -c1 -W2 $a; nc -w 2 $a 7777 < /dev/null; echo \"nc: $?\" | tee /out; \\\n\
          touch /c/done\n\
         FROM BASE\n\
         COPY --from=b /out /\n\
         RUN --mount=type=bind,from=a,target=/a true\n",
    );
    let run = net.build(&case, &["--progress=plain"]).finish().ok();
    assert!(run.stderr.contains("100% packet loss"), "{}", run.stderr);
    assert!(run.stderr.contains("nc: 1"), "{}", run.stderr);
}

#[test]
fn many_builds_at_once_and_killed_ones_leave_nothing() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let net = Net::new();
    let _callers = serve(net.in_world(|| bind("0.0.0.0:80")), "the world");
    let case = Case::with_base();
    case.dockerfile(&format!("FROM BASE\nARG N\nRUN wget -qO- http://{WORLD}/ > /$N\n"));
    let number = |n: usize| format!("N={n}");
    let builds: Vec<_> = (0..50).map(|n| net.build(&case, &["--build-arg", &number(n)])).collect();
    for build in builds {
        build.finish().ok();
    }
    assert!(wait_until(SOON, || net.links().is_empty()), "{:?}", net.links());

    case.dockerfile("FROM BASE\nARG N\nRUN echo \"be\"gun $N; sleep 100\n");
    let mut builds: Vec<_> =
        (0..5).map(|n| net.build(&case, &["--build-arg", &number(n)])).collect();
    for build in &mut builds {
        build.wait_for(" begun ");
    }
    assert_eq!(net.links().len(), 5);
    for build in &builds {
        build.signal(Signal::KILL);
    }
    assert!(wait_until(SOON, || net.links().is_empty()), "{:?}", net.links());
}

/// Docker's firewall drops what it does not know.
#[test]
fn a_firewall_that_drops_lets_steps_through() {
    need!(Root, Tool("ip"), Tool("nsenter"), Tool("iptables"));
    let net = Net::new();
    net.host("iptables -P FORWARD DROP");
    let _callers = serve(net.in_world(|| bind("0.0.0.0:80")), "the world");
    let case = Case::with_base();
    case.dockerfile(&format!("FROM BASE\nRUN timeout 10 wget -qO- http://{WORLD}/\n"));
    net.build(&case, &[]).finish().ok();
    net.build(&case, &["--no-cache"]).finish().ok();
    // Told once, and in a form that the firewall's own program reads.
    net.host(
        "test $(iptables -S FORWARD | grep -c rgraph) = 2; iptables -S FORWARD | grep -q -- \
         '-A FORWARD -i rgraph+ .*-j ACCEPT'",
    );
}

#[test]
fn without_the_right_to_a_network_steps_get_what_the_config_says() {
    need!(Root, Tool("ip"), Tool("nsenter"), Tool("setpriv"));
    let net = Net::new();
    let _own = serve(net.in_host(|| bind("127.0.0.1:8080")), "the host's own");
    let rights = ["setpriv", "--bounding-set=-net_admin"];
    for (config, code, said) in [
        ("", 0, "steps get the host's network, its loopback too, for they cannot have one"),
        ("[network]\nfallback = 'host'\n", 0, "no right to set up a network (CAP_NET_ADMIN)"),
        ("[network]\nfallback = 'none'\n", 1, "steps get no network, for they cannot have one"),
        ("[network]\nfallback = 'error'\n", 1, "steps cannot have a network of their own here"),
    ] {
        let mut case = Case::with_base();
        case.dockerfile("FROM BASE\nRUN wget -qO- http://127.0.0.1:8080/\nRUN true\n");
        let file = case.out("config.toml");
        std::fs::write(&file, config).expect("a file");
        case.env("RGRAPH_CONFIG", &file.display().to_string());
        let args = case.build_args(&[]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let run = net.start(&case, "", &rights, &args).finish();
        assert_eq!(run.code, code, "{config}: {}", run.stderr);
        // An error is told by the step and at the end.
        let times = if config.contains("error") { 2 } else { 1 };
        assert_eq!(run.stderr.matches(said).count(), times, "{config}: {}", run.stderr);
        let run = net.start(&case, "", &rights, &["doctor"]).finish().ok();
        let line = run.text().lines().find(|l| l.starts_with("network")).expect("a line");
        assert!(line.contains("missing") && line.contains("CAP_NET_ADMIN"), "{line}");
    }
}
