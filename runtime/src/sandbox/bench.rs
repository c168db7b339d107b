//! What a process needs to make steps: the compiled filters, the way to a network, control groups; and
//! a step that was made there. The runner has one, and so has the supervisor of a container.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_sys::caps::CapSet;
use rgraph_sys::seccomp::{Arch, Program};
use rgraph_sys::spawn::{self, Ended, Namespaces, PidFd};
use rgraph_sys::{channel, mount, netns, ns};
use serde::{Deserialize, Serialize};

use super::cgroup::{Group, Groups, Hit};
use super::error::InitError;
use super::network::{self, Anchor, NoNetwork, Pasta, Place, Purpose, Router};
use super::nodes::Desk;
use super::spec::{Network, Rootfs, SandboxSpec, Security};
use super::{init, rootfs};

/// A step's end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub end: End,
    /// The limit of its control group that it ran into.
    pub hit: Option<Hit>,
}

/// How a step ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum End {
    /// Exit code.
    Exited(i32),
    /// Signal.
    Signalled(i32),
    /// It did not begin.
    NotStarted(InitError),
}

/// The filters of system calls, compiled.
pub(super) struct Filters {
    /// What a step may call.
    pub calls: Program,
    /// What is done for it.
    pub nodes: Program,
    /// What is done for it where owners are recorded.
    pub owners: Program,
}

/// Where steps are made. Its process has one thread.
pub(crate) struct Bench {
    filters: Option<Filters>,
    router: Option<Router>,
    /// What is left of a router, for the networks that it made.
    uplink: Option<Pasta>,
    groups: Groups,
    /// Networks that others may be connected to, by number.
    anchors: BTreeMap<u32, Anchor>,
    /// This process is in the network that its step is to have.
    alone: bool,
}

/// A process whose mounts are its own, in which steps can be made.
pub(crate) struct Separated(());

/// Separates this process's mounts from the host's.
///
/// # Errors
/// Why no step can be made here, in words.
pub(crate) fn separate() -> Result<Separated, String> {
    ns::unshare_mounts().map_err(|e| format!("no mount namespace: {e}"))?;
    mount::make_all_private().map_err(|e| format!("{e}: {}", e.source))?;
    Ok(Separated(()))
}

impl Bench {
    /// Compiles what steps need, and removes groups that killed ones left.
    pub fn new(_: Separated) -> Self {
        let filters = Arch::native().map(|arch| Filters {
            calls: Program::docker_default(arch, CapSet::DOCKER),
            nodes: Program::device_nodes(arch),
            owners: Program::owners(arch),
        });
        let mut groups = Groups::default();
        groups.sweep();
        let anchors = BTreeMap::new();
        Self { filters, router: None, uplink: None, groups, anchors, alone: false }
    }

    /// The one step that will be made here is to have a network that leads nowhere: this process moves
    /// into it, while nobody waits for that.
    ///
    /// # Errors
    /// There can be none.
    pub fn isolate(&mut self) -> std::io::Result<()> {
        netns::enter_new()?;
        self.alone = true;
        Ok(())
    }

    /// Makes private networks possible. Gives what was changed on the host for it; nothing the
    /// second time.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn connect(&mut self) -> Result<Vec<String>, NoNetwork> {
        if self.router.is_some() {
            return Ok(Vec::new());
        }
        let (router, notes) = Router::start(Purpose::Steps)?;
        self.router = Some(router);
        Ok(notes)
    }

    /// Tries what a program around this one may forbid steps to do.
    ///
    /// # Errors
    /// What it forbids.
    pub fn probe() -> Result<(), InitError> {
        let (said, told) = channel::pipe().map_err(InitError::at("make a pipe"))?;
        let copy = spawn::clone_child(Namespaces::default(), || {
            let Err(e) = init::try_out() else { return 0 };
            init::tell(&told, &init::Report::Failed(e)).map_or(1, |()| 0)
        });
        let copy = copy.map_err(InitError::at("make a process"))?;
        drop(told);
        let ended = copy.wait().map_err(InitError::at("wait for the process"))?;
        let mut bytes = vec![0; 4096];
        let n = channel::read(&said, &mut bytes).map_err(InitError::at("hear of the process"))?;
        match (init::parse_reports(&bytes[..n]).1, ended) {
            (Some(e), _) => Err(e),
            (None, Ended::Exited(0)) => Ok(()),
            (None, _) => {
                let silent = io::Error::other("its process ended without a word");
                Err(InitError::at("try a step out")(silent))
            }
        }
    }

    /// No step will ask for another network: ends what is not needed for those that there are.
    pub fn no_more_networks(&mut self) {
        self.uplink = self.router.take().and_then(Router::end);
    }

    /// Makes a step's process. `fds` is what the spec refers to by index.
    ///
    /// # Errors
    /// There is no process. What goes wrong in the process comes from [`Step::finish`].
    pub fn begin(
        &mut self,
        spec: &SandboxSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        fds: Vec<OwnedFd>,
    ) -> Result<Step, InitError> {
        let root = rootfs::assemble(&spec.rootfs, &fds).map_err(InitError::no_root)?;
        let (mut report, report_end) =
            channel::pipe().map_err(InitError::at("make a pipe for the child"))?;
        for end in [&report, &report_end] {
            // The child must not wait for the runner, which may read only when the child has ended.
            channel::set_nonblocking(end).map_err(InitError::at("prepare the child's pipe"))?;
        }
        let place = match (spec.network, &mut self.router) {
            (Network::Private, Some(router)) => {
                let mut place = router.take()?;
                for (number, name) in &spec.reaches {
                    let to = self.anchors.get(number).ok_or_else(|| InitError::Setup {
                        step: format!("connect the step to `{name}`"),
                        reason: "it has ended".into(),
                    })?;
                    router.link(&mut place, to, name)?;
                }
                Some(place)
            }
            (Network::Private, None) => {
                let reason = "it was not asked for before".into();
                return Err(InitError::Setup { step: "make a network".into(), reason });
            }
            (Network::Host | Network::None, _) => None,
        };
        let group = match spec.limits.is_none() {
            true => None,
            false => Some(self.groups.make(&spec.limits).map_err(InitError::no_limits)?),
        };
        let doors = group.as_ref().map_or(Ok(Vec::new()), Group::doors);
        let doors = doors.map_err(InitError::no_limits)?;
        let namespaces = Namespaces {
            network: network::own(spec.network) && !self.alone,
            later_cgroup: group.is_some(),
        };
        let (desk, asks) = if spec.rootfs.userxattr {
            let (ours, theirs) = channel::pair().map_err(InitError::at("make a socket"))?;
            (Desk::Awaited(ours, spec.rootfs.owners), Some(theirs))
        } else {
            (Desk::Closed, None)
        };
        // Before there is a process that a failure would leave behind.
        let anchor = match (spec.serves, &place) {
            (Some(number), Some(place)) => {
                let anchor = place.anchor().map_err(InitError::at("keep the network"))?;
                Some((number, anchor))
            }
            _ => None,
        };
        let (reading, root_of_child, filters) = (&mut report, &root, self.filters.as_ref());
        let pid = spawn::clone_child(namespaces, || {
            // The copy's own reading end would hide that the runner is gone.
            if spawn::disarm(reading).is_err() {
                return 125;
            }
            let Ok(root) = root_of_child.try_clone() else { return 125 };
            let fds = fds.into_iter().map(Some).collect();
            let place = place.as_ref();
            let report = report_end;
            let child = init::Child {
                spec,
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
        self.anchors.extend(anchor);
        let confined = spec.security == Security::Sandbox;
        let root = Some((root, spec.rootfs.clone()));
        let reported = Vec::new();
        let serves = spec.serves;
        Ok(Step { pid, report, reported, root, place, serves, confined, group, desk })
    }

    /// Makes one more process in the namespaces and control groups of a step, with the rights that
    /// `spec` says; its root, mounts and network are the step's. `fds` as for [`Self::begin`].
    ///
    /// # Errors
    /// As [`Self::begin`]; the step may have ended.
    pub fn join(
        &self,
        step: &Step,
        spec: &SandboxSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
        fds: Vec<OwnedFd>,
    ) -> Result<Step, InitError> {
        let (mut report, report_end) =
            channel::pipe().map_err(InitError::at("make a pipe for the process"))?;
        for end in [&report, &report_end] {
            channel::set_nonblocking(end).map_err(InitError::at("prepare the process's pipe"))?;
        }
        let doors = step.group.as_ref().map_or(Ok(Vec::new()), Group::doors);
        let doors = doors.map_err(InitError::no_limits)?;
        let (desk, asks) = if spec.rootfs.userxattr {
            let (ours, theirs) = channel::pair().map_err(InitError::at("make a socket"))?;
            (Desk::Awaited(ours, spec.rootfs.owners), Some(theirs))
        } else {
            (Desk::Closed, None)
        };
        let (mut ours, theirs) = channel::pair().map_err(InitError::at("make a socket"))?;
        let (reading, filters) = (&mut report, self.filters.as_ref());
        // One that goes into the namespaces and is not yet in that of processes; its child is.
        let between = spawn::copy_self(|| {
            if spawn::disarm(reading).and_then(|()| spawn::disarm(&mut ours)).is_err() {
                return 125;
            }
            let fds = fds.into_iter().map(Some).collect();
            let child =
                init::Joining { spec, fds, stdout, stderr, report: report_end, filters, asks };
            child.enter(&step.pid, doors, &theirs)
        })
        .map_err(InitError::at("make a process"))?;
        // Its end is an answer too.
        drop(theirs);
        let heard = channel::receive(&ours).map_err(InitError::at("hear of the process"));
        let _ = between.wait();
        let pid = heard?.and_then(|(_, fds)| fds.into_iter().next()).map(PidFd::from_fd);
        let mut step = Step {
            pid: pid.ok_or_else(|| joined_nothing(&report))?,
            report,
            reported: Vec::new(),
            root: None,
            place: None,
            serves: None,
            confined: true,
            group: None,
            desk,
        };
        step.has_begun();
        Ok(step)
    }
}

/// Why there is no process, as far as it was said.
fn joined_nothing(report: &OwnedFd) -> InitError {
    let mut said = vec![0; 4096];
    let n = channel::read(report, &mut said).unwrap_or(0);
    said.truncate(n);
    init::parse_reports(&said).1.unwrap_or_else(|| InitError::Setup {
        step: "join the container".into(),
        reason: "it has ended".into(),
    })
}

/// A step with a process.
pub(crate) struct Step {
    pid: PidFd,
    report: OwnedFd,
    reported: Vec<u8>,
    /// Its root file system; `None`: it is in another's.
    root: Option<(OwnedFd, Rootfs)>,
    place: Option<Place>,
    /// Its number, when others may be connected to it.
    serves: Option<u32>,
    /// It could not change its network.
    confined: bool,
    group: Option<Group>,
    desk: Desk,
}

impl Step {
    /// Its process.
    pub fn pid(&self) -> &PidFd {
        &self.pid
    }

    /// Readable when [`Self::attend`] has something to do.
    pub fn desk(&self) -> Option<BorrowedFd<'_>> {
        self.desk.fd()
    }

    /// Does what there is to do for it, without waiting.
    pub fn attend(&mut self) {
        self.desk.attend(&self.pid);
    }

    /// Readable when [`Self::has_begun`] has something to say.
    pub fn report(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// True when its own program runs, or it has ended: it says no more.
    pub fn has_begun(&mut self) -> bool {
        let mut buf = [0; 4096];
        loop {
            match channel::read(&self.report, &mut buf) {
                Ok(n @ 1..) => self.reported.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// True when it said that its program cannot be run.
    pub fn has_failed(&self) -> bool {
        init::parse_reports(&self.reported).1.is_some()
    }

    /// The process has ended or is about to: cleans up.
    pub fn finish(mut self, bench: &mut Bench) -> Done {
        let ended = self.pid.wait();
        // It is in the step's mounts.
        self.desk = Desk::Closed;
        let served = self.serves.and_then(|number| bench.anchors.remove(&number));
        if let (Some(place), Some(router)) = (self.place.take(), &mut bench.router) {
            router.give_back(place, self.confined && served.is_none());
        }
        self.has_begun();
        let (stubs, failed) = init::parse_reports(&self.reported);
        if let Some((root, rootfs)) = self.root {
            rootfs::clean(root, &stubs, &rootfs);
        }
        let end = match (failed, ended) {
            (Some(error), _) => End::NotStarted(error),
            (None, Ok(Ended::Exited(code))) => End::Exited(code),
            (None, Ok(Ended::Signalled(signal))) => End::Signalled(signal),
            (None, Err(e)) => End::NotStarted(InitError::at("wait for the process")(e)),
        };
        // Its group is gone before anybody hears of the end.
        Done { end, hit: self.group.as_ref().and_then(Group::hit) }
    }
}
