//! What is wrong with a command line, one type for all of it.

use std::path::PathBuf;

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A bad value: exit code 2.
    #[error("invalid value `{value}` for `{flag}`: {why}")]
    Value {
        /// The flag or variable.
        flag: &'static str,
        /// What was given, cut.
        value: String,
        /// What is wrong with it.
        why: String,
        /// A near name, or what to write.
        help: Option<String>,
    },
    /// Flags that do not go together: exit code 2.
    #[error("{0}")]
    Conflict(String),
    /// Not built yet: exit code 1.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// A file that a flag names cannot be read: exit code 1.
    #[error("{flag}: cannot read `{}`", path.display())]
    Read {
        /// The flag with what it is for.
        flag: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something that a flag names is not there, or too large: exit code 1.
    #[error("{what}")]
    Missing {
        /// Which, and what is the matter.
        what: String,
        /// What to do.
        help: Option<String>,
    },
}

impl OptionsError {
    /// A bad value of a flag.
    pub fn value(flag: &'static str, value: &str, why: impl Into<String>) -> Self {
        let mut short: String = value.chars().take(120).collect();
        if short.len() < value.len() {
            short.push_str("...");
        }
        Self::Value { flag, value: short, why: why.into(), help: None }
    }

    /// A bad word of a flag that has a fixed set of them: names the nearest, else all.
    pub fn word(flag: &'static str, value: &str, what: &str, known: &[&str]) -> Self {
        let mut e = Self::value(flag, value, format!("unknown {what}"));
        if let Self::Value { help, .. } = &mut e {
            let word = value.rsplit('=').next().unwrap_or(value);
            *help = Some(did_you_mean(word, known));
        }
        e
    }

    /// Adds what to do.
    pub fn with_help(mut self, text: impl Into<String>) -> Self {
        if let Self::Value { help, .. } | Self::Missing { help, .. } = &mut self {
            *help = Some(text.into());
        }
        self
    }

    /// What to do, when that is known.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Value { help, .. } | Self::Missing { help, .. } => help.as_deref(),
            _ => None,
        }
    }

    /// True for wrong use (exit code 2): nothing was read or written.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Value { .. } | Self::Conflict(_))
    }
}

/// `did you mean ...?`, or the whole set.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    match rgraph_ir::near::nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", known.join(", ")),
    }
}
