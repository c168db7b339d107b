//! Values that hold for the whole file: automatic and global `ARG`s, `SOURCE_DATE_EPOCH`, proxies.

use std::collections::BTreeMap;

use rgraph_ir::op::ProxyEnv;
use rgraph_ir::{Diagnostic, Platform, Severity};

use super::Cx;
use crate::ast::Kind;
use crate::expand::{Lookup, expand};

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
                let value = match (self.build_args.get(&a.key.text), default) {
                    (Some(v), _) => v.clone(),
                    (None, None) => continue,
                    (None, Some(v)) => match expand(&v.text, &self.globals, self.mode()) {
                        Ok(e) => e.text,
                        Err(e) => {
                            self.error("expansion", v.span, e.to_string());
                            continue;
                        }
                    },
                };
                self.globals.set(&a.key.text, &value);
            }
        }
        if defaults_ok {
            self.lint_default_bases(&defaults);
        }
    }

    /// `SOURCE_DATE_EPOCH` as a number of seconds.
    pub(super) fn source_date_epoch(&mut self) {
        const KEY: &str = "SOURCE_DATE_EPOCH";
        let given = self.build_args.get(KEY).cloned();
        let value = given.or_else(|| self.globals.get(KEY).map(str::to_owned));
        let Some(value) = value.filter(|v| !v.is_empty()) else {
            self.build_args.remove(KEY);
            return;
        };
        if let Ok(n) = value.parse() {
            self.epoch = Some(n);
            return;
        }
        let stage = self
            .ast
            .stages
            .iter()
            .find(|s| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(&value)));
        let span = stage
            .map(|s| s.span)
            .or_else(|| self.ast.global_args.iter().find(|i| i.text.contains(KEY)).map(|i| i.span));
        let message = match stage {
            Some(_) => {
                format!("{KEY} from a stage is not supported: `{value}`; give seconds since 1970")
            }
            None if value == super::CONTEXT || self.opts.build_contexts.contains_key(&value) => {
                format!("{KEY} from a context is not supported: `{value}`; give seconds since 1970")
            }
            None => format!("invalid {KEY}: {value}"),
        };
        self.diags.push(Diagnostic::new(Severity::Error, "source-date-epoch", span, message));
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
