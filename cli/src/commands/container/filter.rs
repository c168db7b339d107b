//! `ps --filter NAME=VALUE`: which containers are shown.

use rgraph_ir::DiffId;
use rgraph_runtime::container::{Containers, Record, State};
use rgraph_runtime::images;
use rgraph_store::Store;

use super::{container_error, inspect, word};
use crate::commands::{images_error, inspect as image, tag};
use crate::options::{ImageName, OptionsError, PsOptions, parse_seconds};
use crate::report::CliError;

/// An image whose containers, and those of images on it, are wanted.
struct Ancestor {
    config: String,
    layers: Vec<DiffId>,
}

/// All that the command line asks of a container. Of one name any value will do, but for labels,
/// which must all be there.
#[derive(Default)]
pub struct Filters {
    ids: Vec<String>,
    names: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    exited: Vec<i32>,
    statuses: Vec<String>,
    ancestors: Vec<Ancestor>,
    volumes: Vec<String>,
    networks: Vec<String>,
    /// Older than each of these, by `(seconds, nanoseconds)`.
    before: Vec<(i64, u32)>,
    since: Vec<(i64, u32)>,
    /// Seconds since 1970 that it was made before.
    until: Option<i64>,
}

impl Filters {
    /// Reads the filters; what they name is looked up.
    pub fn new(store: &Store, opts: &PsOptions, now: i64) -> Result<Self, CliError> {
        let mut out = Self::default();
        for (name, value) in &opts.filters {
            out.add(store, name, value, now)?;
        }
        Ok(out)
    }

    fn add(&mut self, store: &Store, name: &str, value: &str, now: i64) -> Result<(), CliError> {
        let bad = |why: String| {
            CliError::from(OptionsError::value("--filter", &format!("{name}={value}"), why))
        };
        let made = |value: &str| -> Result<(i64, u32), CliError> {
            let found = Containers::new(store).find(value).map_err(|e| container_error(&e))?;
            Ok((found.created, found.nanos))
        };
        match name {
            "id" => self.ids.push(value.to_owned()),
            "name" => self.names.push(value.to_owned()),
            "label" => self.labels.push(match value.split_once('=') {
                Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
                None => (value.to_owned(), None),
            }),
            "exited" => self
                .exited
                .push(value.parse().map_err(|_| bad("expected an exit code".to_owned()))?),
            "status" => {
                let known = ["created", "running", "exited"];
                let never = ["paused", "restarting", "removing", "dead"];
                if !known.contains(&value) && !never.contains(&value) {
                    return Err(bad(format!("expected one of {}", known.join(", "))));
                }
                self.statuses.push(value.to_owned());
            }
            "ancestor" => {
                let top = tag::find(store, &ImageName::parse(value)?)?;
                let rows = images::rows(store, top).map_err(|e| images_error(&e))?;
                let row = image::native(&rows);
                let (config, layers) = (row.config.hex(), row.layers.clone());
                self.ancestors.push(Ancestor { config, layers });
            }
            "before" => self.before.push(made(value)?),
            "since" => self.since.push(made(value)?),
            "volume" => self.volumes.push(value.to_owned()),
            "network" => self.networks.push(value.to_owned()),
            _ => {
                let ago = parse_seconds(value).map_err(bad)?;
                let at = now.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX));
                self.until = Some(self.until.map_or(at, |u| u.min(at)));
            }
        }
        Ok(())
    }

    /// Those that do not run are asked for too.
    pub fn all_states(&self) -> bool {
        !self.statuses.is_empty()
    }

    /// Whether a container is shown.
    pub fn keep(&self, store: &Store, r: &Record) -> bool {
        let any = |list: &[String], f: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|v| f(v))
        };
        let code = match r.state {
            State::Exited { code, .. } => Some(code),
            _ => None,
        };
        let made = (r.created, r.nanos);
        any(&self.ids, &|v| r.id.starts_with(v))
            && any(&self.names, &|v| name_matches(v, &r.name))
            && any(&self.statuses, &|v| word(r.state) == v)
            && any(&self.networks, &|v| v == inspect::network(r))
            && any(&self.volumes, &|v| mounted(r, v))
            && (self.exited.is_empty() || self.exited.iter().any(|e| code == Some(*e)))
            && self.before.iter().all(|b| made < *b)
            && self.since.iter().all(|s| made > *s)
            && self.until.is_none_or(|u| r.created < u)
            && (self.ancestors.is_empty() || self.stands_on(store, r))
            && (self.labels.is_empty() || self.labelled(store, r))
    }

    fn stands_on(&self, store: &Store, r: &Record) -> bool {
        let layers = Containers::new(store).image(r).map(|row| row.layers).unwrap_or_default();
        self.ancestors.iter().any(|a| {
            a.config == r.image.config || (!a.layers.is_empty() && layers.starts_with(&a.layers))
        })
    }

    fn labelled(&self, store: &Store, r: &Record) -> bool {
        let labels = inspect::labels(store, r);
        self.labels.iter().all(|(k, v)| {
            labels.get(k).is_some_and(|found| v.as_ref().is_none_or(|want| found == want))
        })
    }
}

/// A part of the name, as in Docker; `^` and `$` stand for its ends.
fn name_matches(pattern: &str, name: &str) -> bool {
    let (pattern, front) = match pattern.strip_prefix('^') {
        Some(rest) => (rest.strip_prefix('/').unwrap_or(rest), true),
        None => (pattern, false),
    };
    match (front, pattern.strip_suffix('$')) {
        (true, Some(whole)) => name == whole,
        (true, None) => name.starts_with(pattern),
        (false, Some(end)) => name.ends_with(end),
        (false, None) => name.contains(pattern.strip_prefix('/').unwrap_or(pattern)),
    }
}

/// A volume's name, or a path that something is mounted on.
fn mounted(r: &Record, what: &str) -> bool {
    let binds = r.settings.binds.iter().any(|b| b.dest == what || b.source.as_os_str() == what);
    binds || r.settings.volumes.iter().any(|v| v.dest == what || v.name == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_their_parts() {
        for (pattern, name, want) in [
            ("eb", "web", true),
            ("^eb", "web", false),
            ("^web$", "web", true),
            ("^/web$", "web2", false),
            ("2$", "web2", true),
            ("/we", "web2", true),
            ("x", "web", false),
        ] {
            assert_eq!(name_matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
