//! Reads what `strace -f -y -xx` wrote: calls that change a file system, as [`Op`]s.

use std::collections::HashMap;
use std::path::Path;

use super::disk::{Disk, Op, ROOT};

/// Calls that are read. Those of the second half are not understood: a recording with one fails.
pub const CALLS: &str = "trace=openat,write,pwrite64,rename,renameat,renameat2,link,linkat,unlink,\
    unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,syncfs,ftruncate,\
    open,creat,writev,pwritev,pwritev2,truncate,fallocate,copy_file_range,sendfile,symlink,\
    symlinkat,sync,sync_file_range,msync,splice";

/// One argument of a call.
#[derive(Debug, Clone)]
struct Arg {
    /// As it is, without quotes.
    text: String,
    /// The bytes of a quoted one.
    bytes: Option<Vec<u8>>,
    /// The path of a descriptor.
    path: Option<String>,
}

/// Finished calls in order; one that was interrupted by others counts where it ended.
fn lines(log: &str) -> Vec<String> {
    let mut begun: HashMap<String, String> = HashMap::new();
    let mut out = Vec::new();
    for line in log.lines() {
        let (pid, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(pid.to_owned(), head.to_owned());
        } else if rest.starts_with("<... ") {
            let tail = rest.split_once(" resumed>").unwrap().1;
            out.push(begun.remove(pid).unwrap() + tail);
        } else if !rest.starts_with("+++") && !rest.starts_with("---") {
            out.push(rest.to_owned());
        }
    }
    out
}

fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|h| u8::from_str_radix(&h[..2], 16).unwrap()).collect()
}

fn arg(text: &str) -> Arg {
    let text = text.trim();
    if let Some(quoted) = text.strip_prefix('"') {
        assert!(quoted.ends_with('"'), "cut: {text}");
        let bytes = unhex(quoted.trim_end_matches('"'));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        return Arg { text, bytes: Some(bytes), path: None };
    }
    let path = text.split_once('<').map(|(_, p)| {
        let end = p.find('>').unwrap_or(p.len());
        String::from_utf8_lossy(&unhex(&p[..end])).into_owned()
    });
    Arg { text: text.split('<').next().unwrap_or("").to_owned(), bytes: None, path }
}

/// Name, arguments and result of a call that succeeded.
fn call(line: &str) -> Option<(&str, Vec<Arg>)> {
    let (name, rest) = line.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let args = args.trim_end().strip_suffix(')')?;
    Some((name, args.split(", ").map(arg).collect()))
}

struct Reader<'a> {
    /// The folder that holds the store's root.
    base: &'a str,
    now: Disk,
    ops: Vec<Op>,
    next: u32,
}

impl Reader<'_> {
    fn push(&mut self, op: Op) {
        self.now.apply(&op);
        self.ops.push(op);
    }

    /// A path below the base; `None`: it is elsewhere.
    fn below(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.base)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
    }

    fn at(&self, dir: Option<&Arg>, path: &Arg) -> Option<String> {
        if path.text.starts_with('/') {
            return self.below(&path.text);
        }
        let dir = dir.and_then(|d| d.path.clone())?;
        self.below(&format!("{dir}/{}", path.text))
    }

    /// Folder and name of a path.
    fn place(&self, path: &str) -> (u32, String) {
        let (dir, name) = path.rsplit_once('/').unwrap();
        let ino = self.now.find(dir).unwrap_or_else(|| panic!("no folder `{dir}`"));
        (ino, name.to_owned())
    }

    fn make(&mut self, path: &str, folder: bool) -> u32 {
        let ino = self.next;
        self.next += 1;
        let (dir, name) = self.place(path);
        self.push(Op::New { ino, folder });
        self.push(Op::Link { dir, name, ino });
        ino
    }

    fn fd(&self, a: &Arg) -> Option<u32> {
        let path = self.below(a.path.as_deref()?)?;
        self.now.find(&path)
    }

    fn take(&mut self, name: &str, a: &[Arg]) {
        match name {
            "openat" => {
                let Some(path) = self.at(Some(&a[0]), &a[1]) else { return };
                let flags = &a[2].text;
                match self.now.find(&path) {
                    None if flags.contains("O_CREAT") => drop(self.make(&path, false)),
                    Some(ino) if flags.contains("O_TRUNC") => self.push(Op::Resize { ino, len: 0 }),
                    _ => {}
                }
            }
            "write" => {
                let data = a[1].bytes.clone().unwrap();
                if a[0].text == "1" {
                    let line = String::from_utf8_lossy(&data).trim().to_owned();
                    self.push(Op::Said(line));
                } else if let Some(ino) = self.fd(&a[0]) {
                    // The store writes forward only.
                    let at = self.now.len(ino);
                    self.push(Op::Write { ino, at, data });
                }
            }
            "pwrite64" => {
                if let Some(ino) = self.fd(&a[0]) {
                    let (data, at) = (a[1].bytes.clone().unwrap(), a[3].text.parse().unwrap());
                    self.push(Op::Write { ino, at, data });
                }
            }
            "ftruncate" => {
                if let Some(ino) = self.fd(&a[0]) {
                    self.push(Op::Resize { ino, len: a[1].text.parse().unwrap() });
                }
            }
            "mkdir" | "mkdirat" => {
                let n = usize::from(name == "mkdirat");
                if let Some(path) = self.at(a[..n].last(), &a[n]) {
                    self.make(&path, true);
                }
            }
            "unlink" | "rmdir" | "unlinkat" => {
                let n = usize::from(name == "unlinkat");
                if let Some(path) = self.at(a[..n].last(), &a[n]) {
                    let (dir, name) = self.place(&path);
                    self.push(Op::Unlink { dir, name });
                }
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
                let (from, to) = match name {
                    "rename" | "link" => (self.at(None, &a[0]), self.at(None, &a[1])),
                    _ => (self.at(Some(&a[0]), &a[1]), self.at(Some(&a[2]), &a[3])),
                };
                let (Some(from), Some(to)) = (from, to) else { return };
                let ino = self.now.find(&from).unwrap_or_else(|| panic!("no file `{from}`"));
                let (from, to) = (self.place(&from), self.place(&to));
                if name.starts_with("link") {
                    self.push(Op::Link { dir: to.0, name: to.1, ino });
                } else {
                    self.push(Op::Rename { from, to, ino });
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(ino) = self.fd(&a[0]) {
                    self.push(Op::Sync { ino });
                }
            }
            "syncfs" => self.push(Op::SyncAll),
            other => panic!("a call that the recording does not understand: {other} {a:?}"),
        }
    }
}

/// The operations below the folder that holds `root`.
pub fn read(log: &str, root: &Path) -> Vec<Op> {
    let base = root.parent().unwrap().to_str().unwrap();
    let mut r = Reader { base, now: Disk::default(), ops: Vec::new(), next: ROOT + 1 };
    r.now.apply(&Op::New { ino: ROOT, folder: true });
    for line in lines(log) {
        if let Some((name, args)) = call(&line) {
            r.take(name, &args);
        }
    }
    r.ops
}
