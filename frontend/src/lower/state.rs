//! What a stage is at one point of its instructions: root file system, variables, image config.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use compact_str::CompactString;
use foldhash::quality::RandomState;
use rgraph_ir::image_config::{ContainerConfig, ImageConfig};
use rgraph_ir::plan::TargetBase;
use rgraph_ir::{Env, Platform, Span};

use super::draft::Ref;
use crate::expand::Lookup;

/// A variable's name and value.
pub(super) type Var = (Arc<str>, Arc<str>);

/// Where names stand in a list. Empty while the list is short: looking through that is faster, and most
/// stages have a few variables only.
type Index = HashMap<Arc<str>, usize, RandomState>;

/// How long a list without an index may be.
const SHORT: usize = 16;

/// The variables a step sees, in order. Setting one again moves it to the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars {
    entries: Vec<Option<Var>>,
    /// How many entries are no gap.
    len: usize,
    index: Index,
    /// What `entries[..built_to]` is as an [`Env`].
    built: Env,
    built_to: usize,
    /// How often a variable was put into `built`.
    work: usize,
}

/// Most variables that may be put into environments by one stage: setting one again means that what
/// stands behind it is put in again.
const MAX_WORK: usize = 1 << 20;

impl Vars {
    pub fn set(&mut self, key: &str, value: &str) {
        self.set_var((key.into(), value.into()));
    }

    pub fn set_var(&mut self, var: Var) {
        self.remove(&var.0);
        if !self.index.is_empty() {
            self.index.insert(var.0.clone(), self.entries.len());
        }
        self.entries.push(Some(var));
        self.len += 1;
        if self.entries.len() > 2 * self.len + SHORT {
            self.close_gaps();
        }
        if self.index.is_empty() && self.entries.len() > SHORT {
            self.number();
        }
    }

    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.at(key) {
            self.index.remove(key);
            self.len -= 1;
            self.take_out(at);
        }
    }

    fn at(&self, key: &str) -> Option<usize> {
        if !self.index.is_empty() {
            return self.index.get(key).copied();
        }
        self.entries.iter().rposition(|e| e.as_ref().is_some_and(|(k, _)| &**k == key))
    }

    /// Leaves a gap; `built` goes back to what stands before it.
    fn take_out(&mut self, at: usize) {
        if at < self.built_to {
            for _ in self.entries[at..self.built_to].iter().flatten() {
                self.built = self.built.parent().cloned().unwrap_or_default();
            }
            self.built_to = at;
        }
        self.entries[at] = None;
    }

    fn close_gaps(&mut self) {
        self.built_to = self.entries[..self.built_to].iter().flatten().count();
        self.entries.retain(Option::is_some);
        if !self.index.is_empty() {
            self.number();
        }
    }

    /// Makes the index anew.
    fn number(&mut self) {
        let places = self.entries.iter().enumerate();
        self.index = places.filter_map(|(i, e)| Some((e.as_ref()?.0.clone(), i))).collect();
    }

    /// The list as the op takes it; shares all that did not change since the last call.
    pub fn env(&mut self) -> Result<Env, String> {
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
        self.at(name).is_some()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().flatten().map(|(k, _)| &**k)
    }
}

impl Lookup for Vars {
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.entries[self.at(name)?].as_ref()?;
        Some(value)
    }
}

/// The image's variables: each keeps its place.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfigEnv {
    list: Vec<Var>,
    index: Index,
}

impl ConfigEnv {
    pub fn set(&mut self, (key, value): Var) {
        if let Some(at) = self.at(&key) {
            self.list[at].1 = value;
            return;
        }
        if !self.index.is_empty() {
            self.index.insert(key.clone(), self.list.len());
        }
        self.list.push((key, value));
        if self.index.is_empty() && self.list.len() > SHORT {
            self.index = self.list.iter().zip(0..).map(|((k, _), i)| (k.clone(), i)).collect();
        }
    }

    fn at(&self, key: &str) -> Option<usize> {
        if !self.index.is_empty() {
            return self.index.get(key).copied();
        }
        self.list.iter().position(|(k, _)| &**k == key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.at(key).is_some()
    }

    /// As the image has it.
    pub fn strings(&self) -> Vec<(String, String)> {
        self.list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
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
    pub build_args: Vec<(CompactString, Option<CompactString>)>,
    /// A `WORKDIR` was given in this file.
    pub workdir_set: bool,
    /// `FROM --platform`, else the target's.
    pub platform: Arc<Platform>,
}

impl StageState {
    /// A stage on nothing.
    pub fn scratch(platform: &Arc<Platform>) -> Self {
        let mut image = ImageConfig::empty(Platform::clone(platform));
        image.config.working_dir = "/".to_owned();
        let mut state = Self::on(None, image, platform);
        state.default_path();
        state
    }

    /// A stage on a tree with the settings of `image`.
    pub fn on(root: Option<Ref>, mut image: ImageConfig, platform: &Arc<Platform>) -> Self {
        let mut config_env = ConfigEnv::default();
        for (k, v) in std::mem::take(&mut image.config.env) {
            config_env.set((k.into(), v.into()));
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
            self.config_env.set(DEFAULT_PATH.clone());
            self.in_step = false;
        }
    }

    /// Lets steps see the image's variables. In a child of a stage these come behind the parent's
    /// `ARG`s and win over them.
    pub fn adopt_config(&mut self) {
        self.default_path();
        if !self.in_step {
            for var in &self.config_env.list {
                self.vars.set_var(var.clone());
            }
            self.in_step = self.vars.len() == self.config_env.list.len();
        }
    }

    pub fn set_env(&mut self, key: &str, value: &str) {
        self.in_step &= !self.config_env.has(key);
        let var: Var = (key.into(), value.into());
        self.vars.set_var(var.clone());
        self.config_env.set(var);
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
    pub fn shell(&self, script: String) -> Vec<String> {
        let shell: &[&str] = match &self.image.config.shell {
            Some(s) if !s.is_empty() => {
                return s.iter().cloned().chain([script]).collect();
            }
            _ if self.image.platform.os == "windows" => &["cmd", "/S", "/C"],
            _ => &["/bin/sh", "-c"],
        };
        let mut args = Vec::with_capacity(shell.len() + 1);
        args.extend(shell.iter().map(|word| (*word).to_owned()));
        args.push(script);
        args
    }
}

/// What a process has for `PATH` when its image says nothing.
pub(super) static DEFAULT_PATH: LazyLock<Var> = LazyLock::new(|| {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    ("PATH".into(), path.into())
});

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

    /// Against a list that is made anew each time.
    #[test]
    fn sets_and_removals_in_any_order() {
        let (mut v, mut plain) = (Vars::default(), Vec::<(String, String)>::new());
        let mut seed = 7u32;
        for n in 0..5_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (key, value) = (format!("K{}", (seed >> 16) % 40), n.to_string());
            plain.retain(|(k, _)| *k != key);
            if seed >> 28 == 0 {
                v.remove(&key);
            } else {
                v.set(&key, &value);
                plain.push((key, value));
            }
            if n % 3 == 0 {
                assert_eq!(v.env().unwrap(), plain.iter().map(|(k, v)| (k, v)).collect());
            }
        }
    }

    #[test]
    fn setting_the_newest_again_and_again_is_cheap() {
        let mut v = Vars::default();
        for i in 0..2_000 {
            v.set(&format!("K{i}"), "v");
        }
        for i in 0..20_000 {
            v.set("PATH", &i.to_string());
            assert!(v.env().is_ok(), "{i}");
        }
    }

    #[test]
    fn a_child_sees_the_image_behind_the_parents_args() {
        let mut s = StageState::scratch(&Arc::new(Platform::linux_amd64()));
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
