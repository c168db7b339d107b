//! The runner process: one thread that makes a child per step and tells how it ended.
//!
//! It lives as long as its socket's other end. Each step has a socket of its own, on which it
//! answers; when that is closed the step is killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_sys::{channel, spawn, wait};
use serde::{Deserialize, Serialize};

use super::bench::{self, Bench, Done, Step};
use super::error::InitError;
use super::network::Router;
use super::spec::SandboxSpec;

/// The program name by which the own binary knows that it shall be the runner.
pub(super) const ARGV0: &std::ffi::CStr = c"rgraph-runner";
/// Longest description of a step, bytes.
pub(crate) const MAX_SPEC: u64 = 64 << 20;

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

/// The message that asks for a step; with it come, in this order: where to answer, the spec, the
/// step's stdout and stderr, and the files that the spec refers to.
pub(super) const RUN: &[u8] = b"run";

/// The message that asks for private networks; with it comes where to answer. The answer is a
/// `Result<Vec<String>, NoNetwork>`: what was changed on the host, or why there are none.
pub(crate) const CONNECT: &[u8] = b"connect";

/// The message that says that all steps will have a network that leads nowhere; there is no answer.
pub(crate) const ISOLATE: &[u8] = b"isolate";

/// As [`CONNECT`], changing nothing. The answer is a `Result<String, NoNetwork>`.
pub(super) const PROBE: &[u8] = b"probe";

/// The message that asks whether steps can run here; with it comes where to answer. The answer is a
/// `Result<(), InitError>`.
pub(super) const TRY_OUT: &[u8] = b"try";

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
    let Some(mut bench) = greet(control) else { return 1 };
    let mut steps: Vec<Served> = Vec::new();
    loop {
        let mut fds: Vec<BorrowedFd<'_>> = vec![control.as_fd()];
        for Served { step, reply } in &steps {
            fds.push(step.pid().as_fd());
            // A socket whose other end is gone would be readable for ever.
            fds.extend(reply.as_ref().map(AsFd::as_fd));
            fds.extend(step.desk());
        }
        let Ok(ready) = wait::readable(&fds, None) else { break };
        drop(fds);
        let mut ready = ready.into_iter();
        let asked = ready.next().unwrap_or(false);
        let mut running = Vec::with_capacity(steps.len());
        for mut served in steps {
            let ended = ready.next().unwrap_or(false);
            if served.reply.is_some() && ready.next().unwrap_or(false) {
                // Nothing is ever said on it by the other side, so this is its end.
                let _ = served.step.pid().kill();
                served.reply = None;
            }
            if served.step.desk().is_some() && ready.next().unwrap_or(false) {
                served.step.attend();
            }
            if ended { served.finish(&mut bench) } else { running.push(served) }
        }
        steps = running;
        if asked {
            match channel::receive(control) {
                Ok(Some((bytes, fds))) if bytes == RUN => {
                    steps.extend(Served::begin(fds, &mut bench));
                }
                Ok(Some((bytes, fds))) if bytes == CONNECT => connect(&mut bench, &fds),
                Ok(Some((bytes, fds))) if bytes == PROBE => {
                    fds.first().map(|reply| tell(reply, &Router::probe(), &[]));
                }
                Ok(Some((bytes, fds))) if bytes == TRY_OUT => {
                    fds.first().map(|reply| tell(reply, &Bench::probe(), &[]));
                }
                _ => break,
            }
        }
    }
    for served in &steps {
        let _ = served.step.pid().kill();
    }
    for served in steps {
        served.finish(&mut bench);
    }
    0
}

/// Says whether steps can be made here; `None`: they cannot, or nobody listens.
pub(crate) fn greet(control: &OwnedFd) -> Option<Bench> {
    match bench::separate() {
        // The rest is done while whoever waits for this goes on.
        Ok(separated) => tell(control, &Hello::Ready, &[]).then(|| Bench::new(separated)),
        Err(why) => {
            tell(control, &Hello::Unable(why), &[]);
            None
        }
    }
}

/// Answers [`CONNECT`].
pub(crate) fn connect(bench: &mut Bench, reply: &[OwnedFd]) {
    let answer = bench.connect();
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

/// A step, and who waits for it.
struct Served {
    step: Step,
    reply: Option<OwnedFd>,
}

impl Served {
    /// Makes the child. `None`: there is none, and the other side knows or is gone.
    fn begin(fds: Vec<OwnedFd>, bench: &mut Bench) -> Option<Self> {
        let mut fds = fds.into_iter();
        let reply = fds.next()?;
        match Self::step(fds, bench) {
            Ok(step) => {
                tell(&reply, &Reply::Started, &[step.pid().as_fd()]);
                Some(Self { step, reply: Some(reply) })
            }
            Err(error) => {
                tell(&reply, &Reply::Refused(error), &[]);
                None
            }
        }
    }

    fn step(mut fds: std::vec::IntoIter<OwnedFd>, bench: &mut Bench) -> Result<Step, InitError> {
        let (Some(spec), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
            let reason = "files are missing in the message".into();
            return Err(InitError::Setup { step: "start the step".into(), reason });
        };
        let spec = channel::unpack(spec, MAX_SPEC).map_err(InitError::at("read the step"))?;
        let spec: SandboxSpec =
            serde_json::from_slice(&spec).map_err(InitError::at("read the step"))?;
        bench.begin(&spec, stdout, stderr, fds.collect())
    }

    /// The process has ended or is about to: cleans up and tells.
    fn finish(self, bench: &mut Bench) {
        let done = self.step.finish(bench);
        if let Some(reply) = &self.reply {
            tell(reply, &Reply::Done(done), &[]);
        }
    }
}
