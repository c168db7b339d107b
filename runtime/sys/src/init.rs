//! A process 1 for a program that does not know how to be one: it waits for orphans, and passes signals
//! on.

use std::io;

use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, setpgid};

use crate::{ns, spawn};

/// Splits this process in two. It returns in the new one alone, which is to become the program: it leads
/// the foreground of the terminal, if standard input is one. This process stays, closes all files but the
/// standard streams, and leaves when the program ends, with its code or 128 and the signal.
///
/// # Errors
/// `Other` with several threads, or that of the call that failed; this process is still one then.
pub fn split() -> io::Result<()> {
    ns::single_threaded()?;
    let all = SigSet::all();
    let mut before = SigSet::empty();
    signal::sigprocmask(signal::SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before))?;
    // What the copies have of their maker is nobody's business in there; the program that is executed
    // may be looked at again.
    ns::hide()?;
    // SAFETY: there is one thread (looked for above), so no lock can be held by somebody who is not there
    // in the copy, and both may go on as they like. Not by `clone3(2)`, which the filter of system calls
    // hides.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => look_after(child, &all),
        Ok(ForkResult::Child) => {
            // With the signal of a background process that writes to its terminal still blocked.
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            match nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpid()) {
                // No terminal.
                Ok(()) | Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EINVAL) => {}
                Err(e) => return Err(e.into()),
            }
            signal::sigprocmask(signal::SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        }
        Err(e) => {
            signal::sigprocmask(signal::SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Err(e.into())
        }
    }
}

/// The life of a process 1.
fn look_after(program: Pid, all: &SigSet) -> ! {
    // SAFETY: this process only waits from here on, and ends without dropping anything.
    if unsafe { spawn::keep_only(Vec::new()) }.is_err() {
        spawn::exit_now(125);
    }
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => reap(program),
            // One that has just ended needs no signal.
            Ok(signal) => drop(signal::kill(program, signal)),
            // A real-time signal, of which nothing is known but that it came.
            Err(_) => {}
        }
    }
}

fn reap(program: Pid) {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => spawn::exit_now(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => {
                spawn::exit_now(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
