//! Where the result goes, and what that asks of the rest.

use rgraph_ir::Reference;
use rgraph_ir::request::{ImageOutput, OutputSpec};

use super::super::{OptionsError, Terminals, annotation, parse_output};
use super::BuildOptions;
use super::values::epoch;
use crate::args::BuildArgs;

pub(super) fn outputs(
    raw: &BuildArgs,
    tags: &[String],
    terminals: Terminals,
) -> Result<Vec<OutputSpec>, OptionsError> {
    let read = |l: &String| parse_output(l, terminals.stdout);
    let mut outputs = raw.output.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let plain = |push| ImageOutput { push, ..ImageOutput::default() };
    if raw.shared.push {
        let mut pushed = false;
        for o in &mut outputs {
            match o {
                OutputSpec::Image(i) | OutputSpec::Registry(i) => {
                    i.push = true;
                    pushed = true;
                }
                _ => {}
            }
        }
        if !pushed {
            outputs.push(OutputSpec::Registry(plain(true)));
        }
    }
    if raw.shared.load && !outputs.iter().any(|o| matches!(o, OutputSpec::Image(_))) {
        outputs.push(OutputSpec::Image(plain(false)));
    }
    for o in &outputs {
        if let OutputSpec::Image(i) | OutputSpec::Registry(i) = o
            && i.push
            && i.names.is_empty()
            && tags.is_empty()
        {
            return Err(OptionsError::Conflict(
                "a push needs a name: add `-t REGISTRY/NAME:TAG`".to_owned(),
            ));
        }
    }
    // A name that only one of them gives is not given in vain.
    for o in &mut outputs {
        let names = match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) => &mut a.names,
            OutputSpec::Image(i) | OutputSpec::Registry(i) => &mut i.names,
            OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => continue,
        };
        let given = std::mem::take(names);
        if !given.is_empty() {
            for name in tags.iter().chain(&given) {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
    }
    let mut annotations = Vec::new();
    for text in &raw.annotation {
        annotations.extend(annotation::flag(text)?);
    }
    if annotations.is_empty() {
        return Ok(outputs);
    }
    if outputs.is_empty() {
        outputs.push(OutputSpec::Image(plain(false)));
    }
    for o in &mut outputs {
        let all = match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) => &mut a.annotations,
            OutputSpec::Image(i) | OutputSpec::Registry(i) => &mut i.annotations,
            OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => continue,
        };
        all.0.extend(annotations.iter().cloned());
    }
    Ok(outputs)
}

impl BuildOptions {
    /// `registry.insecure=true` is about the hosts of that output's names.
    pub(super) fn insecure_outputs(&mut self) {
        for o in &self.outputs {
            let (OutputSpec::Image(i) | OutputSpec::Registry(i)) = o else { continue };
            let names = if i.names.is_empty() { &self.tags } else { &i.names };
            let hosts =
                names.iter().filter_map(|n| n.parse::<Reference>().ok()).map(|r| r.registry);
            self.insecure_registries.extend(hosts.filter(|_| i.insecure));
        }
    }

    /// `--timestamp` is `SOURCE_DATE_EPOCH` for the image alone: no step sees it.
    pub(super) fn timestamp(&mut self, seconds: Option<&str>) -> Result<(), OptionsError> {
        let Some(text) = seconds else { return Ok(()) };
        let seconds = epoch(text).ok_or_else(|| {
            let why = "expected a number of seconds since 1970 up to the year 9999";
            OptionsError::value("--timestamp", text, why)
        })?;
        self.source_date_epoch = Some(seconds);
        for o in &mut self.outputs {
            match o {
                OutputSpec::Oci(a) | OutputSpec::Docker(a) => a.layers.rewrite_timestamp = true,
                OutputSpec::Image(i) | OutputSpec::Registry(i) => i.layers.rewrite_timestamp = true,
                OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => {}
            }
        }
        Ok(())
    }

    /// Statements about an image are entries of an OCI index.
    pub(super) fn attest_outputs(&mut self) -> Result<(), OptionsError> {
        if !self.attest.any() {
            return Ok(());
        }
        for o in &mut self.outputs {
            let layers = match o {
                // Its manifests are for readers of OCI layouts anyway.
                OutputSpec::Docker(a) => {
                    a.layers.oci_media_types = true;
                    continue;
                }
                OutputSpec::Oci(a) => &a.layers,
                OutputSpec::Image(i) | OutputSpec::Registry(i) => &i.layers,
                OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly => {
                    continue;
                }
            };
            if !layers.oci_media_types {
                return Err(OptionsError::Conflict(
                    "`--attest` needs `oci-mediatypes=true`: Docker's media types have no index \
                     of statements"
                        .to_owned(),
                ));
            }
        }
        Ok(())
    }
}
