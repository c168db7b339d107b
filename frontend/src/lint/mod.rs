//! Warnings about what is allowed but unwise. Rules, names and texts of the first group are
//! BuildKit's; `# check=` in the file and above an instruction steers them; the build arg
//! `BUILDKIT_DOCKERFILE_CHECK` takes the place of the one in the file.

mod file;
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
use rules::Rule;

/// The build arg that replaces the file's `# check=`.
pub(crate) const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

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

    fn wants(&self, rule: &Rule) -> bool {
        if rule.experimental {
            self.experimental_all || self.experimental.contains(rule.id)
        } else {
            !self.skip_all && !self.skip.contains(rule.id)
        }
    }
}

/// Collects warnings.
#[derive(Debug, Default)]
pub(crate) struct Lint {
    check: Check,
    check_span: Option<Span>,
    pub warnings: Vec<Diagnostic>,
    /// BuildKit's rules that fired: with `error=true` these end the build.
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

    /// Warns unless the file or the comments directly above say otherwise.
    pub fn warn(
        &mut self,
        rule: &'static Rule,
        span: Span,
        comments: &[String],
        message: impl Into<String>,
    ) {
        let above = comments.iter().find_map(|c| match directive::split(c) {
            Some((key, value)) if key.eq_ignore_ascii_case("check") => {
                Some(Check::parse(value.split(' ').next().unwrap_or_default()).unwrap_or_default())
            }
            _ => None,
        });
        let wanted = match above {
            None => self.check.wants(rule),
            Some(c) if rule.experimental => c.wants(rule) || self.check.wants(rule),
            Some(c) => c.wants(rule) && self.check.wants(rule),
        };
        if !wanted {
            return;
        }
        if rule.buildkit {
            self.fired.insert(rule.id);
        }
        let mut d = Diagnostic::warning(rule.id, span, message);
        d.url = rule.url;
        self.warnings.push(d);
    }

    /// Warns about something that stands nowhere in the file.
    pub fn general(&mut self, rule: &'static Rule, message: String, help: Option<String>) {
        if self.check.wants(rule) {
            let mut d = Diagnostic::new(Severity::Warning, rule.id, None, message);
            d.help = help;
            self.warnings.push(d);
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
        for bad in ["x", "foo=1", "error=maybe"] {
            assert!(Check::parse(bad).is_err(), "{bad}");
        }
    }
}
