//! The options of commands on volumes.

use std::collections::BTreeMap;

use super::container::{LabelFilter, someone_answers};
use super::error::OptionsError;
use super::{Layout, Terminals, container_name, filters, switch_value};
use crate::args::{VolumeCreateArgs, VolumeLsArgs, VolumePruneArgs};

/// `volume ls`.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeLsOptions {
    /// Names only.
    pub quiet: bool,
    /// How it is written.
    pub format: Layout,
    /// Parts of names, any of them.
    pub names: Vec<String>,
    /// Their labels.
    pub labels: LabelFilter,
    /// Whether no container may use it, or one must.
    pub dangling: Option<bool>,
}

impl VolumeLsOptions {
    /// The one conversion.
    pub fn new(raw: VolumeLsArgs) -> Result<Self, OptionsError> {
        let mut out = Self {
            quiet: raw.quiet,
            format: Layout::parse(raw.format.as_deref())?,
            names: Vec::new(),
            labels: LabelFilter::default(),
            dangling: None,
        };
        for (name, value) in filters(&raw.filter, &["name", "label", "dangling", "driver"])? {
            let bad = |why| OptionsError::value("--filter", &value, why);
            match name.as_str() {
                "name" => out.names.push(value),
                "label" => out.labels.add("label", &value),
                "dangling" => out.dangling = Some(switch_value(&value).map_err(bad)?),
                _ => driver(Some(&value))?,
            }
        }
        Ok(out)
    }
}

/// There is one driver.
fn driver(name: Option<&str>) -> Result<(), OptionsError> {
    match name {
        None | Some("local") => Ok(()),
        Some(other) => Err(OptionsError::Unsupported(format!("volume driver `{other}`"))),
    }
}

/// `volume create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeCreateOptions {
    /// `None`: a random one.
    pub name: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl VolumeCreateOptions {
    /// The one conversion.
    pub fn new(raw: VolumeCreateArgs) -> Result<Self, OptionsError> {
        driver(raw.driver.as_deref())?;
        if let Some(name) = &raw.name {
            container_name("NAME", name)?;
        }
        let label = |l: &String| {
            let (k, v) = l.split_once('=').unwrap_or((l, ""));
            (k.to_owned(), v.to_owned())
        };
        Ok(Self { name: raw.name, labels: raw.label.iter().map(label).collect() })
    }
}

/// `volume prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePruneOptions {
    /// Also those with a name.
    pub all: bool,
    /// The user is asked first.
    pub ask: bool,
    /// Their labels.
    pub labels: LabelFilter,
}

impl VolumePruneOptions {
    /// The one conversion. Without `--force` someone must be there to answer.
    pub fn new(raw: VolumePruneArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let mut labels = LabelFilter::default();
        for (name, value) in filters(&raw.filter, &["label", "label!"])? {
            labels.add(&name, &value);
        }
        someone_answers(!raw.force, terminals)?;
        Ok(Self { all: raw.all, ask: !raw.force, labels })
    }
}
