//! From the wire to the structs, for bytes of any origin.
//!
//! Bounds: the length of the whole ([`MAX_LLB`]) and the number of members ([`MAX_LLB_FIELDS`]),
//! counted before anything is built from them, because two bytes on the wire may stand for a struct
//! of hundreds in memory.

use std::collections::HashSet;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use rgraph_ir::limits::{MAX_LLB, MAX_LLB_FIELDS};

use crate::LlbDigest;
use crate::pb;

/// A definition that was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded {
    /// Every op but the terminal one, inputs first.
    pub ops: Vec<DecodedOp>,
    /// The result; `None`: the empty file system.
    pub root: Option<pb::Input>,
}

/// One op.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedOp {
    /// The digest of its bytes.
    pub digest: LlbDigest,
    /// The op; its kind is there.
    pub op: pb::Op,
    /// What was said about it.
    pub metadata: pb::OpMetadata,
}

/// Why bytes are not a definition.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Over the limit.
    #[error("LLB definition of {len} bytes is over the limit of {MAX_LLB}")]
    TooLarge {
        /// Bytes.
        len: usize,
    },
    /// Over the limit.
    #[error("LLB definition has more than {MAX_LLB_FIELDS} fields")]
    TooManyFields,
    /// Not protobuf, or not this message.
    #[error("cannot read LLB definition")]
    Definition(#[source] prost::DecodeError),
    /// Not protobuf, or not this message.
    #[error("cannot read LLB op {index}")]
    Op {
        /// Position in the definition.
        index: usize,
        /// What prost says.
        #[source]
        source: prost::DecodeError,
    },
    /// Neither a known kind nor the terminal op.
    #[error("LLB op {index} is of no supported kind (exec, source, file, merge, diff)")]
    Kind {
        /// Position in the definition.
        index: usize,
    },
    /// The last op is not a terminal one.
    #[error("LLB definition does not end in an op with one input and nothing else")]
    Terminal,
    /// Used before it is made, or never made.
    #[error("LLB op {index} uses `{digest}`, which does not stand before it")]
    Input {
        /// Position in the definition.
        index: usize,
        /// What it asks for, cut.
        digest: String,
    },
    /// A number that names no input and no earlier action.
    #[error("LLB op {index} names input {input}, which it does not have")]
    Index {
        /// Position in the definition.
        index: usize,
        /// The number.
        input: i64,
    },
}

/// Reads a serialised definition and checks that it is a graph: every input stands before its user,
/// every number names something.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    if bytes.len() > MAX_LLB {
        return Err(DecodeError::TooLarge { len: bytes.len() });
    }
    check_count(bytes)?;
    let mut def = pb::Definition::decode(bytes).map_err(DecodeError::Definition)?;
    let Some(terminal) = def.def.pop() else {
        return Ok(Decoded::default());
    };
    let mut out = Decoded::default();
    let mut known = HashSet::new();
    for (index, bytes) in def.def.iter().enumerate() {
        let op = read_op(index, bytes)?;
        if op.kind.is_none() {
            return Err(DecodeError::Kind { index });
        }
        check_inputs(index, &op, &known)?;
        let digest = LlbDigest::of(bytes);
        if known.insert(digest) {
            let metadata = def.metadata.remove(&digest.to_string()).unwrap_or_default();
            out.ops.push(DecodedOp { digest, op, metadata });
        }
    }
    let index = def.def.len();
    let op = read_op(index, &terminal)?;
    check_inputs(index, &op, &known)?;
    match (op.kind, <[pb::Input; 1]>::try_from(op.inputs)) {
        (None, Ok([root])) => out.root = Some(root),
        _ => return Err(DecodeError::Terminal),
    }
    Ok(out)
}

fn read_op(index: usize, bytes: &[u8]) -> Result<pb::Op, DecodeError> {
    pb::Op::decode(bytes).map_err(|source| DecodeError::Op { index, source })
}

fn check_inputs(index: usize, op: &pb::Op, known: &HashSet<LlbDigest>) -> Result<(), DecodeError> {
    for i in &op.inputs {
        if !LlbDigest::parse(&i.digest).is_some_and(|d| known.contains(&d)) {
            let digest = i.digest.chars().take(80).collect();
            return Err(DecodeError::Input { index, digest });
        }
        if i.index < 0 {
            return Err(DecodeError::Index { index, input: i.index });
        }
    }
    let inputs = op.inputs.len() as i64;
    let check = |input: i64, actions: usize| {
        if (pb::NO_INPUT..inputs + actions as i64).contains(&input) {
            Ok(())
        } else {
            Err(DecodeError::Index { index, input })
        }
    };
    match &op.kind {
        None | Some(pb::Kind::Source(_)) => Ok(()),
        Some(pb::Kind::Exec(e)) => e.mounts.iter().try_for_each(|m| check(m.input, 0)),
        Some(pb::Kind::Merge(m)) => m.inputs.iter().try_for_each(|i| check(i.input, 0)),
        Some(pb::Kind::Diff(d)) => {
            [&d.lower, &d.upper].into_iter().flatten().try_for_each(|i| check(i.input, 0))
        }
        Some(pb::Kind::File(f)) => f.actions.iter().enumerate().try_for_each(|(at, a)| {
            check(a.input, at)?;
            check(a.secondary_input, at)?;
            let owner = match &a.action {
                Some(pb::Action::Copy(a)) => a.owner.as_ref(),
                Some(pb::Action::Mkfile(a)) => a.owner.as_ref(),
                Some(pb::Action::Mkdir(a)) => a.owner.as_ref(),
                Some(pb::Action::Symlink(a)) => a.owner.as_ref(),
                Some(pb::Action::Rm(_)) | None => None,
            };
            let ids = owner.into_iter().flat_map(|o| [&o.user, &o.group]).flatten();
            ids.filter_map(|id| id.user.as_ref()).try_for_each(|user| match user {
                pb::User::ByName(n) => check(n.input, at),
                pb::User::ById(_) => Ok(()),
            })
        }),
    }
}

/// Counts the members that become structs: of the definition, of each op, of its kind, and of an
/// exec's process or a file action.
fn check_count(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut left = MAX_LLB_FIELDS;
    walk(bytes, &mut left, &mut |at, value, left| match at {
        1 => walk(value, left, &mut |at, value, left| match at {
            2 | 4 | 6 => walk(value, left, &mut |_, value, left| walk(value, left, &mut leaf)),
            1 | 3 => walk(value, left, &mut leaf),
            _ => Ok(()),
        }),
        2 => walk(value, left, &mut |_, value, left| walk(value, left, &mut leaf)),
        _ => Ok(()),
    })
}

fn leaf(_: u32, _: &[u8], _: &mut usize) -> Result<(), DecodeError> {
    Ok(())
}

type Visit<'v> = dyn FnMut(u32, &[u8], &mut usize) -> Result<(), DecodeError> + 'v;

/// Calls `visit` for every length-delimited field. Bytes that are no message (a text that stands
/// where some other op has a message) end the walk without an error: prost judges them later.
fn walk(mut buf: &[u8], left: &mut usize, visit: &mut Visit<'_>) -> Result<(), DecodeError> {
    while !buf.is_empty() {
        *left = left.checked_sub(1).ok_or(DecodeError::TooManyFields)?;
        let Ok((tag, wire)) = decode_key(&mut buf) else { return Ok(()) };
        if wire == WireType::LengthDelimited {
            let Ok(len) = decode_varint(&mut buf) else { return Ok(()) };
            let Some(value) = usize::try_from(len).ok().and_then(|len| buf.get(..len)) else {
                return Ok(());
            };
            visit(tag, value, left)?;
            buf.advance(value.len());
        } else if skip_field(wire, tag, &mut buf, DecodeContext::default()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
