//! How a result was made: a SLSA provenance (slsa.dev/spec/v1.0/provenance, v0.2 too) with the build
//! type, parameters and metadata that BuildKit writes (docs/attestations/slsa-definitions.md), so that
//! what reads its provenance reads this.

use std::collections::BTreeSet;

use base64::Engine as _;
use rgraph_image::attestation::Claim;
use rgraph_image::registry::shown_url;
use rgraph_ir::attest::{Asked, Dependency, Detail, Provenance, SlsaVersion};
use rgraph_ir::op::{MountKind, NetworkMode, SourceOp};
use rgraph_ir::{BuildPlan, FileId, Op, Platform, Reference, SourceFile, Target, Vertex, VertexId};
use serde_json::{Map, Value, json};

use super::{purl, steps};
use crate::fetch::source::Sources;

const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";
/// Name and version of this program.
const BUILDER: &str = concat!("pkg:generic/rgraph@", env!("CARGO_PKG_VERSION"));

/// Asks what a source that is no image is: the digest in hex, with its algorithm.
pub trait Digests {
    /// `None`: nobody knows.
    fn of(&self, source: &SourceOp) -> Option<Dependency>;
}

impl Digests for Sources<'_> {
    fn of(&self, source: &SourceOp) -> Option<Dependency> {
        match source {
            SourceOp::Http(h) => {
                let digest = self.url_digest(h).ok()?;
                Some(Dependency::sha256(shown_url(&h.url), digest.hex()))
            }
            SourceOp::Git(g) => Some(Dependency::commit(repository(g), self.git_commit(g).ok()?)),
            _ => None,
        }
    }
}

/// A repository and the name in it, without a login.
pub fn repository(g: &rgraph_ir::op::GitSource) -> String {
    let url = shown_url(&g.full_url);
    match &g.reference {
        Some(r) => format!("{url}#{r}"),
        None => url,
    }
}

/// What a provenance is made of.
pub struct Made<'a> {
    /// What was asked for.
    pub wanted: &'a Provenance,
    /// And how.
    pub asked: &'a Asked,
    /// The plan.
    pub plan: &'a BuildPlan,
    /// The target that this is about.
    pub target: &'a Target,
    /// Tells digests.
    pub digests: &'a dyn Digests,
    /// This machine's.
    pub builder: &'a Platform,
    /// RFC 3339.
    pub finished: String,
}

/// What the target was made of.
struct Parts<'a> {
    vertices: Vec<&'a Vertex>,
    ids: BTreeSet<VertexId>,
    dependencies: BTreeSet<Dependency>,
    /// Folders of the caller.
    locals: BTreeSet<&'a str>,
    /// All of it is named with a digest.
    complete: bool,
}

/// What both forms say.
struct Told {
    request: Value,
    /// The request is told as it was.
    whole: bool,
    dependencies: Vec<Value>,
    /// All of them are told, with digests.
    complete: bool,
    /// The steps.
    config: Option<Value>,
    notes: Map<String, Value>,
    hermetic: bool,
}

impl Made<'_> {
    /// The statement without its subjects.
    pub fn claim(&self) -> Claim {
        let parts = self.parts();
        let max = self.wanted.detail == Detail::Max;
        let (request, whole) = self.request(&parts, max);
        let network = parts.vertices.iter().any(|v| match &v.op {
            Op::Exec(e) => e.network != NetworkMode::None,
            _ => false,
        });
        let hermetic = parts.complete && !network;
        let mut notes = Map::new();
        let mut config = None;
        if max {
            let graph = &self.plan.graph;
            config = Some(json!({
                "llbDefinition": steps::definition(graph, &parts.ids, self.target.root),
            }));
            if let Some((name, text)) = &self.asked.source {
                let data = base64::engine::general_purpose::STANDARD.encode(text.as_bytes());
                let file = SourceFile::new(FileId(0), name.clone(), text.clone());
                notes.insert(
                    "source".to_owned(),
                    json!({
                        "locations": steps::locations(graph, &parts.ids, &file),
                        "infos": [{"filename": name, "language": "Dockerfile", "data": data}],
                    }),
                );
            }
        }
        let told = Told {
            request,
            whole,
            dependencies: parts.dependencies.iter().map(resource).collect(),
            complete: parts.complete,
            config,
            notes,
            hermetic,
        };
        let (predicate_type, predicate) = match self.wanted.version {
            SlsaVersion::V1 => ("https://slsa.dev/provenance/v1", self.v1(told)),
            SlsaVersion::V02 => ("https://slsa.dev/provenance/v0.2", self.v02(told)),
        };
        Claim { predicate_type: predicate_type.to_owned(), predicate }
    }

    fn parts(&self) -> Parts<'_> {
        let graph = &self.plan.graph;
        let ids = steps::needed(graph, self.target.root);
        let vertices: Vec<&Vertex> = ids.iter().map(|id| graph.vertex(*id)).collect();
        let mut out = Parts {
            vertices,
            ids,
            dependencies: self.asked.context.iter().cloned().collect(),
            locals: BTreeSet::new(),
            complete: self.asked.context.as_ref().is_none_or(|c| c.digest.is_some()),
        };
        for v in &out.vertices {
            let Op::Source(source) = &v.op else { continue };
            let found = match source {
                SourceOp::Local(l) => {
                    // The context by URL was told as that.
                    if l.name != "context" || self.asked.context.is_none() {
                        out.locals.insert(&l.name);
                        out.complete = false;
                    }
                    continue;
                }
                SourceOp::Image(i) => image(&i.reference, v.platform.as_deref()),
                SourceOp::OciLayout(o) => layout(&o.reference),
                SourceOp::Http(h) => self
                    .digests
                    .of(source)
                    .unwrap_or_else(|| Dependency { uri: shown_url(&h.url), digest: None }),
                SourceOp::Git(g) => self
                    .digests
                    .of(source)
                    .unwrap_or_else(|| Dependency { uri: repository(g), digest: None }),
            };
            out.complete &= found.digest.is_some();
            out.dependencies.insert(found);
        }
        out
    }

    /// The parameters, and whether all of them are told.
    fn request(&self, parts: &Parts<'_>, max: bool) -> (Value, bool) {
        let valued = |name: &str| name.starts_with("build-arg:") || name.starts_with("label:");
        let args: Map<String, Value> = self
            .asked
            .args
            .iter()
            .filter(|(name, _)| max || !valued(name))
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        let mut whole = args.len() == self.asked.args.len();
        let (mut secrets, mut agents) = (BTreeSet::new(), BTreeSet::new());
        for v in &parts.vertices {
            let Op::Exec(e) = &v.op else { continue };
            for m in &e.mounts {
                match &m.kind {
                    MountKind::Secret(s) => drop(secrets.insert((s.id.clone(), !s.required))),
                    MountKind::Ssh(s) => drop(agents.insert((s.id.clone(), !s.required))),
                    _ => {}
                }
            }
            secrets.extend(e.secret_env.iter().map(|s| (s.id.clone(), !s.required)));
        }
        let mut out = json!({"frontend": "dockerfile.v0", "args": args});
        for (name, ids) in [("secrets", secrets), ("ssh", agents)] {
            if ids.is_empty() {
                continue;
            }
            if !max {
                whole = false;
                continue;
            }
            let one = |(id, optional): (String, bool)| match optional {
                true => json!({"id": id, "optional": true}),
                false => json!({"id": id}),
            };
            out[name] = ids.into_iter().map(one).collect::<Vec<_>>().into();
        }
        let mut locals = parts.locals.clone();
        if self.asked.context.is_none() {
            locals.insert("dockerfile");
        }
        if !locals.is_empty() {
            let one = |name: &str| json!({"name": name});
            out["locals"] = locals.into_iter().map(one).collect::<Vec<_>>().into();
        }
        (out, whole)
    }

    /// Where the Dockerfile is from, its path called `path`.
    fn config_source(&self, path: &str) -> Value {
        let mut out = match &self.asked.context {
            Some(c) => resource(c),
            None => json!({}),
        };
        if let Some(p) = &self.asked.path {
            out[path] = p.clone().into();
        }
        out
    }

    fn builder_id(&self) -> &str {
        self.wanted.builder_id.as_deref().unwrap_or(BUILDER)
    }

    fn v1(&self, told: Told) -> Value {
        let mut internal = json!({"builderPlatform": self.builder.to_string()});
        if let Some(config) = told.config {
            internal["buildConfig"] = config;
        }
        json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE_1,
                "externalParameters": {
                    "configSource": self.config_source("path"),
                    "request": told.request,
                },
                "internalParameters": internal,
                "resolvedDependencies": told.dependencies,
            },
            "runDetails": {
                "builder": {
                    "id": self.builder_id(),
                    "version": {"rgraph": env!("CARGO_PKG_VERSION")},
                },
                "metadata": {
                    "invocationId": self.asked.id,
                    "startedOn": self.asked.started,
                    "finishedOn": self.finished,
                    "buildkit_metadata": told.notes,
                    "buildkit_hermetic": told.hermetic,
                    "buildkit_completeness": {
                        "request": told.whole,
                        "resolvedDependencies": told.complete,
                    },
                    "buildkit_reproducible": self.wanted.reproducible,
                },
            },
        })
    }

    fn v02(&self, told: Told) -> Value {
        let mut out = json!({
            "builder": {"id": self.builder_id()},
            "buildType": BUILD_TYPE_02,
            "materials": told.dependencies,
            "invocation": {
                "configSource": self.config_source("entryPoint"),
                "parameters": told.request,
                "environment": {"platform": self.builder.to_string()},
            },
            "metadata": {
                "buildInvocationID": self.asked.id,
                "buildStartedOn": self.asked.started,
                "buildFinishedOn": self.finished,
                "completeness": {
                    "parameters": told.whole,
                    "environment": true,
                    "materials": told.complete,
                },
                "reproducible": self.wanted.reproducible,
                "https://mobyproject.org/buildkit@v1#metadata": told.notes,
                "https://mobyproject.org/buildkit@v1#hermetic": told.hermetic,
            },
        });
        if let Some(config) = told.config {
            out["buildConfig"] = config;
        }
        out
    }
}

fn resource(d: &Dependency) -> Value {
    match &d.digest {
        Some((algorithm, hex)) => json!({"uri": d.uri, "digest": {*algorithm: hex}}),
        None => json!({"uri": d.uri}),
    }
}

fn image(reference: &str, platform: Option<&Platform>) -> Dependency {
    let Ok(r) = reference.parse::<Reference>() else {
        return Dependency { uri: purl::purl("docker", "", "unknown", "", &[]), digest: None };
    };
    let uri = purl::image(&r, platform);
    Dependency { uri, digest: r.digest.map(|d| ("sha256", d.hex())) }
}

/// The folder a layout lies in is the caller's own business.
fn layout(reference: &str) -> Dependency {
    let digest = reference.rsplit_once('@').and_then(|(_, d)| d.strip_prefix("sha256:"));
    Dependency {
        uri: purl::purl("oci", "", "layout", "", &[]),
        digest: digest.map(|d| ("sha256", d.to_owned())),
    }
}
