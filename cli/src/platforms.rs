//! `--all-platforms`: those that every base of a build has.
//!
//! Lowering says which images it stands on when it is asked for a platform and told nothing, so each
//! candidate is asked about by itself: a base may be named after its platform.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_frontend::ast::Dockerfile;
use rgraph_frontend::{Facts, LowerOptions, Lowering, Query, lower};
use rgraph_ir::limits::MAX_PLATFORMS;
use rgraph_ir::{Diagnostic, Platform, Severity};
use rgraph_runtime::fetch::image::ImageFetcher;

use crate::options::host_platform;
use crate::report::CliError;

/// What is built for.
pub struct Found {
    /// In their own order; never empty.
    pub platforms: Vec<Platform>,
    /// Platforms that are not built for although all that is known speaks for them, and why.
    pub left_out: Vec<(Platform, String)>,
    /// There is a base to ask.
    pub has_bases: bool,
}

impl Found {
    /// What whoever asked for all platforms should know.
    pub fn notice(&self) -> Option<Diagnostic> {
        let text = match (self.has_bases, &self.left_out[..]) {
            (false, _) => format!(
                "--all-platforms: there is no base to ask, so it is built for {} alone",
                self.platforms[0]
            ),
            (true, []) => return None,
            (true, left_out) => {
                let one = |(p, why): &(Platform, String)| format!("{p} ({why})");
                let all: Vec<String> = left_out.iter().map(one).collect();
                format!("--all-platforms: not built for {}", all.join(", "))
            }
        };
        Some(Diagnostic::new(Severity::Warning, "all-platforms", None, text))
    }
}

/// Asks the bases of a Dockerfile. What is wrong with the Dockerfile itself is left to whoever lowers
/// it next, for this machine.
pub fn of_bases(
    ast: &Dockerfile,
    options: &LowerOptions,
    images: &ImageFetcher<'_>,
) -> Result<Found, CliError> {
    let host = host_platform();
    let mut asked = Asked { images, known: BTreeMap::new() };
    // Not this machine's: what is named for `$BUILDPLATFORM` runs here whatever is built.
    let probe = match host.architecture.as_str() {
        "arm64" => Platform::new("linux", "amd64"),
        _ => Platform::new("linux", "arm64"),
    };
    let bases = bases(ast, options, &probe);
    if bases.is_empty() {
        return Ok(Found { platforms: vec![host], left_out: Vec::new(), has_bases: false });
    }
    let mut candidates = BTreeSet::from([host]);
    for base in &bases {
        let known = asked.platforms(base);
        let known = known.map_err(|e| CliError::failed(format!("--all-platforms: {e}")))?;
        candidates.extend(known.iter().cloned());
    }
    if candidates.len() > MAX_PLATFORMS {
        return Err(CliError::failed(format!(
            "--all-platforms: the bases have {} platforms, and {MAX_PLATFORMS} is the most",
            candidates.len()
        ))
        .help("name those that you want with `--platform`"));
    }
    let (mut platforms, mut left_out) = (Vec::new(), Vec::new());
    for p in candidates {
        let of_all = self::bases(ast, options, &p).iter().try_fold(true, |all, base| {
            asked.platforms(base).map(|known| all && known.contains(&p))
        });
        match of_all {
            Ok(true) if p.os == "linux" => platforms.push(p),
            Ok(true) => left_out.push((p, "steps run on Linux only".to_owned())),
            Ok(false) => {}
            // A name that only this platform gives, such as `base-s390x`.
            Err(why) => left_out.push((p, why)),
        }
    }
    if platforms.is_empty() {
        return Err(CliError::failed("--all-platforms: no platform is one of all bases")
            .help(format!("{}; `--platform` builds for one that you name", asked.words())));
    }
    Ok(Found { platforms, left_out, has_bases: true })
}

/// The images that a build for a platform needs of that platform.
fn bases(ast: &Dockerfile, options: &LowerOptions, p: &Platform) -> Vec<Query> {
    let options = LowerOptions { platforms: vec![p.clone()], warnings: false, ..options.clone() };
    let Ok(Lowering::Missing(queries)) = lower(ast, &options, &Facts::new()) else {
        return Vec::new();
    };
    let of_it = |q: &Query| match q {
        Query::ImageConfig { platform, .. } | Query::OciLayoutConfig { platform, .. } => {
            platform == p
        }
        Query::Time(_) => false,
    };
    queries.into_iter().filter(of_it).collect()
}

struct Asked<'a> {
    images: &'a ImageFetcher<'a>,
    known: BTreeMap<String, Result<Vec<Platform>, String>>,
}

impl Asked<'_> {
    /// The platforms of a base; one that nobody has is for none.
    fn platforms(&mut self, base: &Query) -> Result<&[Platform], String> {
        let (reference, mode) = match base {
            Query::ImageConfig { reference, mode, .. } => (reference, Some(*mode)),
            Query::OciLayoutConfig { reference, .. } => (reference, None),
            Query::Time(_) => return Ok(&[]),
        };
        let ask = || {
            let found = match mode {
                Some(mode) => self.images.platforms(reference, mode),
                None => self.images.layout_platforms(reference),
            };
            match found {
                Err(e) if e.is_absence() => Ok(Vec::new()),
                other => other.map_err(|e| rgraph_runtime::report(&e)),
            }
        };
        let known = self.known.entry(reference.clone()).or_insert_with(ask);
        known.as_deref().map_err(|e| e.clone())
    }

    fn words(&self) -> String {
        let one = |(reference, all): (&String, &Result<Vec<Platform>, String>)| {
            let all = all.as_deref().unwrap_or_default();
            let all: Vec<String> = all.iter().map(Platform::to_string).collect();
            let all = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
            format!("`{reference}` is for {all}")
        };
        self.known.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}
