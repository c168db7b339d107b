//! What a stage is at one point of its instructions: root file system, variables, image config.

use std::collections::HashMap;
use std::sync::Arc;

use rgraph_ir::image_config::{ContainerConfig, ImageConfig};
use rgraph_ir::plan::TargetBase;
use rgraph_ir::{Env, Platform, Span};

use super::draft::Ref;
use crate::expand::Lookup;

/// The variables a step sees, in order, with an index. Setting one again moves it to the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars {
    entries: Vec<Option<(Arc<str>, Arc<str>)>>,
    index: HashMap<Arc<str>, usize>,
    /// What `entries[..built_to]` is as an [`Env`].
    built: Env,
    built_to: usize,
    /// How often a variable was put into `built`.
    work: usize,
}

/// Most variables that may be put into environments by one stage: setting one again means that the
/// list is made anew.
const MAX_WORK: usize = 1 << 19;

impl Vars {
    pub fn set(&mut self, key: &str, value: &str) {
        let key: Arc<str> = match self.index.get_key_value(key) {
            Some((key, at)) => {
                self.entries[*at] = None;
                if *at < self.built_to {
                    self.built = Env::new();
                    self.built_to = 0;
                }
                key.clone()
            }
            None => key.into(),
        };
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push(Some((key, value.into())));
    }

    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.index.remove(key) {
            self.entries[at] = None;
            self.built = Env::new();
            self.built_to = 0;
        }
    }

    /// The list as the op takes it; shares all that did not change since the last call.
    pub fn env(&mut self) -> Result<Env, String> {
        if self.built_to == 0 && self.entries.len() > 2 * self.index.len() {
            self.entries.retain(Option::is_some);
            for (i, e) in self.entries.iter().enumerate() {
                if let Some((k, _)) = e {
                    self.index.insert(k.clone(), i);
                }
            }
        }
        self.work += self.entries.len() - self.built_to;
        if self.work > MAX_WORK {
            return Err("too many variables are set again between steps".to_owned());
        }
        for (key, value) in self.entries[self.built_to..].iter().flatten() {
            self.built = self.built.push_new(key.clone(), value.clone());
        }
        self.built_to = self.entries.len();
        Ok(self.built.clone())
    }

    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flatten().map(|(k, _)| &**k)
    }
}

impl Lookup for Vars {
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.entries[*self.index.get(name)?].as_ref()?;
        Some(value)
    }
}

/// The image's variables: each keeps its place.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigEnv {
    pub list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl ConfigEnv {
    pub fn set(&mut self, key: &str, value: &str) {
        match self.index.get(key) {
            Some(at) => value.clone_into(&mut self.list[*at].1),
            None => {
                self.index.insert(key.to_owned(), self.list.len());
                self.list.push((key.to_owned(), value.to_owned()));
            }
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }
}

/// One line of history.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub created_by: String,
    pub layer: Option<Ref>,
    pub span: Span,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub root: Option<Ref>,
    pub vars: Vars,
    /// True while `vars` and the image's variables are the same list.
    pub in_step: bool,
    pub cwd: String,
    pub user: String,
    pub config_env: ConfigEnv,
    /// Everything but the variables.
    pub image: ImageConfig,
    pub history: Vec<History>,
    /// Length of the history's texts, bytes.
    pub history_size: usize,
    pub base: TargetBase,
    /// `ARG`s so far, with the values they had when declared.
    pub build_args: Vec<(String, Option<String>)>,
    /// A `WORKDIR` was given in this file.
    pub workdir_set: bool,
    /// `FROM --platform`, else the target's.
    pub platform: Platform,
}

impl StageState {
    /// A stage on nothing.
    pub fn scratch(platform: &Platform) -> Self {
        let mut image = ImageConfig::empty(platform.clone());
        image.config.working_dir = "/".to_owned();
        let mut state = Self::on(None, image, platform);
        state.default_path();
        state
    }

    /// A stage on a tree with the settings of `image`.
    pub fn on(root: Option<Ref>, mut image: ImageConfig, platform: &Platform) -> Self {
        let mut config_env = ConfigEnv::default();
        for (k, v) in std::mem::take(&mut image.config.env) {
            config_env.set(&k, &v);
        }
        Self {
            root,
            vars: Vars::default(),
            in_step: false,
            cwd: "/".to_owned(),
            user: String::new(),
            config_env,
            image,
            history: Vec::new(),
            history_size: 0,
            base: TargetBase::default(),
            build_args: Vec::new(),
            workdir_set: false,
            platform: platform.clone(),
        }
    }

    /// Gives the image a `PATH` when it has none.
    pub fn default_path(&mut self) {
        if !self.config_env.has("PATH") && self.platform.os != "windows" {
            self.config_env.set("PATH", DEFAULT_PATH);
            self.in_step = false;
        }
    }

    /// Lets steps see the image's variables. In a child of a stage these come behind the parent's
    /// `ARG`s and win over them.
    pub fn adopt_config(&mut self) {
        self.default_path();
        if !self.in_step {
            for (k, v) in &self.config_env.list {
                self.vars.set(k, v);
            }
            self.in_step = self.vars.index.len() == self.config_env.list.len();
        }
    }

    pub fn set_env(&mut self, key: &str, value: &str) {
        self.in_step &= !self.config_env.has(key);
        self.vars.set(key, value);
        self.config_env.set(key, value);
    }

    pub fn set_arg(&mut self, key: &str, value: &str) {
        self.in_step = false;
        self.vars.set(key, value);
    }

    pub fn config(&mut self) -> &mut ContainerConfig {
        &mut self.image.config
    }

    pub fn os(&self) -> &str {
        &self.platform.os
    }

    pub fn commit(&mut self, created_by: impl Into<String>, layer: Option<Ref>, span: Span) {
        let created_by = created_by.into();
        self.history_size += created_by.len();
        self.history.push(History { created_by, layer, span });
    }

    /// The shell in force.
    pub fn shell(&self) -> Vec<String> {
        match &self.image.config.shell {
            Some(s) if !s.is_empty() => s.clone(),
            _ if self.image.platform.os == "windows" => {
                ["cmd", "/S", "/C"].map(str::to_owned).to_vec()
            }
            _ => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
        }
    }
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_variables() {
        let mut v = Vars::default();
        v.set("A", "1");
        v.set("B", "2");
        assert_eq!(v.env().unwrap().to_strings(), ["A=1", "B=2"]);
        v.set("A", "3");
        v.set("C", "4");
        assert_eq!(v.env().unwrap().to_strings(), ["B=2", "A=3", "C=4"]);
        for i in 0..10 {
            v.set("B", &i.to_string());
        }
        assert_eq!(v.env().unwrap().to_strings(), ["A=3", "C=4", "B=9"]);
        assert_eq!(v.get("B"), Some("9"));
        assert_eq!(v.get("A"), Some("3"));
        v.set("D", "");
        assert_eq!(v.env().unwrap().to_strings(), ["A=3", "C=4", "B=9", "D="]);
    }

    #[test]
    fn a_child_sees_the_image_behind_the_parents_args() {
        let mut s = StageState::scratch(&Platform::linux_amd64());
        s.adopt_config();
        s.set_env("A", "1");
        s.set_arg("A", "2");
        s.set_arg("X", "y");
        assert_eq!(s.vars.get("A"), Some("2"));
        s.adopt_config();
        let env = s.vars.env().unwrap().to_strings();
        assert_eq!(env[0], "X=y");
        assert_eq!(env[2], "A=1");
    }
}
