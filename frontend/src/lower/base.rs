//! What stages stand on: images, folders, nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use rgraph_ir::image_config::{BaseImage, ImageConfig};
use rgraph_ir::near::nearest;
use rgraph_ir::op::{HttpSource, ImageSource, OciLayoutSource, Op, ResolveMode, SourceOp};
use rgraph_ir::plan::TargetBase;
use rgraph_ir::{Diagnostic, Platform, Reference, Span, VertexMeta};

use super::draft::{Local, Ref};
use super::git;
use super::state::{ConfigEnv, StageState};
use crate::ast::{Kind, Stage};
use crate::expand::{Lookup, expand};
use crate::facts::Query;
use crate::lint::rules;
use crate::options::NamedContext;

pub(super) const SCRATCH: &str = "scratch";

impl<'a> super::Cx<'a> {
    /// Makes a node of every stage.
    pub(super) fn declare_stages(&mut self) {
        let stages = &self.ast.stages;
        for (number, stage) in stages.iter().enumerate() {
            let base = self.base_name(stage).unwrap_or_default();
            let platform =
                stage.platform.as_ref().and_then(|p| self.stage_platform(stage, &p.text, p.span));
            let mut node = self.new_node(Some(stage), base, stage.span);
            node.platform = platform;
            node.ignore_cache = self.ignores_cache(number, stage.name.as_deref());
            let mut link = true;
            if let Some(name) = &stage.name {
                let p = node.platform.clone().unwrap_or_else(|| self.platform.clone());
                if let Some(target) = self.target_context(name, &p) {
                    node.base = Some(target);
                    node.replaced = true;
                    link = false;
                } else if let Some(found) = self.named_context(name, &p) {
                    node.named = Some(found);
                    if let Some(notes) = &mut self.notes {
                        notes.replaced(self.nodes.len());
                    }
                    link = false;
                }
            }
            if link && !self.by_name.contains_key(&node.base_name) {
                let p = node.platform.clone().unwrap_or_else(|| self.platform.clone());
                node.base = self.target_context(&node.base_name, &p);
            }
            node.paths = node.base.map_or(node.paths, |base| self.nodes[base].paths);
            let at = {
                node.counter.show_platform = self.opts.platforms.len() > 1;
                self.add_node(node, link)
            };
            // The result of another build is there already: no step brings it.
            let p = self.nodes[at].platform.clone().unwrap_or_else(|| self.platform.clone());
            let found = self.named_context(&self.nodes[at].base_name, &p);
            let linked = matches!(found, Some((_, NamedContext::Result(_))));
            let node = &mut self.nodes[at];
            let from_image = node.base_name != SCRATCH && node.base.is_none() && !linked;
            let steps = stage.instructions.iter().filter(|i| {
                matches!(i.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_))
            });
            node.counter.total = usize::from(from_image) + steps.count();
        }
    }

    fn base_name(&mut self, stage: &'a Stage) -> Option<String> {
        let word = &stage.base;
        match expand(&word.text, &self.globals, self.mode()) {
            Ok(e) => {
                self.lint_from_args(stage, &e.unmatched);
                if let Some(notes) = &mut self.notes {
                    notes.used(self.nodes.len(), e.matched);
                }
                if !e.text.is_empty() {
                    return Some(e.text);
                }
                let mut d = Diagnostic::error(
                    "blank-base",
                    word.span,
                    format!("base name ({}) should not be blank", word.text),
                );
                d.help = self.unset_help(&e.unmatched);
                self.diags.push(d);
                None
            }
            Err(e) => {
                self.error("expansion", word.span, e.to_string());
                None
            }
        }
    }

    fn unset_help(&self, unmatched: &BTreeSet<String>) -> Option<String> {
        let name = unmatched.first()?;
        Some(match nearest(name, self.globals.names()) {
            Some(near) => format!("`{name}` is not set; did you mean `{near}`?"),
            None => format!(
                "put `ARG {name}=...` above the first `FROM`, or give --build-arg {name}=..."
            ),
        })
    }

    fn stage_platform(
        &mut self,
        stage: &'a Stage,
        text: &str,
        span: Span,
    ) -> Option<Arc<Platform>> {
        let e = match expand(text, &self.globals, self.mode()) {
            Ok(e) => e,
            Err(e) => {
                self.error(
                    "expansion",
                    span,
                    format!("failed to process arguments for platform {text}: {e}"),
                );
                return None;
            }
        };
        self.lint_from_args(stage, &e.unmatched);
        self.lint_platform(stage, text, &e);
        if e.text.is_empty() {
            let mut d = Diagnostic::error(
                "platform",
                span,
                format!("empty platform value from expression {text}"),
            );
            d.help = self.unset_help(&e.unmatched);
            self.diags.push(d);
            return None;
        }
        match e.text.parse() {
            Ok(mut p) => {
                as_written(&mut p, &e.text);
                if let Some(notes) = &mut self.notes {
                    notes.used(self.nodes.len(), e.matched);
                }
                Some(Arc::new(p))
            }
            Err(err) => {
                let mut d = Diagnostic::error(
                    "platform",
                    span,
                    format!("failed to parse platform {text}: {err}"),
                );
                d.help = self.unset_help(&e.unmatched);
                self.diags.push(d);
                None
            }
        }
    }

    /// A `--build-context` that replaces `name`.
    fn named_context(&self, name: &str, p: &Platform) -> Option<(String, &'a NamedContext)> {
        if self.opts.build_contexts.is_empty()
            || name.eq_ignore_ascii_case(SCRATCH)
            || name.eq_ignore_ascii_case(super::CONTEXT)
        {
            return None;
        }
        let familiar = name.parse::<Reference>().ok()?.familiar();
        let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        [format!("{name}::{}", Platform::clone(p).normalize()), name.to_owned()]
            .into_iter()
            .find_map(|key| self.opts.build_contexts.get(&key).map(|c| (key, c)))
    }

    /// The stage that a `--build-context NAME=target:STAGE` puts in the place of `name`; only stages
    /// further up are found.
    pub(super) fn target_context(&self, name: &str, p: &Platform) -> Option<usize> {
        match self.named_context(name, p)? {
            (_, NamedContext::Target { name }) => self.find(name),
            _ => None,
        }
    }

    /// Gives every reached node without a base its first state; what facts are missing is noted.
    pub(super) fn resolve_bases(&mut self, reachable: &[bool]) {
        for at in 0..self.nodes.len() {
            let reached = reachable.get(at).copied().unwrap_or(false);
            let node = &self.nodes[at];
            if node.base.is_some() || node.dispatched || node.resolved {
                continue;
            }
            if node.is_on_nothing() {
                let node = &mut self.nodes[at];
                node.dispatched = node.stage.is_none();
                node.resolved = true;
                continue;
            }
            match self.resolve(at, reached) {
                Ok(Some(mut st)) => {
                    // Steps run on what is meant.
                    let meant = Platform::clone(&st.platform).normalize();
                    if *st.platform != meant {
                        st.platform = Arc::new(meant);
                    }
                    let triggers = std::mem::take(&mut st.config().on_build);
                    let node = &mut self.nodes[at];
                    node.resolved = true;
                    node.dispatched = node.stage.is_none() || node.named.is_some();
                    if !node.dispatched {
                        node.triggers = triggers;
                    }
                    node.root = st.root;
                    node.state = Some(st);
                }
                Ok(None) => {}
                Err(d) => self.diags.push(*d),
            }
        }
    }

    fn resolve(
        &mut self,
        at: usize,
        reached: bool,
    ) -> Result<Option<Box<StageState>>, Box<Diagnostic>> {
        let node = &self.nodes[at];
        let platform = node.platform.clone().unwrap_or_else(|| self.platform.clone());
        if reached && node.named.is_none() {
            let known = self.images.get(&node.base_name).and_then(|of| of.get(&platform));
            if let Some(image) = known.cloned() {
                return Ok(Some(self.image_stage(at, &image, &platform)));
            }
        }
        let (name, span) = (node.base_name.clone(), node.span);
        let at_base = node.stage.map_or(span, |s| s.base.span);
        let reference: Reference = name.parse().map_err(|e| {
            let mut d = Diagnostic::error(
                "base-name",
                at_base,
                format!("failed to parse stage name \"{name}\": {e}"),
            );
            if let Some(near) = nearest(&name, self.stage_names()) {
                d = d.help(format!("did you mean the stage `{near}`?"));
            }
            Box::new(d)
        })?;
        if !reached {
            return Ok(None);
        }
        let paths = node.paths;
        if let Some((key, context)) = node.named.clone() {
            let st = self.load_named(&key, context, &platform, paths, span)?;
            return Ok(st.map(|(mut st, image)| {
                // A whole stage is replaced: an image says what it runs on, anything else brings no
                // settings at all.
                let own = st.image.platform.clone();
                match image {
                    true if !own.os.is_empty() && !own.architecture.is_empty() => {
                        st.platform = Arc::new(own)
                    }
                    true => {}
                    false => {
                        st.config_env = ConfigEnv::default();
                        st.config().working_dir.clear();
                    }
                }
                st
            }));
        }
        let tagged = reference.to_string();
        if let Some((key, context)) = self.named_context(&tagged, &platform) {
            let st = self.load_named(&key, context, &platform, paths, span)?;
            return Ok(st.map(|(mut st, _)| {
                st.platform = platform;
                st
            }));
        }
        let query = Query::ImageConfig {
            reference: tagged,
            platform: Platform::clone(&platform).normalize(),
            mode: self.resolve_mode(),
        };
        let Some(image) = self.fact(query, &name, at_base)? else { return Ok(None) };
        let of_name = self.images.entry(name).or_default();
        of_name.insert(platform.clone(), image.clone());
        Ok(Some(self.image_stage(at, &image, &platform)))
    }

    pub(super) fn resolve_mode(&self) -> ResolveMode {
        if self.opts.pull { ResolveMode::ForcePull } else { ResolveMode::Default }
    }

    /// The first state of a stage that stands on `image`.
    fn image_stage(
        &mut self,
        at: usize,
        image: &BaseImage,
        platform: &Arc<Platform>,
    ) -> Box<StageState> {
        let line = format!("FROM {}", image.reference);
        let stage = self.nodes[at].stage;
        if let Some(stage) = stage {
            self.lint_base_platform(stage, at, platform, &image.config.platform);
        }
        let mode = self.resolve_mode();
        let node = &mut self.nodes[at];
        let span = node.span;
        let display = node.counter.next(&line, false, None, platform);
        let meta = VertexMeta {
            name: display,
            command: Some(stage.map_or("", |s| s.text.as_str()).into()),
            span: Some(span),
            stage: stage.map(|_| node.label.clone()),
            ..VertexMeta::default()
        };
        self.image_state(image, mode, platform, meta, span)
    }

    fn fact(
        &mut self,
        query: Query,
        name: &str,
        span: Span,
    ) -> Result<Option<std::sync::Arc<BaseImage>>, Box<Diagnostic>> {
        match self.facts.get(&query) {
            Some(Ok(image)) => Ok(Some(image)),
            Some(Err(why)) => {
                let mut d = Diagnostic::error("base-image", span, format!("{name}: {why}"));
                if let Some(near) = nearest(name, self.stage_names()) {
                    d = d.help(format!("did you mean the stage `{near}`?"));
                }
                Err(Box::new(d))
            }
            None => {
                self.missing.insert(query);
                Ok(None)
            }
        }
    }

    fn image_state(
        &mut self,
        image: &BaseImage,
        resolve: ResolveMode,
        platform: &Arc<Platform>,
        meta: VertexMeta,
        span: Span,
    ) -> Box<StageState> {
        let source = SourceOp::Image(ImageSource { reference: image.reference.clone(), resolve });
        self.state_of(image, source, platform, meta, span)
    }

    /// The state of a stage that stands on `image`. One without layers is nothing at all.
    fn state_of(
        &mut self,
        image: &BaseImage,
        source: SourceOp,
        platform: &Arc<Platform>,
        meta: VertexMeta,
        span: Span,
    ) -> Box<StageState> {
        let empty = image.layers == 0 && image.history.iter().all(|h| h.empty_layer);
        let root = (!empty)
            .then(|| self.draft.add(Op::Source(source), Vec::new(), Some(platform.clone()), meta));
        let mut config = image.config.clone();
        if !self.opts.inherit_labels {
            config.config.labels.clear();
        }
        let mut st = Box::new(StageState::on(root, config, platform));
        st.base = TargetBase {
            reference: Some(image.reference.clone()),
            layers: image.layers,
            history: image.history.clone(),
            span: Some(span),
        };
        st
    }

    /// The first state of a stage on nothing; `span` is its `FROM` line.
    pub(super) fn scratch(&mut self, span: Span) -> Box<StageState> {
        let platform = &self.platform;
        let first = self.scratch.get_or_insert_with(|| {
            let mut st = StageState::scratch(platform);
            st.adopt_config();
            // The clones share it.
            let _ = st.vars.env();
            st
        });
        let mut st = Box::new(first.clone());
        st.base.span = Some(span);
        st
    }

    /// The first state on a named context, and whether it is an image with settings.
    fn load_named(
        &mut self,
        key: &str,
        context: &NamedContext,
        platform: &Arc<Platform>,
        paths: usize,
        span: Span,
    ) -> Result<Option<(Box<StageState>, bool)>, Box<Diagnostic>> {
        let err = |m: String| Box::new(Diagnostic::error("build-context", span, m));
        let meta = |what: &str| VertexMeta {
            name: format!("[context {key}] {what}"),
            span: Some(span),
            ..VertexMeta::default()
        };
        let plain = |root: Option<Ref>| {
            let mut image = ImageConfig::empty(Platform::clone(platform));
            image.config.working_dir = "/".to_owned();
            // What is there becomes a layer, though no line of the Dockerfile tells of it.
            let layers = usize::from(root.is_some());
            let mut st = Box::new(StageState::on(root, image, platform));
            st.default_path();
            st.base.span = Some(span);
            st.base.layers = layers;
            Ok(Some((st, false)))
        };
        match context {
            NamedContext::Image { reference } if reference == SCRATCH => plain(None),
            NamedContext::Image { reference } => {
                let parsed: Reference =
                    reference.parse().map_err(|e| err(format!("build context {key}: {e}")))?;
                let query = Query::ImageConfig {
                    reference: parsed.to_string(),
                    platform: Platform::clone(platform).normalize(),
                    mode: self.resolve_mode(),
                };
                let Some(image) = self.fact(query, reference, span)? else { return Ok(None) };
                let meta = meta(reference);
                let st = self.image_state(&image, ResolveMode::Default, platform, meta, span);
                Ok(Some((st, true)))
            }
            NamedContext::OciLayout { reference } => {
                let query = Query::OciLayoutConfig {
                    context: key.to_owned(),
                    reference: reference.clone(),
                    platform: Platform::clone(platform).normalize(),
                };
                let Some(image) = self.fact(query, reference, span)? else { return Ok(None) };
                let source = SourceOp::OciLayout(OciLayoutSource {
                    reference: pinned(key, &image.reference),
                    store: layout(reference).to_owned(),
                });
                let meta = meta("OCI load from client");
                Ok(Some((self.state_of(&image, source, platform, meta, span), true)))
            }
            NamedContext::Local { ignore_patterns } => {
                let root = self.draft.local(Local {
                    name: super::folder(self.opts, key),
                    paths,
                    exclude: ignore_patterns.clone(),
                    hint: format!("context:{key}-"),
                    display: format!("[context {key}] load from client"),
                });
                plain(Some(root))
            }
            NamedContext::Http { url } | NamedContext::Git { url } => {
                let source = match git::parse(url).map_err(err)? {
                    Some(g) => {
                        let keep = g.keep_git_dir == Some(true);
                        let mut source = g.source(keep, &g.checksum);
                        source.mtime = g.mtime.clone();
                        SourceOp::Git(Box::new(source))
                    }
                    None if git::is_http(url) => SourceOp::Http(Box::new(HttpSource {
                        url: url.clone(),
                        filename: "context".to_owned(),
                        checksum: None,
                    })),
                    None => return Err(err(format!("invalid git context {url}"))),
                };
                let root = self.draft.add(Op::Source(source), Vec::new(), None, meta(url));
                plain(Some(root))
            }
            NamedContext::Result(linked) => {
                self.linked_state(&linked.0, key, platform, span).map(|st| Some((st, true)))
            }
            // Found ones are bases: see [`Self::target_context`].
            NamedContext::Target { name } => {
                let mut d = err(format!("build context {key}: no stage above is called `{name}`"));
                d.help = nearest(name, self.stage_names()).map(|n| format!("did you mean `{n}`?"));
                Err(d)
            }
        }
    }

    fn lint_from_args(&mut self, stage: &Stage, unmatched: &BTreeSet<String>) {
        for arg in unmatched {
            if self.declared.contains(arg.as_str()) || self.globals.get(arg).is_some() {
                continue;
            }
            let names = self.globals.names().chain(self.declared.iter().copied());
            let near = nearest(arg, names).map(|n| format!(" (did you mean {n}?)"));
            let message =
                format!("FROM argument '{arg}' is not declared{}", near.unwrap_or_default());
            self.lint.warn(&rules::UNDEFINED_ARG_IN_FROM, stage.span, &stage.comments, message);
        }
    }

    fn lint_platform(&mut self, stage: &Stage, text: &str, e: &crate::expand::Expanded) {
        if e.unmatched.is_empty()
            && e.matched.len() == 1
            && e.matched.contains("TARGETPLATFORM")
            && self.globals.get("TARGETPLATFORM") == Some(&e.text)
        {
            let message = format!(
                "Setting platform to predefined {text} in FROM is redundant as this is the default behavior"
            );
            self.lint.warn(&rules::REDUNDANT_TARGET_PLATFORM, stage.span, &stage.comments, message);
        }
        if !e.matched.is_empty() || !e.unmatched.is_empty() {
            return;
        }
        let Ok(p) = e.text.parse::<Platform>() else { return };
        let name = stage.name.as_deref().unwrap_or_default();
        if name.contains(&p.os) || name.contains(&p.architecture) {
            return;
        }
        let message = format!("FROM --platform flag should not use constant value \"{}\"", e.text);
        let rule = &rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED;
        self.lint.warn(rule, stage.span, &stage.comments, message);
    }

    fn lint_base_platform(&mut self, stage: &Stage, at: usize, want: &Platform, got: &Platform) {
        if want.os != got.os || want.architecture != got.architecture {
            let name = &self.nodes[at].base_name;
            let message = format!(
                "Base image {name} was pulled with platform \"{got}\", expected \"{want}\" for current build"
            );
            let rule = &rules::INVALID_BASE_IMAGE_PLATFORM;
            self.lint.warn(rule, stage.span, &stage.comments, message);
        }
    }

    /// Whether bases are names when nothing is given on the command line.
    pub(super) fn lint_default_bases(&mut self, defaults: &super::state::Vars) {
        let mut fine = HashSet::new();
        for stage in &self.ast.stages {
            if fine.contains(&stage.base.text) {
                continue;
            }
            let Ok(e) = expand(&stage.base.text, defaults, self.mode()) else { return };
            if e.text.parse::<Reference>().is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base.text
                );
                let rule = &rules::INVALID_DEFAULT_ARG_IN_FROM;
                self.lint.warn(rule, stage.span, &[], message);
            } else {
                fine.insert(&stage.base.text);
            }
        }
    }
}

/// What `FROM --platform` says goes into the image's op as it reads, not as it is understood: the variant that an
/// architecture has by itself is there when it is written.
fn as_written(p: &mut Platform, text: &str) {
    let parts = text.split('/').count();
    match (p.architecture.as_str(), p.variant.as_str()) {
        ("arm", "v7") if parts < 3 => p.variant.clear(),
        ("arm64", "") if parts == 3 => "v8".clone_into(&mut p.variant),
        _ => {}
    }
}

/// The layout that `LAYOUT[:TAG][@DIGEST]` is in.
fn layout(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        Some((layout, tag)) if !tag.contains('/') => layout,
        _ => name,
    }
}

/// The name of a context with the digest of the image that it is.
fn pinned(key: &str, image: &str) -> String {
    let name = key.split_once("::").map_or(key, |(name, _)| name);
    let digest = image.split_once('@').map_or("", |(_, digest)| digest);
    match format!("{name}@{digest}").parse::<Reference>() {
        Ok(r) => r.to_string(),
        Err(_) => image.to_owned(),
    }
}
