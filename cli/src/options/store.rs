//! The options of `prune`, `du`, `cache-mount` and `store check`.

use std::path::PathBuf;

use rgraph_store::{Amount, Disk, Filter, Limits};

use super::error::{OptionsError, did_you_mean};
use super::{Format, Terminals, parse_amount, parse_seconds};
use crate::args::{
    CacheMountClearArgs, CacheMountLsArgs, CacheMountSeedArgs, CheckArgs, DfArgs, PruneArgs,
};

/// Bounds of the cache, of a disk not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Stays in any case.
    pub reserved: Option<Amount>,
    /// Most that the cache may use.
    pub max_used: Option<Amount>,
    /// Least that is free on the disk.
    pub min_free: Option<Amount>,
}

impl Bounds {
    /// In bytes.
    pub fn of(&self, disk: &Disk) -> Limits {
        let bytes = |a: Option<Amount>| a.map(|a| a.of(disk.total));
        Limits {
            reserved: bytes(self.reserved),
            max_used: bytes(self.max_used),
            min_free: bytes(self.min_free),
        }
    }
}

/// `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneOptions {
    /// The user is asked first.
    pub ask: bool,
    /// Also images that no container uses.
    pub all: bool,
    /// Which records of the cache.
    pub filter: Filter,
    /// Only what was not used for so many seconds.
    pub unused_for: Option<u64>,
    /// How much of the cache stays.
    pub bounds: Bounds,
    /// Nothing is removed.
    pub dry_run: bool,
    /// What went is counted.
    pub verbose: bool,
    /// The build cache stays.
    pub images_only: bool,
}

/// Filters of records, and the age among them.
fn record_filters(lines: &[String]) -> Result<(Filter, Option<u64>), OptionsError> {
    const FLAG: &str = "--filter";
    let (mut filter, mut unused_for) = (Filter::default(), None);
    for line in lines {
        let name = line.split(['=', '!', '~']).next().unwrap_or_default().trim();
        if let "until" | "unused-for" = name {
            let value = line.split_once('=').map_or("", |(_, v)| v.trim_start_matches('='));
            let seconds =
                parse_seconds(value).map_err(|why| OptionsError::value(FLAG, line, why))?;
            unused_for = Some(seconds);
            continue;
        }
        let more: Filter = line.parse().map_err(|e: rgraph_store::FilterError| {
            let known = ["until", "type", "description", "inuse", "shared", "private", "mutable"];
            let bad = OptionsError::value(FLAG, line, e.to_string());
            match e {
                rgraph_store::FilterError::Field(f) => bad.with_help(did_you_mean(&f, &known)),
                _ => bad,
            }
        })?;
        filter = filter.and(more);
    }
    Ok((filter, unused_for))
}

impl PruneOptions {
    /// The one conversion. Without `--force` someone must be there to answer.
    pub fn new(raw: PruneArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let amount = |flag: &'static str, text: &Option<String>| {
            text.as_deref()
                .map(|t| parse_amount(t).map_err(|why| OptionsError::value(flag, t, why)))
                .transpose()
        };
        let (filter, until) = record_filters(&raw.filter)?;
        let keep = raw.keep_duration.as_deref().map(|t| {
            parse_seconds(t).map_err(|why| OptionsError::value("--keep-duration", t, why))
        });
        // The older name of the same bound.
        let older = amount("--keep-storage", &raw.keep_storage)?;
        let options = Self {
            ask: !raw.force && !raw.dry_run,
            all: raw.all,
            filter,
            unused_for: keep.transpose()?.or(until),
            bounds: Bounds {
                reserved: amount("--reserved-space", &raw.reserved_space)?.or(older),
                max_used: amount("--max-used-space", &raw.max_used_space)?,
                min_free: amount("--min-free-space", &raw.min_free_space)?,
            },
            dry_run: raw.dry_run,
            verbose: raw.verbose,
            images_only: raw.images_only,
        };
        if options.all && !options.filter.is_empty() {
            return Err(OptionsError::Conflict(
                "--all is about images, and filters other than `until=` about the build cache"
                    .to_owned(),
            ));
        }
        if options.ask && !terminals.can_ask() {
            return Err(OptionsError::Missing {
                what: "nobody is there to confirm".to_owned(),
                help: Some("add `--force` (`-f`)".to_owned()),
            });
        }
        Ok(options)
    }
}

/// `du`, `system df`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DfOptions {
    /// Every record.
    pub verbose: bool,
    /// Which records.
    pub filter: Filter,
    /// Of those, only what was not used for so many seconds.
    pub unused_for: Option<u64>,
    /// How it is written.
    pub format: Format,
}

impl DfOptions {
    /// The one conversion.
    pub fn new(raw: DfArgs) -> Result<Self, OptionsError> {
        let (filter, unused_for) = record_filters(&raw.filter)?;
        let chosen = !filter.is_empty() || unused_for.is_some();
        Ok(Self {
            verbose: raw.verbose || chosen,
            filter,
            unused_for,
            format: Format::parse(raw.format.as_deref())?,
        })
    }
}

/// `cache-mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheMountOptions {
    /// They are listed.
    Ls(Format),
    /// Those of these ids are emptied; without any, all.
    Clear(Vec<String>),
    /// One is filled.
    Seed {
        /// Which.
        id: String,
        /// From where.
        dir: PathBuf,
        /// What it has goes.
        replace: bool,
    },
}

impl CacheMountOptions {
    /// The one conversion.
    pub fn ls(raw: CacheMountLsArgs) -> Result<Self, OptionsError> {
        Ok(Self::Ls(Format::parse(raw.format.as_deref())?))
    }

    /// The one conversion.
    pub fn clear(raw: CacheMountClearArgs) -> Result<Self, OptionsError> {
        raw.ids.iter().try_for_each(|id| check_id(id))?;
        Ok(Self::Clear(raw.ids))
    }

    /// The one conversion.
    pub fn seed(raw: CacheMountSeedArgs) -> Result<Self, OptionsError> {
        check_id(&raw.id)?;
        Ok(Self::Seed { id: raw.id, dir: raw.dir, replace: raw.replace })
    }
}

fn check_id(id: &str) -> Result<(), OptionsError> {
    if id.is_empty() || id.contains('\0') {
        return Err(OptionsError::value("ID", id, "expected the id of a cache mount"));
    }
    Ok(())
}

/// `store check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOptions {
    /// Every byte is read.
    pub read_data: bool,
    /// What is damaged is dropped or made again.
    pub repair: bool,
    /// How it is written.
    pub format: Format,
}

impl CheckOptions {
    /// The one conversion.
    pub fn new(raw: CheckArgs) -> Result<Self, OptionsError> {
        let format = Format::parse(raw.format.as_deref())?;
        Ok(Self { read_data: raw.read_data, repair: raw.repair, format })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn prune(words: &[&str], terminals: Terminals) -> Result<PruneOptions, OptionsError> {
        let line = ["rgraph", "prune"].iter().chain(words).map(Into::into);
        match parse(line).unwrap().command {
            Command::Prune(a) => PruneOptions::new(a, terminals),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_to_ask_is_a_failure_with_the_flag_to_add() {
        let e = prune(&[], Terminals::default()).unwrap_err();
        assert!(!e.is_usage() && e.help().unwrap().contains("--force"));
        let person = Terminals { stdin: true, stdout: false, stderr: true };
        assert!(prune(&[], person).unwrap().ask);
        assert!(!prune(&["-f"], Terminals::default()).unwrap().ask);
    }

    #[test]
    fn limits() {
        let o = prune(
            &["-f", "-a", "--keep-storage", "1g", "--min-free-space=20%", "--filter", "until=24h"],
            Terminals::default(),
        )
        .unwrap();
        let disk = Disk { total: 1000, free: 0, used: 0 };
        let limits = Limits { reserved: Some(1 << 30), max_used: None, min_free: Some(200) };
        assert_eq!((o.all, o.bounds.of(&disk), o.unused_for), (true, limits, Some(86_400)));
        assert!(o.filter.is_empty());
        assert!(
            prune(&["-f", "--keep-storage", "x"], Terminals::default()).unwrap_err().is_usage()
        );
    }

    #[test]
    fn filters() {
        let o = prune(
            &["-f", "--filter", "type=exec.cachemount,id=/c", "--filter", "unused-for=1h"],
            Terminals::default(),
        )
        .unwrap();
        assert_eq!(o.filter, "type=exec.cachemount,id=/c".parse().unwrap());
        assert_eq!(o.unused_for, Some(3600));
        for (words, help) in [
            (&["-f", "--filter", "tpye=regular"][..], Some("did you mean `type`?")),
            (&["-f", "--filter", "until=soon"], None),
            (&["-f", "--keep-duration=x"], None),
            (&["-f", "--max-used-space=101%"], None),
            (&["-f", "-a", "--filter", "type=regular"], None),
        ] {
            let e = prune(words, Terminals::default()).unwrap_err();
            assert!(e.is_usage(), "{words:?}: {e}");
            assert_eq!(e.help().filter(|_| help.is_some()), help, "{words:?}: {e}");
        }
    }
}
