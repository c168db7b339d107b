//! Who a step runs as: `USER` against the image's own `/etc/passwd` and `/etc/group`.
//!
//! Both files are the image's and so not to be trusted: they are opened below the root, must be
//! regular and small, and bad lines are skipped, as every C library does.

use std::os::fd::AsFd;
use std::path::Path;

use rgraph_sys::tree;

use super::error::InitError;

/// Largest `/etc/passwd` or `/etc/group` that is read, bytes.
const MAX_USER_FILE: u64 = 10 << 20;

/// The identity of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// From passwd; `/` without an entry.
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Looks `user` up in the tree `root`.
pub(crate) fn look_up(root: impl AsFd, user: &str) -> Result<Identity, InitError> {
    let read = |path: &str| match tree::read_small(&root, Path::new(path), MAX_USER_FILE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()),
        Err(e) => Err(InitError::UserFile { path: path.into(), reason: e.to_string() }),
    };
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, group),
        None => (user, ""),
    };
    let name = if name.is_empty() { "0" } else { name };
    let by_number = name == "root" || number(name).is_some();
    // The files are not needed for numbers, and an image with a broken one must still run as root.
    let optional = |got: Result<String, InitError>, may_fail: bool| match got {
        Err(_) if may_fail => Ok(String::new()),
        got => got,
    };
    let passwd = optional(read("/etc/passwd"), by_number)?;
    let group_by_number = group.is_empty() || number(group).is_some();
    let groups = optional(read("/etc/group"), by_number && group_by_number)?;
    resolve(name, group, &passwd, &groups)
}

fn number(text: &str) -> Option<u32> {
    // -1 means "no change" to the kernel, so it is no id.
    text.parse::<u32>().ok().filter(|n| *n != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

fn resolve(name: &str, group: &str, passwd: &str, groups: &str) -> Result<Identity, InitError> {
    let id = number(name);
    let mut entry = None;
    for line in passwd.lines().filter_map(passwd_line) {
        // A name that looks like a number is still a name first.
        if line.name == name {
            entry = Some(line);
            break;
        }
        if entry.is_none() && id == Some(line.uid) {
            entry = Some(line);
        }
    }
    let mut who = match (&entry, id) {
        (Some(e), _) => {
            Identity { uid: e.uid, gid: e.gid, groups: Vec::new(), home: e.home.to_owned() }
        }
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: String::new() },
        // An image without files (busybox from scratch) still has its root.
        (None, None) if name == "root" => {
            Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() }
        }
        (None, None) => return Err(InitError::NoSuchUser { user: name.to_owned() }),
    };
    if who.home.is_empty() {
        who.home = if who.uid == 0 { "/root" } else { "/" }.into();
    }
    if group.is_empty() {
        if let Some(e) = &entry {
            who.groups = groups
                .lines()
                .filter_map(group_line)
                .filter(|g| g.members.split(',').any(|m| m == e.name))
                .map(|g| g.gid)
                .collect();
            who.groups.truncate(MAX_GROUPS);
        }
    } else {
        let found = groups.lines().filter_map(group_line).find(|g| g.name == group);
        who.gid = match (found, number(group)) {
            (Some(g), _) => g.gid,
            (None, Some(gid)) => gid,
            (None, None) if group == "root" => 0,
            (None, None) => return Err(InitError::NoSuchGroup { group: group.to_owned() }),
        };
    }
    // As runc does: the primary group is among the others.
    if !who.groups.contains(&who.gid) {
        who.groups.push(who.gid);
        who.groups.sort_unstable();
    }
    Ok(who)
}

/// The kernel's limit on supplementary groups.
const MAX_GROUPS: usize = 65_536;

fn passwd_line(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?;
    let uid = number(fields.nth(1)?)?;
    let gid = number(fields.next()?)?;
    Some(Passwd { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
}

fn group_line(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?;
    let gid = number(fields.nth(1)?)?;
    Some(Group { name, gid, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\napp:x:1000:1001::/home/app:\n\
                          7:x:70:71::/seven:/bin/sh\nnohome:x:5:5\nneg:x:-1:0::/:\nbig:x:4294967295:0::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nextra:x:2000:other,app\nmore:x:2001:app\nno:y\n";

    #[test]
    fn users() {
        for (user, want) in [
            ("0", Ok((0, 0, vec![0], "/root"))),
            ("root", Ok((0, 0, vec![0], "/root"))),
            ("app", Ok((1000, 1001, vec![1001, 2000, 2001], "/home/app"))),
            ("1000", Ok((1000, 1001, vec![1001, 2000, 2001], "/home/app"))),
            ("app:extra", Ok((1000, 2000, vec![2000], "/home/app"))),
            ("app:9", Ok((1000, 9, vec![9], "/home/app"))),
            ("1234", Ok((1234, 0, vec![0], "/"))),
            ("1234:55", Ok((1234, 55, vec![55], "/"))),
            ("7", Ok((70, 71, vec![71], "/seven"))),
            ("nohome", Ok((5, 5, vec![5], "/"))),
            ("nobody", Err("no such user in image: `nobody`")),
            ("neg", Err("no such user in image: `neg`")),
            ("big", Err("no such user in image: `big`")),
            ("4294967295", Err("no such user in image: `4294967295`")),
            ("+5", Err("no such user in image: `+5`")),
            ("app:none", Err("no such group in image: `none`")),
        ] {
            let (name, group) = user.split_once(':').unwrap_or((user, ""));
            let got = resolve(name, group, PASSWD, GROUP);
            match (got, want) {
                (Ok(i), Ok((uid, gid, groups, home))) => {
                    assert_eq!(
                        (i.uid, i.gid, i.groups, &*i.home),
                        (uid, gid, groups, home),
                        "{user}"
                    );
                }
                (Err(e), Err(text)) => assert_eq!(e.to_string(), text),
                (got, want) => panic!("{user}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn an_image_without_files_has_root_and_numbers() {
        assert_eq!(resolve("root", "root", "", "").unwrap().uid, 0);
        assert_eq!(resolve("12", "", "", "").unwrap().uid, 12);
        assert!(resolve("app", "", "", "").is_err());
    }
}
