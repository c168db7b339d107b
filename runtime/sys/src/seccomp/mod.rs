//! The system call filter of a step: moby's default profile, compiled to classic BPF.

mod compile;
mod profile;

use std::io;

pub use compile::{Arch, Program};

/// Loads the filter into this thread; its children inherit it, nothing can take it away again.
///
/// Needs `CAP_SYS_ADMIN` over the own user namespace (or `no_new_privs`, which is not set here
/// because setuid programs must work in a step).
///
/// # Errors
/// The error of `seccomp(2)`.
pub fn load(program: &Program) -> io::Result<()> {
    let len = u16::try_from(program.0.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "filter too long"))?;
    let raw = libc::sock_fprog { len, filter: program.0.as_ptr().cast_mut() };
    // SAFETY: `raw` points to `len` instructions that live until the call returns; the kernel
    // copies them and writes nothing.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const raw)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
