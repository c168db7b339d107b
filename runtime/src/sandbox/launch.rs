//! The build's side: starting the runner, handing steps to it and following them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rgraph_solver::cancel::CancelToken;
use rgraph_sys::channel;
use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::wait::{self, Flag};

use super::bench::{Done, End};
use super::cgroup::Hit;
use super::error::{InitError, SandboxError};
use super::network::NoNetwork;
use super::runner::{self, Hello, Reply};
use super::spec::SandboxSpec;

/// The process that makes the steps' processes: one per build, started when the first step needs
/// it. Shared by all threads. Dropping it kills the steps that still run.
#[derive(Debug)]
pub struct Runner {
    /// Taken when dropped: its end is the runner's. Or when it was let go.
    control: Option<OwnedFd>,
    process: spawn::Child,
}

impl Runner {
    /// Starts it. The program's `main` must begin with [`super::runner_main_if_asked`].
    ///
    /// # Errors
    /// [`SandboxError::StartRunner`], [`SandboxError::PrepareRunner`] when this process may not
    /// make namespaces or mounts, [`SandboxError::RunnerDied`].
    pub fn start() -> Result<Self, SandboxError> {
        Starting::call(runner::ARGV0)?.ready()
    }

    /// Lets it live on when this process has ended. What is said to it from now on is its own affair.
    pub(crate) fn let_go(mut self) -> OwnedFd {
        self.control.take().expect("taken only by drop, and here")
    }

    fn control(&self) -> &OwnedFd {
        self.control.as_ref().expect("taken only by drop")
    }

    /// The runner's process id, for diagnosis.
    pub fn id(&self) -> i32 {
        self.process.id()
    }

    /// Makes private networks possible, which a step of [`super::Network::Private`] needs. Gives
    /// what was changed on the host for it, in words; nothing when this was asked before.
    ///
    /// # Errors
    /// The inner one says why there can be none here; the outer one is about the runner.
    pub fn connect(&self) -> Result<Result<Vec<String>, NoNetwork>, SandboxError> {
        Connecting(self.ask(runner::CONNECT)?).done()
    }

    /// Whether [`Self::connect`] would work; changes nothing. Says how, in words.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn probe_network(&self) -> Result<Result<String, NoNetwork>, SandboxError> {
        Ok(hear(&self.ask(runner::PROBE)?)?.0)
    }

    /// Whether steps can run, which the limits of a container around this program may forbid.
    ///
    /// # Errors
    /// The inner one says why they cannot; the outer one is about the runner.
    pub fn probe(&self) -> Result<Result<(), InitError>, SandboxError> {
        Ok(hear(&self.ask(runner::TRY_OUT)?)?.0)
    }

    /// Asks; the answer comes from what is given back.
    fn ask(&self, what: &[u8]) -> Result<OwnedFd, SandboxError> {
        let talk = |what| move |e| SandboxError::Talk(what, e);
        let (reply, theirs) =
            channel::pair().map_err(talk("make a socket to ask the sandbox runner"))?;
        channel::send(self.control(), what, &[theirs.as_fd()])
            .map_err(talk("ask the sandbox runner"))?;
        Ok(reply)
    }

    /// Starts a step. `fds` is what the spec's mounts refer to by index: contents of files, and
    /// detached mounts.
    ///
    /// # Errors
    /// [`SandboxError::Init`] when there could be no process; what goes wrong later comes from
    /// [`Running::wait`].
    pub fn launch(&self, spec: &SandboxSpec, fds: Vec<OwnedFd>) -> Result<Running, SandboxError> {
        let talk = |what| move |e| SandboxError::Talk(what, e);
        let encoded = serde_json::to_vec(spec).map_err(SandboxError::Encode)?;
        let encoded = channel::parcel(&encoded).map_err(talk("describe the step"))?;
        let (reply, their_reply) = channel::pair().map_err(talk("make a socket for the step"))?;
        let (stdout, their_stdout) = channel::pipe().map_err(talk("make a pipe for the step"))?;
        let (stderr, their_stderr) = channel::pipe().map_err(talk("make a pipe for the step"))?;
        for end in [&stdout, &stderr] {
            channel::set_nonblocking(end).map_err(talk("prepare a pipe"))?;
        }
        let all: Vec<BorrowedFd<'_>> = [&their_reply, &encoded, &their_stdout, &their_stderr]
            .into_iter()
            .chain(&fds)
            .map(AsFd::as_fd)
            .collect();
        match channel::send(self.control(), runner::RUN, &all) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                return Err(SandboxError::RunnerDied);
            }
            sent => sent.map_err(talk("hand the step to the sandbox runner"))?,
        }
        // Our copies, or the ends would never be seen.
        drop((their_reply, their_stdout, their_stderr));
        match hear(&reply)? {
            (Reply::Started, Some(pid)) => Ok(Running {
                reply,
                pid: PidFd::from_fd(pid),
                stdout: Some(stdout),
                stderr: Some(stderr),
                grace: spec.grace,
            }),
            (Reply::Refused(e), _) => Err(e.into()),
            (Reply::Started | Reply::Done(_), _) => Err(SandboxError::RunnerDied),
        }
    }
}

/// A runner that has been started and has not said yet whether it can make steps: whoever started it
/// has something else to do meanwhile.
#[derive(Debug)]
pub(crate) struct Starting(Runner);

impl Starting {
    /// Starts a copy of this program that knows by `argv0` what it is to be, and begins as the runner
    /// does ([`runner::greet`]).
    pub fn call(argv0: &std::ffi::CStr) -> Result<Self, SandboxError> {
        let (control, theirs) = channel::pair().map_err(SandboxError::StartRunner)?;
        let process = spawn::spawn_self(argv0, &theirs).map_err(SandboxError::StartRunner)?;
        Ok(Self(Runner { control: Some(control), process }))
    }

    /// As [`Runner::connect`], without waiting. What is wrong with the runner itself comes from
    /// [`Self::ready`], which is to be asked first.
    pub fn connect(&self) -> Result<Connecting, SandboxError> {
        self.0.ask(runner::CONNECT).map(Connecting)
    }

    /// Says that its one step will have a network that leads nowhere.
    pub fn isolate(&self) -> Result<(), SandboxError> {
        channel::send(self.0.control(), runner::ISOLATE, &[])
            .map_err(|e| SandboxError::Talk("ask the sandbox runner for no network", e))
    }

    /// Waits until steps can be made.
    pub fn ready(self) -> Result<Runner, SandboxError> {
        match hear(self.0.control())? {
            (Hello::Ready, _) => Ok(self.0),
            (Hello::Unable(reason), _) => Err(SandboxError::PrepareRunner(reason)),
        }
    }
}

/// Private networks that were asked for.
#[derive(Debug)]
pub(crate) struct Connecting(OwnedFd);

impl Connecting {
    /// Waits for the answer, which is that of [`Runner::connect`].
    pub fn done(self) -> Result<Result<Vec<String>, NoNetwork>, SandboxError> {
        Ok(hear(&self.0)?.0)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.control.take().is_some() {
            // It ends as soon as the kernel has killed its steps; an error means it is gone already.
            let _ = self.process.wait();
        }
    }
}

/// Waits for one word and a file that may come with it.
fn hear<T: serde::de::DeserializeOwned>(
    socket: &OwnedFd,
) -> Result<(T, Option<OwnedFd>), SandboxError> {
    let heard = channel::receive(socket)
        .map_err(|e| SandboxError::Talk("hear from the sandbox runner", e))?;
    let (bytes, fds) = heard.ok_or(SandboxError::RunnerDied)?;
    let word = serde_json::from_slice(&bytes)
        .map_err(|e| SandboxError::Talk("understand the sandbox runner", e.into()))?;
    Ok((word, fds.into_iter().next()))
}

/// A stream of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A step that has a process. Dropping it kills the step.
#[derive(Debug)]
pub struct Running {
    reply: OwnedFd,
    pid: PidFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    grace: std::time::Duration,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What its process came to.
    pub outcome: Outcome,
    /// The limit of its control group that it ran into.
    pub hit: Option<Hit>,
    /// Why it was asked to end before it did so by itself.
    pub stopped: Option<Stopped>,
}

/// Why a step was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The build was cancelled.
    Cancelled,
    /// Its time was over.
    TimedOut,
}

/// What a step's process came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with this exit code.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
    /// The step's own program never ran.
    NotStarted(InitError),
}

impl Outcome {
    /// The code a shell would give: 128 and the signal for a killed process, 127 and 126 for a
    /// program that cannot be run; `None` when it was not the command's fault.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(*code),
            Self::Signalled(signal) => Some(128 + signal),
            Self::NotStarted(error) => error.exit_code(),
        }
    }
}

impl Running {
    /// The step's process, to be waited for with `poll`; only the runner learns its exit code.
    pub fn pidfd(&self) -> &PidFd {
        &self.pid
    }

    /// Takes over reading a stream; [`Self::wait`] then leaves it alone. Not to read it at all
    /// stops a step that writes more than the pipe holds. The descriptor does not block.
    pub fn take_stream(&mut self, stream: Stream) -> Option<OwnedFd> {
        match stream {
            Stream::Stdout => self.stdout.take(),
            Stream::Stderr => self.stderr.take(),
        }
    }

    /// Follows the step to its end on the calling thread, handing on what it writes as it comes.
    ///
    /// When `cancel` is cancelled, or at `deadline`, the step is asked to end (SIGTERM) and killed with
    /// all its processes after the grace period; at once when it would not notice the request, as process
    /// 1 of its namespace without a handler.
    ///
    /// # Errors
    /// [`SandboxError::RunnerDied`], or that talking to it failed. A step that failed is no error.
    pub fn wait(
        mut self,
        cancel: &CancelToken,
        deadline: Option<Instant>,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Finished, SandboxError> {
        let talk = |what| move |e| SandboxError::Talk(what, e);
        let flag = Arc::new(Flag::new().map_err(talk("prepare for cancelling"))?);
        let waker = flag.clone();
        let _registered = cancel.on_cancel(move || waker.set());
        let mut stopped: Option<Stopped> = None;
        let mut kill_at: Option<Instant> = None;
        let mut buf = vec![0; 64 << 10];
        loop {
            let now = Instant::now();
            if kill_at.is_some_and(|at| at <= now) {
                self.pid.kill().map_err(talk("kill the step"))?;
                kill_at = None;
            }
            let next = kill_at.or(deadline.filter(|_| stopped.is_none()));
            let timeout = next.map(|at| at.saturating_duration_since(now));
            let mut fds = vec![self.reply.as_fd()];
            // Once set it stays readable.
            if stopped.is_none() {
                fds.push(flag.as_fd());
            }
            fds.extend([&self.stdout, &self.stderr].into_iter().flatten().map(AsFd::as_fd));
            let ready = wait::readable(&fds, timeout).map_err(talk("wait for the step"))?;
            let ended = ready[0];
            let over = || !ended && deadline.is_some_and(|at| at <= Instant::now());
            let asked = match stopped {
                None if ready[1] => Some(Stopped::Cancelled),
                None if over() => Some(Stopped::TimedOut),
                _ => None,
            };
            self.pump(&mut buf, output);
            if asked.is_some() {
                stopped = asked;
                if self.pid.handles_terminate() {
                    self.pid.terminate().map_err(talk("ask the step to end"))?;
                    kill_at = Instant::now().checked_add(self.grace);
                } else {
                    self.pid.kill().map_err(talk("kill the step"))?;
                }
            }
            if ended {
                let (word, _) = hear(&self.reply)?;
                // All writers are dead, so what is in the pipes now is all there will be.
                while self.pump(&mut buf, output) {}
                let (end, hit) = match word {
                    Reply::Done(Done { end, hit }) => (end, hit),
                    Reply::Refused(e) => (End::NotStarted(e), None),
                    Reply::Started => continue,
                };
                let outcome = match end {
                    End::Exited(code) => Outcome::Exited(code),
                    End::Signalled(signal) => Outcome::Signalled(signal),
                    End::NotStarted(e) => Outcome::NotStarted(e),
                };
                return Ok(Finished { outcome, hit, stopped });
            }
        }
    }

    /// Reads each stream once; false when nothing was there.
    fn pump(&mut self, buf: &mut [u8], output: &mut dyn FnMut(Stream, &[u8])) -> bool {
        let mut some = false;
        let streams = [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)];
        for (stream, slot) in streams {
            let Some(fd) = slot else { continue };
            match channel::read(fd, buf) {
                Ok(n @ 1..) => {
                    output(stream, &buf[..n]);
                    some = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The end; polling it again would return at once for ever.
                Ok(_) | Err(_) => *slot = None,
            }
        }
        some
    }
}
