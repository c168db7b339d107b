//! What the child of the runner does to itself until it becomes the step.
//!
//! A list of small steps in an order that matters: mounts while the host's tree is still there,
//! the filter while the right to load it is, the user and the capabilities last. A step that fails
//! ends it all, and its error goes to the runner through a pipe that an exec closes.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rgraph_image::layer::Owners;
use rgraph_sys::caps::{self, CapSet};
use rgraph_sys::mount::AttrFlags;
use rgraph_sys::seccomp;
use rgraph_sys::spawn::PidFd;
use rgraph_sys::terminal::{self, Pair};
use rgraph_sys::tree::{self, As, Kind};
use rgraph_sys::{channel, init, mount, ns, spawn, wait};
use serde::{Deserialize, Serialize};

use super::bench::Filters;
use super::error::InitError;
use super::rootfs::{PlaceError, Root, Stub};
use super::spec::{Input, Network, SandboxSpec, Security};
use super::user::Identity;
use super::{cgroup, machine, mounts, network, user};

/// Where programs are looked for when the step has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a child tells the runner, one JSON text per line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Mount points it made in the root.
    Stubs(Vec<Stub>),
    /// The step did not begin.
    Failed(InitError),
}

/// All a child needs; made by the runner before the child exists.
pub(super) struct Child<'a> {
    pub spec: &'a SandboxSpec,
    /// The detached root.
    pub root: OwnedFd,
    /// What the spec's mounts refer to by index.
    pub fds: Vec<Option<OwnedFd>>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Where to report.
    pub report: OwnedFd,
    /// Its private network; `None`: it has another.
    pub place: Option<&'a network::Place>,
    /// The files by which it enters its control groups.
    pub doors: Vec<std::fs::File>,
    /// The compiled filters; `None` where this machine has none.
    pub filters: Option<&'a Filters>,
    /// Where to send what the calls are heard by that the runner does for the step; `None`: it
    /// does none.
    pub asks: Option<OwnedFd>,
}

/// What a process needs that joins the namespaces of another; fields as in [`Child`].
pub(super) struct Joining<'a> {
    pub spec: &'a SandboxSpec,
    pub fds: Vec<Option<OwnedFd>>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub report: OwnedFd,
    pub filters: Option<&'a Filters>,
    pub asks: Option<OwnedFd>,
}

impl Joining<'_> {
    /// Enters control groups and namespaces, and makes the process in them, which is sent to `told`.
    /// Gives the exit code of this process, which is of no more use.
    pub(super) fn enter(self, first: &PidFd, doors: Vec<std::fs::File>, told: &OwnedFd) -> i32 {
        let network = self.spec.network != Network::Host;
        // Whoever is in there already must not see what this process has open.
        let entered = ns::hide().map_err(InitError::at("hide the process")).and_then(|()| {
            for door in doors {
                cgroup::enter(door).map_err(InitError::at("enter the control group"))?;
            }
            Ok(())
        });
        let report = self.report.try_clone();
        let made = entered.and_then(|()| {
            spawn::copy_into(first, network, || self.run())
                .map_err(InitError::at("enter the container"))
        });
        match (made, report) {
            (Ok(pid), _) => i32::from(channel::send(told, b"made", &[pid.as_fd()]).is_err()),
            (Err(e), Ok(report)) => i32::from(tell(&report, &Report::Failed(e)).is_err()),
            (Err(_), Err(_)) => 1,
        }
    }

    /// As [`Child::run`], in a root that is there.
    fn run(self) -> i32 {
        let Joining { spec, fds, stdout, stderr, report, filters, asks } = self;
        let Ok(root) = mount::open_dir(Path::new("/")) else { return 125 };
        let (place, doors) = (None, Vec::new());
        let child = Child { spec, root, fds, stdout, stderr, report, place, doors, filters, asks };
        child.become_it(Child::join)
    }
}

impl Child<'_> {
    /// Becomes the step. Returns an exit code when that fails, after the reason was reported.
    pub(super) fn run(self) -> i32 {
        self.become_it(Self::enter)
    }

    fn become_it(
        mut self,
        way: fn(&mut Self) -> Result<std::convert::Infallible, InitError>,
    ) -> i32 {
        let Err(error) = way(&mut self);
        let code = error.exit_code().unwrap_or(125);
        // Nobody left to tell: then nobody asks for the code either.
        let _ = self.report(&Report::Failed(error));
        code
    }

    fn report(&self, report: &Report) -> Result<(), InitError> {
        tell(&self.report, report)
    }

    /// All else is done for the process whose namespaces these are.
    fn join(&mut self) -> Result<std::convert::Infallible, InitError> {
        let (args, names) = arguments(self.spec)?;
        self.guard()?;
        let input = self.take_input();
        self.fds.clear();
        let root = self.root.try_clone().map_err(InitError::at("keep the root"))?;
        let who = user::look_up(&root, &self.spec.user)?;
        let root = Root::new(root).map_err(InitError::at("look at the root"))?;
        self.filter_calls()?;
        let cwd = format!("/{}", self.spec.cwd);
        let found = tree::find(root.fd(), Path::new(&cwd), As::Handle);
        let found = match found {
            Err(e) if e.raw_os_error() == Some(ELOOP) => {
                return Err(InitError::CwdOutside { cwd: self.spec.cwd.clone() });
            }
            found => found.map_err(InitError::at(format!("open working directory `{cwd}`")))?,
        };
        change_dir(self.spec, &found)?;
        self.settle(&root, &who, input, &args, &names)
    }

    fn enter(&mut self) -> Result<std::convert::Infallible, InitError> {
        let spec = self.spec;
        let (args, names) = arguments(spec)?;
        self.guard()?;
        self.enter_groups()?;
        network::enter(self.place)?;
        let input = self.take_input();
        let root = self.root.try_clone().map_err(InitError::at("keep the root"))?;
        let who = user::look_up(&root, &spec.user)?;
        let mut root = Root::new(root).map_err(InitError::at("look at the root"))?;
        let facts = self.place.map(|p| &p.facts);
        let mounted = mounts::mount_all(spec, &mut root, &mut self.fds, facts);
        // Also after a failure: what was made until then must go.
        if !root.stubs.is_empty() {
            self.report(&Report::Stubs(std::mem::take(&mut root.stubs)))?;
        }
        mounted?;
        self.fds.clear();
        mount::pivot_into(root.fd()).map_err(InitError::at("change the root"))?;
        network::configure(spec.network)?;
        ns::set_hostname(network::hostname(spec)).map_err(InitError::at("set the host name"))?;
        self.filter_calls()?;
        enter_dir(spec, &mut root)?;
        self.settle(&root, &who, input, &args, &names)
    }

    /// What is done last, in the root and in the working folder.
    fn settle(
        &self,
        root: &Root,
        who: &Identity,
        input: Option<OwnedFd>,
        args: &[CString],
        names: &[CString],
    ) -> Result<std::convert::Infallible, InitError> {
        let spec = self.spec;
        ns::set_umask(0o022);
        limits(spec)?;
        self.stdio(root, who, input)?;
        identify(spec, who)?;
        spawn::seal_fds().map_err(InitError::at("close files"))?;
        // Changing the user undid it.
        ns::die_with_parent().map_err(InitError::at("follow the runner"))?;
        self.check_runner()?;
        spawn::default_signals().map_err(InitError::at("reset signals"))?;
        let env = environment(spec, who)?;
        if spec.init {
            init::split().map_err(InitError::at("make a process 1"))?;
        }
        Err(execute(root, spec, args, names, &env))
    }

    /// From here on the death of the runner is this process's own.
    fn guard(&self) -> Result<(), InitError> {
        ns::die_with_parent().map_err(InitError::at("follow the runner"))?;
        self.check_runner()?;
        ns::new_session().map_err(InitError::at("start a session"))
    }

    /// Before anything is made that counts.
    fn enter_groups(&mut self) -> Result<(), InitError> {
        if self.doors.is_empty() {
            return Ok(());
        }
        for door in self.doors.drain(..) {
            cgroup::enter(door).map_err(InitError::at("enter the control group"))?;
        }
        ns::unshare_cgroups().map_err(InitError::at("hide the other control groups"))
    }

    /// The parent's id cannot be asked for: it is in another process namespace. The pipe tells.
    fn check_runner(&self) -> Result<(), InitError> {
        let gone = wait::reader_is_gone(&self.report).map_err(InitError::at("see the runner"))?;
        if gone {
            spawn::exit_now(125);
        }
        Ok(())
    }

    fn filter_calls(&self) -> Result<(), InitError> {
        if self.spec.no_new_privileges {
            ns::no_new_privileges().map_err(InitError::at("set no_new_privs"))?;
        }
        if let (Some(socket), Some(filters)) = (&self.asks, self.filters) {
            let recorded = self.spec.rootfs.owners == Owners::Recorded;
            let filter = if recorded { &filters.owners } else { &filters.nodes };
            match seccomp::load_asking(filter) {
                Ok(listener) => channel::send(socket, b"listen", &[listener.as_fd()])
                    .map_err(InitError::at("tell what to listen to"))?,
                Err(e) if e.raw_os_error() == Some(EBUSY) && recorded => {
                    return Err(InitError::Setup {
                        step: "record owners".into(),
                        reason: "a program around this one answers its system calls already, and \
                                 there can be only one; ranges of ids are needed here (see \
                                 `rgraph doctor`)"
                            .into(),
                    });
                }
                // Somebody around this process listens already; then the kernel has the last word.
                Err(e) if e.raw_os_error() == Some(EBUSY) => {}
                Err(e) => return Err(InitError::at("load the filter that asks")(e)),
            }
        }
        match (self.spec.security, self.filters) {
            (Security::Insecure, _) => Ok(()),
            (Security::Sandbox, Some(filters)) => {
                seccomp::load(&filters.calls).map_err(InitError::at("load the system call filter"))
            }
            (Security::Sandbox, None) => Err(InitError::Setup {
                step: "load the system call filter".into(),
                reason: "no profile for this machine".into(),
            }),
        }
    }

    /// The file that the spec's input names, which must outlive the other files.
    fn take_input(&mut self) -> Option<OwnedFd> {
        let index = match self.spec.input {
            Input::Null => return None,
            Input::Pipe(index) | Input::Terminal { socket: index, .. } => index,
        };
        self.fds.get_mut(index)?.take()
    }

    /// The step's own `/dev/null` or a pipe in, the pipes out; or a terminal.
    fn stdio(&self, root: &Root, who: &Identity, input: Option<OwnedFd>) -> Result<(), InitError> {
        let set = InitError::at("set standard streams");
        if let Input::Terminal { rows, columns, .. } = self.spec.input {
            let terminal = open_terminal(input.as_ref(), rows, columns, who)
                .map_err(InitError::at("make a terminal"))?;
            return (0..3).try_for_each(|n| spawn::set_stdio(n, &terminal)).map_err(set);
        }
        let null = tree::find(root.fd(), Path::new("/dev/null"), As::File)
            .map_err(InitError::at("open /dev/null"))?;
        let input = input.as_ref().unwrap_or(&null);
        [(0, input), (1, &self.stdout), (2, &self.stderr)]
            .into_iter()
            .try_for_each(|(number, fd)| spawn::set_stdio(number, fd))
            .map_err(set)?;
        // A program that is not root opens /dev/stdout anew, and then the owner counts.
        if who.uid != 0 {
            for fd in [&self.stdout, &self.stderr] {
                tree::set_owner(fd, who.uid, who.gid)
                    .map_err(InitError::at(format!("give standard streams to user {}", who.uid)))?;
            }
        }
        Ok(())
    }
}

/// Makes a terminal of the step's own `/dev/pts` the controlling one; its other side is sent away.
fn open_terminal(
    socket: Option<&OwnedFd>,
    rows: u16,
    columns: u16,
    who: &Identity,
) -> std::io::Result<OwnedFd> {
    let socket = socket.ok_or_else(|| std::io::Error::other("nobody to give it to"))?;
    let Pair { ours, theirs } = terminal::open("/dev/pts/ptmx")?;
    terminal::resize(&theirs, rows, columns)?;
    tree::set_owner(&theirs, who.uid, who.gid)?;
    terminal::control(&theirs)?;
    channel::send(socket, b"terminal", &[ours.as_fd()])?;
    Ok(theirs)
}

/// In a process of its own, as [`Child::run`]: what somebody around this program may forbid.
pub(super) fn try_out() -> Result<(), InitError> {
    let at_root = mount::open_dir(Path::new("/")).map_err(InitError::at("open the root"))?;
    let none = AttrFlags::empty();
    mount::filesystem("proc", &[], none).map_err(InitError::at("mount proc"))?;
    let root = mount::filesystem("tmpfs", &[], none).map_err(InitError::at("mount memory"))?;
    mount::attach(&root, &at_root, "root").map_err(InitError::at("attach the root"))?;
    mount::pivot_into(&root).map_err(InitError::at("change the root"))
}

pub(super) fn tell(pipe: &OwnedFd, report: &Report) -> Result<(), InitError> {
    let mut line = serde_json::to_vec(report).map_err(InitError::at("encode a report"))?;
    line.push(b'\n');
    let pipe = pipe.try_clone().map_err(InitError::at("report"))?;
    std::fs::File::from(pipe).write_all(&line).map_err(InitError::at("report"))
}

fn text(what: &str, value: &str) -> Result<CString, InitError> {
    CString::new(value).map_err(|_| InitError::Nul { what: what.to_owned() })
}

/// Arguments, and the paths to try for the program.
fn arguments(spec: &SandboxSpec) -> Result<(Vec<CString>, Vec<CString>), InitError> {
    let args: Vec<CString> =
        spec.args.iter().map(|a| text("an argument", a)).collect::<Result<_, _>>()?;
    let program = match spec.args.first() {
        Some(p) if !p.is_empty() => p,
        _ => return Err(InitError::NoProgram),
    };
    if program.contains('/') {
        return Ok((args, vec![text("the program", program)?]));
    }
    let path = spec.env.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let names = path.split(':').map(|dir| match dir {
        "" => text("PATH", &format!("./{program}")),
        dir => text("PATH", &format!("{dir}/{program}")),
    });
    Ok((args, names.collect::<Result<_, _>>()?))
}

fn environment(spec: &SandboxSpec, who: &Identity) -> Result<Vec<CString>, InitError> {
    let mut env: Vec<CString> =
        spec.env.iter().map(|v| text("a variable", v)).collect::<Result<_, _>>()?;
    if !spec.env.iter().any(|v| v.starts_with("HOME=")) {
        env.push(text("HOME", &format!("HOME={}", who.home))?);
    }
    Ok(env)
}

/// Changes to the working directory, which is made when it is missing. No link of `/proc` is
/// followed, and the result is looked at: a directory of the host must not be reached.
fn enter_dir(spec: &SandboxSpec, root: &mut Root) -> Result<(), InitError> {
    let outside = || InitError::CwdOutside { cwd: spec.cwd.clone() };
    let cwd = match spec.cwd.as_str() {
        "" => "/".to_owned(),
        path => format!("/{path}"),
    };
    let path = Path::new(&cwd);
    let found = match tree::find(root.fd(), path, As::Handle) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // By handle like a mount point, but it is the step's to keep.
            match root.place(&cwd, Kind::Directory) {
                Err(PlaceError::Reserved) => return Err(outside()),
                Err(PlaceError::Io(e)) => {
                    return Err(InitError::at(format!("make working directory `{}`", spec.cwd))(e));
                }
                Ok(made) => made,
            }
        }
        // A link of /proc that leads to an open file, or links in a circle.
        Err(e) if e.raw_os_error() == Some(ELOOP) => return Err(outside()),
        found => found.map_err(InitError::at(format!("open working directory `{}`", spec.cwd)))?,
    };
    change_dir(spec, &found)
}

fn change_dir(spec: &SandboxSpec, found: &OwnedFd) -> Result<(), InitError> {
    ns::change_dir(found)
        .map_err(InitError::at(format!("change to working directory `{}`", spec.cwd)))?;
    let outside = |_| InitError::CwdOutside { cwd: spec.cwd.clone() };
    ns::current_dir().map_err(outside).map(drop)
}

fn limits(spec: &SandboxSpec) -> Result<(), InitError> {
    for limit in &spec.ulimits {
        let which = ns::limit_by_name(&limit.name)
            .ok_or_else(|| InitError::UnknownLimit { name: limit.name.clone() })?;
        ns::set_limit(which, limit.soft, limit.hard)
            .map_err(InitError::at(format!("set limit `{}`", limit.name)))?;
    }
    Ok(())
}

/// Becomes the user and gives up what a step must not have. A user who is not root loses all but
/// the bounding set by the change itself.
fn identify(spec: &SandboxSpec, who: &Identity) -> Result<(), InitError> {
    if spec.security == Security::Sandbox {
        caps::bound(CapSet::DOCKER).map_err(InitError::at("drop capabilities"))?;
    }
    let groups = [&who.groups[..], &spec.groups].concat();
    ns::become_user(who.uid, who.gid, &groups).map_err(InitError::at("become the user"))?;
    if spec.security == Security::Sandbox {
        caps::limit(CapSet::DOCKER).map_err(InitError::at("drop capabilities"))?;
    }
    Ok(())
}

/// Tries the names in turn; returns only why none could be run.
fn execute(
    root: &Root,
    spec: &SandboxSpec,
    args: &[CString],
    names: &[CString],
    env: &[CString],
) -> InitError {
    let program = spec.args[0].clone();
    let mut refused = None;
    for name in names {
        let error = spawn::execute(name, args, env);
        match error.raw_os_error() {
            Some(ENOENT | ENOTDIR) if exists(root, name) => {
                let reason = match foreign(root, name) {
                    Some(machine) => format!(
                        "it is a program for {machine}, and its emulator is not in the image: \
                         register it in binfmt_misc with the flag F"
                    ),
                    None => "it exists, but the interpreter or loader it names does not".into(),
                };
                return InitError::NotFound { program, reason };
            }
            Some(ENOENT | ENOTDIR) => {}
            Some(EACCES) => refused = Some("permission denied".to_owned()),
            Some(ENOEXEC) => {
                let reason = match foreign(root, name) {
                    Some(machine) => format!(
                        "it is a program for {machine}, and this machine has no emulator for it: \
                         install one (package qemu-user-static) and register it in binfmt_misc \
                         with the flag F"
                    ),
                    None => {
                        "exec format error: it is neither a script with `#!` nor a program for \
                             this machine"
                            .into()
                    }
                };
                return InitError::NotExecutable { program, reason };
            }
            _ => return InitError::NotExecutable { program, reason: error.to_string() },
        }
    }
    match refused {
        Some(reason) => InitError::NotExecutable { program, reason },
        None if program.contains('/') => {
            InitError::NotFound { program, reason: "no such file or directory".into() }
        }
        None => {
            InitError::NotFound { program, reason: "executable file not found in $PATH".into() }
        }
    }
}

const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const ENOTDIR: i32 = 20;
const ELOOP: i32 = 40;

fn exists(root: &Root, name: &CString) -> bool {
    name.to_str().is_ok_and(|n| n.starts_with('/'))
        && tree::find(root.fd().as_fd(), Path::new(name.to_str().unwrap_or("/")), As::Handle)
            .is_ok()
}

/// The machine that a program is for, when it is not this one.
fn foreign(root: &Root, name: &CString) -> Option<&'static str> {
    let name = name.to_str().ok().filter(|n| n.starts_with('/'))?;
    let file = tree::find(root.fd().as_fd(), Path::new(name), As::File).ok()?;
    let mut head = [0; machine::HEAD];
    std::fs::File::from(file).read_exact(&mut head).ok()?;
    machine::foreign(&head)
}

/// Splits what a child reported.
pub(super) fn parse_reports(bytes: &[u8]) -> (Vec<Stub>, Option<InitError>) {
    let (mut stubs, mut failed) = (Vec::new(), None);
    for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Report::Stubs(s)) => stubs.extend(s),
            Ok(Report::Failed(e)) => failed = Some(e),
            Err(e) => failed = Some(InitError::at("read the child's report")(e)),
        }
    }
    (stubs, failed)
}
