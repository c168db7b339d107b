//! The config file: how registries are reached, when and how the build cache is kept small, what
//! steps get where there is no private network for them, and how much of their output is kept. Unknown keys are errors.
//!
//! ```toml
//! [registry."registry.example:5000"]
//! ca = "example.pem"
//! mirrors = ["mirror.example/hub"]
//!
//! [gc]
//! enabled = true
//! reserved-space = "10GB"
//! max-used-space = "50%"
//! min-free-space = "20%"
//!
//! [[gc.policy]]
//! filters = ["type=exec.cachemount"]
//! keep-duration = "48h"
//! max-used-space = "512MB"
//!
//! [network]
//! fallback = "host"
//!
//! [cdi]
//! spec-dirs = ["/etc/cdi"]
//!
//! [logs]
//! max-size = "1GiB"
//! ```

mod registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rgraph_image::registry::HostConfig;
use rgraph_ir::request::NetworkFallback;
use rgraph_store::{Amount, Disk, Filter, Limits, Policy, Rule};
use serde::Deserialize;
use serde::de::Error as _;

use registry::Registries;

use super::{Bounds, parse_amount, parse_seconds, parse_size};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is there and cannot be read.
    #[error("cannot read config file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its text is not what it should be; says the line.
    #[error("config file `{}`: {what}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    gc: Gc,
    #[serde(default)]
    network: NetworkConfig,
    #[serde(default)]
    cdi: Cdi,
    #[serde(default)]
    logs: Logs,
    #[serde(default)]
    registry: Registries,
    /// Where the file lies.
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NetworkConfig {
    #[serde(default, deserialize_with = "fallback")]
    fallback: NetworkFallback,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cdi {
    spec_dirs: Option<Vec<PathBuf>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Gc {
    enabled: Option<bool>,
    #[serde(default, deserialize_with = "amount")]
    reserved_space: Option<Amount>,
    #[serde(default, deserialize_with = "amount")]
    max_used_space: Option<Amount>,
    #[serde(default, deserialize_with = "amount")]
    min_free_space: Option<Amount>,
    #[serde(default)]
    policy: Vec<GcRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GcRule {
    #[serde(default, deserialize_with = "filters")]
    filters: Filter,
    #[serde(default, deserialize_with = "seconds")]
    keep_duration: Option<u64>,
    #[serde(default, deserialize_with = "amount")]
    reserved_space: Option<Amount>,
    #[serde(default, deserialize_with = "amount")]
    max_used_space: Option<Amount>,
    #[serde(default, deserialize_with = "amount")]
    min_free_space: Option<Amount>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Logs {
    #[serde(default, deserialize_with = "size")]
    max_size: Option<u64>,
}

/// Text, or a bare number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Text(t) => t,
        }
    }
}

fn amount<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Amount>, D::Error> {
    parse_amount(&Scalar::deserialize(d)?.text()).map(Some).map_err(D::Error::custom)
}

fn size<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    parse_size(&Scalar::deserialize(d)?.text()).map(Some).map_err(D::Error::custom)
}

fn seconds<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    parse_seconds(&Scalar::deserialize(d)?.text()).map(Some).map_err(D::Error::custom)
}

fn filters<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Filter, D::Error> {
    let lines = Vec::<String>::deserialize(d)?;
    lines.iter().try_fold(Filter::default(), |all, line| {
        line.parse().map(|f| all.and(f)).map_err(D::Error::custom)
    })
}

fn fallback<'de, D: serde::Deserializer<'de>>(d: D) -> Result<NetworkFallback, D::Error> {
    match String::deserialize(d)?.as_str() {
        "host" => Ok(NetworkFallback::Host),
        "none" => Ok(NetworkFallback::None),
        "error" => Ok(NetworkFallback::Error),
        other => Err(D::Error::custom(format!(
            "unknown network `{other}`: expected `host`, `none` or `error`"
        ))),
    }
}

/// A message about an unknown key, with what may have been meant.
fn unknown(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let key = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    Some(match rgraph_ir::near::nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key `{key}`: did you mean `{near}`?"),
        None => format!("unknown key `{key}`; known here: {}", known.join(", ")),
    })
}

impl Config {
    /// Reads the file; one that is not there says nothing.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let config = Self::parse(&text)
                    .map_err(|what| ConfigError::Text { path: path.to_owned(), what })?;
                Ok(Self { folder: path.parent().unwrap_or(path).to_owned(), ..config })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e: toml::de::Error| {
            let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let what = unknown(e.message()).unwrap_or_else(|| e.message().trim_end().to_owned());
            match line {
                Some(n) => format!("line {n}: {what}"),
                None => what,
            }
        })
    }

    /// What steps get where they cannot have a network of their own.
    pub fn network_fallback(&self) -> NetworkFallback {
        self.network.fallback
    }

    /// Folders of device specs, those that count more last. Relative ones lie beside the file.
    pub fn cdi_spec_dirs(&self) -> Vec<PathBuf> {
        match &self.cdi.spec_dirs {
            Some(dirs) => dirs.iter().map(|d| self.folder.join(d)).collect(),
            None => super::SPEC_DIRS.map(PathBuf::from).to_vec(),
        }
    }

    /// Most of a step's output that is kept, bytes.
    pub fn log_size(&self) -> u64 {
        self.logs.max_size.unwrap_or(rgraph_runtime::logs::STEP_MAX)
    }

    /// How registries are reached, by their names.
    pub fn hosts(&self) -> BTreeMap<String, HostConfig> {
        self.registry.hosts(&self.folder)
    }

    /// What a build does about the cache when it has ended; `None`: nothing. A bound that the file
    /// names stands alone: the built-in ones count only when it names none.
    pub fn gc(&self, disk: &Disk) -> Option<Policy> {
        let Gc { enabled, reserved_space, max_used_space, min_free_space, policy } = &self.gc;
        if *enabled == Some(false) {
            return None;
        }
        let bounds = Bounds {
            reserved: *reserved_space,
            max_used: *max_used_space,
            min_free: *min_free_space,
        };
        let mut cache: Vec<Rule> = policy
            .iter()
            .map(|r| Rule {
                filter: r.filters.clone(),
                unused_for: r.keep_duration,
                limits: Bounds {
                    reserved: r.reserved_space,
                    max_used: r.max_used_space,
                    min_free: r.min_free_space,
                }
                .of(disk),
            })
            .collect();
        let limits = match bounds.of(disk) {
            none if none == Limits::default() && cache.is_empty() => Limits::of_disk(disk.total),
            limits => limits,
        };
        if limits != Limits::default() {
            cache.push(Rule { limits, ..Rule::default() });
        }
        Some(Policy { untagged: None, cache, dry_run: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Disk = Disk { total: 1000, free: 500, used: 500 };

    fn rules(text: &str) -> Vec<Rule> {
        Config::parse(text).unwrap().gc(&DISK).unwrap().cache
    }

    #[test]
    fn bounds_and_rules() {
        let limits = |reserved, max_used, min_free| Limits { reserved, max_used, min_free };
        assert_eq!(rules("")[0].limits, Limits::of_disk(1000));
        assert_eq!(Config::parse("[gc]\nenabled = false\n").unwrap().gc(&DISK), None);
        let r = rules("[gc]\nmax-used-space = '30%'\nreserved-space = 10\n");
        assert_eq!((r.len(), r[0].limits), (1, limits(Some(10), Some(300), None)));
        let r = rules(
            "[gc]\nmin-free-space = '1k'\n[[gc.policy]]\nfilters = ['type=exec.cachemount']\n\
             keep-duration = '48h'\nmax-used-space = '512MB'\n[[gc.policy]]\nkeep-duration = 60\n",
        );
        assert_eq!(r.len(), 3, "the file's own, in order, then the bounds of all");
        assert_eq!(r[0].filter, "type=exec.cachemount".parse().unwrap());
        assert_eq!(
            (r[0].unused_for, r[0].limits),
            (Some(172_800), limits(None, Some(512 << 20), None))
        );
        assert_eq!((r[1].unused_for, r[1].limits), (Some(60), Limits::default()));
        assert_eq!(r[2].limits, limits(None, None, Some(1024)));
    }

    #[test]
    fn network() {
        for (text, want) in [
            ("", NetworkFallback::Host),
            ("[network]\n", NetworkFallback::Host),
            ("[network]\nfallback = 'host'\n", NetworkFallback::Host),
            ("[network]\nfallback = 'none'\n", NetworkFallback::None),
            ("network.fallback = 'error'\n", NetworkFallback::Error),
        ] {
            assert_eq!(Config::parse(text).unwrap().network_fallback(), want, "{text}");
        }
    }

    #[test]
    fn registries() {
        let text = "[registry.'docker.io']\nmirrors = ['http://m.example:5000/hub']\n\
            [registry.'r.example:5000']\nhttp = true\ninsecure = true\nca = 'sub/ca.pem'\n";
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let hosts = Config::load(Some(&path)).unwrap().hosts();
        let r = &hosts["r.example:5000"];
        assert_eq!((r.http, r.insecure), (Some(true), true));
        assert_eq!(r.ca, [dir.path().join("sub/ca.pem")]);
        let m = &hosts["docker.io"].mirrors[0];
        assert_eq!((&m.host[..], &m.prefix[..], m.http), ("m.example:5000", "hub", true));
        assert!(Config::parse("").unwrap().hosts().is_empty());
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, want) in [
            (
                "[gc]\n\nmax-usd-space = '1g'\n",
                "line 3: unknown key `max-usd-space`: did you mean `max-used-space`?",
            ),
            ("[registri.'x:1']\n", "line 1: unknown key `registri`: did you mean `registry`?"),
            (
                "[gc]\n[zzz]\n",
                "line 2: unknown key `zzz`; known here: gc, network, cdi, logs, registry",
            ),
            ("[registry.'https://x']\n", "line 1: `https://x` is no registry"),
            (
                "[registry.'x:1']\nmirror = []\n",
                "line 2: unknown key `mirror`: did you mean `mirrors`?",
            ),
            ("[registry.'x:1']\nmirrors = ['a b']\n", "line 2: `a b` is no mirror"),
            ("[registry.'x:1']\nhttp = 1\n", "line 2: invalid type"),
            ("[gc]\nmax-used-space = 'many'\n", "line 2: expected a number of bytes"),
            ("[gc]\nenabled = 'yes'\n", "line 2: invalid type"),
            ("[[gc.policy]]\nfilters = ['size=3']\n", "line 2: unknown filter `size`"),
            ("[network]\nfallback = 'lan'\n", "line 2: unknown network `lan`: expected"),
            (
                "[network]\nfallbak = 'host'\n",
                "line 2: unknown key `fallbak`: did you mean `fallback`?",
            ),
            ("[gc\n", "line 1: "),
        ] {
            let e = Config::parse(text).unwrap_err();
            assert!(e.starts_with(want), "{text}: {e}");
        }
    }
}
