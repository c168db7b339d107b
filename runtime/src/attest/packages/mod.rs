//! The packages of an image, out of the databases of its package managers. The files are whoever's
//! made the image: they are read with bounds, and what is no database is told, not guessed at.

mod apk;
mod dpkg;
mod rpm;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};

/// Most bytes of one database.
const MAX_DATABASE: u64 = 64 << 20;
/// Most packages of an image.
const MAX_PACKAGES: usize = 100_000;
/// Most bytes of a field that is told.
const MAX_FIELD: usize = 4096;
/// Most files of a folder with a file per package.
const MAX_FILES: usize = 20_000;

/// Who manages a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// Alpine's.
    Apk,
    /// Debian's.
    Deb,
    /// Red Hat's.
    Rpm,
}

/// An installed package, as its manager's database tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who manages it.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version, with release; the epoch of an rpm is apart.
    pub version: String,
    /// The architecture in the manager's words; empty: none is said.
    pub arch: String,
    /// The epoch of an rpm.
    pub epoch: Option<u32>,
    /// The source package it was built from, with its version where that differs.
    pub source: Option<String>,
    /// Who made it.
    pub maker: Option<String>,
    /// Where it is talked about.
    pub homepage: Option<String>,
    /// Its licence in the database's words.
    pub license: Option<String>,
}

/// What was found in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Sorted, each once.
    pub packages: BTreeSet<Package>,
    /// `ID` of os-release: `debian`.
    pub os: Option<String>,
    /// `VERSION_ID` of it: `12`.
    pub os_version: Option<String>,
    /// What is there and could not be read.
    pub unread: Vec<String>,
}

impl Package {
    fn new(manager: Manager, name: String, version: String) -> Self {
        Self {
            manager,
            name,
            version,
            arch: String::new(),
            epoch: None,
            source: None,
            maker: None,
            homepage: None,
            license: None,
        }
    }
}

/// Looks through the file system at `root`. Links in it mean what they mean in it.
pub fn look(root: BorrowedFd<'_>) -> Inventory {
    let mut out = Inventory::default();
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Ok(Some(text)) = read(root, path) {
            let fields = os_release(&String::from_utf8_lossy(&text));
            out.os = fields.get("ID").cloned();
            out.os_version = fields.get("VERSION_ID").cloned();
            break;
        }
    }
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        if out.take(root, path, |bytes| Ok(apk::parse(bytes))) {
            break;
        }
    }
    out.take(root, "var/lib/dpkg/status", |bytes| Ok(dpkg::parse(bytes, true)));
    out.files(root, "var/lib/dpkg/status.d");
    let mut rpm = false;
    for dir in ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"] {
        rpm = rpm || out.take(root, &format!("{dir}/rpmdb.sqlite"), rpm::parse);
        for name in ["Packages", "Packages.db"] {
            let path = format!("{dir}/{name}");
            if !rpm && open(root, &path).is_ok_and(|f| f.is_some()) {
                out.unread.push(format!("`/{path}`: only rpm databases in SQLite are read"));
                rpm = true;
            }
        }
    }
    out
}

impl Inventory {
    /// Reads one database; false: it is not there.
    fn take(
        &mut self,
        root: BorrowedFd<'_>,
        path: &str,
        parse: impl FnOnce(&[u8]) -> Result<Vec<Package>, String>,
    ) -> bool {
        match read(root, path).and_then(|bytes| bytes.map(|b| parse(&b)).transpose()) {
            Ok(None) => return false,
            Ok(Some(packages)) => self.add(path, packages),
            Err(why) => self.unread.push(format!("`/{path}`: {why}")),
        }
        true
    }

    fn add(&mut self, path: &str, packages: Vec<Package>) {
        for p in packages {
            if self.packages.len() >= MAX_PACKAGES {
                self.unread.push(format!("`/{path}`: only {MAX_PACKAGES} packages are told"));
                return;
            }
            self.packages.insert(p);
        }
    }

    /// A folder with a file per package, as images without a package manager have it.
    fn files(&mut self, root: BorrowedFd<'_>, path: &str) {
        let dir = match open_at(root, path, OFlags::DIRECTORY) {
            Ok(Some(dir)) => dir,
            Ok(None) => return,
            Err(why) => return self.unread.push(format!("`/{path}`: {why}")),
        };
        let Ok(entries) = Dir::read_from(&dir) else { return };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().to_str().ok().map(str::to_owned))
            .filter(|n| !n.starts_with('.') && !n.ends_with(".md5sums"))
            .take(MAX_FILES + 1)
            .collect();
        if names.len() > MAX_FILES {
            self.unread.push(format!("`/{path}`: it has over {MAX_FILES} files"));
            names.truncate(MAX_FILES);
        }
        names.sort();
        let mut left = MAX_DATABASE;
        for name in names {
            let path = format!("{path}/{name}");
            match read_up_to(root, &path, left) {
                Ok(Some(bytes)) => {
                    left -= bytes.len() as u64;
                    self.add(&path, dpkg::parse(&bytes, false));
                }
                Ok(None) => {}
                Err(why) => self.unread.push(format!("`/{path}`: {why}")),
            }
        }
    }
}

fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>, String> {
    read_up_to(root, path, MAX_DATABASE)
}

/// The bytes of a plain file; `None`: nothing is there.
fn read_up_to(root: BorrowedFd<'_>, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
    use std::io::Read as _;
    let Some(fd) = open(root, path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let file = std::fs::File::from(fd);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    match bytes.len() as u64 > limit {
        true => Err(format!("it is larger than {MAX_DATABASE} bytes")),
        false => Ok(Some(bytes)),
    }
}

fn open(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, String> {
    // A pipe is not waited for.
    let Some(fd) = open_at(root, path, OFlags::NONBLOCK)? else { return Ok(None) };
    let stat = rustix::fs::fstat(fd.as_fd()).map_err(|e| e.to_string())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some(fd)),
        _ => Err("it is no plain file".to_owned()),
    }
}

fn open_at(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<Option<OwnedFd>, String> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), inside) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// A field that is told: harmless text, cut.
fn field(text: &str) -> String {
    let text = text.trim();
    let mut end = text.len().min(MAX_FIELD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}

/// `KEY=VALUE` lines, values perhaps quoted (os-release(5)).
fn os_release(text: &str) -> BTreeMap<String, String> {
    let word = |v: &str| {
        let v = v.trim().trim_matches(['"', '\'']);
        v.chars().filter(|c| c.is_ascii_alphanumeric() || "._-+~".contains(*c)).take(100).collect()
    };
    let pair = |l: &str| l.split_once('=').map(|(k, v)| (k.trim().to_owned(), word(v)));
    text.lines().take(1000).filter_map(pair).filter(|(_, v): &(_, String)| !v.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    fn look_at(dir: &tempfile::TempDir) -> Inventory {
        look(fs::File::open(dir.path()).unwrap().as_fd())
    }

    fn told(i: &Inventory) -> Vec<String> {
        i.packages.iter().map(|p| format!("{:?} {} {}", p.manager, p.name, p.version)).collect()
    }

    #[test]
    fn databases_are_found_where_managers_keep_them() {
        let dir = tree(&[
            ("usr/lib/os-release", b"ID=\"debian\"\nVERSION_ID='12'\nBAD\n"),
            ("var/lib/dpkg/status", b"Package: a\nVersion: 1\nStatus: install ok installed\n\n"),
            ("var/lib/dpkg/status.d/b", b"Package: b\nVersion: 2\n"),
            ("var/lib/dpkg/status.d/b.md5sums", b"Package: no\nVersion: 2\n"),
            ("usr/lib/apk/db/installed", b"P:c\nV:3-r0\n\n"),
            ("var/lib/rpm/Packages", b"bdb"),
        ]);
        let found = look_at(&dir);
        assert_eq!(told(&found), ["Apk c 3-r0", "Deb a 1", "Deb b 2"]);
        assert_eq!(
            (found.os.as_deref(), found.os_version.as_deref()),
            (Some("debian"), Some("12"))
        );
        assert_eq!(
            found.unread,
            ["`/var/lib/rpm/Packages`: only rpm databases in SQLite are read"]
        );
        assert_eq!(look_at(&tree(&[])), Inventory::default());
    }

    #[test]
    fn no_link_leads_out_and_nothing_hangs() {
        let dir = tree(&[("real", b"P:in\nV:1\n\n")]);
        let outside = tree(&[("installed", b"P:out\nV:1\n\n")]);
        for sub in ["lib/apk/db", "var/lib/dpkg/status.d", "var/lib/rpm"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(to, dir.path().join(at)).unwrap();
        };
        // An absolute link is one from the image's root.
        link("/real", "lib/apk/db/installed");
        link(&outside.path().join("installed").display().to_string(), "var/lib/dpkg/status.d/x");
        link("loop", "var/lib/dpkg/loop");
        link("loop", "var/lib/dpkg/status");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("var/lib/rpm/rpmdb.sqlite"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let found = look_at(&dir);
        assert_eq!(told(&found), ["Apk in 1"]);
        assert_eq!(found.unread.len(), 2, "{:?}", found.unread);
    }
}
