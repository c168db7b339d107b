//! `images [REPOSITORY[:TAG]] --filter NAME=VALUE`: which rows are shown.

use rgraph_ir::Reference;
use rgraph_ir::pattern::Glob;
use rgraph_runtime::images;
use rgraph_store::Store;

use super::{Found, seconds};
use crate::commands::{images_error, inspect, tag};
use crate::options::{ImageName, ImagesOptions, OptionsError, parse_seconds, switch_value};
use crate::report::CliError;

/// Names that are wanted.
enum Names {
    /// This repository, and with a tag only that.
    One(Reference, bool),
    /// A pattern over names as people write them, with or without the tag.
    Pattern(Glob),
}

impl Names {
    fn parse(text: &str) -> Result<Self, CliError> {
        if !text.contains(['*', '?', '[']) {
            let r: Reference =
                text.parse().map_err(|e: rgraph_ir::reference::ReferenceError| {
                    CliError::usage(e.to_string())
                })?;
            let typed = r.tag.as_ref().is_some_and(|t| text.ends_with(&format!(":{t}")));
            return Ok(Self::One(r, typed));
        }
        let glob = Glob::new(text).map_err(|e| CliError::usage(e.to_string()))?;
        Ok(Self::Pattern(glob))
    }

    fn hold(&self, name: &Reference) -> bool {
        match self {
            Self::One(r, tag) => {
                r.name() == name.name()
                    && (!tag || r.tag == name.tag)
                    && (r.digest.is_none() || r.digest == name.digest)
            }
            Self::Pattern(g) => g.matches(name.familiar()) || g.matches(name.familiar_name()),
        }
    }
}

/// All that the command line asks of a row.
pub(super) struct Filters {
    /// The operand.
    name: Option<Names>,
    /// Any of these.
    references: Vec<Names>,
    dangling: Option<bool>,
    /// All of these, with their values.
    labels: Vec<(String, Option<String>)>,
    /// Seconds since 1970 that an image is older than.
    before: Option<i64>,
    /// And newer than.
    since: Option<i64>,
}

impl Filters {
    /// Reads the filters; images that `before` and `since` name are looked up.
    pub fn new(store: &Store, opts: &ImagesOptions, now: i64) -> Result<Self, CliError> {
        let mut out = Self {
            name: opts.name.as_deref().map(Names::parse).transpose()?,
            references: Vec::new(),
            dangling: None,
            labels: Vec::new(),
            before: None,
            since: None,
        };
        for (name, value) in &opts.filters {
            let bad = |why: String| {
                CliError::from(OptionsError::value("--filter", &format!("{name}={value}"), why))
            };
            match name.as_str() {
                "dangling" => out.dangling = Some(switch_value(value).map_err(bad)?),
                "reference" => out.references.push(Names::parse(value)?),
                "label" => out.labels.push(match value.split_once('=') {
                    Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
                    None => (value.clone(), None),
                }),
                "before" => {
                    let at = time_of(store, value)?;
                    out.before = Some(out.before.map_or(at, |b| b.min(at)));
                }
                "since" => {
                    let at = time_of(store, value)?;
                    out.since = Some(out.since.map_or(at, |s| s.max(at)));
                }
                // A time, or how long ago.
                _ => {
                    let at = match (seconds(value), value.parse::<i64>()) {
                        (Some(at), _) | (None, Ok(at)) => at,
                        _ => {
                            let ago = parse_seconds(value).map_err(bad)?;
                            now.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
                        }
                    };
                    out.before = Some(out.before.map_or(at, |b| b.min(at)));
                }
            }
        }
        Ok(out)
    }

    /// Whether a row is shown.
    pub fn keep(&self, store: &Store, row: &Found) -> Result<bool, CliError> {
        let named = |n: &Names| row.name.as_ref().is_some_and(|r| n.hold(r));
        let created = row.created().unwrap_or(0);
        let cheap = self.name.as_ref().is_none_or(named)
            && (self.references.is_empty() || self.references.iter().any(named))
            && self.dangling.is_none_or(|d| d == row.name.is_none())
            && self.before.is_none_or(|b| created < b)
            && self.since.is_none_or(|s| created > s);
        if !cheap || self.labels.is_empty() {
            return Ok(cheap);
        }
        let config = images::config(store, &row.image).map_err(|e| images_error(&e))?;
        let labels = config.config.labels.unwrap_or_default();
        Ok(self.labels.iter().all(|(k, v)| {
            labels.get(k).is_some_and(|found| v.as_ref().is_none_or(|want| want == found))
        }))
    }
}

/// When an image was made.
fn time_of(store: &Store, name: &str) -> Result<i64, CliError> {
    let top = tag::find(store, &ImageName::parse(name)?)?;
    let all = images::rows(store, top).map_err(|e| images_error(&e))?;
    Ok(inspect::native(&all).created.as_deref().and_then(seconds).unwrap_or(0))
}
