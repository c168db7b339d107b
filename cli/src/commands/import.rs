//! `rgraph import`: an image of an archive.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;

use rgraph_frontend::{Facts, LowerOptions, Lowering, lower, parse};
use rgraph_ir::image_config::ImageConfig;
use rgraph_ir::{Platform, Severity, SourceMap};
use rgraph_runtime::import::{Import, Interruptible, import};

use super::{Context, print};
use crate::args::ImportArgs;
use crate::options::{ImportOptions, ImportSource, host_platform};
use crate::report::{CliError, ErrorKind};
use crate::session;

/// Runs the command.
pub fn run(cx: &Context, args: ImportArgs) -> Result<(), CliError> {
    let opts = ImportOptions::new(args, cx.terminals)?;
    let names = opts.name.iter().map(ToString::to_string).collect();
    let platform = opts.platform.clone().unwrap_or_else(host_platform);
    let config = changed(cx, platform, &opts.changes)?;
    let reading = |from: Interruptible| BufReader::with_capacity(256 << 10, from);
    let (mut from, source) = match &opts.source {
        ImportSource::Stdin => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned();
            let stdin =
                stdin.map_err(|e| CliError::failed("cannot read standard input").because(e))?;
            (reading(Interruptible::new(File::from(stdin), &cx.cancel)), "-".to_owned())
        }
        ImportSource::File(path) => {
            let shown = path.display().to_string();
            let file = Interruptible::open(path, &cx.cancel)
                .map_err(|e| CliError::failed(format!("cannot open `{shown}`")).because(e))?;
            (reading(file), shown)
        }
        ImportSource::Url(url) => {
            return Err(CliError::not_yet("`rgraph import URL`")
                .help(format!("pipe it: `curl -L {url} | rgraph import -`")));
        }
    };
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let comment = opts.message.clone().unwrap_or_else(|| format!("Imported from {source}"));
    let image =
        import(&store, host, &cx.cancel, Import { from: &mut from, config, comment, names })
            .map_err(|e| CliError::failed(format!("cannot import `{source}`")).because(e))?;
    print(format!("{}\n", image.config).as_bytes())
}

/// The settings that `-c` lines make: they are instructions, so the compiler reads them.
pub(super) fn changed(
    cx: &Context,
    platform: Platform,
    changes: &[String],
) -> Result<ImageConfig, CliError> {
    const ALLOWED: [&str; 9] =
        ["CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME"];
    let mut config = ImageConfig::empty(platform.clone());
    if changes.is_empty() {
        return Ok(config);
    }
    for c in changes {
        let word = c.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        if !ALLOWED.contains(&word.as_str()) && word != "WORKDIR" {
            let near =
                rgraph_ir::near::nearest(&word, ALLOWED).map(|n| format!("did you mean {n}?"));
            let e = CliError::usage(format!("`{word}` is not an instruction that --change takes"));
            return Err(e.help(near.unwrap_or_else(|| ALLOWED.join(", "))));
        }
    }
    let mut sources = SourceMap::default();
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let file = sources.add("--change", text);
    let parsed = parse(&sources.file(file).clone());
    let errors: Vec<_> =
        parsed.diags.iter().filter(|d| d.severity == Severity::Error).cloned().collect();
    let fail = |diags: &[rgraph_ir::Diagnostic]| {
        cx.report(|r| r.diagnostics(diags, &sources));
        CliError::reported(ErrorKind::Usage)
    };
    if !errors.is_empty() {
        return Err(fail(&errors));
    }
    let options = LowerOptions { platforms: vec![platform], ..LowerOptions::default() };
    match lower(&parsed.ast, &options, &Facts::offline()) {
        Ok(Lowering::Done(done)) => {
            if let Some(t) = done.plan.targets.into_iter().next() {
                config = t.config;
            }
            // What `FROM scratch` adds by itself was not asked for.
            if !changes.iter().any(|c| c.to_ascii_uppercase().contains("PATH")) {
                config.config.env.retain(|(k, _)| k != "PATH");
            }
            if config.config.working_dir == "/" {
                config.config.working_dir.clear();
            }
            Ok(config)
        }
        Ok(Lowering::Missing(_)) => Err(CliError::internal("a change asked for an image")),
        Err(diags) => Err(fail(&diags)),
    }
}
