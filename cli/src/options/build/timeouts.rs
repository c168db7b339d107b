//! `--timeout`.

use std::time::Duration;

use rgraph_ir::Ttl;

use super::super::OptionsError;

/// Times after which something is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Each `RUN`.
    pub step: Option<Duration>,
    /// The whole build.
    pub build: Option<Duration>,
}

impl Timeouts {
    pub(super) fn read(texts: &[String]) -> Result<Self, OptionsError> {
        let mut out = Self::default();
        for text in texts {
            let (slot, time) = match text.split_once('=') {
                None => (&mut out.step, text.as_str()),
                Some(("step", time)) => (&mut out.step, time),
                Some(("build", time)) => (&mut out.build, time),
                Some((what, _)) => {
                    return Err(OptionsError::word("--timeout", what, "part", &["step", "build"]));
                }
            };
            let time: Option<Ttl> = time.parse().ok().filter(|t| *t > Ttl::seconds(0));
            *slot = Some(time.map(Ttl::duration).ok_or_else(|| {
                OptionsError::value("--timeout", text, "expected a time such as 90s or 1h30m")
            })?);
        }
        Ok(out)
    }
}
