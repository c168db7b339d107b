//! The options of `prune`, `du` and `store check`.

use super::error::OptionsError;
use super::{Format, Terminals, filters, parse_size};
use crate::args::{CheckArgs, DfArgs, PruneArgs};

/// `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneOptions {
    /// The user is asked first.
    pub ask: bool,
    /// Also images that no container uses.
    pub all: bool,
    /// Names and values, names known.
    pub filters: Vec<(String, String)>,
    /// Most bytes the cache may use afterwards.
    pub max_used: Option<u64>,
    /// Least bytes that are free on the disk afterwards.
    pub min_free: Option<u64>,
    /// Bytes of the cache that stay in any case.
    pub reserved: Option<u64>,
    /// Every record is named.
    pub verbose: bool,
}

impl PruneOptions {
    /// The one conversion. Without `--force` someone must be there to answer.
    pub fn new(raw: PruneArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let bytes = |flag: &'static str, text: &Option<String>| {
            text.as_deref()
                .map(|t| parse_size(t).map_err(|why| OptionsError::value(flag, t, why)))
                .transpose()
        };
        let max_used = bytes("--max-used-space", &raw.max_used_space)?;
        // The older name of the same limit.
        let keep = bytes("--keep-storage", &raw.keep_storage)?;
        let known = ["until", "label", "label!", "id", "type", "unused-for"];
        let options = Self {
            ask: !raw.force,
            all: raw.all,
            filters: filters(&raw.filter, &known)?,
            max_used: max_used.or(keep),
            min_free: bytes("--min-free-space", &raw.min_free_space)?,
            reserved: bytes("--reserved-space", &raw.reserved_space)?,
            verbose: raw.verbose,
        };
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
    /// How it is written.
    pub format: Format,
}

impl DfOptions {
    /// The one conversion.
    pub fn new(raw: DfArgs) -> Result<Self, OptionsError> {
        Ok(Self { verbose: raw.verbose, format: Format::parse(raw.format.as_deref())? })
    }
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
            &["-f", "-a", "--keep-storage", "1g", "--min-free-space=2k", "--filter", "until=24h"],
            Terminals::default(),
        )
        .unwrap();
        assert_eq!((o.all, o.max_used, o.min_free), (true, Some(1 << 30), Some(2048)));
        assert_eq!(o.filters, [("until".to_owned(), "24h".to_owned())]);
        assert!(
            prune(&["-f", "--keep-storage", "x"], Terminals::default()).unwrap_err().is_usage()
        );
    }
}
