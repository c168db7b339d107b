//! Warnings about what is allowed but unwise. Rules, names and texts of the first group are
//! BuildKit's; `# check=` in the file and above an instruction steers them; the build arg
//! `BUILDKIT_DOCKERFILE_CHECK` takes the place of the one in the file.

mod file;
mod hadolint;
pub(crate) mod layers;
#[cfg(test)]
mod rule_tests;
pub(crate) mod rules;

use std::collections::BTreeSet;

use rgraph_ir::{Diagnostic, Severity, Span};

use crate::ast::Word;
use crate::directive;
use crate::parse::value::boolean;
pub(crate) use file::{check as rules_of_file, unconsumed};
pub(crate) use hadolint::check as optional_rules;
use rules::{Rule, Set};

/// The build arg that replaces the file's `# check=`.
pub(crate) const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// The name of all of hadolint's rules together. `all` keeps BuildKit's meaning, so that a file with
/// `experimental=all;error=true` that BuildKit builds is built here too.
const HADOLINT: &str = "hadolint";

/// What `# check=` says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Check {
    skip_all: bool,
    skip: BTreeSet<String>,
    experimental_all: bool,
    experimental: BTreeSet<String>,
    error: bool,
}

impl Check {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut check = Self::default();
        if text.trim().is_empty() {
            return Ok(check);
        }
        for part in text.trim().splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option \"{part}\""));
            };
            let value = value.trim();
            let list = || value.split(',').map(|s| s.trim().to_owned()).collect();
            match key.trim() {
                "skip" if value == "all" => check.skip_all = true,
                "skip" => check.skip = list(),
                "experimental" if value == "all" => check.experimental_all = true,
                "experimental" => check.experimental = list(),
                "error" => {
                    check.error = boolean(value)
                        .ok_or_else(|| format!("failed to parse check option \"{part}\""))?;
                }
                key => return Err(format!("invalid check option \"{key}\"")),
            }
        }
        Ok(check)
    }

    /// What a comment above an instruction says.
    fn above(comments: &[String]) -> Option<Self> {
        comments.iter().find_map(|c| match directive::split(c) {
            Some((key, value)) if key.eq_ignore_ascii_case("check") => {
                Some(Self::parse(value.split(' ').next().unwrap_or_default()).unwrap_or_default())
            }
            _ => None,
        })
    }

    /// Leaves a rule on that is on by itself.
    fn keeps(&self, rule: &Rule) -> bool {
        !self.skip_all && !self.skips(rule)
    }

    fn skips(&self, rule: &Rule) -> bool {
        named(&self.skip, rule)
    }

    /// Turns a rule on that is off by itself.
    fn asks(&self, rule: &Rule) -> bool {
        rule.set == Set::Experimental && self.experimental_all || named(&self.experimental, rule)
    }

    /// Turns on one of hadolint's rules at least.
    fn asks_for_hadolint(&self) -> bool {
        let id = |n: &String| hadolint::rules::ALL.iter().any(|r| r.id == n);
        self.experimental.iter().any(|n| n == HADOLINT || id(n))
    }
}

fn named(list: &BTreeSet<String>, rule: &Rule) -> bool {
    list.contains(rule.id) || rule.set == Set::Hadolint && list.contains(HADOLINT)
}

/// Collects warnings.
#[derive(Debug, Default)]
pub(crate) struct Lint {
    check: Check,
    check_span: Option<Span>,
    /// Nobody reads `warnings`.
    unread: bool,
    pub warnings: Vec<Diagnostic>,
    /// Rules that fired and end the build with `error=true`: all but our own.
    fired: BTreeSet<&'static str>,
}

impl Lint {
    /// With the settings of a file's `# check=`, or with those the caller gives in its place.
    pub fn new(directive: Option<&Word>, given: Option<&str>) -> Result<Self, Diagnostic> {
        let mut lint = Self::default();
        if let Some(text) = given {
            lint.check = Check::parse(text).map_err(|e| {
                let message = format!("build arg {CHECK_ARG}: {e}");
                Diagnostic::new(Severity::Error, "invalid-check", None, message)
            })?;
            return Ok(lint);
        }
        if let Some(word) = directive {
            // What stands behind a blank is no part of it.
            let text = word.text.split(' ').next().unwrap_or_default();
            lint.check =
                Check::parse(text).map_err(|e| Diagnostic::error("invalid-check", word.span, e))?;
            lint.check_span = Some(word.span);
        }
        Ok(lint)
    }

    /// Nobody will read the warnings.
    pub fn unread(self) -> Self {
        Self { unread: true, ..self }
    }

    /// Nothing comes of a warning: neither is it read, nor does it end the build.
    pub fn is_idle(&self) -> bool {
        self.unread && !self.check.error
    }

    /// Warns unless the file or the comments directly above say otherwise.
    pub fn warn(
        &mut self,
        rule: &'static Rule,
        span: Span,
        comments: &[String],
        message: impl Into<String>,
    ) {
        if self.wants(rule, comments) {
            self.push(rule, Diagnostic::warning(rule.id, span, message));
        }
    }

    /// The same with what to do about it.
    pub fn advise(
        &mut self,
        rule: &'static Rule,
        span: Span,
        comments: &[String],
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if self.wants(rule, comments) {
            self.push(rule, Diagnostic::warning(rule.id, span, message).help(help));
        }
    }

    fn wants(&self, rule: &Rule, comments: &[String]) -> bool {
        if self.is_idle() {
            return false;
        }
        let above = Check::above(comments).unwrap_or_default();
        let asked = || self.check.asks(rule) || above.asks(rule);
        match rule.set {
            Set::Buildkit | Set::Own => self.check.keeps(rule) && above.keeps(rule),
            Set::Experimental => asked(),
            // BuildKit's `skip=all` in the file concerns rules that are on by themselves.
            Set::Hadolint => {
                asked()
                    && !self.check.skips(rule)
                    && (above.keeps(rule) || above.asks(rule) && !above.skips(rule))
                    && !hadolint::pragma::ignores(comments, rule.id)
            }
        }
    }

    fn push(&mut self, rule: &'static Rule, mut d: Diagnostic) {
        if rule.set != Set::Own {
            self.fired.insert(rule.id);
        }
        d.url = rule.url;
        self.warnings.push(d);
    }

    /// Warns about something that stands nowhere in the file.
    pub fn general(&mut self, rule: &'static Rule, message: String, help: Option<String>) {
        if self.wants(rule, &[]) {
            let mut d = Diagnostic::new(Severity::Warning, rule.id, None, message);
            d.help = help;
            self.push(rule, d);
        }
    }

    /// The error that `error=true` makes of warnings.
    pub fn verdict(&self) -> Option<Diagnostic> {
        if !self.check.error || self.fired.is_empty() {
            return None;
        }
        let rules: Vec<&str> = self.fired.iter().copied().collect();
        Some(Diagnostic::new(
            Severity::Error,
            "lint",
            self.check_span,
            format!("lint violation found for rules: {}", rules.join(", ")),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_options() {
        let c = Check::parse("skip=A, B;error=true;experimental=all").unwrap();
        assert!(c.error && c.experimental_all && c.skip.contains("B"));
        assert!(Check::parse("skip=all").unwrap().skip_all);
        assert!(!c.asks_for_hadolint());
        assert!(Check::parse("experimental=hadolint").unwrap().asks_for_hadolint());
        assert!(Check::parse("experimental=X,DL3006").unwrap().asks_for_hadolint());
        for bad in ["x", "foo=1", "error=maybe"] {
            assert!(Check::parse(bad).is_err(), "{bad}");
        }
    }
}
