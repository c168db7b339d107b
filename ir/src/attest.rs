//! What is said of a result beside the result: how it was made, and what packages are in it. The
//! words are those of BuildKit's attestations (docs/attestations of moby/buildkit).

use std::collections::BTreeMap;
use std::sync::Arc;

/// The statements that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How the result was made.
    pub provenance: Option<Provenance>,
    /// A list of the packages in it.
    pub sbom: bool,
}

impl Attestations {
    /// True when there is anything to say.
    pub fn any(&self) -> bool {
        self.provenance.is_some() || self.sbom
    }

    /// The same for files that are no image.
    pub fn of_files(&self) -> Self {
        let provenance = self.provenance.clone().filter(|p| !p.inline_only);
        Self { provenance, sbom: self.sbom }
    }
}

/// A statement about how a result was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// How much is said.
    pub detail: Detail,
    /// The form.
    pub version: SlsaVersion,
    /// Who built, as a URI; `None`: this program.
    pub builder_id: Option<String>,
    /// The caller's word that the build is reproducible.
    pub reproducible: bool,
    /// Only beside images, not as a file among files.
    pub inline_only: bool,
    /// Its name as a file.
    pub filename: String,
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            detail: Detail::default(),
            version: SlsaVersion::default(),
            builder_id: None,
            reproducible: false,
            inline_only: false,
            filename: "provenance.json".to_owned(),
        }
    }
}

/// How much a provenance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// No values of build arguments or labels, no names of secrets, no steps.
    Min,
    /// All of it, with the steps and the Dockerfile.
    #[default]
    Max,
}

/// The form of a provenance (slsa.dev/spec).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlsaVersion {
    /// v0.2.
    V02,
    /// v1.
    #[default]
    V1,
}

/// What was asked of the builder, in the words of BuildKit's frontend. No path of this machine and
/// no secret is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Names this build.
    pub id: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Where the context came from; `None`: a folder of the caller.
    pub context: Option<Dependency>,
    /// The Dockerfile's name.
    pub path: Option<String>,
    /// `target`, `build-arg:NAME`, `label:NAME`, ...
    pub args: BTreeMap<String, String>,
    /// The Dockerfile's name and text; `None`: it stays unsaid.
    pub source: Option<(String, Arc<str>)>,
}

/// Something a result was made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// A URL without a login, or a package URL.
    pub uri: String,
    /// The digest's algorithm and its hex digits.
    pub digest: Option<(&'static str, String)>,
}

impl Dependency {
    /// A commit of a repository.
    pub fn commit(uri: String, id: String) -> Self {
        let algorithm = if id.len() == 64 { "sha256" } else { "sha1" };
        Self { uri, digest: Some((algorithm, id)) }
    }

    /// Something with a sha256.
    pub fn sha256(uri: String, hex: String) -> Self {
        Self { uri, digest: Some(("sha256", hex)) }
    }
}
