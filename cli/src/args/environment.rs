//! The environment, read once. An empty variable counts as unset, as in Docker.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What the environment says. The rest of the program never asks the process for a variable.
#[derive(Clone, Default)]
pub struct Environment {
    /// `RGRAPH_ROOT`: the state root.
    pub root: Option<PathBuf>,
    /// `RGRAPH_CONFIG`: the user's config file.
    pub config: Option<PathBuf>,
    /// `RGRAPH_SNAPSHOTTER`: how layers are laid over each other.
    pub snapshotter: Option<String>,
    /// `RGRAPH_LOG`: filter of the developers' log.
    pub log: Option<String>,
    /// `RGRAPH_INSECURE_REGISTRIES`, a comma list.
    pub insecure_registries: Vec<String>,
    /// `DOCKER_CONFIG`: folder with Docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// `REGISTRY_AUTH_FILE`: credentials in podman's place.
    pub registry_auth_file: Option<PathBuf>,
    /// `SOURCE_DATE_EPOCH`, as text.
    pub source_date_epoch: Option<String>,
    /// `BUILDKIT_PROGRESS`.
    pub progress: Option<String>,
    /// `BUILDKIT_TTY_LOG_LINES`.
    pub tty_log_lines: Option<String>,
    /// `NO_COLOR` is set to anything but the empty string.
    pub no_color: bool,
    /// `TERM` is `dumb`.
    pub dumb_terminal: bool,
    /// `SSH_AUTH_SOCK`: an agent's socket.
    pub ssh_auth_sock: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub xdg_data_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `HTTP_PROXY`, `http_proxy`: the way of rgraph's own transfers.
    pub http_proxy: Option<String>,
    /// `HTTPS_PROXY`, `https_proxy`.
    pub https_proxy: Option<String>,
    /// `NO_PROXY`, `no_proxy`: what is reached without.
    pub no_proxy: Option<String>,
    vars: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// The environment of this process: the one place that asks for it.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn capture() -> Self {
        Self::from_vars(std::env::vars_os())
    }

    /// Reads pairs of names and values.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let vars: BTreeMap<OsString, OsString> = vars.into_iter().collect();
        let raw = |name: &str| vars.get(OsStr::new(name)).filter(|v| !v.is_empty());
        let path = |name| raw(name).map(PathBuf::from);
        // The XDG specification: relative paths are invalid and to be ignored.
        let xdg = |name| path(name).filter(|p| p.is_absolute());
        let text = |name| raw(name).map(|v| v.to_string_lossy().into_owned());
        // As in Go: the name in capitals first.
        let either = |upper, lower| text(upper).or_else(|| text(lower));
        Self {
            root: path("RGRAPH_ROOT"),
            config: path("RGRAPH_CONFIG"),
            snapshotter: text("RGRAPH_SNAPSHOTTER"),
            log: text("RGRAPH_LOG"),
            insecure_registries: text("RGRAPH_INSECURE_REGISTRIES")
                .map(|l| l.split(',').map(|h| h.trim().to_owned()).collect::<Vec<_>>())
                .unwrap_or_default()
                .into_iter()
                .filter(|h| !h.is_empty())
                .collect(),
            docker_config: path("DOCKER_CONFIG"),
            registry_auth_file: path("REGISTRY_AUTH_FILE"),
            source_date_epoch: text("SOURCE_DATE_EPOCH"),
            progress: text("BUILDKIT_PROGRESS"),
            tty_log_lines: text("BUILDKIT_TTY_LOG_LINES"),
            no_color: raw("NO_COLOR").is_some(),
            dumb_terminal: raw("TERM").is_some_and(|t| t == "dumb"),
            ssh_auth_sock: path("SSH_AUTH_SOCK"),
            home: path("HOME"),
            xdg_data_home: xdg("XDG_DATA_HOME"),
            xdg_config_home: xdg("XDG_CONFIG_HOME"),
            xdg_runtime_dir: xdg("XDG_RUNTIME_DIR"),
            http_proxy: either("HTTP_PROXY", "http_proxy"),
            https_proxy: either("HTTPS_PROXY", "https_proxy"),
            no_proxy: either("NO_PROXY", "no_proxy"),
            vars,
        }
    }

    /// Any variable, for `--build-arg NAME` and `--secret id=X,env=NAME`. Empty ones are there.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// All variables that are text, for compose files.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.vars.iter().filter_map(|(k, v)| Some((k.to_str()?, v.to_str()?)))
    }

    /// Files with credentials, the first that exists counts: Docker's `config.json`, then podman's
    /// `REGISTRY_AUTH_FILE`.
    pub fn auth_files(&self) -> Vec<PathBuf> {
        let docker =
            self.docker_config.clone().or_else(|| self.home.as_ref().map(|h| h.join(".docker")));
        docker
            .map(|d| d.join("config.json"))
            .into_iter()
            .chain(self.registry_auth_file.clone())
            .collect()
    }
}

impl std::fmt::Debug for Environment {
    /// Names only what was set of interest: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").field("root", &self.root).finish_non_exhaustive()
    }
}
