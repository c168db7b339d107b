//! Values that the Dockerfile is given: `ARG`s and labels.

use std::collections::BTreeMap;

use super::super::OptionsError;
use crate::args::Environment;

/// The `ARG`s, and what `SOURCE_DATE_EPOCH` among them says.
pub(super) fn build_args(
    lines: &[String],
    env: &Environment,
) -> Result<(BTreeMap<String, String>, Option<i64>), OptionsError> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let mut args = BTreeMap::new();
    for line in lines {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => match env.var(line) {
                None => (line.as_str(), None),
                Some(v) => {
                    let text = v.to_str().map(str::to_owned).ok_or_else(|| {
                        OptionsError::value("--build-arg", line, "the variable is not UTF-8")
                    })?;
                    (line.as_str(), Some(text))
                }
            },
        };
        if name.is_empty() {
            return Err(OptionsError::value("--build-arg", line, "the name is missing"));
        }
        if let Some(value) = value {
            args.insert(name.to_owned(), value);
        }
    }
    let (from, text) = match (args.get(EPOCH), &env.source_date_epoch) {
        (Some(arg), _) => ("--build-arg", Some(arg.clone())),
        (None, Some(e)) => (EPOCH, Some(e.clone())),
        (None, None) => (EPOCH, None),
    };
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok((args, None)) };
    // A context or a stage has a time of its own; which there are the Dockerfile says.
    let named = text == "context" || from != EPOCH && is_name(&text);
    let seconds = match epoch(&text) {
        Some(seconds) => Some(seconds),
        None if named => None,
        None => {
            let why = format!(
                "`{EPOCH}` is a number of seconds since 1970 up to the year 9999, or `context`"
            );
            return Err(OptionsError::value(from, &text, why));
        }
    };
    args.insert(EPOCH.to_owned(), text);
    Ok((args, seconds))
}

/// Seconds since 1970, of a time that can be written as a date.
pub(super) fn epoch(text: &str) -> Option<i64> {
    text.parse().ok().filter(|s| jiff::Timestamp::from_second(*s).is_ok())
}

/// Whether a stage may be called so.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

pub(super) fn labels(lines: &[String]) -> Result<BTreeMap<String, String>, OptionsError> {
    lines
        .iter()
        .map(|l| {
            let (name, value) = l.split_once('=').unwrap_or((l, ""));
            if name.is_empty() {
                return Err(OptionsError::value("--label", l, "the name is missing"));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}
