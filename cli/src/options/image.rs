//! The options of commands on images.

use std::ffi::OsString;
use std::path::PathBuf;

use rgraph_ir::request::Dest;
use rgraph_ir::{Platform, Reference};
use rgraph_runtime::images::PlainLayers;

use super::error::OptionsError;
use super::format::template;
use super::output::reads_as_digest;
use super::{Layout, Terminals, filters, insecure_registries};
use crate::args::{
    Environment, HistoryArgs, ImagesArgs, ImportArgs, InspectArgs, InspectKind, LoadArgs, PullArgs,
    PushArgs, RmiArgs, SaveArgs, TagArgs,
};
use crate::template::Template;

/// How an image of the store may be called. Both readings can be possible (`cafe`): the name comes
/// first, as in Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// As typed, for messages.
    pub text: String,
    /// As a name.
    pub reference: Option<Reference>,
    /// As the beginning of an id: 1 to 64 lower-case hex digits.
    pub id: Option<String>,
}

impl ImageName {
    /// Reads a name or an id, with or without `sha256:`.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let hex = |s: &str| {
            (1..=64).contains(&s.len()) && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if let Some(id) = text.strip_prefix("sha256:").filter(|i| hex(i)) {
            return Ok(Self { text: text.into(), reference: None, id: Some(id.into()) });
        }
        let id = hex(text).then(|| text.to_owned());
        match text.parse::<Reference>() {
            Ok(r) => Ok(Self { text: text.into(), reference: Some(r), id }),
            Err(_) if id.is_some() => Ok(Self { text: text.into(), reference: None, id }),
            Err(e) => Err(invalid("IMAGE", text, e.why)),
        }
    }

    fn all(names: &[String]) -> Result<Vec<Self>, OptionsError> {
        names.iter().map(|n| Self::parse(n)).collect()
    }
}

fn invalid(flag: &'static str, text: &str, why: &str) -> OptionsError {
    OptionsError::value(flag, text, format!("invalid reference format: {why}"))
}

/// A name that something is given: with a tag, without a digest.
pub(super) fn new_name(flag: &'static str, text: &str) -> Result<Reference, OptionsError> {
    let r: Reference = text
        .parse()
        .map_err(|e: rgraph_ir::reference::ReferenceError| invalid(flag, text, e.why))?;
    match r.digest {
        Some(_) => Err(invalid(flag, text, "an image cannot be named by a digest")),
        None if reads_as_digest(&r) => Err(invalid(flag, text, "it reads as a digest")),
        None => Ok(r),
    }
}

fn platform(text: Option<&str>) -> Result<Option<Platform>, OptionsError> {
    text.map(|t| {
        t.parse().map_err(|e: rgraph_ir::platform::PlatformError| {
            OptionsError::value("--platform", t, e.why).with_help("such as `linux/amd64`")
        })
    })
    .transpose()
}

/// `images`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagesOptions {
    /// `REPOSITORY[:TAG]` as typed; without a tag every tag is meant.
    pub name: Option<String>,
    /// Intermediate images too.
    pub all: bool,
    /// Ids only.
    pub quiet: bool,
    /// Whole ids.
    pub no_trunc: bool,
    /// The column of digests.
    pub digests: bool,
    /// How it is written.
    pub format: Layout,
    /// Names and values, names known.
    pub filters: Vec<(String, String)>,
}

impl ImagesOptions {
    /// The one conversion.
    pub fn new(raw: ImagesArgs) -> Result<Self, OptionsError> {
        let known = ["dangling", "label", "before", "since", "reference", "until"];
        Ok(Self {
            name: raw.name,
            all: raw.all,
            quiet: raw.quiet,
            no_trunc: raw.no_trunc,
            digests: raw.digests,
            format: Layout::parse(raw.format.as_deref())?,
            filters: filters(&raw.filter, &known)?,
        })
    }
}

/// Where an archive comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportSource {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
    /// A URL.
    Url(String),
}

impl ImportSource {
    fn parse(word: OsString) -> Self {
        match word.to_str() {
            Some("-") => Self::Stdin,
            Some(t) if t.starts_with("http://") || t.starts_with("https://") => Self::Url(t.into()),
            _ => Self::File(word.into()),
        }
    }
}

/// `import`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// The archive.
    pub source: ImportSource,
    /// Its name.
    pub name: Option<Reference>,
    /// Dockerfile instructions, as typed.
    pub changes: Vec<String>,
    /// Comment in the history.
    pub message: Option<String>,
    /// `None`: this machine's.
    pub platform: Option<Platform>,
}

impl ImportOptions {
    /// The one conversion.
    pub fn new(raw: ImportArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let source = ImportSource::parse(raw.source);
        if source == ImportSource::Stdin && terminals.stdin {
            return Err(OptionsError::Conflict(
                "stdin is a terminal: an archive is expected there".to_owned(),
            ));
        }
        Ok(Self {
            source,
            name: raw.name.map(|n| new_name("REPOSITORY", &n)).transpose()?,
            changes: raw.change,
            message: raw.message,
            platform: platform(raw.platform.as_deref())?,
        })
    }
}

/// `tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagOptions {
    /// The image.
    pub source: ImageName,
    /// Its further name.
    pub target: Reference,
}

impl TagOptions {
    /// The one conversion.
    pub fn new(raw: TagArgs) -> Result<Self, OptionsError> {
        let target = new_name("TARGET", &raw.target)?;
        Ok(Self { source: ImageName::parse(&raw.source)?, target })
    }
}

/// `rmi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RmiOptions {
    /// Images.
    pub images: Vec<ImageName>,
    /// Also with several names or stopped containers.
    pub force: bool,
    /// Untagged parents go too.
    pub prune: bool,
}

impl RmiOptions {
    /// The one conversion.
    pub fn new(raw: RmiArgs) -> Result<Self, OptionsError> {
        let images = ImageName::all(&raw.images)?;
        Ok(Self { images, force: raw.force, prune: !raw.no_prune })
    }
}

/// `history`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryOptions {
    /// The image.
    pub image: ImageName,
    /// Ids only.
    pub quiet: bool,
    /// Nothing is cut.
    pub no_trunc: bool,
    /// Sizes and times for people.
    pub human: bool,
    /// How it is written.
    pub format: Layout,
}

impl HistoryOptions {
    /// The one conversion.
    pub fn new(raw: HistoryArgs) -> Result<Self, OptionsError> {
        Ok(Self {
            image: ImageName::parse(&raw.image)?,
            quiet: raw.quiet,
            no_trunc: raw.no_trunc,
            human: raw.human.unwrap_or(true),
            format: Layout::parse(raw.format.as_deref())?,
        })
    }
}

/// `inspect`.
#[derive(Debug, Clone, PartialEq)]
pub struct InspectOptions {
    /// What to look for. A word that is no name of an image can still be one of a container.
    pub names: Vec<String>,
    /// Only images or only containers.
    pub kind: Option<InspectKind>,
    /// Sizes too.
    pub size: bool,
    /// How each is written; `None`: all as one JSON array.
    pub format: Option<Template>,
}

impl InspectOptions {
    /// The one conversion.
    pub fn new(raw: InspectArgs) -> Result<Self, OptionsError> {
        let format = template_or_json(raw.format.as_deref())?;
        Ok(Self { names: raw.names, kind: raw.kind, size: raw.size, format })
    }
}

/// The template of `--format`; `None`: all as one JSON array.
pub fn template_or_json(format: Option<&str>) -> Result<Option<Template>, OptionsError> {
    match format {
        None | Some("") => Ok(None),
        Some("json") => template("{{json .}}").map(Some),
        Some(t) => template(t).map(Some),
    }
}

/// How `version` is written; `None`: as a line.
pub fn version_template(format: Option<&str>) -> Result<Option<Template>, OptionsError> {
    template_or_json(format.filter(|f| *f != "text"))
}

/// `save`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveOptions {
    /// Images.
    pub images: Vec<ImageName>,
    /// Where the archive goes.
    pub dest: Dest,
    /// Only this platform.
    pub platform: Option<Platform>,
}

/// Where `-o` says that an archive goes.
pub(super) fn archive_dest(
    output: Option<PathBuf>,
    terminals: Terminals,
) -> Result<Dest, OptionsError> {
    match output {
        Some(p) if p.as_os_str().is_empty() => {
            Err(OptionsError::value("--output", "", "it is empty"))
        }
        Some(p) if p.as_os_str() != "-" => Ok(Dest::Path(p)),
        _ if terminals.stdout => Err(OptionsError::Conflict(
            "an archive does not go to a terminal: add `-o FILE`, or redirect stdout".to_owned(),
        )),
        _ => Ok(Dest::Stdout),
    }
}

impl SaveOptions {
    /// The one conversion.
    pub fn new(raw: SaveArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let dest = archive_dest(raw.output, terminals)?;
        let images = ImageName::all(&raw.images)?;
        Ok(Self { images, dest, platform: platform(raw.platform.as_deref())? })
    }
}

/// `load`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// The archive; `None`: stdin.
    pub input: Option<PathBuf>,
    /// No progress.
    pub quiet: bool,
    /// Only this platform.
    pub platform: Option<Platform>,
}

impl LoadOptions {
    /// The one conversion.
    pub fn new(raw: LoadArgs, terminals: Terminals) -> Result<Self, OptionsError> {
        let input = raw.input.filter(|i| i.as_os_str() != "-");
        if input.is_none() && terminals.stdin {
            return Err(OptionsError::Conflict(
                "stdin is a terminal: give an archive with `-i FILE`".to_owned(),
            ));
        }
        Ok(Self { input, quiet: raw.quiet, platform: platform(raw.platform.as_deref())? })
    }
}

/// `pull`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// What to get.
    pub name: Reference,
    /// The tag was not typed: `Using default tag: latest`.
    pub default_tag: bool,
    /// Every tag.
    pub all_tags: bool,
    /// The name only.
    pub quiet: bool,
    /// `None`: this machine's.
    pub platform: Option<Platform>,
    /// Registries over plain HTTP or with an unknown certificate.
    pub insecure_registries: Vec<String>,
}

impl PullOptions {
    /// The one conversion.
    pub fn new(raw: PullArgs, env: &Environment) -> Result<Self, OptionsError> {
        let mut name: Reference = raw
            .name
            .parse()
            .map_err(|e: rgraph_ir::reference::ReferenceError| invalid("NAME", &raw.name, e.why))?;
        let typed = has_tag(&raw.name) || name.digest.is_some();
        if name.digest.is_some() {
            // As in Docker: what has a digest is had by that, and gets no tag.
            name.tag = None;
        }
        if raw.all_tags && typed {
            return Err(OptionsError::Conflict(
                "`--all-tags` goes with a name without tag or digest".to_owned(),
            ));
        }
        Ok(Self {
            name,
            default_tag: !typed && !raw.all_tags,
            all_tags: raw.all_tags,
            quiet: raw.quiet,
            platform: platform(raw.platform.as_deref())?,
            insecure_registries: insecure_registries(&raw.registry.insecure_registry, env)?,
        })
    }
}

/// `push`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushOptions {
    /// What to send, and where to.
    pub name: Reference,
    /// The tag was not typed: `Using default tag: latest`.
    pub default_tag: bool,
    /// Every tag.
    pub all_tags: bool,
    /// No progress.
    pub quiet: bool,
    /// What becomes of plain layers.
    pub plain: PlainLayers,
    /// Only this platform.
    pub platform: Option<Platform>,
    /// Registries over plain HTTP or with an unknown certificate.
    pub insecure_registries: Vec<String>,
}

impl PushOptions {
    /// The one conversion.
    pub fn new(raw: PushArgs, env: &Environment) -> Result<Self, OptionsError> {
        let name = new_name("NAME", &raw.name)?;
        let typed = has_tag(&raw.name);
        if raw.all_tags && typed {
            return Err(OptionsError::Conflict(
                "`--all-tags` goes with a name without tag".to_owned(),
            ));
        }
        Ok(Self {
            name,
            default_tag: !typed && !raw.all_tags,
            all_tags: raw.all_tags,
            quiet: raw.quiet,
            plain: match (raw.disable_compression, raw.force_compression) {
                (false, false) => PlainLayers::AsTheyCame,
                (false, true) => PlainLayers::Compressed,
                (true, false) => PlainLayers::AsTheyAre,
                (true, true) => {
                    let both =
                        "`--disable-compression` and `--force-compression` exclude each other";
                    return Err(OptionsError::Conflict(both.to_owned()));
                }
            },
            platform: platform(raw.platform.as_deref())?,
            insecure_registries: insecure_registries(&raw.registry.insecure_registry, env)?,
        })
    }
}

/// A tag was typed: the reference itself has one in any case.
fn has_tag(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or(text);
    name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, parse};

    fn command(words: &[&str]) -> Command {
        let line = ["rgraph"].iter().chain(words).map(Into::into);
        parse(line).unwrap_or_else(|e| panic!("{words:?}: {e}")).command
    }

    #[test]
    fn names_and_ids() {
        for (text, name, id) in [
            ("busybox", true, false),
            ("cafe", true, true),
            ("sha256:cafe", false, true),
            (&"a".repeat(64), false, true),
            ("x:1", true, false),
        ] {
            let n = ImageName::parse(text).unwrap();
            assert_eq!((n.reference.is_some(), n.id.is_some()), (name, id), "{text}");
        }
        for text in ["UPPER", "", "sha256:", "a b"] {
            let e = ImageName::parse(text).unwrap_err();
            assert!(e.to_string().contains("invalid reference format"), "{text}: {e}");
        }
    }

    #[test]
    fn tags_that_were_typed() {
        for (words, default_tag) in [
            (&["pull", "busybox"][..], true),
            (&["pull", "localhost:5000/busybox"], true),
            (&["pull", "localhost:5000/busybox:1"], false),
            (&["pull", "-a", "busybox"], false),
        ] {
            match command(words) {
                Command::Pull(a) => {
                    let o = PullOptions::new(a, &Environment::default()).unwrap();
                    assert_eq!(o.default_tag, default_tag, "{words:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        match command(&["pull", "-a", "busybox:1"]) {
            Command::Pull(a) => {
                assert!(PullOptions::new(a, &Environment::default()).unwrap_err().is_usage());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn archives_and_terminals() {
        let terminal = Terminals { stdin: true, stdout: true, stderr: true };
        let save = |words: &[&str], t| match command(words) {
            Command::Save(a) => SaveOptions::new(a, t).map(|o| o.dest),
            other => panic!("{other:?}"),
        };
        assert_eq!(save(&["save", "a"], Terminals::default()).unwrap(), Dest::Stdout);
        assert_eq!(save(&["save", "-o", "f", "a"], terminal).unwrap(), Dest::Path("f".into()));
        assert!(save(&["save", "a"], terminal).unwrap_err().is_usage());
        let load = |words: &[&str], t| match command(words) {
            Command::Load(a) => LoadOptions::new(a, t).map(|o| o.input),
            other => panic!("{other:?}"),
        };
        assert_eq!(load(&["load"], Terminals::default()).unwrap(), None);
        assert_eq!(load(&["load", "-i", "f"], terminal).unwrap(), Some("f".into()));
        assert!(load(&["load"], terminal).unwrap_err().is_usage());
        let import = |words: &[&str], t| match command(words) {
            Command::Import(a) => ImportOptions::new(a, t),
            other => panic!("{other:?}"),
        };
        let o = import(&["import", "-", "busybox", "-c", "CMD sh"], Terminals::default()).unwrap();
        assert_eq!((o.source, o.changes), (ImportSource::Stdin, vec!["CMD sh".to_owned()]));
        assert_eq!(o.name.unwrap().to_string(), "docker.io/library/busybox:latest");
        assert!(import(&["import", "-"], terminal).unwrap_err().is_usage());
        let o = import(&["import", "https://h/x.tar"], terminal).unwrap();
        assert_eq!(o.source, ImportSource::Url("https://h/x.tar".to_owned()));
        assert!(import(&["import", "f", "X"], terminal).unwrap_err().is_usage());
    }

    #[test]
    fn lists() {
        match command(&["images", "--filter", "dangling=true", "--format", "json", "-q"]) {
            Command::Images(a) => {
                let o = ImagesOptions::new(a).unwrap();
                assert_eq!((o.format, o.quiet, o.filters.len()), (Layout::Json, true, 1));
            }
            other => panic!("{other:?}"),
        }
        match command(&["history", "-H=false", "x"]) {
            Command::History(a) => assert!(!HistoryOptions::new(a).unwrap().human),
            other => panic!("{other:?}"),
        }
        match command(&["tag", "a", "b@sha256:00"]) {
            Command::Tag(a) => assert!(TagOptions::new(a).unwrap_err().is_usage()),
            other => panic!("{other:?}"),
        }
    }
}
