//! Values that hold for the whole file: automatic and global `ARG`s, `SOURCE_DATE_EPOCH`, proxies.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_ir::op::ProxyEnv;
use rgraph_ir::{Diagnostic, Platform, Severity};

use super::state::Vars;
use super::{Cx, git, outline};
use crate::ast::{Instruction, Kind, Stage};
use crate::expand::{Lookup, expand};
use crate::facts::{Query, TimeOf};
use crate::options::NamedContext;

const EPOCH: &str = "SOURCE_DATE_EPOCH";

impl Cx<'_> {
    /// What `build_args` and the global `ARG` lines say, over the automatic ones.
    pub(super) fn global_args(&mut self) {
        let (bp, tp) = (&self.opts.build_platform, &self.platform);
        let stage = match &self.opts.target {
            Some(t) => t.clone(),
            None => self.ast.stages.last().and_then(|s| s.name.clone()).unwrap_or_default(),
        };
        let stage = if stage.is_empty() { "default".to_owned() } else { stage };
        // Without the os version, which only the target's own name shows.
        let build = Platform { os_version: String::new(), ..bp.clone() }.to_string();
        let automatic = [
            ("BUILDPLATFORM", build),
            ("BUILDOS", bp.os.clone()),
            ("BUILDOSVERSION", bp.os_version.clone()),
            ("BUILDARCH", bp.architecture.clone()),
            ("BUILDVARIANT", bp.variant.clone()),
            ("TARGETPLATFORM", tp.to_string()),
            ("TARGETOS", tp.os.clone()),
            ("TARGETOSVERSION", tp.os_version.clone()),
            ("TARGETARCH", tp.architecture.clone()),
            ("TARGETVARIANT", tp.variant.clone()),
            ("TARGETSTAGE", stage),
        ];
        for (key, value) in &automatic {
            self.globals.set(key, self.build_args.get(*key).unwrap_or(value));
        }
        let ast = self.ast;
        let mut defaults = self.globals.clone();
        let mut defaults_ok = true;
        for i in &ast.global_args {
            let Kind::Arg(args) = &i.kind else { continue };
            for a in args {
                self.declared.insert(&a.key.text);
                let default = a.value.as_ref();
                if let Some(v) = default {
                    match expand(&v.text, &defaults, self.mode()) {
                        Ok(e) => defaults.set(&a.key.text, &e.text),
                        Err(_) => defaults_ok = false,
                    }
                }
                let mut made_of = BTreeSet::new();
                let value = match (self.build_args.get(a.key.text.as_str()), default) {
                    (Some(v), _) => Some(v.clone()),
                    (None, None) => None,
                    (None, Some(v)) => match expand(&v.text, &self.globals, self.mode()) {
                        Ok(e) => {
                            made_of = e.matched;
                            Some(e.text)
                        }
                        Err(e) => {
                            self.error("expansion", v.span, e.to_string());
                            continue;
                        }
                    },
                };
                if let Some(notes) = &mut self.notes {
                    let arg = outline::global(a, &i.comments, value.as_deref(), i.span);
                    notes.global(arg, made_of);
                }
                if let Some(value) = value {
                    self.globals.set(&a.key.text, &value);
                }
            }
        }
        if defaults_ok {
            self.lint_default_bases(&defaults);
        }
    }

    /// `SOURCE_DATE_EPOCH` as a number of seconds.
    pub(super) fn source_date_epoch(&mut self) {
        let given = self.build_args.get(EPOCH).cloned();
        let value = given.or_else(|| self.globals.get(EPOCH).map(str::to_owned));
        let Some(value) = value.filter(|v| !v.is_empty()) else {
            if self.build_args.remove(EPOCH).is_some() {
                self.globals.remove(EPOCH);
            }
            return;
        };
        if let Ok(n) = value.parse() {
            self.epoch = Some(n);
            return;
        }
        let named = |s: &&Stage| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(&value));
        let stage = self.ast.stages.iter().find(named);
        let context = self.opts.build_contexts.get(&value);
        let time = match (value.as_str(), context, stage) {
            (super::CONTEXT, ..) => Ok(self.opts.context_time),
            (_, Some(NamedContext::Http { url }), _) => self.time_of(TimeOf::Url(url.clone())),
            (_, Some(NamedContext::Git { url }), _) => {
                self.time_of(TimeOf::Repository(url.clone()))
            }
            (_, Some(_), _) => Ok(None),
            (_, None, Some(stage)) => match self.epoch_stage(stage) {
                Ok(of) => self.time_of(of),
                Err(d) => {
                    self.diags.push(*d);
                    return;
                }
            },
            (_, None, None) => Err(format!("invalid {EPOCH}: {value}")),
        };
        match time {
            Ok(time) => self.set_epoch(time),
            Err(message) => {
                let span = stage.map(|s| s.span).or_else(|| {
                    let of_arg = |i: &&Instruction| i.text.contains(EPOCH);
                    self.ast.global_args.iter().find(of_arg).map(|i| i.span)
                });
                let d = Diagnostic::new(Severity::Error, "source-date-epoch", span, message);
                self.diags.push(d);
            }
        }
    }

    /// When a source was last changed; without an answer that is asked for, and there is none as yet.
    fn time_of(&mut self, of: TimeOf) -> Result<Option<i64>, String> {
        // Nobody can be asked for the time: there is none.
        if self.facts.is_offline() {
            return Ok(None);
        }
        match self.facts.time(&of) {
            Some(Ok(time)) => Ok(time),
            Some(Err(why)) => Err(format!("{EPOCH} cannot be found out: {why}")),
            None => {
                self.missing.insert(Query::Time(of));
                Ok(None)
            }
        }
    }

    /// The number takes the place of the name that was given.
    fn set_epoch(&mut self, time: Option<i64>) {
        self.epoch = time;
        let Some(time) = time.map(|t| t.to_string()) else {
            self.build_args.remove(EPOCH);
            self.globals.remove(EPOCH);
            return;
        };
        if let Some(given) = self.build_args.get_mut(EPOCH) {
            given.clone_from(&time);
        }
        if self.globals.get(EPOCH).is_some() {
            self.globals.set(EPOCH, &time);
        }
    }

    /// A stage that gives the time is `FROM scratch` with one remote `ADD` and nothing but `ARG`s.
    fn epoch_stage(&self, stage: &Stage) -> Result<TimeOf, Box<Diagnostic>> {
        let err = |m: String| Box::new(Diagnostic::error("source-date-epoch", stage.span, m));
        let expand = |text: &str, env: &Vars| {
            expand(text, env, self.mode()).map(|e| e.text).map_err(|e| err(e.to_string()))
        };
        if expand(&stage.base.text, &self.globals)? != "scratch" {
            return Err(err(format!("{EPOCH} stage must use FROM scratch")));
        }
        let mut env = self.globals.clone();
        let (mut found, mut of) = (0, None);
        for i in &stage.instructions {
            match &i.kind {
                Kind::Arg(args) => {
                    for a in args {
                        let value = match (self.build_args.get(a.key.text.as_str()), &a.value) {
                            (Some(v), _) => v.clone(),
                            (None, Some(v)) => expand(&v.text, &env)?,
                            (None, None) => continue,
                        };
                        env.set(&a.key.text, &value);
                    }
                }
                Kind::Add(add) => {
                    found += 1;
                    let ([source], []) = (add.sources.as_slice(), add.files.as_slice()) else {
                        return Err(err(format!(
                            "{EPOCH} stage must contain exactly one remote ADD source"
                        )));
                    };
                    let url = expand(&source.text, &env)?;
                    of = Some(match git::parse(&url).map_err(err)? {
                        Some(_) => TimeOf::Repository(url),
                        None if git::is_http(&url) => TimeOf::Url(url),
                        None => {
                            return Err(err(format!(
                                "{EPOCH} stage source must be a single HTTP(S) or Git ADD"
                            )));
                        }
                    });
                }
                _ => {
                    return Err(err(format!(
                        "{EPOCH} stage does not meet source-only requirements: unsupported {} instruction",
                        i.keyword.text
                    )));
                }
            }
        }
        let one = of.filter(|_| found == 1);
        one.ok_or_else(|| err(format!("{EPOCH} stage must contain exactly one remote ADD")))
    }
}

/// Of two spellings of a key the later in byte order wins.
pub(super) fn proxy(args: &BTreeMap<String, String>) -> Option<ProxyEnv> {
    let mut env = ProxyEnv::default();
    let mut any = false;
    for (key, value) in args {
        let slot = match key.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut env.http,
            "https_proxy" => &mut env.https,
            "ftp_proxy" => &mut env.ftp,
            "no_proxy" => &mut env.no,
            "all_proxy" => &mut env.all,
            _ => continue,
        };
        slot.clone_from(value);
        any = true;
    }
    any.then_some(env)
}
