//! Where state lives: the table of the command line's contract.

use std::path::{Path, PathBuf};

use super::error::OptionsError;
use crate::args::Environment;

/// Folders and files of one installation. Two roots share nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirs {
    /// Everything that lasts; removing it removes all.
    pub root: PathBuf,
    /// Sockets and pid files; `root` was named explicitly: below it.
    pub run: PathBuf,
    /// The user's config file, which need not exist; `None`: a user without a home.
    pub config: Option<PathBuf>,
}

impl StateDirs {
    /// Decides. `flag` is `--root`; `uid` the effective user; `cwd` makes relative paths absolute.
    pub fn resolve(
        flag: Option<&Path>,
        env: &Environment,
        uid: u32,
        cwd: &Path,
    ) -> Result<Self, OptionsError> {
        let is_root = uid == 0;
        let below_home = |rest: &str| env.home.as_ref().map(|h| cwd.join(h).join(rest));
        let config = match &env.config {
            Some(c) => Some(cwd.join(c)),
            None if is_root => Some("/etc/rgraph/config.toml".into()),
            None => env
                .xdg_config_home
                .clone()
                .or_else(|| below_home(".config"))
                .map(|d| d.join("rgraph/config.toml")),
        };
        if let Some(root) = flag.or(env.root.as_deref()) {
            if root.as_os_str().is_empty() {
                return Err(OptionsError::value("--root", "", "it is empty"));
            }
            let root = cwd.join(root);
            return Ok(Self { run: root.join("run"), root, config });
        }
        if is_root {
            return Ok(Self { root: "/var/lib/rgraph".into(), run: "/run/rgraph".into(), config });
        }
        let data = env.xdg_data_home.clone().or_else(|| below_home(".local/share"));
        let Some(root) = data.map(|d| d.join("rgraph")) else {
            return Err(OptionsError::Missing {
                what: "no folder for the state: neither `HOME` nor `XDG_DATA_HOME` is set".into(),
                help: Some("give one with `--root DIR` or `RGRAPH_ROOT`".into()),
            });
        };
        let run = match &env.xdg_runtime_dir {
            Some(d) => d.join("rgraph"),
            None => root.join("run"),
        };
        Ok(Self { root, run, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        const HOME: (&str, &str) = ("HOME", "/home/u");
        // (--root, environment, uid), (root, run, config)
        type Given = (Option<&'static str>, &'static [(&'static str, &'static str)], u32);
        type Wanted = (&'static str, &'static str, Option<&'static str>);
        let cases: [(Given, Wanted); 8] = [
            (
                (None, &[HOME], 0),
                ("/var/lib/rgraph", "/run/rgraph", Some("/etc/rgraph/config.toml")),
            ),
            (
                (None, &[HOME], 1),
                (
                    "/home/u/.local/share/rgraph",
                    "/home/u/.local/share/rgraph/run",
                    Some("/home/u/.config/rgraph/config.toml"),
                ),
            ),
            (
                (None, &[HOME, ("XDG_RUNTIME_DIR", "/run/user/1")], 1),
                (
                    "/home/u/.local/share/rgraph",
                    "/run/user/1/rgraph",
                    Some("/home/u/.config/rgraph/config.toml"),
                ),
            ),
            (
                (None, &[HOME, ("XDG_DATA_HOME", "/d"), ("XDG_CONFIG_HOME", "/c")], 1),
                ("/d/rgraph", "/d/rgraph/run", Some("/c/rgraph/config.toml")),
            ),
            (
                (Some("/r"), &[HOME, ("XDG_RUNTIME_DIR", "/run/user/1")], 1),
                ("/r", "/r/run", Some("/home/u/.config/rgraph/config.toml")),
            ),
            (
                (Some("r"), &[("RGRAPH_ROOT", "/e")], 0),
                ("/w/r", "/w/r/run", Some("/etc/rgraph/config.toml")),
            ),
            ((None, &[("RGRAPH_ROOT", "/e")], 1), ("/e", "/e/run", None)),
            (
                (None, &[("RGRAPH_ROOT", "/e"), ("RGRAPH_CONFIG", "x")], 1),
                ("/e", "/e/run", Some("/w/x")),
            ),
        ];
        for ((flag, vars, uid), (root, run, config)) in cases {
            let env = Environment::from_vars(vars.iter().map(|(k, v)| (k.into(), v.into())));
            let got = StateDirs::resolve(flag.map(Path::new), &env, uid, Path::new("/w")).unwrap();
            let want =
                StateDirs { root: root.into(), run: run.into(), config: config.map(PathBuf::from) };
            assert_eq!(got, want, "{flag:?} {vars:?} {uid}");
        }
        let none = StateDirs::resolve(None, &Environment::default(), 1, Path::new("/w"));
        assert!(!none.unwrap_err().is_usage());
    }
}
