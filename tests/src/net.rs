//! A small world for tests of networks: a namespace that plays the host, one that plays its
//! neighbour on another cable, and one that plays all others. Nothing of it touches the machine's own network.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use crate::{Background, Case};

/// Where the world's end of the cable is.
pub const WORLD: &str = "203.0.113.1";
/// Where the host's end is.
pub const HOST: &str = "203.0.113.2";

/// Where the neighbour is.
pub const NEIGHBOUR: &str = "198.51.100.2";

/// Namespaces with cables between them. The host has a route to everywhere, by the world; the world
/// and the neighbour have no route but to the host's own addresses. Gone with the value.
pub struct Net {
    host: Holder,
    world: Holder,
    neighbour: Holder,
}

struct Holder(Child);

impl Holder {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut holder = Self(child);
        let mut up = [0; 3];
        let out = holder.0.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(out, &mut up).expect("a namespace");
        holder
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn run(&self, command: &str) {
        let net = format!("--net={}", self.path());
        let done = Command::new("nsenter").args([&net, "sh", "-ec", command]).status();
        assert!(done.expect("nsenter starts").success(), "{command}");
    }

    fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).expect("a namespace");
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        std::thread::scope(|s| {
            let thread = s.spawn(|| {
                rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("setns");
                body()
            });
            thread.join().expect("no panic")
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It sleeps; an error means that it is gone.
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or(());
    }
}

impl Net {
    /// Makes it. Needs root, `ip` and `nsenter`.
    pub fn new() -> Self {
        let net = Self { host: Holder::new(), world: Holder::new(), neighbour: Holder::new() };
        net.host.run(&format!(
            "ip link add up0 type veth peer name w0 netns {}; ip addr add {HOST}/24 dev up0; \
             ip link set up0 up mtu 1400; ip route add default via {WORLD}; \
             ip link add up1 type veth peer name n0 netns {}; ip link set up1 up; \
             ip addr add 198.51.100.1/24 dev up1; echo 0 > /proc/sys/net/ipv4/ip_forward",
            net.world.0.id(),
            net.neighbour.0.id()
        ));
        net.world.run(&format!("ip addr add {WORLD}/24 dev w0; ip link set w0 up mtu 1400"));
        net.neighbour.run(&format!("ip addr add {NEIGHBOUR}/24 dev n0; ip link set n0 up"));
        net
    }

    /// Runs shell commands where the host is.
    pub fn host(&self, command: &str) {
        self.host.run(command);
    }

    /// Runs shell commands where the world is.
    pub fn world(&self, command: &str) {
        self.world.run(command);
    }

    /// Runs shell commands where the neighbour is.
    pub fn neighbour(&self, command: &str) {
        self.neighbour.run(command);
    }

    /// Runs code in the host's network; what it opens there stays open.
    pub fn in_host<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.host.within(body)
    }

    /// Runs code in the world's network.
    pub fn in_world<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.world.within(body)
    }

    /// Runs code in the neighbour's network.
    pub fn in_neighbour<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.neighbour.within(body)
    }

    /// The links that rgraph left on the host.
    pub fn links(&self) -> Vec<String> {
        let text = self.in_host(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        let text = text.expect("the list of links");
        let name = |l: &str| Some(l.split_once(':')?.0.trim().to_owned());
        text.lines().filter_map(name).filter(|n| n.starts_with("rgraph")).collect()
    }

    /// Starts rgraph on the host, whose name servers are those of a file of the case. `rights`
    /// stands before the command: `setpriv` with what it shall lose, or nothing.
    pub fn start(&self, case: &Case, resolv: &str, rights: &[&str], args: &[&str]) -> Background {
        let file = case.out("host-resolv.conf");
        std::fs::write(&file, resolv).expect("a file");
        let inner = case.command(args);
        let mut c = Command::new("nsenter");
        c.arg(format!("--net={}", self.host.path()))
            .args(["unshare", "--mount", "sh", "-c"])
            .arg(format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", file.display()))
            .arg("sh")
            .args(rights)
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .current_dir(case.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Background::new(c.spawn().expect("nsenter starts"))
    }

    /// Starts a build of the case's context on the host.
    pub fn build(&self, case: &Case, args: &[&str]) -> Background {
        let args = case.build_args(args);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.start(case, &format!("nameserver {WORLD}\n"), &[], &args)
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}
