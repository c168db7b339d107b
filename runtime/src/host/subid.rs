//! Which ids of others a user may give away: `/etc/subuid` and `/etc/subgid`, and the programs that
//! do it (subuid(5), newuidmap(1)).

use std::path::{Path, PathBuf};

use rgraph_sys::userns::{Helper, IdMap, IdRange};

/// Where the programs are looked for. Not by `PATH`: they get to know who we are.
const PROGRAM_DIRS: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/bin", "/run/wrappers/bin", "/usr/sbin"];

/// What a user namespace of this user can have.
#[derive(Debug, Clone)]
pub(super) enum Ids {
    /// Ranges beside the own id; the number is of the kind that has less.
    Ranges { map: IdMap, ids: u32 },
    /// The own id alone.
    Single(NoRanges),
}

/// Why there is only one id, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct NoRanges {
    /// In one line.
    pub cause: String,
    /// A command, mostly.
    pub help: String,
}

impl Ids {
    /// Looks at the files of this host.
    pub fn look() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let file = |path| std::fs::read_to_string(path).unwrap_or_default();
        // The library asks other sources of users too, which takes longer.
        let name = name_in(&file("/etc/passwd"), uid)
            .or_else(|| nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|u| u.name));
        let found = decide(
            (uid, name.as_deref()),
            (&file("/etc/subuid"), &file("/etc/subgid")),
            &|program| {
                PROGRAM_DIRS.map(|d| Path::new(d).join(program)).into_iter().find(|p| p.exists())
            },
        );
        match found {
            Ok((users, groups)) => {
                let count =
                    |h: &Helper| h.ranges.iter().fold(0u32, |n, r| n.saturating_add(r.count));
                let ids = count(&users).min(count(&groups));
                Self::Ranges { map: IdMap::Ranges { users, groups }, ids }
            }
            Err(why) => Self::Single(why),
        }
    }
}

fn decide(
    (uid, name): (u32, Option<&str>),
    (users, groups): (&str, &str),
    program: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<(Helper, Helper), NoRanges> {
    let helper = |name: &str, ranges| match program(name) {
        Some(program) => Ok(Helper { program, ranges }),
        None => Err(NoRanges {
            cause: format!("the program `{name}` is not installed"),
            help: "apt-get install uidmap (elsewhere the package is called shadow-utils)".into(),
        }),
    };
    let users = helper("newuidmap", ranges(users, uid, name))?;
    let groups = helper("newgidmap", ranges(groups, uid, name))?;
    for (file, found) in [("/etc/subuid", &users), ("/etc/subgid", &groups)] {
        if found.ranges.is_empty() {
            let who = name.map_or_else(|| uid.to_string(), str::to_owned);
            return Err(NoRanges {
                cause: format!("{file} has no range of ids for `{who}`"),
                help: format!(
                    "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who} \
                     (as root; with numbers that nobody else has there)"
                ),
            });
        }
    }
    Ok((users, groups))
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(line)
}

/// The ranges of a user, in the order of the file. Lines that say nothing are passed over.
fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<IdRange> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        if name != Some(who) && who.parse() != Ok(uid) {
            return None;
        }
        let (outside, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0).then_some(IdRange { outside, count })
    };
    text.lines().filter_map(line).take(MOST_RANGES).collect()
}

/// The kernel's limit on the lines of a map is 340; one is the user's own.
const MOST_RANGES: usize = 339;

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "other:1:2\nme:100000:65536\n1000:300000:10\nme:x:1\nme:5:0\nme\n\n# me:1:1\n";

    #[test]
    fn lines_of_a_user() {
        let range = |outside, count| IdRange { outside, count };
        for (uid, name, want) in [
            (1000, Some("me"), vec![range(100_000, 65_536), range(300_000, 10)]),
            (1000, None, vec![range(300_000, 10)]),
            (7, Some("me"), vec![range(100_000, 65_536)]),
            (7, Some("nobody"), vec![]),
        ] {
            assert_eq!(ranges(FILE, uid, name), want, "{uid} {name:?}");
        }
    }

    #[test]
    fn names() {
        let passwd = "root:x:0:0::/:\n:x:7:0::/:\nbad\nme:x:1000:1000::/:\nalias:x:1000:5::/:\n";
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("me"));
        assert_eq!(name_in(passwd, 7), None);
        assert_eq!(name_in(passwd, 5), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let all = |name: &str| Some(Path::new("/bin").join(name));
        let none = |_: &str| None;
        let me = (1000, Some("me"));
        type Find<'a> = &'a dyn Fn(&str) -> Option<PathBuf>;
        for (files, program, cause, help) in [
            ((FILE, FILE), &none as Find<'_>, "`newuidmap`", "uidmap"),
            (("", FILE), &all as Find<'_>, "/etc/subuid", "usermod --add-subuids"),
            ((FILE, ""), &all as Find<'_>, "/etc/subgid", "--add-subgids"),
        ] {
            let why = decide(me, files, program).unwrap_err();
            assert!(why.cause.contains(cause) && why.help.contains(help), "{why:?}");
        }
        let (users, groups) = decide(me, (FILE, FILE), &all).unwrap();
        assert_eq!(users.program, Path::new("/bin/newuidmap"));
        assert_eq!((users.ranges.len(), groups.ranges.len()), (2, 2));
    }
}
