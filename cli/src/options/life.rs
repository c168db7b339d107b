//! The options of commands on containers that were made before.

use std::path::Path;
use std::time::Duration;

use super::Layout;
use super::container::{detach_keys, text, variables};
use super::error::OptionsError;
use super::signal::signal;
use super::size::parse_seconds;
use crate::args::{AttachArgs, Environment, ExecArgs, LogsArgs, StartArgs, StatsArgs, StopArgs};

/// `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Standard input stays open.
    pub interactive: bool,
    /// A terminal.
    pub tty: bool,
    /// In the background.
    pub detach: bool,
    /// What leaves it, bytes of a terminal.
    pub detach_keys: Vec<u8>,
    /// Beyond the container's, in order.
    pub env: Vec<(String, String)>,
    /// `None`: the container's.
    pub workdir: Option<String>,
    /// `None`: the container's.
    pub user: Option<String>,
}

impl ExecOptions {
    /// The one conversion. Files of variables are read here.
    pub fn new(raw: ExecArgs, env: &Environment, cwd: &Path) -> Result<Self, OptionsError> {
        let mut words = raw.words.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let container = words.remove(0);
        if let Some(dir) = raw.workdir.as_ref().filter(|d| !d.starts_with('/')) {
            return Err(OptionsError::value("--workdir", dir, "the path must be absolute"));
        }
        Ok(Self {
            container,
            args: words,
            interactive: raw.interactive && !raw.detach,
            tty: raw.tty,
            detach: raw.detach,
            detach_keys: detach_keys(raw.detach_keys.as_deref())?,
            env: variables(&raw.env_file, &raw.env, env, cwd)?,
            workdir: raw.workdir,
            user: raw.user,
        })
    }
}

/// `start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOptions {
    /// In this order.
    pub containers: Vec<String>,
    /// What it prints is shown, and its exit code is ours. Of one container only.
    pub attach: bool,
    /// Standard input is passed on.
    pub interactive: bool,
    /// What leaves it, bytes of a terminal.
    pub detach_keys: Vec<u8>,
}

impl StartOptions {
    /// The one conversion.
    pub fn new(raw: StartArgs) -> Result<Self, OptionsError> {
        let StartArgs { attach, interactive, detach_keys: keys, containers } = raw;
        let attach = attach || interactive;
        if attach && containers.len() > 1 {
            let why = "one cannot stand in front of several containers at once";
            return Err(OptionsError::value("--attach", &containers.join(" "), why));
        }
        Ok(Self { containers, attach, interactive, detach_keys: detach_keys(keys.as_deref())? })
    }
}

/// `stop` and `restart`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOptions {
    /// In this order.
    pub containers: Vec<String>,
    /// How long one may take; `None`: as long as it likes.
    pub grace: Option<Duration>,
    /// `None`: the container's.
    pub signal: Option<i32>,
}

/// How long a container may take to end, as in Docker.
const GRACE: Duration = Duration::from_secs(10);

impl StopOptions {
    /// The one conversion.
    pub fn new(raw: StopArgs) -> Result<Self, OptionsError> {
        let StopArgs { timeout, signal: name, containers } = raw;
        let grace = match timeout {
            None => Some(GRACE),
            Some(-1) => None,
            Some(n) => Some(Duration::from_secs(u64::try_from(n).map_err(|_| {
                let why = "expected seconds, or -1 for no limit";
                OptionsError::value("--timeout", &n.to_string(), why)
            })?)),
        };
        let signal = name.map(|n| signal("--signal", &n)).transpose()?;
        Ok(Self { containers, grace, signal })
    }
}

/// `attach`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachOptions {
    /// The container.
    pub container: String,
    /// Standard input is passed on.
    pub input: bool,
    /// Signals are passed on.
    pub sig_proxy: bool,
    /// What leaves it, bytes of a terminal.
    pub detach_keys: Vec<u8>,
}

impl AttachOptions {
    /// The one conversion.
    pub fn new(raw: AttachArgs) -> Result<Self, OptionsError> {
        Ok(Self {
            container: raw.container,
            input: !raw.no_stdin,
            sig_proxy: raw.sig_proxy.unwrap_or(true),
            detach_keys: detach_keys(raw.detach_keys.as_deref())?,
        })
    }
}

/// `stats`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatsOptions {
    /// In this order; empty: all that run.
    pub containers: Vec<String>,
    /// Those too that do not run.
    pub all: bool,
    /// Once.
    pub once: bool,
    /// Nothing is cut.
    pub no_trunc: bool,
    /// How it is written.
    pub format: Layout,
}

impl StatsOptions {
    /// The one conversion.
    pub fn new(raw: StatsArgs) -> Result<Self, OptionsError> {
        let StatsArgs { all, no_stream, no_trunc, format, containers } = raw;
        let format = Layout::parse(format.as_deref())?;
        Ok(Self { containers, all, once: no_stream, no_trunc, format })
    }
}

/// What of a container's log is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogsOptions {
    /// What comes next too.
    pub follow: bool,
    /// Lines from the end; `None`: all.
    pub tail: Option<usize>,
    /// Milliseconds since 1970.
    pub since: Option<i64>,
    /// Milliseconds since 1970.
    pub until: Option<i64>,
    /// The time before each line.
    pub timestamps: bool,
}

impl LogsOptions {
    /// The one conversion. `now`: milliseconds since 1970.
    pub fn new(raw: &LogsArgs, now: i64) -> Result<Self, OptionsError> {
        let time = |flag: &'static str, text: &Option<String>| {
            let why =
                "expected a time (2024-05-01T12:00:00Z, seconds since 1970) or how long ago (10m)";
            let read = |t: &String| moment(t, now).ok_or_else(|| OptionsError::value(flag, t, why));
            text.as_ref().map(read).transpose()
        };
        let tail = match raw.tail.as_deref() {
            None | Some("all") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                OptionsError::value("--tail", text, "expected a number of lines, or `all`")
            })?),
        };
        Ok(Self {
            follow: raw.follow,
            tail,
            since: time("--since", &raw.since)?,
            until: time("--until", &raw.until)?,
            timestamps: raw.timestamps,
        })
    }

    /// The log is shown as it is, once.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

fn moment(text: &str, now: i64) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        let known = (0.0..1e11).contains(&seconds);
        return known.then_some((seconds * 1000.0) as i64);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    if let Ok(ago) = parse_seconds(text) {
        return now.checked_sub(i64::try_from(ago).ok()?.checked_mul(1000)?);
    }
    // Without a zone it is the caller's.
    let date: jiff::civil::DateTime = text.parse().ok()?;
    date.to_zoned(jiff::tz::TimeZone::system()).ok().map(|z| z.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, want) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.5", Some(1_700_000_000_500)),
            ("1970-01-01T00:00:10Z", Some(10_000)),
            ("1970-01-01T01:00:10+01:00", Some(10_000)),
            ("10m", Some(400_000)),
            ("1h30m", Some(1_000_000 - 5_400_000)),
            ("soon", None),
            ("-5", None),
        ] {
            assert_eq!(moment(text, 1_000_000), want, "{text}");
        }
        assert!(moment("2024-05-01T12:00:00", 0).is_some() && moment("2024-05-01", 0).is_some());
    }

    #[test]
    fn grace() {
        let stop = |timeout| {
            let containers = vec!["c".to_owned()];
            StopOptions::new(StopArgs { timeout, signal: None, containers }).map(|o| o.grace)
        };
        assert_eq!(stop(None).unwrap(), Some(GRACE));
        assert_eq!(stop(Some(0)).unwrap(), Some(Duration::ZERO));
        assert_eq!(stop(Some(-1)).unwrap(), None);
        assert!(stop(Some(-2)).is_err());
    }
}
