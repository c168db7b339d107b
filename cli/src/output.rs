//! Files that a command leaves behind: whole under their name, or not there.

use std::path::Path;

use crate::report::CliError;

/// Writes `bytes` to `path` by a rename, synced.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |e: std::io::Error| {
        CliError::failed(format!("cannot write `{}`", path.display())).because(e)
    };
    rgraph_runtime::export::write_whole(path, &failed, &mut |out| {
        out.write_all(bytes).map_err(failed)
    })
}
