//! Image configs: OCI's (image-spec, config.md) with Docker's additions, to and from
//! [`ir::ImageConfig`](ImageConfig).

use std::collections::BTreeMap;

use rgraph_ir::image_config::{BaseHistory, ContainerConfig, Healthcheck, ImageConfig};
use rgraph_ir::limits::{MAX_CONFIG, MAX_LAYERS};
use rgraph_ir::{DiffId, Platform};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::json::{self, JsonError};

/// Most entries of a history.
const MAX_HISTORY: usize = 10_000;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("bad image config")]
    Json(#[from] JsonError),
    /// It does not say what it runs on.
    #[error("the image config has no `{0}`")]
    Missing(&'static str),
    /// There is too much of something.
    #[error("the image config has {got} {what}, {limit} are allowed")]
    Limit {
        /// What.
        what: &'static str,
        /// How many.
        got: usize,
        /// The most.
        limit: usize,
    },
    /// Its root file system is not made of layers.
    #[error("the image config's rootfs has the type `{0}`, `layers` is the only one")]
    RootfsType(String),
    /// What it runs on is named by something that is no word: it is part of names of files.
    #[error("the image config's `{0}` is no word of letters, digits, `.`, `_` and `-`")]
    Word(&'static str),
}

/// Longest word of a platform, bytes.
const MAX_WORD: usize = 64;

fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= MAX_WORD && text.bytes().all(plain) && !matches!(text, "." | "..")
}

/// The document. Keys come out in the order of their names, as BuildKit's exporter writes them;
/// what this crate does not know is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ImageConfigFile {
    /// GOARCH.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Container settings.
    #[serde(default, deserialize_with = "or_default")]
    pub config: ConfigObject,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// One entry per instruction, oldest first.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryObject>,
    /// GOOS.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// Features of the os it needs.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// Windows build number.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Its layers.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootfsObject,
    /// `v7`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// `config` of [`ImageConfigFile`], in the order of Go's structs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigObject {
    /// `USER`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`; values are empty objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// `ENV`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(skip_serializing_if = "nothing")]
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    #[serde(skip_serializing_if = "nothing")]
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`; values are empty objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// `WORKDIR`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// `STOPSIGNAL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The command was a shell form on Windows.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthcheckObject>,
    /// `ONBUILD`.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(skip_serializing_if = "nothing")]
    pub shell: Option<Vec<String>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// `Healthcheck` of [`ConfigObject`]; times in ns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the fields are those of ir::Healthcheck")]
pub struct HealthcheckObject {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// An entry of `history`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryObject {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// `rootfs`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootfsObject {
    /// `layers`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Bottom first.
    #[serde(deserialize_with = "or_default")]
    pub diff_ids: Vec<DiffId>,
}

/// Go writes `null` where it means nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(v: &bool) -> bool {
    !*v
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(v: &i64) -> bool {
    *v == 0
}

#[expect(clippy::ref_option, reason = "serde asks for a reference")]
fn nothing(v: &Option<Vec<String>>) -> bool {
    v.as_ref().is_none_or(Vec::is_empty)
}

fn text(v: String) -> Option<String> {
    Some(v).filter(|v| !v.is_empty())
}

/// Writes a config, byte for byte as BuildKit's exporter does for the same image.
pub fn to_json(
    config: &ImageConfig,
    history: &[BaseHistory],
    diff_ids: &[DiffId],
    created: Option<&str>,
) -> Vec<u8> {
    ImageConfigFile::new(config, history, diff_ids, created).to_json()
}

/// Reads a config: its settings, its history (oldest first) and its layers (bottom first).
pub fn from_json(
    bytes: &[u8],
) -> Result<(ImageConfig, Vec<BaseHistory>, Vec<DiffId>), ConfigError> {
    let file = ImageConfigFile::from_json(bytes)?;
    let history = file.history.iter().cloned().map(HistoryObject::into_ir).collect();
    let diff_ids = file.rootfs.diff_ids.clone();
    Ok((file.into_ir(), history, diff_ids))
}

impl ImageConfigFile {
    /// Puts a document together.
    pub fn new(
        config: &ImageConfig,
        history: &[BaseHistory],
        diff_ids: &[DiffId],
        created: Option<&str>,
    ) -> Self {
        let c = &config.config;
        let set = |names: &std::collections::BTreeSet<String>| {
            (!names.is_empty()).then(|| names.iter().map(|n| (n.clone(), Empty {})).collect())
        };
        Self {
            architecture: config.platform.architecture.clone(),
            author: config.author.clone(),
            config: ConfigObject {
                user: c.user.clone(),
                exposed_ports: set(&c.exposed_ports),
                env: c.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
                entrypoint: c.entrypoint.clone(),
                cmd: c.cmd.clone(),
                volumes: set(&c.volumes),
                working_dir: c.working_dir.clone(),
                labels: Some(c.labels.clone()).filter(|l| !l.is_empty()),
                stop_signal: c.stop_signal.clone().filter(|s| !s.is_empty()),
                args_escaped: c.args_escaped,
                healthcheck: c.healthcheck.as_ref().map(|h| HealthcheckObject {
                    test: h.test.clone(),
                    interval: h.interval,
                    timeout: h.timeout,
                    start_period: h.start_period,
                    start_interval: h.start_interval,
                    retries: h.retries,
                }),
                on_build: c.on_build.clone(),
                shell: c.shell.clone(),
                extra: BTreeMap::new(),
            },
            created: created.map(str::to_owned),
            history: history.iter().map(HistoryObject::from_ir).collect(),
            os: config.platform.os.clone(),
            os_features: config.os_features.clone(),
            os_version: text(config.platform.os_version.clone()),
            rootfs: RootfsObject { kind: "layers".to_owned(), diff_ids: diff_ids.to_vec() },
            variant: text(config.platform.variant.clone()),
            extra: BTreeMap::new(),
        }
    }

    /// Reads a document: size, depth and counts are limited, and it must say what it runs on.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let file: Self = json::read(bytes, MAX_CONFIG)?;
        if file.architecture.is_empty() {
            return Err(ConfigError::Missing("architecture"));
        }
        if file.os.is_empty() {
            return Err(ConfigError::Missing("os"));
        }
        let variant = file.variant.as_deref().unwrap_or_default();
        for (what, word) in
            [("architecture", &*file.architecture), ("os", &*file.os), ("variant", variant)]
        {
            if !is_word(word) {
                return Err(ConfigError::Word(what));
            }
        }
        if !matches!(file.rootfs.kind.as_str(), "layers" | "") {
            return Err(ConfigError::RootfsType(file.rootfs.kind.chars().take(32).collect()));
        }
        for (what, got, limit) in [
            ("layers", file.rootfs.diff_ids.len(), MAX_LAYERS),
            ("history entries", file.history.len(), MAX_HISTORY),
        ] {
            if got > limit {
                return Err(ConfigError::Limit { what, got, limit });
            }
        }
        Ok(file)
    }

    /// The bytes: one line, keys sorted at the top, Go's escapes.
    pub fn to_json(&self) -> Vec<u8> {
        // Extra keys have to be sorted in between, which only a map of the whole does; below the
        // top the structs' own order stays.
        let mut top: BTreeMap<&str, Raw> = BTreeMap::new();
        let mut put = |key, value: Raw| top.insert(key, value);
        put("architecture", raw(&self.architecture));
        if let Some(v) = &self.author {
            put("author", raw(v));
        }
        put("config", raw(&self.config));
        if let Some(v) = &self.created {
            put("created", raw(v));
        }
        put("history", raw(&self.history));
        put("os", raw(&self.os));
        if !self.os_features.is_empty() {
            put("os.features", raw(&self.os_features));
        }
        if let Some(v) = &self.os_version {
            put("os.version", raw(v));
        }
        put("rootfs", raw(&self.rootfs));
        if let Some(v) = &self.variant {
            put("variant", raw(v));
        }
        for (key, value) in &self.extra {
            put(key, raw(value));
        }
        let mut out = vec![b'{'];
        for (i, (key, value)) in top.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend(json::compact(key));
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        out
    }

    /// Its settings.
    pub fn into_ir(self) -> ImageConfig {
        let c = self.config;
        let mut config = ContainerConfig {
            user: c.user,
            exposed_ports: c.exposed_ports.unwrap_or_default().into_keys().collect(),
            env: Vec::new(),
            entrypoint: c.entrypoint,
            cmd: c.cmd,
            volumes: c.volumes.unwrap_or_default().into_keys().collect(),
            working_dir: c.working_dir,
            labels: c.labels.unwrap_or_default(),
            stop_signal: c.stop_signal.filter(|s| !s.is_empty()),
            healthcheck: c.healthcheck.map(|h| Healthcheck {
                test: h.test,
                interval: h.interval,
                timeout: h.timeout,
                start_period: h.start_period,
                start_interval: h.start_interval,
                retries: h.retries,
            }),
            on_build: c.on_build,
            shell: c.shell,
            args_escaped: c.args_escaped,
        };
        for line in &c.env {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            config.env_set(key, value);
        }
        ImageConfig {
            platform: Platform {
                os: self.os,
                architecture: self.architecture,
                variant: self.variant.unwrap_or_default(),
                os_version: self.os_version.unwrap_or_default(),
            },
            os_features: self.os_features,
            author: self.author,
            config,
        }
    }
}

type Raw = Vec<u8>;

fn raw(value: &impl Serialize) -> Raw {
    json::compact(value)
}

impl HistoryObject {
    fn from_ir(h: &BaseHistory) -> Self {
        let some = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
        Self {
            created: some(&h.created),
            created_by: some(&h.created_by),
            author: some(&h.author),
            comment: some(&h.comment),
            empty_layer: h.empty_layer,
        }
    }

    fn into_ir(self) -> BaseHistory {
        BaseHistory {
            created: self.created,
            created_by: self.created_by,
            author: self.author,
            comment: self.comment,
            empty_layer: self.empty_layer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ImageConfig {
        let mut c = ImageConfig::empty(Platform::linux_amd64());
        c.author = Some("me".into());
        c.config = ContainerConfig {
            user: "app:app".into(),
            exposed_ports: ["80/tcp".to_owned(), "53/udp".to_owned()].into(),
            env: vec![("PATH".into(), "/bin".into()), ("A".into(), "x=y & z".into())],
            entrypoint: Some(vec!["/bin/app".into()]),
            cmd: Some(vec!["-v".into()]),
            volumes: ["/data".to_owned()].into(),
            working_dir: "/w".into(),
            labels: [("b".to_owned(), "<2>".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            stop_signal: Some("SIGINT".into()),
            healthcheck: Some(Healthcheck {
                test: vec!["CMD-SHELL".into(), "true".into()],
                interval: 5_000_000_000,
                retries: 3,
                ..Healthcheck::default()
            }),
            on_build: vec!["RUN make".into()],
            shell: Some(vec!["/bin/bash".into(), "-c".into()]),
            args_escaped: false,
        };
        c
    }

    fn history() -> Vec<BaseHistory> {
        vec![
            BaseHistory {
                created: Some("2024-01-01T00:00:00Z".into()),
                created_by: Some("RUN /bin/sh -c a && b # buildkit".into()),
                comment: Some("buildkit.dockerfile.v0".into()),
                ..BaseHistory::default()
            },
            BaseHistory {
                created_by: Some("CMD [\"-v\"]".into()),
                empty_layer: true,
                ..BaseHistory::default()
            },
        ]
    }

    #[test]
    fn bytes_are_those_of_buildkit() {
        let d = DiffId::of(b"layer");
        let got = to_json(&sample(), &history(), &[d], Some("2024-01-01T00:00:00Z"));
        let want = format!(
            concat!(
                r#"{{"architecture":"amd64","author":"me","config":{{"User":"app:app","#,
                r#""ExposedPorts":{{"53/udp":{{}},"80/tcp":{{}}}},"#,
                r#""Env":["PATH=/bin","A=x=y \u0026 z"],"Entrypoint":["/bin/app"],"Cmd":["-v"],"#,
                r#""Volumes":{{"/data":{{}}}},"WorkingDir":"/w","Labels":{{"a":"1","b":"\u003c2\u003e"}},"#,
                r#""StopSignal":"SIGINT","Healthcheck":{{"Test":["CMD-SHELL","true"],"#,
                r#""Interval":5000000000,"Retries":3}},"OnBuild":["RUN make"],"#,
                r#""Shell":["/bin/bash","-c"]}},"created":"2024-01-01T00:00:00Z","#,
                r#""history":[{{"created":"2024-01-01T00:00:00Z","#,
                r#""created_by":"RUN /bin/sh -c a \u0026\u0026 b # buildkit","#,
                r#""comment":"buildkit.dockerfile.v0"}},"#,
                r#"{{"created_by":"CMD [\"-v\"]","empty_layer":true}}],"os":"linux","#,
                r#""rootfs":{{"type":"layers","diff_ids":["{d}"]}}}}"#
            ),
            d = d
        );
        assert_eq!(String::from_utf8(got).unwrap(), want);
    }

    #[test]
    fn settings_history_and_layers_round_trip() {
        let d = [DiffId::of(b"a"), DiffId::of(b"b")];
        let bytes = to_json(&sample(), &history(), &d, None);
        let (config, hist, ids) = from_json(&bytes).unwrap();
        assert_eq!((config, hist, ids), (sample(), history(), d.to_vec()));
    }

    #[test]
    fn unknown_keys_and_nulls_survive() {
        let text = br#"{"architecture":"arm64","variant":"v8","os":"linux","zz":{"b":1,"a":[2]},
            "aa":true,"config":{"Env":null,"Cmd":null,"Entrypoint":[],"Hostname":"h","Volumes":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let file = ImageConfigFile::from_json(text).unwrap();
        let again = String::from_utf8(file.to_json()).unwrap();
        assert!(again.starts_with(r#"{"aa":true,"architecture":"arm64""#), "{again}");
        assert!(again.contains(r#""config":{"Hostname":"h"}"#), "{again}");
        assert!(again.ends_with(r#""variant":"v8","zz":{"a":[2],"b":1}}"#), "{again}");
        assert_eq!(file.into_ir().config.entrypoint, Some(vec![]));
    }

    #[test]
    fn hostile_configs_are_refused() {
        let hex = "0".repeat(64);
        let layers = |n: usize| {
            let ids = vec![format!("\"sha256:{hex}\""); n].join(",");
            format!(
                r#"{{"os":"linux","architecture":"x","rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#
            )
        };
        assert!(from_json(layers(MAX_LAYERS).as_bytes()).is_ok());
        for bad in [
            String::new(),
            "null".into(),
            "[]".into(),
            "{}".into(),
            r#"{"os":"linux"}"#.into(),
            r#"{"os":"linux","architecture":"x","rootfs":{"type":"tree"}}"#.into(),
            r#"{"os":"linux","architecture":"x","rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}"#
                .into(),
            r#"{"os":"linux","architecture":"x","config":{"Env":[1]}}"#.into(),
            r#"{"os":"linux","architecture":"x","config":{"Healthcheck":{"Retries":99999999999999999999}}}"#
                .into(),
            layers(MAX_LAYERS + 1),
            "[".repeat(200_000),
        ] {
            assert!(from_json(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(80)]);
        }
    }
}
