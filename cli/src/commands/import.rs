//! `rgraph import`: an image of an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;

use rgraph_frontend::{Facts, LowerOptions, Lowering, lower, parse};
use rgraph_image::registry::shown_url;
use rgraph_ir::image_config::{BaseImage, ImageConfig};
use rgraph_ir::op::HttpSource;
use rgraph_ir::{Platform, Severity, SourceMap};
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::fetch::source::Sources;
use rgraph_runtime::import::{Import, Interruptible, import};
use rgraph_store::Store;

use super::{Context, print, transfer_note};
use crate::args::ImportArgs;
use crate::options::{ImportOptions, ImportSource, host_platform};
use crate::report::{CliError, ErrorKind};
use crate::session;

/// Runs the command.
pub fn run(cx: &Context, args: ImportArgs) -> Result<(), CliError> {
    let opts = ImportOptions::new(args, cx.terminals)?;
    let names = opts.name.iter().map(ToString::to_string).collect();
    let platform = opts.platform.clone().unwrap_or_else(host_platform);
    let config = changed(cx, platform, &opts.changes, &[])?;
    let host = cx.host()?;
    let store = session::open_store(cx.root())?;
    let (from, source) = opened(cx, &store, &opts.source)?;
    let mut from = BufReader::with_capacity(256 << 10, from);
    let comment = opts.message.clone().unwrap_or_else(|| format!("Imported from {source}"));
    let image =
        import(&store, host, &cx.cancel, Import { from: &mut from, config, comment, names })
            .map_err(|e| CliError::failed(format!("cannot import `{source}`")).because(e))?;
    print(format!("{}\n", image.config).as_bytes())
}

/// The archive, and what it is called.
fn opened(
    cx: &Context,
    store: &Store,
    source: &ImportSource,
) -> Result<(Interruptible, String), CliError> {
    match source {
        ImportSource::Stdin => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned();
            let stdin =
                stdin.map_err(|e| CliError::failed("cannot read standard input").because(e))?;
            Ok((Interruptible::new(File::from(stdin), &cx.cancel), "-".to_owned()))
        }
        ImportSource::File(path) => {
            let shown = path.display().to_string();
            let file = Interruptible::open(path, &cx.cancel)
                .map_err(|e| CliError::failed(format!("cannot open `{shown}`")).because(e))?;
            Ok((file, shown))
        }
        ImportSource::Url(url) => {
            let shown = shown_url(url);
            let registries = session::registries(&cx.env, &session::config(&cx.dirs)?, &[]);
            let policy = PullPolicy::Always;
            let images = ImageFetcher::new(store, Some(&registries), policy, &cx.cancel)
                .telling(|e| transfer_note(e, false));
            let (secrets, agents) = (BTreeMap::new(), BTreeMap::new());
            let sources = Sources::new(&images, &secrets, session::ssh_access(&cx.env, &agents));
            let file =
                HttpSource { url: url.clone(), filename: "import".to_owned(), checksum: None };
            let failed = |e| CliError::failed(format!("cannot import `{shown}`")).because(e);
            let content = sources.url(&file, &|_, _| {}).map_err(failed)?;
            let file = sources.open(&content).map_err(failed)?;
            Ok((Interruptible::new(file, &cx.cancel), shown))
        }
    }
}

/// The settings that `-c` lines make: they are instructions, so the compiler reads them. What they name
/// is looked up in `env`, which the result has too.
pub(super) fn changed(
    cx: &Context,
    platform: Platform,
    changes: &[String],
    env: &[(String, String)],
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
            return Err(e.help(near.unwrap_or_else(|| ALLOWED.join(", ") + ", WORKDIR")));
        }
    }
    let mut sources = SourceMap::default();
    let text = format!("FROM base\n{}\n", changes.join("\n"));
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
    // An image that has nothing but the variables.
    let mut base = ImageConfig::empty(options.platforms[0].clone());
    base.config.env = env.to_vec();
    let mut facts = Facts::new();
    if let Ok(Lowering::Missing(queries)) = lower(&parsed.ast, &options, &facts) {
        for query in queries {
            let config = base.clone();
            let reference = "docker.io/library/base:latest".to_owned();
            let image = BaseImage { reference, config, layers: 0, history: Vec::new() };
            facts.insert(query, Ok(image));
        }
    }
    match lower(&parsed.ast, &options, &facts) {
        Ok(Lowering::Done(done)) => {
            if let Some(t) = done.plan.targets.into_iter().next() {
                config = t.config;
            }
            // What `FROM` adds by itself was not asked for.
            let named = env.iter().any(|(k, _)| k == "PATH");
            if !named && !changes.iter().any(|c| c.to_ascii_uppercase().contains("PATH")) {
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
