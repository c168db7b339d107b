//! Tree to plan. For every platform: global `ARG`s, stages and what they need, bases (facts), then one
//! stage after the other. Platforms share the final graph, where equal vertices are one.
//!
//! Errors are collected: an instruction that cannot be lowered is skipped and the rest is looked at.

mod args;
mod base;
mod config;
mod copy;
mod draft;
mod expose;
mod git;

pub use git::git_source;
mod gofmt;
mod linked;
mod mounts;
mod names;
mod outline;
mod path;
mod run;
mod services;
mod stages;
mod state;
#[cfg(test)]
mod tests;
mod url;
mod warn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use compact_str::CompactString;
use rgraph_ir::graph::GraphBuilder;
use rgraph_ir::image_config::BaseImage;
use rgraph_ir::limits::MAX_CONFIG;
use rgraph_ir::op::ProxyEnv;
use rgraph_ir::{
    BuildPlan, Diagnostic, HistoryEntry, Platform, Severity, Span, Target, VertexMeta,
};

use crate::ast::{Dockerfile, Instruction, Kind, Word};
use crate::directive;
use crate::expand::{Expanded, Mode, expand, is_plain};
use crate::facts::{Facts, Query};
use crate::lint::{CHECK_ARG, Lint, layers, rules};
use crate::options::{LowerOptions, NoCache};
use draft::{Draft, Local, Ref};
pub(crate) use outline::outline;
use services::Beside;
use stages::Node;
use state::{StageState, Vars};

/// The result of [`lower`].
#[derive(Debug)]
pub enum Lowering {
    /// All done.
    Done(Lowered),
    /// These must be found out first; then lower again.
    Missing(BTreeSet<Query>),
}

/// A plan and what is unwise about it.
#[derive(Debug)]
pub struct Lowered {
    /// One target per platform.
    pub plan: BuildPlan,
    /// In file order.
    pub warnings: Vec<Diagnostic>,
    /// `SOURCE_DATE_EPOCH`, whoever set it: seconds since 1970.
    pub epoch: Option<i64>,
}

/// The name of the main context.
const CONTEXT: &str = "context";
/// The code of errors after which a stage is not looked at further.
const TOO_LARGE: &str = "too-large";
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// Lowers `ast` for every platform asked for. Errors come all at once, in file order.
pub fn lower(
    ast: &Dockerfile,
    opts: &LowerOptions,
    facts: &Facts,
) -> Result<Lowering, Vec<Diagnostic>> {
    if ast.stages.is_empty() {
        return Err(vec![no_stage()]);
    }
    let implicit = opts.platforms.is_empty();
    let platforms =
        if implicit { vec![opts.build_platform.clone()] } else { opts.platforms.clone() };
    let mut graph = GraphBuilder::new();
    let mut targets = Vec::new();
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let (mut missing, mut epoch) = (BTreeSet::new(), None);
    for platform in &platforms {
        let cx = match Cx::new(ast, opts, facts, platform, implicit) {
            Ok(cx) => cx,
            Err(d) => return Err(vec![d]),
        };
        match cx.run(&mut graph) {
            Ok(Outcome::Done { target, warnings: w, epoch: e }) => {
                epoch = e;
                // The other platforms' warnings are the same.
                if targets.is_empty() {
                    warnings = w;
                }
                targets.push(*target);
            }
            Ok(Outcome::Missing(m)) => missing.extend(m),
            Err(e) => errors.extend(e),
        }
    }
    if !errors.is_empty() {
        return Err(in_order(errors));
    }
    if !missing.is_empty() {
        return Ok(Lowering::Missing(missing));
    }
    let plan = BuildPlan { graph: graph.finish(), targets };
    // As often as there is a reason: each word of a line may be one.
    warnings.sort_by_key(place);
    Ok(Lowering::Done(Lowered { plan, warnings, epoch }))
}

/// What the folder of a context is called in the graph.
fn folder(opts: &LowerOptions, context: &str) -> String {
    opts.folders.get(context).map_or(context, String::as_str).to_owned()
}

fn no_stage() -> Diagnostic {
    let message = "dockerfile contains no stages to build";
    Diagnostic::new(Severity::Error, "no-stage", None, message)
}

/// Sorted by place, each once.
fn in_order(mut diags: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut seen = HashSet::new();
    diags.retain(|d| seen.insert((d.code, d.message.clone(), d.span())));
    diags.sort_by_key(place);
    diags
}

fn place(d: &Diagnostic) -> u32 {
    d.span().map_or(0, |s| s.start)
}

enum Outcome {
    Done { target: Box<Target>, warnings: Vec<Diagnostic>, epoch: Option<i64> },
    Missing(BTreeSet<Query>),
}

/// All that is known while one platform is lowered.
struct Cx<'a> {
    ast: &'a Dockerfile,
    opts: &'a LowerOptions,
    facts: &'a Facts,
    platform: Arc<Platform>,
    /// No platform was asked for.
    implicit: bool,
    build_args: BTreeMap<String, String>,
    globals: Vars,
    /// `ARG`s above the first `FROM`.
    declared: BTreeSet<&'a str>,
    draft: Draft,
    nodes: Vec<Node<'a>>,
    by_name: HashMap<String, usize>,
    /// Base images that were looked up, by name as written and platform.
    images: HashMap<String, HashMap<Arc<Platform>, Arc<BaseImage>>>,
    extra_nodes: bool,
    /// Containers beside steps, in the order of the options; those that no step may reach are not there.
    services: Vec<Beside>,
    /// What stages on nothing begin with.
    scratch: Option<StageState>,
    context: Ref,
    context_paths: usize,
    epoch: Option<i64>,
    proxy: Option<Arc<ProxyEnv>>,
    lint: Lint,
    /// What an outline is made of, when one is asked for.
    notes: Option<outline::Notes>,
    diags: Vec<Diagnostic>,
    missing: BTreeSet<Query>,
    /// How many names may still be compared for hints at undefined variables.
    hints_left: usize,
}

/// How many names are compared at most for hints at undefined variables.
const MAX_HINTS: usize = 1 << 17;

impl<'a> Cx<'a> {
    fn new(
        ast: &'a Dockerfile,
        opts: &'a LowerOptions,
        facts: &'a Facts,
        platform: &Platform,
        implicit: bool,
    ) -> Result<Self, Diagnostic> {
        let given = opts.build_args.get(CHECK_ARG).map(String::as_str);
        let mut lint = Lint::new(ast.directives.check.as_ref(), given)?;
        if !opts.warnings {
            lint = lint.unread();
        }
        let mut draft = Draft::default();
        let context_paths = draft.path_set();
        let context = draft.local(Local {
            name: folder(opts, CONTEXT),
            paths: context_paths,
            exclude: opts.ignore.rules.to_strings(),
            hint: CONTEXT.to_owned(),
            display: "[internal] load build context".to_owned(),
        });
        let mut build_args = opts.build_args.clone();
        if let Some(epoch) = opts.source_date_epoch {
            build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| epoch.to_string());
        }
        Ok(Self {
            proxy: args::proxy(&build_args).map(Arc::new),
            ast,
            opts,
            facts,
            platform: Arc::new(platform.clone()),
            implicit,
            build_args,
            globals: Vars::default(),
            declared: BTreeSet::new(),
            draft,
            nodes: Vec::with_capacity(ast.stages.len()),
            by_name: HashMap::new(),
            images: HashMap::new(),
            extra_nodes: false,
            services: Vec::new(),
            scratch: None,
            context,
            context_paths,
            epoch: None,
            lint,
            notes: None,
            diags: Vec::new(),
            missing: BTreeSet::new(),
            hints_left: MAX_HINTS,
        })
    }

    fn run(mut self, graph: &mut GraphBuilder) -> Result<Outcome, Vec<Diagnostic>> {
        match self.lower_stages()? {
            Ok(target) => self.finish(target, graph),
            Err(other) => Ok(other),
        }
    }

    /// Everything up to the final graph; gives the target, or what must be found out first.
    fn lower_stages(&mut self) -> Result<Result<usize, Outcome>, Vec<Diagnostic>> {
        self.lint_file();
        self.global_args();
        self.source_date_epoch();
        if self.diags.is_empty() && !self.missing.is_empty() {
            // Names of bases may be made of it.
            return Ok(Err(Outcome::Missing(std::mem::take(&mut self.missing))));
        }
        self.declare_stages();
        let target = self.target();
        self.link_commands();
        self.check_cycles();
        let Some(target) = target.filter(|_| self.diags.is_empty()) else {
            return Err(self.take_diags());
        };
        if self.nodes.len() == 1 && !self.extra_nodes {
            self.nodes[0].counter.stage = "".into();
        }
        let mut reachable = self.reachable(target);
        loop {
            self.resolve_bases(&reachable);
            self.resolve_services(&reachable);
            if !self.diags.is_empty() {
                return Err(self.take_diags());
            }
            if !self.missing.is_empty() {
                return Ok(Err(Outcome::Missing(std::mem::take(&mut self.missing))));
            }
            let more = self.run_onbuild(target);
            if !more {
                break;
            }
            reachable = self.reachable(target);
        }
        if !self.diags.is_empty() {
            return Err(self.take_diags());
        }
        self.dispatch_stages(&reachable, target);
        if let Some(d) = self.lint.verdict() {
            self.diags.push(d);
        }
        if !self.diags.is_empty() {
            return Err(self.take_diags());
        }
        Ok(Ok(target))
    }

    fn take_diags(&mut self) -> Vec<Diagnostic> {
        std::mem::take(&mut self.diags)
    }

    fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.diags.push(Diagnostic::error(code, span, message));
    }

    fn mode(&self) -> Mode {
        Mode::plain(self.ast.escape)
    }

    fn dispatch_stages(&mut self, reachable: &[bool], target: usize) {
        // The last child of a stage takes its state instead of copying it.
        let mut children = vec![0usize; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            if let (true, Some(base)) = (reachable[at], node.base) {
                children[base] += 1;
            }
        }
        for (at, reached) in reachable.iter().enumerate() {
            if !reached || self.nodes[at].dispatched {
                continue;
            }
            let mut st = match self.nodes[at].base {
                None => match self.nodes[at].state.take() {
                    Some(st) => st,
                    None if self.nodes[at].is_on_nothing() => self.scratch(self.nodes[at].span),
                    None => continue,
                },
                Some(base) => {
                    children[base] -= 1;
                    let state = &mut self.nodes[base].state;
                    let taken = if children[base] == 0 && base != target {
                        state.take()
                    } else {
                        state.clone()
                    };
                    let Some(st) = taken else { continue };
                    st
                }
            };
            st.image.config.on_build.clear();
            self.dispatch_stage(at, &mut st);
            self.nodes[at].root = st.root;
            // Kept for those that stand on it, and for the result.
            self.nodes[at].state = Some(st).filter(|_| children[at] > 0 || at == target);
            self.nodes[at].dispatched = true;
        }
        let paths = self.nodes[target].paths;
        self.draft.paths[paths].add_all();
    }

    fn dispatch_stage(&mut self, at: usize, st: &mut StageState) {
        st.adopt_config();
        let dir = st.image.config.working_dir.clone();
        if !dir.is_empty() {
            match path::normalize(&dir, &dir, st.os(), false) {
                Ok(dir) => self.enter(st, dir),
                Err(e) => self.error("workdir", self.nodes[at].span, e),
            }
        }
        if !st.image.config.user.is_empty() {
            st.user = st.image.config.user.clone();
        }
        let commands = std::mem::take(&mut self.nodes[at].commands);
        let mut once = config::Once::default();
        for c in &commands {
            let step = Step { node: at, instruction: &c.instruction, onbuild: c.onbuild };
            let result = match &c.instruction.kind {
                Kind::Run(r) => self.run_step(st, &step, r, &c.sources.mounts),
                Kind::Copy(x) => self.copy_step(st, &step, x, false, c.sources.copy),
                Kind::Add(x) => self.copy_step(st, &step, x, true, None),
                _ => self.config_step(st, &step, &mut once),
            };
            self.note(st, &step);
            let result = result.and_then(|()| match st.history_size > MAX_CONFIG as usize {
                true => {
                    let message =
                        format!("the image's history would be larger than {MAX_CONFIG} bytes");
                    Err(step.error(TOO_LARGE, message))
                }
                false => Ok(()),
            });
            if let Err(d) = result {
                let stop = d.code == TOO_LARGE;
                self.diags.push(*d);
                // What follows would only be larger.
                if stop {
                    break;
                }
            }
        }
        self.nodes[at].commands = commands;
    }

    /// Expands a word of an instruction with the stage's variables.
    fn expand(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        word: &Word,
    ) -> Result<CompactString, Box<Diagnostic>> {
        self.expand_mode(st, step, &word.text, word.span, self.mode())
    }

    fn expand_mode(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        text: &str,
        span: Span,
        mode: Mode,
    ) -> Result<CompactString, Box<Diagnostic>> {
        if is_plain(text, mode.escape) {
            return Ok(text.into());
        }
        let Expanded { text, unmatched, .. } = expand(text, &st.vars, mode)
            .map_err(|e| Box::new(Diagnostic::error("expansion", span, e.to_string())))?;
        self.lint_unmatched(st, step, &unmatched);
        Ok(text.into())
    }

    fn meta(&self, step: &Step<'_>, name: String) -> VertexMeta {
        let node = &self.nodes[step.node];
        VertexMeta {
            name,
            command: Some(step.instruction.text.clone()),
            span: Some(step.instruction.span),
            stage: Some(node.label.clone()),
            ttl: directive::ttl(&step.instruction.comments).and_then(Result::ok),
            ..VertexMeta::default()
        }
    }

    fn ignores_cache(&self, at: usize, name: Option<&str>) -> bool {
        match &self.opts.no_cache {
            NoCache::None => false,
            NoCache::All => true,
            NoCache::Stages(list) => {
                let is_it = |n: &String| match name {
                    Some(name) if n.eq_ignore_ascii_case(name) => true,
                    _ => n.parse() == Ok(at),
                };
                list.iter().any(is_it)
            }
        }
    }

    fn finish(
        mut self,
        target: usize,
        graph: &mut GraphBuilder,
    ) -> Result<Outcome, Vec<Diagnostic>> {
        let Some(mut st) = self.nodes[target].state.take() else {
            return Err(vec![Diagnostic::new(
                Severity::Error,
                "internal",
                None,
                "the target stage was not lowered: this is a defect of rgraph",
            )]);
        };
        let stage = self.nodes[target].label.to_string();
        st.image.config.labels.extend(self.opts.labels.clone());
        if !self.implicit {
            let (image, p) = (&mut st.image.platform, &*self.platform);
            let same = image.os == p.os && image.architecture == p.architecture;
            image.os = p.os.clone();
            image.architecture = p.architecture.clone();
            if !same || !p.variant.is_empty() {
                image.variant = p.variant.clone();
            }
            if !same || !p.os_version.is_empty() {
                image.os_version = p.os_version.clone();
            }
        }
        st.image.config.env = st.config_env.strings();
        let mut roots: Vec<Ref> = st.root.into_iter().collect();
        roots.extend(st.history.iter().filter_map(|h| h.layer));
        let at = std::mem::take(&mut self.draft).finish(&roots, graph);
        let history = st
            .history
            .into_iter()
            .map(|h| HistoryEntry {
                created_by: h.created_by,
                comment: HISTORY_COMMENT.into(),
                author: None,
                layer: h.layer.and_then(|r| at.edge(r)),
                span: Some(h.span),
            })
            .collect();
        let platform = st.image.platform.clone();
        let target = Target {
            stage,
            platform: if self.implicit { platform } else { Platform::clone(&self.platform) },
            root: st.root.and_then(|r| at.edge(r)),
            config: st.image,
            history,
            base: st.base,
        };
        if !self.lint.is_idle() {
            layers::chained_runs(&target, graph, self.ast, &mut self.lint);
        }
        if let Some(d) = layers::limit(&target, self.ast, self.opts.max_layers, &mut self.lint) {
            return Err(vec![d]);
        }
        let (epoch, warnings) = (self.epoch, self.lint.warnings);
        Ok(Outcome::Done { target: Box::new(target), warnings, epoch })
    }

    fn lint_file(&mut self) {
        if self.lint.is_idle() {
            return;
        }
        for span in &self.ast.empty_continuations {
            self.lint.warn(&rules::NO_EMPTY_CONTINUATION, *span, &[], "Empty continuation line");
        }
        crate::lint::rules_of_file(self.ast, &mut self.lint);
        crate::lint::optional_rules(self.ast, &mut self.lint);
        let given = self.opts.build_args.keys().map(String::as_str);
        crate::lint::unconsumed(self.ast, given, &mut self.lint);
    }
}

/// One instruction of one stage.
struct Step<'s> {
    node: usize,
    instruction: &'s Instruction,
    onbuild: bool,
}

impl Step<'_> {
    fn error(&self, code: &'static str, message: impl Into<String>) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(code, self.instruction.span, message))
    }
}
