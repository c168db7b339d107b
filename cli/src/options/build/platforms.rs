//! `--platform` and `--all-platforms`.

use rgraph_ir::Platform;

use super::super::OptionsError;
use super::host_platform;
use crate::args::BuildArgs;

/// What a build is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// These, in the order given; none: this machine's.
    Listed(Vec<Platform>),
    /// All that every base has.
    OfBases,
}

impl Platforms {
    /// Those that were listed.
    pub fn listed(&self) -> &[Platform] {
        match self {
            Self::Listed(all) => all,
            Self::OfBases => &[],
        }
    }
}

pub(super) fn platforms(raw: &BuildArgs) -> Result<Platforms, OptionsError> {
    if raw.all_platforms {
        return match raw.platform.is_empty() {
            true => Ok(Platforms::OfBases),
            false => Err(OptionsError::Conflict(
                "`--platform` and `--all-platforms` exclude each other".to_owned(),
            )),
        };
    }
    let mut out = Vec::new();
    for word in raw.platform.iter().flat_map(|l| l.split(',')).map(str::trim) {
        let p = match word {
            "local" => host_platform(),
            w => w.parse::<Platform>().map_err(|e| {
                OptionsError::value("--platform", w, e.why).with_help("such as `linux/amd64`")
            })?,
        };
        if !out.contains(&p) {
            out.push(p);
        }
    }
    Ok(Platforms::Listed(out))
}
