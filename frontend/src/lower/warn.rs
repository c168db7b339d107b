//! Warnings that need what only lowering knows.

use std::collections::BTreeSet;

use rgraph_ir::near::nearest;
use rgraph_ir::pattern::{Pattern, clean};

use super::expose::Port;
use super::state::StageState;
use super::{Cx, Step};
use crate::lint::rules::{self, Rule};

impl Cx<'_> {
    pub(super) fn warn(&mut self, step: &Step<'_>, rule: &'static Rule, message: String) {
        self.lint.warn(rule, step.instruction.span, &step.instruction.comments, message);
    }

    pub(super) fn lint_unmatched(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        unmatched: &BTreeSet<String>,
    ) {
        for name in unmatched {
            if matches!(name.as_str(), "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE")
                || st.build_args.iter().any(|(k, _)| k == name)
            {
                continue;
            }
            // Names that are not there, times names that are: a hint is not worth more than this.
            let cost = st.vars.len();
            let near = if cost <= self.hints_left {
                self.hints_left -= cost;
                nearest(name, st.vars.names()).map(|n| format!(" (did you mean ${n}?)"))
            } else {
                None
            };
            let message =
                format!("Usage of undefined variable '${name}'{}", near.unwrap_or_default());
            self.warn(step, &rules::UNDEFINED_VAR, message);
        }
    }

    pub(super) fn lint_secret(&mut self, step: &Step<'_>, instruction: &str, key: &str) {
        const SECRET: [&str; 10] = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
            "token",
        ];
        const HARMLESS: [&str; 3] = ["public", "file", "version"];
        if self.lint.is_idle() {
            return;
        }
        let lower = key.to_lowercase();
        let has = |list: &[&str]| lower.split('_').any(|part| list.contains(&part));
        if has(&SECRET) && !has(&HARMLESS) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} \"{key}\")"
            );
            self.warn(step, &rules::SECRETS_USED_IN_ARG_OR_ENV, message);
        }
    }

    /// A source that the ignore file hides. With `!` rules too little is known without looking.
    pub(super) fn lint_ignored(&mut self, step: &Step<'_>, src: &str, add: bool) {
        let file = &self.opts.ignore;
        let ignore = &file.rules;
        if self.lint.is_idle()
            || ignore.is_empty()
            || ignore.patterns().iter().any(Pattern::negated)
        {
            return;
        }
        let src = clean(src);
        let root = matches!(src.as_str(), "." | "/");
        let rule = if root {
            ignore.patterns().iter().find(|p| matches!(p.text(), "*" | "**" | "**/*"))
        } else {
            ignore.rule_as_written(&src)
        };
        if let Some(rule) = rule {
            let command = if add { "Add" } else { "Copy" };
            let message =
                format!("Attempting to {command} file \"{src}\" that is excluded by .dockerignore");
            let help = format!("line {} of {} says `{}`", rule.line(), file.name, rule.text());
            let (span, comments) = (step.instruction.span, &step.instruction.comments);
            self.lint.advise(&rules::COPY_IGNORED_FILE, span, comments, message, help);
        }
    }

    pub(super) fn lint_port(&mut self, step: &Step<'_>, text: &str, port: &Port) {
        if port.proto != port.proto.to_lowercase() {
            let message =
                format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            self.warn(step, &rules::EXPOSE_PROTO_CASING, message);
        }
        if port.mapped {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
            );
            self.warn(step, &rules::EXPOSE_INVALID_FORMAT, message);
        }
    }
}
