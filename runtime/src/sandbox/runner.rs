//! The runner process: one thread that makes a child per step and tells how it ended.
//!
//! It lives as long as its socket's other end. Each step has a socket of its own, on which it
//! answers; when that is closed the step is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_sys::caps::CapSet;
use rgraph_sys::seccomp::{Arch, Program};
use rgraph_sys::spawn::{self, Ended, Namespaces, PidFd};
use rgraph_sys::{channel, mount, ns, wait};
use serde::{Deserialize, Serialize};

use super::cgroup::{Group, Groups, Hit};
use super::error::InitError;
use super::network::{self, Place, Purpose, Router};
use super::nodes::Desk;
use super::spec::{Network, Rootfs, SandboxSpec, Security};
use super::{init, rootfs};

/// The program name by which the own binary knows that it shall be the runner.
pub(super) const ARGV0: &std::ffi::CStr = c"rgraph-runner";
/// Longest description of a step, bytes.
const MAX_SPEC: u64 = 64 << 20;

/// The runner's first word.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Hello {
    /// Steps can be given.
    Ready,
    /// No step can be run, for this reason.
    Unable(String),
}

/// The runner's words about one step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It has a process; the pidfd comes with it.
    Started,
    /// There will be no process.
    Refused(InitError),
    /// It has ended. Nothing of it is left.
    Done(Done),
}

/// A step's end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Done {
    pub end: End,
    /// The limit of its control group that it ran into.
    pub hit: Option<Hit>,
}

/// How a step ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum End {
    /// Exit code.
    Exited(i32),
    /// Signal.
    Signalled(i32),
    /// It did not begin.
    NotStarted(InitError),
}

/// The message that asks for a step; with it come, in this order: where to answer, the spec, the
/// step's stdout and stderr, and the files that the spec refers to.
pub(super) const RUN: &[u8] = b"run";

/// The message that asks for private networks; with it comes where to answer. The answer is a
/// `Result<Vec<String>, NoNetwork>`: what was changed on the host, or why there are none.
pub(super) const CONNECT: &[u8] = b"connect";

/// As [`CONNECT`], changing nothing. The answer is a `Result<String, NoNetwork>`.
pub(super) const PROBE: &[u8] = b"probe";

/// Is the runner when this process was started as one, and then does not return.
///
/// To be called first in `main`, before there is a second thread and before anything is opened.
pub fn runner_main_if_asked() {
    let asked =
        std::env::args_os().next().is_some_and(|a| a.as_encoded_bytes() == ARGV0.to_bytes());
    if asked {
        let code = spawn::take_inherited().map_or(2, |control| serve(&control));
        spawn::exit_now(code);
    }
}

fn serve(control: &OwnedFd) -> i32 {
    let prepared = ns::unshare_mounts()
        .map_err(|e| format!("no mount namespace: {e}"))
        .and_then(|()| mount::make_all_private().map_err(|e| format!("{e}: {}", e.source)));
    let unable = prepared.is_err();
    if !tell(control, &prepared.map_or_else(Hello::Unable, |()| Hello::Ready), &[]) || unable {
        return 1;
    }
    let filters = Arch::native().map(|arch| Filters {
        calls: Program::docker_default(arch, CapSet::DOCKER),
        nodes: Program::device_nodes(arch),
    });
    let mut steps: Vec<Step> = Vec::new();
    let mut router: Option<Router> = None;
    let mut groups = Groups::default();
    groups.sweep();
    loop {
        let mut fds: Vec<BorrowedFd<'_>> = vec![control.as_fd()];
        for step in &steps {
            fds.push(step.pid.as_fd());
            // A socket whose other end is gone would be readable for ever.
            fds.extend(step.reply.as_ref().map(AsFd::as_fd));
            fds.extend(step.desk.fd());
        }
        let Ok(ready) = wait::readable(&fds, None) else { break };
        drop(fds);
        let mut ready = ready.into_iter();
        let asked = ready.next().unwrap_or(false);
        let mut running = Vec::with_capacity(steps.len());
        for mut step in steps {
            let ended = ready.next().unwrap_or(false);
            if step.reply.is_some() && ready.next().unwrap_or(false) {
                // Nothing is ever said on it by the other side, so this is its end.
                let _ = step.pid.kill();
                step.reply = None;
            }
            if step.desk.fd().is_some() && ready.next().unwrap_or(false) {
                step.desk.attend();
            }
            if ended { step.finish(&mut router) } else { running.push(step) }
        }
        steps = running;
        if asked {
            match channel::receive(control) {
                Ok(Some((bytes, fds))) if bytes == RUN => {
                    steps.extend(Step::begin(fds, filters.as_ref(), &mut router, &mut groups));
                }
                Ok(Some((bytes, fds))) if bytes == CONNECT => connect(&mut router, &fds),
                Ok(Some((bytes, fds))) if bytes == PROBE => {
                    fds.first().map(|reply| tell(reply, &Router::probe(), &[]));
                }
                _ => break,
            }
        }
    }
    for step in &steps {
        let _ = step.pid.kill();
    }
    for step in steps {
        step.finish(&mut router);
    }
    0
}

fn connect(router: &mut Option<Router>, reply: &[OwnedFd]) {
    let answer = match router {
        Some(_) => Ok(Vec::new()),
        None => Router::start(Purpose::Steps).map(|(started, notes)| {
            *router = Some(started);
            notes
        }),
    };
    // Nobody to hear it: then nobody waits for it.
    reply.first().map(|reply| tell(reply, &answer, &[]));
}

fn tell(socket: &OwnedFd, word: &impl Serialize, fds: &[BorrowedFd<'_>]) -> bool {
    serde_json::to_vec(word).is_ok_and(|bytes| {
        let bytes = if bytes.len() <= channel::MAX_MESSAGE { bytes } else { TOO_LONG.to_vec() };
        channel::send(socket, &bytes, fds).is_ok()
    })
}

/// Sent for an error whose text does not fit (a program name of the image's making).
const TOO_LONG: &[u8] =
    br#"{"Done":{"end":{"NotStarted":{"Setup":{"step":"start the step","reason":"error text too long"}}},"hit":null}}"#;

/// The filters of system calls, compiled.
pub(super) struct Filters {
    /// What a step may call.
    pub calls: Program,
    /// What is done for it.
    pub nodes: Program,
}

/// A step with a process.
struct Step {
    pid: PidFd,
    reply: Option<OwnedFd>,
    report: OwnedFd,
    root: OwnedFd,
    rootfs: Rootfs,
    place: Option<Place>,
    /// It could not change its network.
    confined: bool,
    group: Option<Group>,
    desk: Desk,
}

impl Step {
    /// Makes the child. `None`: there is none, and the other side knows or is gone.
    fn begin(
        fds: Vec<OwnedFd>,
        filters: Option<&Filters>,
        router: &mut Option<Router>,
        groups: &mut Groups,
    ) -> Option<Self> {
        let mut fds = fds.into_iter();
        let reply = fds.next()?;
        match Self::try_begin(fds, filters, router, groups) {
            Ok(mut step) => {
                tell(&reply, &Reply::Started, &[step.pid.as_fd()]);
                step.reply = Some(reply);
                Some(step)
            }
            Err(error) => {
                tell(&reply, &Reply::Refused(error), &[]);
                None
            }
        }
    }

    fn try_begin(
        mut fds: std::vec::IntoIter<OwnedFd>,
        filters: Option<&Filters>,
        router: &mut Option<Router>,
        groups: &mut Groups,
    ) -> Result<Self, InitError> {
        let (Some(spec), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
            let reason = "files are missing in the message".into();
            return Err(InitError::Setup { step: "start the step".into(), reason });
        };
        let spec = channel::unpack(spec, MAX_SPEC).map_err(InitError::at("read the step"))?;
        let spec: SandboxSpec =
            serde_json::from_slice(&spec).map_err(InitError::at("read the step"))?;
        let root = rootfs::assemble(&spec.rootfs).map_err(InitError::at("mount the root"))?;
        let (mut report, report_end) =
            channel::pipe().map_err(InitError::at("make a pipe for the child"))?;
        for end in [&report, &report_end] {
            // The child must not wait for the runner, which reads only when the child has ended.
            channel::set_nonblocking(end).map_err(InitError::at("prepare the child's pipe"))?;
        }
        let place = match (spec.network, router) {
            (Network::Private, Some(router)) => Some(router.take()?),
            (Network::Private, None) => {
                let reason = "it was not asked for before".into();
                return Err(InitError::Setup { step: "make a network".into(), reason });
            }
            (Network::Host | Network::None, _) => None,
        };
        let group = match spec.limits.is_none() {
            true => None,
            false => Some(groups.make(&spec.limits).map_err(InitError::no_limits)?),
        };
        let doors = group.as_ref().map_or(Ok(Vec::new()), Group::doors);
        let doors = doors.map_err(InitError::no_limits)?;
        let namespaces =
            Namespaces { network: network::own(spec.network), later_cgroup: group.is_some() };
        let (desk, asks) = if spec.rootfs.userxattr {
            let (ours, theirs) = channel::pair().map_err(InitError::at("make a socket"))?;
            (Desk::Awaited(ours), Some(theirs))
        } else {
            (Desk::Closed, None)
        };
        let (reading, root_of_child) = (&mut report, &root);
        let pid = spawn::clone_child(namespaces, || {
            // The copy's own reading end would hide that the runner is gone.
            if spawn::disarm(reading).is_err() {
                return 125;
            }
            let Ok(root) = root_of_child.try_clone() else { return 125 };
            let fds = fds.map(Some).collect();
            let place = place.as_ref();
            let report = report_end;
            let child = init::Child {
                spec: &spec,
                root,
                fds,
                stdout,
                stderr,
                report,
                place,
                doors,
                filters,
                asks,
            };
            child.run()
        })
        .map_err(InitError::at("make a process"))?;
        let confined = spec.security == Security::Sandbox;
        let rootfs = spec.rootfs;
        Ok(Self { pid, reply: None, report, root, rootfs, place, confined, group, desk })
    }

    /// The process has ended or is about to: cleans up and tells.
    fn finish(self, router: &mut Option<Router>) {
        let ended = self.pid.wait();
        if let (Some(place), Some(router)) = (self.place, router) {
            router.give_back(place, self.confined);
        }
        let (stubs, failed) = init::parse_reports(&init::read_reports(&self.report));
        rootfs::clean(self.root, &stubs, &self.rootfs);
        let end = match (failed, ended) {
            (Some(error), _) => End::NotStarted(error),
            (None, Ok(Ended::Exited(code))) => End::Exited(code),
            (None, Ok(Ended::Signalled(signal))) => End::Signalled(signal),
            (None, Err(e)) => End::NotStarted(InitError::at("wait for the process")(e)),
        };
        let hit = self.group.as_ref().and_then(Group::hit);
        // Gone before anybody hears of the end.
        drop(self.group);
        if let Some(reply) = &self.reply {
            tell(reply, &Reply::Done(Done { end, hit }), &[]);
        }
    }
}
