//! What progress lines say: `[build 2/4] RUN make`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use rgraph_ir::Platform;
use rgraph_ir::fields::push_number;

use super::state::StageState;
use crate::expand::{Lookup, Mode, expand, is_plain};

/// Counts the steps of a stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter {
    /// Shown name; empty: the only stage.
    pub stage: Arc<str>,
    pub total: usize,
    pub at: usize,
    /// The platform is shown too.
    pub show_platform: bool,
}

impl Counter {
    /// The next step's line.
    pub fn next(
        &mut self,
        text: &str,
        onbuild: bool,
        st: Option<&StageState>,
        p: &Platform,
    ) -> String {
        self.at += 1;
        self.again(text, onbuild, st, p)
    }

    /// A further line for the same step.
    pub fn again(
        &self,
        text: &str,
        onbuild: bool,
        st: Option<&StageState>,
        p: &Platform,
    ) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        let mut out = String::with_capacity(self.stage.len() + text.len() + 32);
        out.push('[');
        if self.show_platform {
            let _ = write!(out, "{p}");
            if let Some(to) = st.and_then(|st| cross_target(p, st)) {
                out.push_str(&to);
            }
            out.push(' ');
        }
        if !self.stage.is_empty() {
            out.push_str(&self.stage);
            out.push(' ');
        }
        let digits = |n: usize| n.checked_ilog10().unwrap_or(0);
        out.extend((digits(self.at)..digits(self.total)).map(|_| ' '));
        push_number(&mut out, self.at as u64);
        out.push('/');
        push_number(&mut out, self.total as u64);
        out.push_str("] ");
        if onbuild {
            out.push_str("ONBUILD ");
        }
        out.push_str(text);
        out
    }
}

/// `->arm64` when the stage says it compiles for something else than it runs on.
fn cross_target(base: &Platform, st: &StageState) -> Option<String> {
    let get = |k| st.vars.get(k).unwrap_or_default();
    let to = match st.vars.get("TARGETPLATFORM").and_then(|p| p.parse::<Platform>().ok()) {
        Some(p) => p,
        None => {
            let (os, arch, variant) = (get("TARGETOS"), get("TARGETARCH"), get("TARGETVARIANT"));
            if os.is_empty() && arch.is_empty() && variant.is_empty() {
                return None;
            }
            let or = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
            Platform {
                os: or(os, &base.os),
                architecture: or(arch, &base.architecture),
                variant: variant.to_owned(),
                os_version: String::new(),
            }
            .normalize()
        }
    };
    if to.os != base.os {
        return Some(format!("->{to}"));
    }
    (to.architecture != base.architecture).then(|| {
        let variant = if to.variant.is_empty() { "" } else { "/" };
        format!("->{}{variant}{}", to.architecture, to.variant)
    })
}

/// An instruction's text as it is shown: keyword in capitals, variables filled in where that works.
pub(super) fn shown<'t>(text: &'t str, env: &dyn Lookup, mode: Mode) -> Cow<'t, str> {
    let text = match is_plain(text, mode.escape) {
        true => Cow::Borrowed(text),
        false => expand(text, env, mode).map_or(Cow::Borrowed(text), |e| Cow::Owned(e.text)),
    };
    let (first, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
    if first.bytes().all(|b| b.is_ascii_uppercase()) {
        return text;
    }
    Cow::Owned(first.to_uppercase() + rest)
}

/// The first line of a heredoc, `...` behind it when there are more.
pub(super) fn summary(body: &str) -> String {
    let mut lines = body.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}
