//! What the disk is told about a file.

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Has the disk begin with bytes that were just written, so that a later sync waits for less; `len` 0: up to
/// the end. Only a hint: whether they are there is the sync's to say.
pub fn start_writing(file: BorrowedFd<'_>, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // SAFETY: the descriptor is open for the call's time; no memory is passed. sync_file_range(2)
    // changes nothing that can be read, and a failure means that nothing was begun.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_hint_changes_nothing() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"text").unwrap();
        super::start_writing(file.as_file().as_fd(), 0, 4);
        super::start_writing(file.as_file().as_fd(), u64::MAX, 4);
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        super::start_writing(pipe.as_fd(), 0, 4);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"text");
    }
}
