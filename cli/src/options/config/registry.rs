//! `[registry."HOST[:PORT]"]` of the config file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rgraph_image::registry::{HostConfig, Mirror};
use serde::Deserialize;
use serde::de::Error as _;

use crate::options::is_registry;

/// Registries by name, as references have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Registries(BTreeMap<String, Registry>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Registry {
    /// Plain HTTP, or never.
    http: Option<bool>,
    /// Any certificate, or plain HTTP.
    #[serde(default)]
    insecure: bool,
    /// Certificates to trust besides the system's.
    ca: Option<PathBuf>,
    /// Asked first.
    #[serde(default, deserialize_with = "mirrors")]
    mirrors: Vec<Mirror>,
}

fn mirrors<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<Mirror>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    let read = |t: &String| {
        let what = || format!("`{t}` is no mirror: expected [http[s]://]HOST[:PORT][/PREFIX]");
        Mirror::parse(t).ok_or_else(|| D::Error::custom(what()))
    };
    texts.iter().map(read).collect()
}

impl<'de> Deserialize<'de> for Registries {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<String, Registry>::deserialize(d)?;
        match all.keys().find(|host| !is_registry(host)) {
            Some(host) => Err(D::Error::custom(format!(
                "`{host}` is no registry: expected [registry.\"HOST[:PORT]\"], without a scheme"
            ))),
            None => Ok(Self(all)),
        }
    }
}

impl Registries {
    /// As the client wants it. Relative paths start in `folder`, the config file's.
    pub fn hosts(&self, folder: &Path) -> BTreeMap<String, HostConfig> {
        let one = |r: &Registry| HostConfig {
            http: r.http,
            insecure: r.insecure,
            ca: r.ca.iter().map(|p| folder.join(p)).collect(),
            mirrors: r.mirrors.clone(),
            ..HostConfig::default()
        };
        self.0.iter().map(|(host, r)| (host.clone(), one(r))).collect()
    }
}
