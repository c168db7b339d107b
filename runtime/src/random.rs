//! What nobody can guess, from the kernel.

use std::fs::File;
use std::io::{self, Read as _};

/// Fills it with random bytes.
///
/// # Errors
/// The kernel gives none.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}
