//! The system call filter of a step: moby's default profile, compiled to classic BPF.

pub mod asked;
mod compile;
pub mod notify;
mod profile;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

pub use compile::{Arch, Program};

/// Whether system calls can be filtered here: the kernel does it, and the filter knows this machine.
pub fn is_available() -> bool {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    Arch::native().is_some()
        && actions.is_ok_and(|actions| actions.split_whitespace().any(|a| a == "errno"))
}

/// Loads the filter into this thread; its children inherit it, nothing can take it away again.
///
/// Needs `CAP_SYS_ADMIN` over the own user namespace (or `no_new_privs`, which is not set here
/// because setuid programs must work in a step).
///
/// # Errors
/// The error of `seccomp(2)`.
pub fn load(program: &Program) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// As [`load`], for a filter that asks. What it asks can be heard by the descriptor.
///
/// # Errors
/// The error of `seccomp(2)`; `EBUSY` when there is such a filter already.
pub fn load_asking(program: &Program) -> io::Result<OwnedFd> {
    // A call that is being answered is not to be interrupted by a signal, or it would be done twice.
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match set_filter(program, listener | WAIT_KILLABLE) {
        // Before Linux 5.19.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => set_filter(program, listener),
        set => set,
    }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor (closed on exec) and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

fn set_filter(program: &Program, flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let len = u16::try_from(program.0.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter too long"))?;
    let raw = libc::sock_fprog { len, filter: program.0.as_ptr().cast_mut() };
    // SAFETY: `raw` points to `len` instructions that live until the call returns; the kernel
    // copies them and writes nothing.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const raw)
    };
    if done >= 0 { Ok(done) } else { Err(io::Error::last_os_error()) }
}
