//! What goes wrong only together, and what is refused.

use std::path::{Component, PathBuf};

use rgraph_ir::request::{Dest, OutputSpec};

use super::super::context::{ContextSpec, FileSpec};
use super::super::{OptionsError, ProgressMode, Pull};
use super::{BuildOptions, Call};
use crate::args::BuildArgs;

impl BuildOptions {
    /// What a build without a network cannot do. A graph alone may ask for it.
    pub(super) fn check_network(&self) -> Result<(), OptionsError> {
        let conflict = |text: &str| Err(OptionsError::Conflict(text.to_owned()));
        let pushes = |o: &OutputSpec| match o {
            OutputSpec::Registry(_) => true,
            OutputSpec::Image(i) => i.push,
            _ => false,
        };
        match self.pull {
            _ if !self.offline => Ok(()),
            Pull::Always | Pull::Newer => conflict(
                "`--offline` uses no network, and `--pull` asks registries: give one of them",
            ),
            _ if self.outputs.iter().any(pushes) => {
                conflict("`--offline` uses no network, and a push needs it: give one of them")
            }
            Pull::Missing | Pull::Never => Ok(()),
        }
    }

    /// What several targets cannot have in common.
    pub(super) fn check_targets(&self) -> Result<(), OptionsError> {
        let count = 1 + self.more_targets.len();
        if count == 1 {
            return Ok(());
        }
        let conflict = |text: String| Err(OptionsError::Conflict(text));
        let all: Vec<&String> = self.target.iter().chain(&self.more_targets).collect();
        if let Some(twice) = all.iter().enumerate().find(|(i, t)| all[..*i].contains(t)) {
            return conflict(format!("`--target {}` is given twice", twice.1));
        }
        if !self.tags.is_empty() && self.tags.len() != count {
            return conflict(format!(
                "{count} targets need as many `-t`, each for the target in its place, or none"
            ));
        }
        let one_file = |o: &OutputSpec| match o {
            OutputSpec::Oci(_) | OutputSpec::Docker(_) | OutputSpec::Tar { .. } => true,
            OutputSpec::Image(i) | OutputSpec::Registry(i) => !i.names.is_empty(),
            OutputSpec::Local { .. } | OutputSpec::CacheOnly => false,
        };
        if self.outputs.iter().any(one_file) {
            return conflict(
                "several targets do not fit into one archive or name: use `-o DIR`, `-t`, or \
                 `rgraph bake`"
                    .to_owned(),
            );
        }
        if self.iidfile.is_some() {
            return conflict("`--iidfile` is for one target; `--metadata-file` has all".to_owned());
        }
        if self.call != Call::Build {
            return conflict("`--check` and `--call` are for one target".to_owned());
        }
        Ok(())
    }

    /// No file is for two of the things that a build writes.
    pub(super) fn check_files(&self) -> Result<(), OptionsError> {
        let outputs = self.outputs.iter().filter_map(|o| match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) if a.tar => Some(&a.dest),
            OutputSpec::Tar { dest, .. } => Some(dest),
            _ => None,
        });
        let outputs = outputs.filter_map(|dest| match dest {
            Dest::Path(p) => Some(("-o", p)),
            Dest::Stdout => None,
        });
        let id = self.iidfile.iter().map(|p| ("--iidfile", p));
        let metadata = self.metadata_file.iter().map(|p| ("--metadata-file", p));
        let mut seen: Vec<(&str, PathBuf)> = Vec::new();
        for (flag, path) in outputs.chain(id).chain(metadata) {
            let plain: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
            // `/dev/null` takes all there is.
            if plain.starts_with("/dev") {
                continue;
            }
            if let Some((other, _)) = seen.iter().find(|(_, p)| *p == plain) {
                return Err(OptionsError::Conflict(format!(
                    "`{}` cannot take two outputs (`{other}`, `{flag}`): name another file for one of them",
                    path.display()
                )));
            }
            seen.push((flag, plain));
        }
        Ok(())
    }

    /// What goes wrong only together.
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        let conflict = |text: &str| Err(OptionsError::Conflict(text.to_owned()));
        if self.context == ContextSpec::Stdin && self.file == FileSpec::Stdin {
            return conflict("stdin cannot be the context and the Dockerfile (`-f -`) at once");
        }
        let to_stdout = |o: &&OutputSpec| match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) => a.dest == Dest::Stdout,
            OutputSpec::Tar { dest, .. } => *dest == Dest::Stdout,
            _ => false,
        };
        match self.outputs.iter().filter(to_stdout).count() {
            0 => Ok(()),
            1 if self.progress == ProgressMode::Quiet => {
                conflict("stdout cannot take the archive and the image id of `--quiet` at once")
            }
            1 => Ok(()),
            _ => conflict("stdout cannot take two outputs: give one of them a `dest`"),
        }
    }
}

/// Names every flag that has no meaning here, in one warning.
pub(super) fn legacy(raw: &BuildArgs) -> Vec<String> {
    let l = &raw.legacy;
    let given = [
        ("--rm", &l.rm),
        ("--force-rm", &l.force_rm),
        ("--compress", &l.compress),
        ("--disable-content-trust", &l.disable_content_trust),
        ("--isolation", &l.isolation),
        ("--builder", &l.builder),
    ];
    let names: Vec<_> =
        given.iter().filter(|(_, v)| v.is_some()).map(|(n, _)| format!("`{n}`")).collect();
    match names.as_slice() {
        [] => Vec::new(),
        [one] => vec![format!("{one} has no meaning here and is ignored")],
        many => vec![format!("{} have no meaning here and are ignored", many.join(", "))],
    }
}

/// Refuses by name what is not built yet and would change the result.
pub(super) fn refuse_later(raw: &BuildArgs) -> Result<(), OptionsError> {
    let r = &raw.refused;
    let given = [
        // Annotations of a base are never the result's, as in BuildKit.
        ("--inherit-annotations", raw.inherit_annotations == Some(true)),
        ("--layers", raw.layers.is_some()),
        ("--debug-on-error", raw.debug_on_error),
        ("--security-opt", !r.security_opt.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(OptionsError::Unsupported(format!("`{name}`"))),
        None => Ok(()),
    }
}
