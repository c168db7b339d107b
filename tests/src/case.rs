//! One test's surroundings: folders, the binary, the base image.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::user::{self, Ids};
use crate::{Background, setting};

/// The base image that [`Case::with_base`] imports.
pub const BASE: &str = "busybox:test";

/// What a command came to.
#[derive(Debug)]
pub struct Run {
    /// The exit code; 128+N when signal N ended it.
    pub code: i32,
    /// Data.
    pub stdout: Vec<u8>,
    /// Everything else.
    pub stderr: String,
}

impl Run {
    pub(crate) fn new(status: ExitStatus, stdout: Vec<u8>, stderr: String) -> Self {
        let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1);
        assert!(!stderr.contains("panicked at"), "a panic:\n{stderr}");
        Self { code, stdout, stderr }
    }

    /// Fails the test unless the exit code was 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stderr:\n{}", self.stderr);
        self
    }

    /// Fails the test unless the exit code was `code` and stderr holds every text.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "stderr:\n{}", self.stderr);
        for t in texts {
            assert!(self.stderr.contains(t), "no `{t}` in:\n{}", self.stderr);
        }
        self
    }

    /// Stdout as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// `sha256:...` of the image in the summary, or on stdout of a quiet build.
    #[track_caller]
    pub fn image(&self) -> String {
        let line = self.stderr.lines().find_map(|l| l.strip_prefix("image "));
        let id = line.unwrap_or_else(|| self.text().trim());
        assert!(id.starts_with("sha256:") && id.len() == 71, "no image id in:\n{}", self.stderr);
        id.to_owned()
    }

    /// The steps that plain progress tells of, by name, with how they ended: `DONE`, `CACHED`,
    /// `ERROR`, `CANCELED`; steps of rgraph's own (`[internal]`, exporting) left out.
    pub fn steps(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            let place = rest.strip_prefix('[').and_then(|r| r.split_once(']'));
            if place.is_some_and(|(at, what)| !at.ends_with("internal") && what != " exporting") {
                names.entry(number.to_owned()).or_insert_with(|| rest.to_owned());
            }
            let end = rest.split([' ', ':']).next().unwrap_or("");
            if ["DONE", "CACHED", "ERROR", "CANCELED"].contains(&end) {
                ends.insert(number.to_owned(), end.to_owned());
            }
        }
        let end = |n: &String| ends.get(n).cloned().unwrap_or_else(|| "RUNNING".to_owned());
        names.into_iter().map(|(n, name)| (name, end(&n))).collect()
    }

    /// How the one step whose name holds `part` ended.
    #[track_caller]
    pub fn step(&self, part: &str) -> String {
        let steps = self.steps();
        let mut hits = steps.iter().filter(|(n, _)| n.contains(part));
        match (hits.next(), hits.next()) {
            (Some((_, end)), None) => end.clone(),
            (None, _) => panic!("no step `{part}` in:\n{}", self.stderr),
            _ => panic!("several steps `{part}` in:\n{}", self.stderr),
        }
    }

    /// Fails the test when a step was not cached.
    #[track_caller]
    pub fn all_cached(&self) -> &Self {
        let steps = self.steps();
        assert!(!steps.is_empty(), "no steps in:\n{}", self.stderr);
        assert!(steps.values().all(|e| e == "CACHED"), "a step ran:\n{}", self.stderr);
        self
    }
}

/// A test's folders. Dropping it checks that no mount is left in them.
pub struct Case {
    dir: TempDir,
    binary: PathBuf,
    env: Vec<(String, String)>,
    /// Commands are run by [`user::USER`].
    user: bool,
    /// Commands are run where programs of [`crate::FOREIGN`] are emulated.
    emulated: bool,
}

impl Case {
    /// Empty folders, an empty state root.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("rgraph-test-").tempdir().expect("a folder");
        fs::create_dir(dir.path().join("context")).expect("a folder");
        fs::create_dir(dir.path().join("docker")).expect("a folder");
        let binary = binary().to_owned();
        let case = Self { dir, binary, env: Vec::new(), user: false, emulated: false };
        if setting("RGRAPH_ROOTLESS", 0) == 0 { case } else { case.of_user(Ids::Range) }
    }

    /// From now on commands are run by a user who is not root, and has `ids`. Needs root,
    /// `setpriv`, `unshare`.
    pub fn of_user(mut self, ids: Ids) -> Self {
        if !self.user {
            user::prepare(self.dir.path());
        }
        user::give_ids(self.dir.path(), ids);
        self.user = true;
        self
    }

    /// From now on the binary has a name in this case's folder, by which its processes are known.
    pub fn with_own_binary(mut self) -> Self {
        let own = self.dir().join("rgraph-own");
        fs::hard_link(binary(), &own)
            .or_else(|_| fs::copy(binary(), &own).map(drop))
            .expect("the binary can be copied");
        self.binary = own;
        self
    }

    /// From now on commands are run where programs of [`crate::FOREIGN`] are emulated. Needs root,
    /// [`crate::EMULATOR`], `newuidmap`.
    pub fn with_emulator(mut self) -> Self {
        assert!(!self.user, "emulators are registered by root");
        self.emulated = true;
        self
    }

    /// Opens `/dev/net/tun` to the user; false: that cannot be.
    pub fn open_tun(&self) -> bool {
        user::open_tun(self.dir.path())
    }

    /// Opens `/dev/fuse` to the user; false: that cannot be.
    pub fn open_fuse(&self) -> bool {
        user::open_fuse(self.dir.path())
    }

    /// As [`Self::new`], with [`BASE`] imported.
    pub fn with_base() -> Self {
        let case = Self::new();
        case.import_base(BASE);
        case
    }

    /// Another root with the base image and the files of this context.
    pub fn fresh(&self) -> Self {
        let other = Self::with_base();
        for e in fs::read_dir(self.context()).expect("a context").flatten() {
            fs::copy(e.path(), other.context().join(e.file_name())).expect("a copy");
        }
        other
    }

    /// Imports the busybox base under a name.
    pub fn import_base(&self, name: &str) {
        self.rgraph_reading(&["import", "-", name], base_tar()).ok();
    }

    /// Runs a command with this on its standard input.
    pub fn rgraph_reading<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Run {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rgraph starts");
        let mut stdin = child.stdin.take().expect("piped");
        let child = Background::new(child);
        // A command that refuses closes its input early.
        stdin.write_all(input).unwrap_or(());
        drop(stdin);
        child.finish()
    }

    /// A folder of this test, for outputs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The state root.
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// The context.
    pub fn context(&self) -> PathBuf {
        self.dir().join("context")
    }

    /// The path of an output.
    pub fn out(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// A variable for every command of this case.
    pub fn env(&mut self, key: &str, value: &str) -> &mut Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Writes a file of the context; folders are made.
    pub fn file(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().expect("below the context")).expect("folders");
        fs::write(path, text).expect("a file");
        self
    }

    /// Sets the mode of a file of the context.
    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.context().join(path), fs::Permissions::from_mode(mode))
            .expect("a file of the context");
        self
    }

    /// Writes the Dockerfile; `BASE` in it names the base image.
    pub fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text.replace("BASE", BASE))
    }

    /// The command, not started.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut c = Command::new(&self.binary);
        for name in ["BUILDKIT_PROGRESS", "SOURCE_DATE_EPOCH"] {
            c.env_remove(name);
        }
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
            c.env_remove(name).env_remove(name.to_lowercase());
        }
        c.args(args)
            .env("RGRAPH_ROOT", self.root())
            .env("DOCKER_CONFIG", self.dir().join("docker"))
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(self.dir())
            .stdin(Stdio::null());
        let mut c = match (self.user, self.emulated) {
            (true, _) => user::wrap(self.dir(), &c),
            (false, true) => crate::emulated(self.dir(), &c),
            (false, false) => return c,
        };
        c.stdin(Stdio::null());
        c
    }

    /// Starts a command.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Background {
        let mut c = self.command(args);
        c.stdout(Stdio::piped()).stderr(Stdio::piped());
        Background::new(c.spawn().expect("rgraph starts"))
    }

    /// Runs a command.
    pub fn rgraph<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        self.start(args).finish()
    }

    /// Runs a command that may have few files open at once.
    pub fn rgraph_with_files<S: AsRef<OsStr>>(&self, most: u32, args: &[S]) -> Run {
        let inner = self.command(args);
        let mut c = Command::new("/bin/sh");
        c.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")])
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Background::new(c.spawn().expect("a shell")).finish()
    }

    /// Arguments of a build of the context.
    pub fn build_args(&self, args: &[&str]) -> Vec<String> {
        let mut all = vec!["build".to_owned(), "--progress=plain".to_owned()];
        all.extend(args.iter().map(|a| (*a).to_owned()));
        all.push(self.context().display().to_string());
        all
    }

    /// Builds the context.
    pub fn build(&self, args: &[&str]) -> Run {
        self.rgraph(&self.build_args(args))
    }

    /// Ends the containers that the test has not ended itself: they would outlive it.
    fn end_containers(&self) {
        let ids = fs::read_dir(self.root().join("containers")).into_iter().flatten().flatten();
        let ids: Vec<_> = ids.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        if !ids.is_empty() {
            let mut args = vec!["rm".to_owned(), "-f".to_owned()];
            args.extend(ids);
            self.rgraph(&args);
        }
    }

    /// Builds the context into an OCI archive and reads it.
    #[track_caller]
    pub fn image(&self, args: &[&str]) -> crate::Image {
        let path = self.out("image.tar");
        let out = format!("type=oci,dest={}", path.display());
        let mut all = vec!["-o", &out];
        all.extend(args);
        self.build(&all).ok();
        crate::Image::from_archive(&path)
    }

    /// Every file of the state root with its size, lock files and the index's scratch left out:
    /// equal before and after something that writes nothing.
    pub fn state(&self) -> BTreeMap<String, u64> {
        let mut out = BTreeMap::new();
        let mut todo = vec![self.root()];
        while let Some(dir) = todo.pop() {
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for e in entries.flatten() {
                let path = e.path();
                let name = path.strip_prefix(self.root()).expect("below").display().to_string();
                if name.starts_with("locks") || name.ends_with("-shm") {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).expect("just listed");
                if meta.is_dir() {
                    todo.push(path);
                } else {
                    out.insert(name, meta.len());
                }
            }
        }
        out
    }

    /// As [`Self::state`], without the record that every build leaves.
    pub fn state_but_builds(&self) -> BTreeMap<String, u64> {
        let mut state = self.state();
        state.retain(|name, _| !name.starts_with("builds/"));
        state
    }
}

impl Default for Case {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        self.end_containers();
        let left = mounts(self.dir());
        for point in &left {
            // The folder could not be removed otherwise; the test fails below anyway.
            Command::new("umount").args(["-l", point]).status().map(drop).unwrap_or(());
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "mounts left behind: {left:?}");
        }
    }
}

fn mounts(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.display().to_string();
    text.lines()
        .filter_map(|l| l.split(' ').nth(1))
        .filter(|p| p.starts_with(&dir))
        .map(str::to_owned)
        .collect()
}

/// The binary beside the test executable, or the one `RGRAPH_BIN` names.
fn binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = std::env::var_os("RGRAPH_BIN").map(PathBuf::from).unwrap_or_else(|| {
            // target/PROFILE/deps/e2e-HASH
            let own = std::env::current_exe().expect("tests have a path");
            own.ancestors().nth(2).expect("two folders deep").join("rgraph")
        });
        assert!(
            path.is_file(),
            "no binary at {}: run `cargo build` first, or name one in RGRAPH_BIN",
            path.display()
        );
        path
    })
}

/// A folder below `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// A root file system of busybox, as a tar: made once per process.
pub fn base_tar() -> &'static [u8] {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    TAR.get_or_init(|| {
        let busybox = fs::read("/bin/busybox").expect("/bin/busybox (.ci/setup installs it)");
        let list = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
        let mut tar = tar::Builder::new(Vec::new());
        let header = |path: &str, kind, mode, size| {
            let mut h = tar::Header::new_gnu();
            h.set_path(path).expect("short");
            h.set_entry_type(kind);
            h.set_mode(mode);
            h.set_size(size);
            h.set_uid(0);
            h.set_gid(0);
            h.set_mtime(1_700_000_000);
            h.set_cksum();
            h
        };
        for (dir, mode) in [("./", 0o755), ("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
            let h = header(dir, tar::EntryType::Directory, mode, 0);
            tar.append(&h, &[][..]).expect("in memory");
        }
        let files: [(&str, u32, &[u8]); 3] = [
            ("bin/busybox", 0o755, &busybox),
            ("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\napp:x:1234:1235::/:/bin/sh\n"),
            ("etc/group", 0o644, b"root:x:0:\napps:x:1235:\n"),
        ];
        for (path, mode, bytes) in files {
            let h = header(path, tar::EntryType::Regular, mode, bytes.len() as u64);
            tar.append(&h, bytes).expect("in memory");
        }
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
            let mut h = header(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, 0);
            h.set_link_name("busybox").expect("short");
            h.set_cksum();
            tar.append(&h, &[][..]).expect("in memory");
        }
        tar.into_inner().expect("in memory")
    })
}
