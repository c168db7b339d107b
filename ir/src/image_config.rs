//! The settings of an image: OCI's config (image-spec, config.md) with Docker's additions.
//! Reading and writing JSON is `rgraph-image`'s.

use std::collections::{BTreeMap, BTreeSet};

use crate::platform::Platform;

/// What a container started from the image gets, and what describes the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What it runs on.
    pub platform: Platform,
    /// Features of the os it needs.
    pub os_features: Vec<String>,
    /// `MAINTAINER`.
    pub author: Option<String>,
    /// The container settings.
    pub config: ContainerConfig,
}

/// The `config` object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerConfig {
    /// `USER`.
    pub user: String,
    /// `EXPOSE`: `80/tcp`.
    pub exposed_ports: BTreeSet<String>,
    /// `ENV`, each key once; a repeated key is replaced where it stands.
    pub env: Vec<(String, String)>,
    /// `ENTRYPOINT`; `None`: not set, empty: set to nothing.
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`.
    pub volumes: BTreeSet<String>,
    /// `WORKDIR`.
    pub working_dir: String,
    /// `LABEL`.
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    pub stop_signal: Option<String>,
    /// `HEALTHCHECK` (Docker).
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD` (Docker).
    pub on_build: Vec<String>,
    /// `SHELL` (Docker).
    pub shell: Option<Vec<String>>,
    /// The command was a shell form on Windows (Docker).
    pub args_escaped: bool,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", text]`.
    pub test: Vec<String>,
    /// ns; 0: inherited.
    pub interval: i64,
    /// ns; 0: inherited.
    pub timeout: i64,
    /// ns; 0: inherited.
    pub start_period: i64,
    /// ns; 0: inherited.
    pub start_interval: i64,
    /// 0: inherited.
    pub retries: i64,
}

/// What lowering must know of a base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// Normalised name with the digest that was found: `docker.io/library/alpine:3@sha256:...`.
    /// Without a digest when nothing was asked (`--offline` graphs).
    pub reference: String,
    /// Its settings.
    pub config: ImageConfig,
    /// Number of layers (diff IDs).
    pub layers: usize,
    /// Its history, oldest first.
    pub history: Vec<BaseHistory>,
}

/// One line of a base image's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseHistory {
    /// RFC 3339, as found.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Who.
    pub author: Option<String>,
    /// Free text.
    pub comment: Option<String>,
    /// It made no layer.
    pub empty_layer: bool,
}

impl ImageConfig {
    /// No settings at all, for `platform`.
    pub fn empty(platform: Platform) -> Self {
        Self { platform, os_features: Vec::new(), author: None, config: ContainerConfig::default() }
    }
}

impl ContainerConfig {
    /// The value of `key`.
    pub fn env_get(&self, key: &str) -> Option<&str> {
        self.env.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Sets `key`, in place when it is there already.
    pub fn env_set(&mut self, key: &str, value: &str) {
        match self.env.iter_mut().find(|(k, _)| k == key) {
            Some((_, v)) => value.clone_into(v),
            None => self.env.push((key.to_owned(), value.to_owned())),
        }
    }
}
