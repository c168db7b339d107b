//! The options of commands on containers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rgraph_ir::Reference;
use rgraph_ir::op::{HostIp, NetworkMode, Ulimit};
use rgraph_ir::request::{Dest, Resources};
use rgraph_runtime::container::{Copying, NetworkChoice, Publish};

use super::error::OptionsError;
use super::image::{ImageName, archive_dest, new_name};
use super::mounts::Mounts;
use super::ports::publish;
use super::{
    Layout, Terminals, filters, host, insecure_registries, network, parse_seconds, resources,
    shm_size, ulimit,
};
use crate::args::{
    CommitArgs, ContainerPruneArgs, CpArgs, Environment, ExportArgs, PsArgs, RunArgs,
};

/// `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// The image.
    pub image: ImageName,
    /// Program and arguments, or arguments of the image's.
    pub words: Vec<String>,
    /// Standard input stays open.
    pub interactive: bool,
    /// A terminal.
    pub tty: bool,
    /// A process 1 of ours.
    pub init: bool,
    /// Limits of all its processes together.
    pub resources: Resources,
    /// Where its control group is made; `None`: below the caller's.
    pub cgroup_parent: Option<String>,
    /// In the background.
    pub detach: bool,
    /// What leaves it without ending it, bytes of a terminal.
    pub detach_keys: Vec<u8>,
    /// Signals to this process are for it.
    pub sig_proxy: bool,
    /// It goes when it ends.
    pub rm: bool,
    /// `None`: one is found.
    pub name: Option<String>,
    /// Beyond the image's, in order.
    pub env: Vec<(String, String)>,
    /// What is mounted in it.
    pub mounts: Mounts,
    /// Ports on the host.
    pub ports: Vec<Publish>,
    /// All ports that the image names too.
    pub all_ports: bool,
    /// `None`: the image's.
    pub stop_signal: Option<String>,
    /// `None`: the image's.
    pub workdir: Option<String>,
    /// `None`: the image's.
    pub user: Option<String>,
    /// `None`: the image's; empty: none.
    pub entrypoint: Option<String>,
    /// Network.
    pub network: NetworkChoice,
    /// Empty: the beginning of the id.
    pub hostname: String,
    /// Lines of `/etc/hosts`, in order.
    pub add_hosts: Vec<HostIp>,
    /// Limits of each process.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; `None`: the usual.
    pub shm_size: Option<u64>,
    /// Registries over plain HTTP or with an unknown certificate.
    pub insecure_registries: Vec<String>,
}

impl RunOptions {
    /// The one conversion. Files of variables are read here.
    pub fn new(raw: RunArgs, env: &Environment, cwd: &Path) -> Result<Self, OptionsError> {
        let mut words = raw.words.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let image = ImageName::parse(&words.remove(0))?;
        let vars = variables(&raw.env_file, &raw.env, env, cwd)?;
        if let Some(name) = &raw.name {
            container_name("--name", name)?;
        }
        if let Some(name) = &raw.stop_signal {
            super::signal("--stop-signal", name)?;
        }
        Ok(Self {
            image,
            words,
            interactive: raw.interactive,
            tty: raw.tty,
            init: raw.init,
            resources: resources(&raw.resources)?,
            cgroup_parent: raw.cgroup_parent.filter(|p| !p.is_empty()),
            detach: raw.detach,
            detach_keys: detach_keys(raw.detach_keys.as_deref())?,
            sig_proxy: raw.sig_proxy.unwrap_or(true),
            rm: raw.rm,
            name: raw.name,
            env: vars,
            ports: raw.publish.iter().map(|p| publish(p)).collect::<Result<Vec<_>, _>>()?.concat(),
            all_ports: raw.publish_all,
            mounts: Mounts::new(&raw.volume, &raw.mount, &raw.tmpfs, cwd)?,
            stop_signal: raw.stop_signal,
            workdir: raw.workdir,
            user: raw.user,
            entrypoint: raw.entrypoint,
            network: match network(raw.network.as_deref().unwrap_or_default())? {
                NetworkMode::Default => NetworkChoice::Default,
                NetworkMode::Host => NetworkChoice::Host,
                NetworkMode::None => NetworkChoice::None,
            },
            hostname: raw.hostname.unwrap_or_default(),
            add_hosts: raw.add_host.iter().map(|h| host(h)).collect::<Result<_, _>>()?,
            ulimits: raw.ulimit.iter().map(|u| ulimit(u)).collect::<Result<_, _>>()?,
            shm_size: raw.shm_size.as_deref().map(shm_size).transpose()?.flatten(),
            insecure_registries: insecure_registries(&raw.registry.insecure_registry, env)?,
        })
    }
}

/// Reads `--detach-keys`: letters, and `ctrl-` with one, between commas.
pub fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, OptionsError> {
    let text = text.unwrap_or("ctrl-p,ctrl-q");
    let key = |word: &str| match word.strip_prefix("ctrl-").unwrap_or(word).as_bytes() {
        [b] if b.is_ascii() && word.len() == 1 => Some(*b),
        [b @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
            Some(b.to_ascii_uppercase() & 0x1f)
        }
        _ => None,
    };
    let bad = || {
        let why =
            "expected letters or `ctrl-` with a letter or one of @ [ \\ ] ^ _, between commas";
        OptionsError::value("--detach-keys", text, why)
    };
    text.split(',').map(|word| key(word).ok_or_else(bad)).collect()
}

pub(super) fn text(word: OsString) -> Result<String, OptionsError> {
    word.into_string()
        .map_err(|w| OptionsError::value("COMMAND", &w.to_string_lossy(), "it is not UTF-8"))
}

/// Reads the name of a container.
pub fn container_name(flag: &'static str, name: &str) -> Result<(), OptionsError> {
    let why = "only [a-zA-Z0-9][a-zA-Z0-9_.-]+ is allowed: two characters at least";
    if is_name(name) { Ok(()) } else { Err(OptionsError::value(flag, name, why)) }
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    first && name.len() > 1 && name.bytes().all(rest)
}

/// Those of files, then those of the line.
pub(super) fn variables(
    files: &[PathBuf],
    given: &[String],
    env: &Environment,
    cwd: &Path,
) -> Result<Vec<(String, String)>, OptionsError> {
    let mut vars = Vec::new();
    for path in files {
        let failed = |source| OptionsError::Read {
            flag: "--env-file".to_owned(),
            path: path.clone(),
            source,
        };
        let lines = std::fs::read_to_string(cwd.join(path)).map_err(failed)?;
        let lines = lines.lines().map(str::trim_start);
        for line in lines.filter(|l| !l.is_empty() && !l.starts_with('#')) {
            vars.extend(variable(line, "--env-file", env)?);
        }
    }
    for line in given {
        vars.extend(variable(line, "--env", env)?);
    }
    Ok(vars)
}

/// A variable; one without a value is the caller's, or none.
fn variable(
    line: &str,
    flag: &'static str,
    env: &Environment,
) -> Result<Option<(String, String)>, OptionsError> {
    let (key, value) = match line.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (line, env.var(line).and_then(|v| v.to_str()).map(str::to_owned)),
    };
    if key.is_empty() {
        return Err(OptionsError::value(flag, line, "the name of the variable is missing"));
    }
    Ok(value.map(|v| (key.to_owned(), v)))
}

/// Filters of `ps`.
const PS_FILTERS: [&str; 11] = [
    "id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network",
    "until",
];

/// `ps`.
#[derive(Debug, Clone, PartialEq)]
pub struct PsOptions {
    /// Also those that do not run.
    pub all: bool,
    /// Ids only.
    pub quiet: bool,
    /// Nothing is cut.
    pub no_trunc: bool,
    /// How it is written.
    pub format: Layout,
    /// Which.
    pub filters: Vec<(String, String)>,
    /// So many of the newest, in any state.
    pub last: Option<usize>,
    /// What they take on disk too.
    pub size: bool,
}

impl PsOptions {
    /// The one conversion.
    pub fn new(raw: PsArgs) -> Result<Self, OptionsError> {
        let PsArgs { all, quiet, no_trunc, format, filter, last, latest, size } = raw;
        let named = format.as_deref().is_some_and(|f| f.contains(".Size"));
        Ok(Self {
            all,
            quiet,
            no_trunc,
            format: Layout::parse(format.as_deref())?,
            filters: filters(&filter, &PS_FILTERS)?,
            // Docker's default is -1.
            last: match (latest, last.map(usize::try_from)) {
                (true, _) => Some(1),
                (false, Some(Ok(n @ 1..))) => Some(n),
                (false, _) => None,
            },
            size: size || named,
        })
    }
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyEnd {
    /// In a container.
    Container {
        /// Its name or id.
        name: String,
        /// A path there.
        path: String,
    },
    /// A file or folder of the caller, absolute.
    Local(PathBuf),
    /// An archive on standard input or output.
    Stream,
}

impl CopyEnd {
    /// As Docker reads it: a colon parts the container from the path, unless it begins as a path does.
    fn parse(word: &Path, cwd: &Path) -> Result<Self, OptionsError> {
        let text = word.to_str();
        match text.filter(|t| !t.starts_with(['/', '.'])).map(|t| (t, t.split_once(':'))) {
            Some(("-", _)) => Ok(Self::Stream),
            Some((_, Some((name, path)))) if name.is_empty() || path.is_empty() => {
                let why = "expected CONTAINER:PATH";
                Err(OptionsError::value("SOURCE or DEST", &word.to_string_lossy(), why))
            }
            Some((_, Some((name, path)))) => {
                Ok(Self::Container { name: name.to_owned(), path: path.to_owned() })
            }
            // What the end of the path says must stay: `dir/.` is not `dir`.
            _ => {
                let mut path = cwd.as_os_str().to_owned();
                path.push("/");
                path.push(word);
                let whole = if word.is_absolute() { word.into() } else { PathBuf::from(path) };
                Ok(Self::Local(whole))
            }
        }
    }
}

/// `cp`.
#[derive(Debug, Clone)]
pub struct CpOptions {
    /// From where.
    pub from: CopyEnd,
    /// Where to.
    pub to: CopyEnd,
    /// The latter as typed.
    pub shown: String,
    /// How.
    pub how: Copying,
    /// Nothing is said.
    pub quiet: bool,
}

impl CpOptions {
    /// The one conversion. Exactly one end is in a container.
    pub fn new(raw: CpArgs, cwd: &Path, terminals: Terminals) -> Result<Self, OptionsError> {
        let from = CopyEnd::parse(&raw.source, cwd)?;
        let to = CopyEnd::parse(&raw.dest, cwd)?;
        let inside = |e: &CopyEnd| matches!(e, CopyEnd::Container { .. });
        let wrong = match (inside(&from), inside(&to)) {
            (true, true) => "copying between two containers is not possible: copy out, then in",
            (false, false) => "one of the two must be CONTAINER:PATH",
            (true, false) if to == CopyEnd::Stream && terminals.stdout => {
                "an archive does not go to a terminal: redirect stdout"
            }
            _ => {
                let how = Copying { keep_owners: raw.archive, follow: raw.follow_link };
                let shown = raw.dest.to_string_lossy().into_owned();
                return Ok(Self { from, to, shown, how, quiet: raw.quiet });
            }
        };
        Err(OptionsError::Conflict(wrong.to_owned()))
    }
}

/// `export`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The container.
    pub container: String,
    /// Where the archive goes.
    pub dest: Dest,
}

impl ExportOptions {
    /// The one conversion.
    pub fn new(raw: ExportArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let dest = archive_dest(raw.output, terminals)?;
        Ok(Self { container: raw.container, dest })
    }
}

/// Labels that something must have and must not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelFilter {
    wanted: Vec<(String, Option<String>)>,
    unwanted: Vec<(String, Option<String>)>,
}

impl LabelFilter {
    pub(super) fn add(&mut self, name: &str, value: &str) {
        let label = match value.split_once('=') {
            Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
            None => (value.to_owned(), None),
        };
        let list = if name.ends_with('!') { &mut self.unwanted } else { &mut self.wanted };
        list.push(label);
    }

    /// Whether labels are as asked for.
    pub fn keep(&self, labels: &serde_json::Map<String, serde_json::Value>) -> bool {
        let has = |(k, v): &(String, Option<String>)| {
            labels.get(k).is_some_and(|found| v.as_ref().is_none_or(|want| found == want))
        };
        self.wanted.iter().all(has) && !self.unwanted.iter().any(has)
    }
}

/// `container prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPruneOptions {
    /// The user is asked first.
    pub ask: bool,
    /// Made so many seconds ago.
    pub older_than: Option<u64>,
    /// Their labels.
    pub labels: LabelFilter,
}

impl ContainerPruneOptions {
    /// The one conversion. Without `--force` someone must be there to answer.
    pub fn new(raw: ContainerPruneArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let mut out = Self { ask: !raw.force, older_than: None, labels: LabelFilter::default() };
        for (name, value) in filters(&raw.filter, &["until", "label", "label!"])? {
            match name.as_str() {
                "until" => {
                    let seconds = parse_seconds(&value)
                        .map_err(|why| OptionsError::value("--filter", &value, why))?;
                    out.older_than = Some(seconds);
                }
                name => out.labels.add(name, &value),
            }
        }
        someone_answers(out.ask, terminals)?;
        Ok(out)
    }
}

/// Refuses to ask where nobody can answer.
pub(super) fn someone_answers(ask: bool, terminals: Terminals) -> Result<(), OptionsError> {
    if ask && !terminals.can_ask() {
        return Err(OptionsError::Missing {
            what: "nobody is there to confirm".to_owned(),
            help: Some("add `--force` (`-f`)".to_owned()),
        });
    }
    Ok(())
}

/// `commit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOptions {
    /// The container.
    pub container: String,
    /// Name of the image.
    pub name: Option<Reference>,
    /// In the history.
    pub author: Option<String>,
    /// In the history.
    pub message: String,
    /// Dockerfile instructions, as typed.
    pub changes: Vec<String>,
    /// Its processes stand still meanwhile.
    pub pause: bool,
}

impl CommitOptions {
    /// The one conversion.
    pub fn new(raw: CommitArgs) -> Result<Self, OptionsError> {
        Ok(Self {
            container: raw.container,
            name: raw.name.map(|n| new_name("REPOSITORY", &n)).transpose()?,
            author: raw.author,
            message: raw.message.unwrap_or_default(),
            changes: raw.change,
            pause: raw.pause.unwrap_or(true) && !raw.no_pause,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn options(words: &[&str]) -> Result<RunOptions, OptionsError> {
        let line = ["rgraph", "run"].iter().chain(words).map(Into::into);
        match parse(line).unwrap_or_else(|e| panic!("{words:?}: {e}")).command {
            Command::Run(a) => RunOptions::new(*a, &Environment::default(), Path::new("/")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_end_at_the_image() {
        let o = options(&["-it", "--rm", "-e", "A=1", "box", "ls", "-t", "--rm=x"]).unwrap();
        assert!(o.interactive && o.tty && o.rm);
        assert_eq!(o.words, ["ls", "-t", "--rm=x"]);
        assert_eq!(o.env, [("A".to_owned(), "1".to_owned())]);
        let o = options(&["-v=/a:/b:ro", "-h", "me", "box"]).unwrap();
        let bind = rgraph_runtime::container::Bind {
            source: "/a".into(),
            dest: "/b".into(),
            readonly: true,
        };
        assert_eq!((o.mounts.binds, o.hostname.as_str()), (vec![bind], "me"));
    }

    #[test]
    fn keys() {
        for (text, want) in [
            (None, Some(&[16, 17][..])),
            (Some("ctrl-a"), Some(&[1])),
            (Some("a,ctrl-@,ctrl-[,ctrl-_,Q"), Some(b"a\x00\x1b\x1fQ")),
            (Some(""), None),
            (Some("ctrl-"), None),
            (Some("ab"), None),
            (Some("ctrl-1"), None),
        ] {
            assert_eq!(detach_keys(text).ok().as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn ends_of_a_copy() {
        let cwd = Path::new("/w");
        let end = |word: &str| CopyEnd::parse(Path::new(word), cwd).unwrap();
        let inside = |name: &str, path: &str| CopyEnd::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(end("web:/a:b"), inside("web", "/a:b"));
        assert_eq!(end("web:rel/."), inside("web", "rel/."));
        assert_eq!(end("-"), CopyEnd::Stream);
        for (word, want) in [("/a:b", "/a:b"), ("./a:b", "/w/./a:b"), ("dir/.", "/w/dir/.")] {
            let CopyEnd::Local(path) = end(word) else { panic!("{word}") };
            assert_eq!(path.as_os_str(), want, "{word}");
        }
        assert!(CopyEnd::parse(Path::new("web:"), cwd).is_err());
    }

    #[test]
    fn what_is_refused() {
        for (words, part) in [
            (&["--detach-keys=ctrl-A", "box"][..], "expected letters"),
            (&["-p", "80:80/sctp", "box"], "`run --publish` with sctp is not supported yet"),
            (&["--name", "-x", "box"], "only [a-zA-Z0-9]"),
            (&["-v", "/a:b", "box"], "must be absolute"),
            (&["-v", "/a:/b:rx", "box"], "must be `ro` or `rw`"),
            (&["--network", "bridge0", "box"], "unknown network"),
            (&["-e", "=1", "box"], "name of the variable"),
            (&["--add-host=h", "box"], "expected NAME:ADDRESS"),
            (&["--ulimit=nofil=1", "box"], "unknown type `nofil`"),
            (&["--shm-size=big", "box"], "--shm-size"),
        ] {
            let words: Vec<&str> = match words {
                ["--name", v, rest] => {
                    vec![Box::leak(format!("--name={v}").into_boxed_str()), rest]
                }
                words => words.to_vec(),
            };
            let e = options(&words).unwrap_err().to_string();
            assert!(e.contains(part), "{words:?}: {e}");
        }
    }
}
