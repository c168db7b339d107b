//! `rgraph cp` and `rgraph export`.

use std::io::{self, BufWriter, Write};

use rgraph_image::layer::LayerError;
use rgraph_ir::request::Dest;
use rgraph_runtime::container::{Containers, Files, FilesError, Reach, Record};
use rgraph_runtime::export::write_whole;
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::snapshot::Snapshots;

use super::{Context, container_error, note};
use crate::args::{CpArgs, ExportArgs};
use crate::options::{CopyEnd, CpOptions, ExportOptions};
use crate::report::CliError;
use crate::session::{self, store_error};

fn failed(e: FilesError) -> CliError {
    let e: &dyn std::error::Error = &e;
    CliError {
        source: e.source().map(|s| rgraph_runtime::report(s).into()),
        ..CliError::failed(e.to_string())
    }
}

/// Does something with the files of a container.
fn with_files<T>(
    cx: &Context,
    name: &str,
    act: impl FnOnce(&Reach<'_>, Record) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let record = containers.find(name).map_err(|e| container_error(&e))?;
    let lease = store.lease().map_err(|e| store_error(&e))?;
    let fetcher = ImageFetcher::new(&store, None, PullPolicy::Never, &cx.cancel);
    let snapshots = Snapshots::new(&store, host, &fetcher, &lease);
    act(&Reach { containers: &containers, snapshots: &snapshots, host }, record)
}

/// `rgraph cp`.
pub fn copy(cx: &Context, args: CpArgs) -> Result<(), CliError> {
    let cwd = std::env::current_dir()
        .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
    let opts = CpOptions::new(args, &cwd, cx.terminals)?;
    let how = opts.how;
    match (&opts.from, &opts.to) {
        (CopyEnd::Container { name, path }, to) => with_files(cx, name, |reach, record| {
            let files = Files::read(reach, &record).map_err(failed)?;
            match to {
                CopyEnd::Local(dest) => files.copy_out(path, dest, how).map_err(failed),
                _ => {
                    let mut out = BufWriter::with_capacity(256 << 10, io::stdout().lock());
                    files.archive_out(path, how, &mut out).map_err(failed)?;
                    out.flush().map_err(|e| CliError::failed("cannot write the archive").because(e))
                }
            }
        })?,
        (from, CopyEnd::Container { name, path }) => with_files(cx, name, |reach, record| {
            let files = Files::write(reach, record).map_err(failed)?;
            match from {
                CopyEnd::Local(source) => files.copy_in(source, path, how).map_err(failed),
                _ => files.archive_in(&mut io::stdin().lock(), path, how).map_err(failed),
            }
        })?,
        _ => return Err(CliError::internal("a copy without a container")),
    }
    if !opts.quiet && !matches!(opts.to, CopyEnd::Stream) {
        note(&format!("copied to {}", opts.shown));
    }
    Ok(())
}

/// `rgraph export`.
pub fn export(cx: &Context, args: ExportArgs) -> Result<(), CliError> {
    let opts = ExportOptions::new(args, cx.terminals)?;
    with_files(cx, &opts.container, |reach, record| {
        let files = Files::read(reach, &record).map_err(failed)?;
        let unwritten = |e| CliError::failed("cannot write the archive").because(e);
        let packed = |e: LayerError| failed(FilesError::Archive(e));
        match &opts.dest {
            Dest::Stdout => {
                let mut out = BufWriter::with_capacity(256 << 10, io::stdout().lock());
                files.export(&mut out).map_err(packed)?;
                out.flush().map_err(unwritten)
            }
            Dest::Path(path) => {
                let path = std::path::Path::new(path);
                let unwritten =
                    |e| CliError::failed(format!("cannot write `{}`", path.display())).because(e);
                write_whole(path, &unwritten, &mut |out| files.export(out).map_err(packed))
            }
        }
    })
}
