//! Files that a command leaves behind: whole under their name, or not there.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::report::CliError;

/// Writes `bytes` to `path` by a rename, synced.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |e: std::io::Error| {
        CliError::failed(format!("cannot write `{}`", path.display())).because(e)
    };
    let name =
        path.file_name().ok_or_else(|| failed(std::io::Error::other("it is not a file name")))?;
    let tmp =
        path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut f = File::options().write(true).create_new(true).open(&tmp)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        std::fs::rename(&tmp, path)
    };
    write().map_err(|e| {
        // Whatever is left of it would never be found again.
        std::fs::remove_file(&tmp).unwrap_or(());
        failed(e)
    })
}
