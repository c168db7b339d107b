//! From the graph to the wire.
//!
//! Walks the vertices below one edge, inputs first, without recursion (a graph may be a chain of
//! any length). Each op is serialised once, named by its bytes, and written straight into the
//! definition.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use rgraph_ir::op::SourceOp;
use rgraph_ir::{Edge, Graph, InputIndex, Op, Platform, Vertex, VertexId, VertexMeta};

use crate::LlbDigest;
use crate::pb;

mod exec;
mod file;
mod source;

/// A serialised definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `pb.Definition`; empty for the empty file system.
    pub bytes: Vec<u8>,
    /// Which vertex an op came from. Of vertices with equal ops, the first that was met.
    pub ids: BTreeMap<LlbDigest, VertexId>,
}

/// Serialises what `root` needs, and nothing else. `None` gives the empty definition (scratch).
///
/// # Panics
/// When an op names an input that its vertex does not have; [`rgraph_ir::verify`] finds such graphs.
pub fn encode(graph: &Graph, root: Option<Edge>) -> Definition {
    let mut enc = Encoder {
        names: HashMap::new(),
        bytes: Vec::new(),
        ids: BTreeMap::new(),
        metadata: BTreeMap::new(),
    };
    let Some(root) = root else {
        return Definition { bytes: enc.bytes, ids: enc.ids };
    };
    for id in inputs_first(graph, root.vertex) {
        enc.add(id, graph.vertex(id));
    }
    let terminal = pb::Op { inputs: vec![enc.input(root)], ..pb::Op::default() }.to_bytes();
    enc.write(&terminal);
    let rest = pb::Definition { def: Vec::new(), metadata: enc.metadata };
    rest.encode_raw(&mut enc.bytes);
    Definition { bytes: enc.bytes, ids: enc.ids }
}

/// The vertices below and with `root`, each after its inputs.
fn inputs_first(graph: &Graph, root: VertexId) -> Vec<VertexId> {
    let mut order = Vec::new();
    let mut seen = vec![false; graph.len()];
    let mut stack = vec![(root, 0usize)];
    seen[root.at()] = true;
    while let Some((id, next)) = stack.last_mut() {
        match graph.vertex(*id).inputs.get(*next) {
            Some(edge) => {
                *next += 1;
                if !std::mem::replace(&mut seen[edge.vertex.at()], true) {
                    stack.push((edge.vertex, 0));
                }
            }
            None => {
                order.push(*id);
                stack.pop();
            }
        }
    }
    order
}

struct Encoder {
    names: HashMap<VertexId, LlbDigest>,
    bytes: Vec<u8>,
    ids: BTreeMap<LlbDigest, VertexId>,
    metadata: BTreeMap<String, pb::OpMetadata>,
}

impl Encoder {
    fn add(&mut self, id: VertexId, v: &Vertex) {
        let mut inputs = Inputs { edges: &v.inputs, list: Vec::new(), enc: self };
        let kind = match &v.op {
            Op::Source(s) => pb::Kind::Source(source::source(s)),
            Op::Exec(e) => pb::Kind::Exec(exec::exec(e, &mut inputs)),
            Op::File(f) => pb::Kind::File(file::file(f, &mut inputs)),
            Op::Merge(_) => pb::Kind::Merge(pb::MergeOp {
                inputs: (0..v.inputs.len()).map(|i| inputs.append(i)).collect(),
            }),
            Op::Diff(_) => {
                let (lower, upper) = (inputs.append(0), inputs.append(1));
                pb::Kind::Diff(pb::DiffOp { lower: Some(lower), upper: Some(upper) })
            }
        };
        let op = pb::Op {
            inputs: inputs.list,
            platform: v.platform.as_deref().filter(|_| has_platform(&v.op)).map(platform),
            constraints: Some(pb::WorkerConstraints::default()),
            kind: Some(kind),
        };
        let bytes = op.to_bytes();
        let name = LlbDigest::of(&bytes);
        self.names.insert(id, name);
        if let std::collections::btree_map::Entry::Vacant(slot) = self.ids.entry(name) {
            slot.insert(id);
            self.write(&bytes);
        }
        let meta = self.metadata.entry(name.to_string()).or_default();
        let ignore_cache = meta.ignore_cache | v.meta.ignore_cache;
        if *meta == pb::OpMetadata::default() {
            *meta = metadata(&v.meta);
        }
        meta.ignore_cache = ignore_cache;
    }

    /// Appends one element of `def`.
    fn write(&mut self, op: &[u8]) {
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut self.bytes);
        prost::encoding::encode_varint(op.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(op);
    }

    fn input(&self, edge: Edge) -> pb::Input {
        pb::Input { digest: self.names[&edge.vertex].to_string(), index: i64::from(edge.output) }
    }
}

/// Collects the inputs of one op in the order in which they are first named.
struct Inputs<'a> {
    edges: &'a [Edge],
    list: Vec<pb::Input>,
    enc: &'a Encoder,
}

impl Inputs<'_> {
    /// The position of an input in the op's list, equal ones shared.
    fn at(&mut self, index: InputIndex) -> i64 {
        let input = self.enc.input(self.edges[index.at()]);
        let found = self.list.iter().position(|i| *i == input);
        let at = found.unwrap_or_else(|| {
            self.list.push(input);
            self.list.len() - 1
        });
        at as i64
    }

    fn optional(&mut self, index: Option<InputIndex>) -> i64 {
        index.map_or(pb::NO_INPUT, |i| self.at(i))
    }

    /// Merges and diffs repeat equal inputs.
    fn append(&mut self, index: usize) -> pb::OneInput {
        self.list.push(self.enc.input(self.edges[index]));
        pb::OneInput { input: self.list.len() as i64 - 1 }
    }
}

/// Only these ops carry a platform; on the others BuildKit leaves it out.
fn has_platform(op: &Op) -> bool {
    matches!(op, Op::Exec(_) | Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)))
}

fn platform(p: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: p.architecture.clone(),
        os: p.os.clone(),
        variant: p.variant.clone(),
        os_version: p.os_version.clone(),
        os_features: Vec::new(),
    }
}

fn metadata(meta: &VertexMeta) -> pb::OpMetadata {
    let mut description = BTreeMap::new();
    if !meta.name.is_empty() {
        description.insert("llb.customname".to_owned(), meta.name.clone());
    }
    if let Some(command) = &meta.command {
        description.insert("com.docker.dockerfile.v1.command".to_owned(), command.to_string());
    }
    pb::OpMetadata {
        ignore_cache: meta.ignore_cache,
        description,
        caps: BTreeMap::new(),
        progress_group: meta.progress_group.as_ref().map(|name| pb::ProgressGroup {
            id: name.to_string(),
            name: name.to_string(),
            weak: false,
        }),
        linux_resources: meta.resources.as_ref().map(|r| pb::LinuxResources {
            memory: r.memory,
            memory_swap: r.memory_swap,
            cpu_shares: r.cpu_shares.max(0) as u64,
            cpu_period: r.cpu_period.max(0) as u64,
            cpu_quota: r.cpu_quota,
            cpuset_cpus: r.cpuset_cpus.clone(),
            cpuset_mems: r.cpuset_mems.clone(),
        }),
    }
}
