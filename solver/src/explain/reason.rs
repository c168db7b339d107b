//! The reasons and their lines.

use std::fmt;

use rgraph_ir::Ttl;

use super::files::FileChanges;

/// A step as other lines call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A step of the same stage: its number.
    Step(u32),
    /// The other half of the same step: what `COPY --link` copies before it is laid on top.
    Own,
    /// The result of another stage.
    Stage(String),
    /// Anything else, by its progress line.
    Named(String),
}

/// Where a result is known although it is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The imported cache; `None`: the local store.
    pub cache: Option<String>,
    /// For which platform.
    pub platform: String,
}

/// One reason; its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// Nothing was recorded at this place.
    NeverBuilt {
        /// Other platforms have it.
        elsewhere: Vec<Elsewhere>,
    },
    /// The last build of this file had no such instruction.
    NewStep,
    /// The cache was not to be asked.
    NoCache,
    /// The result has outlived its time.
    Expired {
        /// How long it was good for.
        ttl: Ttl,
    },
    /// Built like this before, but the result is gone.
    Evicted,
    /// What the place was built from before is not known any more.
    Forgotten,
    /// The command differs.
    Command {
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// The shell that runs the command differs.
    Shell {
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// A variable differs.
    Env {
        /// A build argument, not an `ENV`.
        arg: bool,
        /// Its name.
        name: String,
        /// Last time; `None`: not set.
        old: Option<String>,
        /// Now; `None`: not set.
        new: Option<String>,
    },
    /// The same variables in another order.
    EnvOrder,
    /// An image's name means another one now.
    BaseMoved {
        /// What it is called.
        name: String,
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// The image of a service means something else now.
    Service {
        /// The service.
        name: String,
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// A URL has another file now, or a repository another commit.
    SourceMoved {
        /// What it is called.
        name: String,
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// Another source is named.
    BaseOther {
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// Files of the caller differ.
    Files {
        /// `context NAME`, `heredoc`; `None`: the main context.
        whose: Option<String>,
        /// Which files.
        changes: FileChanges,
    },
    /// What is read of an input differs; which files is not known.
    Content {
        /// Which paths are looked at.
        paths: Vec<String>,
        /// Whose.
        input: String,
    },
    /// An input is another result.
    Rebuilt {
        /// Which step.
        who: Who,
        /// What differs in it; `None`: not known.
        changes: Option<FileChanges>,
    },
    /// A step was put below this one.
    Inserted {
        /// Which one.
        who: Who,
    },
    /// A step below this one is no longer there.
    Removed {
        /// Its progress line.
        name: String,
    },
    /// It stands on another step than before.
    Moved {
        /// On which one it stood.
        old: String,
        /// On which one it stands.
        new: Who,
    },
    /// Other inputs.
    Inputs,
    /// `--link` was set, or is no longer.
    Link {
        /// It is set.
        set: bool,
    },
    /// A mount, host, limit or source came or went.
    Member {
        /// What it is called.
        words: String,
        /// It is new; else it is gone.
        added: bool,
    },
    /// The same list in another order.
    Order {
        /// Of what.
        words: String,
    },
    /// Any other value of the instruction.
    Field {
        /// What it is called.
        words: String,
        /// Last time; `None`: not set.
        old: Option<String>,
        /// Now; `None`: not set.
        new: Option<String>,
    },
}

impl MissReason {
    /// A short name for programs.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NeverBuilt { .. } => "never-built",
            Self::NewStep => "new-step",
            Self::NoCache => "no-cache",
            Self::Expired { .. } => "expired",
            Self::Evicted => "evicted",
            Self::Forgotten => "forgotten",
            Self::Command { .. } => "command",
            Self::Shell { .. } => "shell",
            Self::Env { arg: true, .. } => "arg",
            Self::Env { .. } | Self::EnvOrder => "env",
            Self::BaseMoved { .. } | Self::BaseOther { .. } => "base",
            Self::Service { .. } => "service",
            Self::SourceMoved { .. } => "source",
            Self::Files { .. } | Self::Content { .. } => "files",
            Self::Rebuilt { .. } => "rebuilt",
            Self::Inserted { .. } | Self::Removed { .. } | Self::Moved { .. } => "order",
            Self::Inputs => "inputs",
            Self::Link { .. } | Self::Member { .. } | Self::Order { .. } | Self::Field { .. } => {
                "instruction"
            }
        }
    }

    /// The files it is about.
    pub fn files(&self) -> Option<&FileChanges> {
        match self {
            Self::Files { changes, .. } => Some(changes),
            Self::Rebuilt { changes, .. } => changes.as_ref(),
            _ => None,
        }
    }
}

/// Long values are cut in the middle of nowhere useful, so only their start is shown.
fn short(text: &str) -> String {
    const MOST: usize = 120;
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    let text = text.replace('\n', "\\n");
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Digests and commits by their first digits.
fn pin(text: &str) -> String {
    let start = text.rsplit([':', ' ']).next().unwrap_or(text);
    start.chars().take(12).collect()
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(n) => write!(f, "step {n} above"),
            Self::Own => f.write_str("its copy"),
            Self::Stage(name) => write!(f, "stage {name}"),
            Self::Named(name) => write!(f, "`{}`", short(name)),
        }
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt { elsewhere } => never_built(elsewhere, f),
            Self::NewStep => f.write_str("this step is new"),
            Self::NoCache => f.write_str("the cache is ignored for this step"),
            Self::Expired { ttl } => write!(f, "older than {ttl} (ttl)"),
            Self::Evicted => f.write_str("built before, but the result is gone"),
            Self::Forgotten => f.write_str("changed, but what it was before is not known any more"),
            Self::Command { old, new } => {
                write!(f, "command: `{}` to `{}`", short(old), short(new))
            }
            Self::Shell { old, new } => write!(f, "SHELL: `{}` to `{}`", short(old), short(new)),
            Self::Env { arg, name, old, new } => {
                write!(f, "{} {name}: ", if *arg { "ARG" } else { "ENV" })?;
                change(f, old, new)
            }
            Self::EnvOrder => f.write_str("order of the environment changed"),
            Self::BaseMoved { name, old, new } => {
                write!(f, "base {name} moved {} to {}", pin(old), pin(new))
            }
            Self::Service { name, old, new } => {
                write!(f, "service {name} moved {} to {}", pin(old), pin(new))
            }
            Self::SourceMoved { name, old, new } => {
                write!(f, "{} moved {} to {}", short(name), pin(old), pin(new))
            }
            Self::BaseOther { old, new } => write!(f, "base: {} to {}", short(old), short(new)),
            Self::Files { whose: None, changes } => write!(f, "{changes}"),
            Self::Files { whose: Some(whose), changes } => write!(f, "{whose}: {changes}"),
            Self::Content { paths, input } => {
                write!(f, "{} of {input} changed", short(&paths.join(", ")))
            }
            Self::Rebuilt { who, changes: Some(c) } => {
                write!(f, "{who} gave other files: ")?;
                c.brief(f)
            }
            Self::Rebuilt { who, changes: None } => write!(f, "{who} gave another result"),
            Self::Inserted { who } => write!(f, "{who} is new"),
            Self::Removed { name } => write!(f, "`{}` is no longer below it", short(name)),
            Self::Moved { old, new } => write!(f, "it stood on `{}`, now on {new}", short(old)),
            Self::Inputs => f.write_str("other inputs"),
            Self::Link { set: true } => f.write_str("--link was set"),
            Self::Link { set: false } => f.write_str("--link is gone"),
            Self::Member { words, added: true } => write!(f, "{} is new", short(words)),
            Self::Member { words, added: false } => write!(f, "{} is gone", short(words)),
            Self::Order { words } => write!(f, "order of {words} changed"),
            Self::Field { words, old, new } => {
                write!(f, "{words}: ")?;
                change(f, old, new)
            }
        }
    }
}

fn change(f: &mut fmt::Formatter<'_>, old: &Option<String>, new: &Option<String>) -> fmt::Result {
    match (old, new) {
        (Some(o), Some(n)) => write!(f, "{} to {}", short(o), short(n)),
        (None, Some(n)) => write!(f, "set to {}", short(n)),
        (Some(o), None) => write!(f, "no longer {}", short(o)),
        (None, None) => f.write_str("changed"),
    }
}

fn never_built(elsewhere: &[Elsewhere], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("not built here before")?;
    let mut sep = ';';
    for e in elsewhere {
        match &e.cache {
            None => write!(f, "{sep} it was for {}", e.platform)?,
            Some(name) => write!(f, "{sep} the cache of {name} has it for {}", e.platform)?,
        }
        sep = ',';
    }
    Ok(())
}
