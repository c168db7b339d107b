//! Reads what lowering starts from: the Dockerfile, the ignore files, the folders that were named.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rgraph_frontend::{IgnoreFile, NamedContext as Lowered};
use rgraph_ir::pattern::PatternSet;
use rgraph_ir::request::LocalContext;
use rgraph_ir::{FileId, SourceMap, limits};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::context::Brought;
use crate::options::{BuildOptions, ContextSpec, FileSpec, NamedContext};

/// Why the build cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The context is no folder.
    #[error("cannot open the context `{path}`")]
    Context {
        /// The operand.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No Dockerfile.
    #[error("no Dockerfile: `{tried}` not found")]
    NoDockerfile {
        /// The paths tried.
        tried: String,
    },
    /// The Dockerfile, an ignore file or a lock file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The Dockerfile or a lock file is no text.
    #[error("{name}:{line}: not valid UTF-8")]
    NotText {
        /// The file.
        name: String,
        /// The line with the first wrong byte.
        line: usize,
    },
    /// Larger than such a file may be.
    #[error("{path}:{line}: the file is larger than {max} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The line in which it becomes so.
        line: usize,
        /// The limit.
        max: usize,
    },
    /// A pattern that is none.
    #[error("{name}: line {line}: {why}")]
    Pattern {
        /// The ignore file.
        name: String,
        /// Line in it.
        line: u32,
        /// What is wrong.
        why: String,
    },
}

/// See the module.
pub struct Loaded {
    /// The Dockerfile.
    pub dockerfile: FileId,
    /// The main context's ignore file.
    pub ignore: IgnoreFile,
    /// Folders by the name of their source.
    pub contexts: BTreeMap<String, LocalContext>,
    /// Named contexts as lowering wants them.
    pub named: BTreeMap<String, Lowered>,
    /// What folders are called in the graph where that is not the name of their context.
    pub folders: BTreeMap<String, String>,
}

/// Names of folders in one graph: each stands for one folder.
#[derive(Debug, Default)]
pub struct FolderNames(BTreeMap<String, PathBuf>);

impl FolderNames {
    /// The name of a folder: the wanted one, unless that is another folder's.
    fn of(&mut self, wanted: &str, path: &Path) -> String {
        let mut name = wanted.to_owned();
        for n in 2.. {
            match self.0.get(&name) {
                None => break,
                Some(known) if known == path => return name,
                Some(_) => name = format!("{wanted}#{n}"),
            }
        }
        self.0.insert(name.clone(), path.to_owned());
        name
    }
}

/// Reads everything. `brought`: the context, when it is no folder of the caller. Texts are added to
/// `sources`, folders to `names`.
pub fn load(
    opts: &BuildOptions,
    brought: Option<&Brought>,
    sources: &mut SourceMap,
    names: &mut FolderNames,
) -> Result<Loaded, LoadError> {
    let folder = match (&opts.context, brought) {
        (ContextSpec::Folder(p), None) => p.clone(),
        (_, Some(brought)) => brought.path().to_owned(),
        (_, None) => PathBuf::new(),
    };
    let root = open_folder(&folder)?;
    let (name, text, beside) = match brought {
        Some(Brought { dockerfile: Some(bytes), .. }) => {
            let text = text_of("Dockerfile", &mut &bytes[..])?;
            ("Dockerfile".to_owned(), text, Beside::Nothing)
        }
        _ => dockerfile(&opts.file, &folder, &root, brought.is_some())?,
    };
    let dockerfile = sources.add(name, text);
    let own = match beside {
        Beside::Nothing => None,
        Beside::InContext(name) => read_ignore_in(&root, &name)?,
        Beside::File(path) => read_ignore(&path)?,
    };
    let ignore = match own {
        Some(patterns) => patterns,
        None => ignore_in(&root)?,
    };
    let (mut contexts, mut folders) = (BTreeMap::new(), BTreeMap::new());
    let mut add = |context: &str, path: PathBuf| {
        let name = names.of(context, &path);
        if name != context {
            folders.insert(context.to_owned(), name.clone());
        }
        contexts.insert(name, LocalContext { path });
    };
    add("context", folder);
    let mut named = BTreeMap::new();
    for (name, context) in &opts.build_contexts {
        let lowered = match context {
            NamedContext::Folder(path) => {
                let ignore_patterns = ignore_in(&open_folder(path)?)?.rules.to_strings();
                add(name, path.clone());
                Lowered::Local { ignore_patterns }
            }
            NamedContext::Image(reference) => Lowered::Image { reference: reference.clone() },
            NamedContext::OciLayout { dir, tag, digest } => {
                let mut reference = dir.display().to_string();
                if let Some(t) = tag {
                    reference.push_str(&format!(":{t}"));
                }
                if let Some(d) = digest {
                    reference.push_str(&format!("@{d}"));
                }
                Lowered::OciLayout { reference }
            }
            NamedContext::Http(url) => Lowered::Http { url: url.clone() },
            NamedContext::Git(url) => Lowered::Git { url: url.clone() },
            NamedContext::Target(name) => Lowered::Target { name: name.clone() },
            // Its plan comes later.
            NamedContext::Build(_) => continue,
        };
        named.insert(name.clone(), lowered);
    }
    Ok(Loaded { dockerfile, ignore, contexts, named, folders })
}

/// The ignore file of a folder: that of the Dockerfile, else the folder's own. There need be no
/// Dockerfile.
pub fn ignore_of(folder: &Path, file: &FileSpec) -> Result<IgnoreFile, LoadError> {
    let root = open_folder(folder)?;
    let own = match file {
        FileSpec::Stdin | FileSpec::Inline(_) => None,
        FileSpec::Path(path) => {
            read_ignore(&PathBuf::from(format!("{}.dockerignore", path.display())))?
        }
        FileSpec::Default => read_ignore_in(&root, "Dockerfile.dockerignore")?,
    };
    own.map_or_else(|| ignore_in(&root), Ok)
}

fn open_folder(path: &Path) -> Result<OwnedFd, LoadError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LoadError::Context { path: path.display().to_string(), source: e.into() })
}

/// Where an ignore file that belongs to the Dockerfile would lie.
enum Beside {
    /// The Dockerfile has no place.
    Nothing,
    /// In the context, which no link may lead out of.
    InContext(String),
    /// Beside a file that the caller named.
    File(PathBuf),
}

/// Name for errors, text, and where an ignore file of its own would lie.
fn dockerfile(
    spec: &FileSpec,
    folder: &Path,
    root: &OwnedFd,
    elsewhere: bool,
) -> Result<(String, String, Beside), LoadError> {
    match spec {
        // A path in a context that is no folder of the caller.
        FileSpec::Path(path) if elsewhere => {
            let name = path.display().to_string();
            let Some(file) = open_inside(root, &name)? else {
                return Err(LoadError::NoDockerfile { tried: name });
            };
            let text = text_of(&name, &mut regular(file, &name)?)?;
            let beside = Beside::InContext(format!("{name}.dockerignore"));
            let shown = path.file_name().unwrap_or(OsStr::new("Dockerfile"));
            Ok((shown.to_string_lossy().into_owned(), text, beside))
        }
        FileSpec::Inline(text) => {
            let text = text_of("Dockerfile", &mut text.as_bytes())?;
            Ok(("Dockerfile".to_owned(), text, Beside::Nothing))
        }
        FileSpec::Stdin => {
            let text = text_of("Dockerfile", &mut std::io::stdin().lock())?;
            Ok(("Dockerfile".to_owned(), text, Beside::Nothing))
        }
        FileSpec::Path(path) => {
            let name = path.display().to_string();
            let file = match File::options().read(true).custom_flags_nonblock().open(path) {
                Ok(f) => f,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(LoadError::NoDockerfile { tried: name });
                }
                Err(source) => return Err(LoadError::Read { path: name, source }),
            };
            let shown =
                path.file_name().unwrap_or(OsStr::new("Dockerfile")).to_string_lossy().into_owned();
            let text = text_of(&name, &mut regular(file, &name)?)?;
            let beside = PathBuf::from(format!("{name}.dockerignore"));
            Ok((shown, text, Beside::File(beside)))
        }
        FileSpec::Default => {
            for name in ["Dockerfile", "dockerfile"] {
                if let Some(file) = open_inside(root, name)? {
                    let text = text_of(name, &mut regular(file, name)?)?;
                    let beside = Beside::InContext(format!("{name}.dockerignore"));
                    return Ok((name.to_owned(), text, beside));
                }
            }
            let tried = match elsewhere {
                true => "Dockerfile".to_owned(),
                false => folder.join("Dockerfile").display().to_string(),
            };
            Err(LoadError::NoDockerfile { tried })
        }
    }
}

trait Nonblock {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl Nonblock for std::fs::OpenOptions {
    /// A FIFO in place of a file must not hang the open.
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(OFlags::NONBLOCK.bits() as i32)
    }
}

/// Opens a file of the context; a link in it cannot lead out.
fn open_inside(root: &OwnedFd, name: &str) -> Result<Option<File>, LoadError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, name, flags, Mode::empty(), how) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(LoadError::Read { path: name.to_owned(), source: e.into() }),
    }
}

fn regular(file: File, name: &str) -> Result<File, LoadError> {
    let read = |source| LoadError::Read { path: name.to_owned(), source };
    if file.metadata().map_err(read)?.is_file() {
        Ok(file)
    } else {
        Err(read(std::io::Error::other("it is not a regular file")))
    }
}

fn bounded(name: &str, from: &mut dyn Read, max: usize) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    from.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| LoadError::Read { path: name.to_owned(), source })?;
    if bytes.len() > max {
        let line = 1 + bytes[..max].iter().filter(|b| **b == b'\n').count();
        return Err(LoadError::TooLarge { path: name.to_owned(), line, max });
    }
    Ok(bytes)
}

fn text_of(name: &str, from: &mut dyn Read) -> Result<String, LoadError> {
    text(name, bounded(name, from, limits::MAX_DOCKERFILE)?)
}

fn text(name: &str, bytes: Vec<u8>) -> Result<String, LoadError> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
        LoadError::NotText { name: name.to_owned(), line }
    })
}

fn ignore_in(root: &OwnedFd) -> Result<IgnoreFile, LoadError> {
    Ok(read_ignore_in(root, ".dockerignore")?.unwrap_or_default())
}

fn read_ignore_in(root: &OwnedFd, name: &str) -> Result<Option<IgnoreFile>, LoadError> {
    let Some(file) = open_inside(root, name)? else { return Ok(None) };
    let bytes = bounded(name, &mut regular(file, name)?, limits::MAX_IGNORE_FILE)?;
    patterns(name, &bytes).map(Some)
}

/// The text of a bake file; `None`: there is none. `-` is stdin.
pub fn bake_text(path: &Path) -> Result<Option<String>, LoadError> {
    let name = path.display().to_string();
    if name == "-" {
        let bytes = bounded(&name, &mut std::io::stdin().lock(), limits::MAX_BAKE_FILE)?;
        return text(&name, bytes).map(Some);
    }
    small_text(path, limits::MAX_BAKE_FILE)
}

/// The same of a file in a folder that no link of it leads out of.
pub fn bake_text_in(folder: &Path, name: &str) -> Result<Option<String>, LoadError> {
    let Some(file) = open_inside(&open_folder(folder)?, name)? else { return Ok(None) };
    let bytes = bounded(name, &mut regular(file, name)?, limits::MAX_BAKE_FILE)?;
    text(name, bytes).map(Some)
}

/// The text of a lock file; `None`: there is none.
pub fn lock_text(path: &Path) -> Result<Option<String>, LoadError> {
    small_text(path, limits::MAX_LOCK_FILE)
}

fn small_text(path: &Path, max: usize) -> Result<Option<String>, LoadError> {
    let name = path.display().to_string();
    let file = match File::options().read(true).custom_flags_nonblock().open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Read { path: name, source }),
    };
    let bytes = bounded(&name, &mut regular(file, &name)?, max)?;
    text(&name, bytes).map(Some)
}

fn read_ignore(path: &Path) -> Result<Option<IgnoreFile>, LoadError> {
    let name = path.display().to_string();
    let file = match File::options().read(true).custom_flags_nonblock().open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Read { path: name, source }),
    };
    let bytes = bounded(&name, &mut regular(file, &name)?, limits::MAX_IGNORE_FILE)?;
    patterns(&name, &bytes).map(Some)
}

fn patterns(name: &str, bytes: &[u8]) -> Result<IgnoreFile, LoadError> {
    let name = name.to_owned();
    match PatternSet::parse(bytes) {
        Ok(rules) => Ok(IgnoreFile { name, rules }),
        Err(e) => Err(LoadError::Pattern { name, line: e.line, why: e.to_string() }),
    }
}
