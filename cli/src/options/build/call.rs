//! `--call` and `--check`: what is asked of a Dockerfile.

use super::super::OptionsError;
use crate::args::BuildArgs;

/// What is asked of the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Call {
    /// Its result.
    #[default]
    Build,
    /// Its warnings.
    Check {
        /// As JSON.
        json: bool,
    },
    /// Its arguments and secrets.
    Outline {
        /// As JSON.
        json: bool,
    },
    /// Its stages.
    Targets {
        /// As JSON.
        json: bool,
    },
}

impl Call {
    /// Whether the answer is a document.
    pub fn is_json(self) -> bool {
        match self {
            Self::Build => false,
            Self::Check { json } | Self::Outline { json } | Self::Targets { json } => json,
        }
    }
}

pub(super) fn call(raw: &BuildArgs) -> Result<Call, OptionsError> {
    const FLAG: &str = "--call";
    let Some(text) = raw.shared.call.as_deref() else {
        return Ok(if raw.shared.check { Call::Check { json: false } } else { Call::Build });
    };
    if raw.shared.check {
        return Err(OptionsError::Conflict("`--check` and `--call` exclude each other".to_owned()));
    }
    let mut words = text.split(',');
    let method = words.next().unwrap_or_default();
    let mut json = false;
    for w in words {
        match w {
            "format=json" => json = true,
            "format=text" | "format=table" => json = false,
            w => {
                return Err(OptionsError::word(FLAG, w, "option", &["format=json", "format=text"]));
            }
        }
    }
    match method.strip_prefix("subrequest:").unwrap_or(method) {
        "" | "build" => Ok(Call::Build),
        "check" | "lint" => Ok(Call::Check { json }),
        "outline" => Ok(Call::Outline { json }),
        "targets" => Ok(Call::Targets { json }),
        m => Err(OptionsError::word(FLAG, m, "method", &["build", "check", "outline", "targets"])),
    }
}
