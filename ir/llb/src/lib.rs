//! BuildKit's LLB: the wire form of the graph.
//!
//! Purpose: [`encode`] turns a [`rgraph_ir::Graph`] into a serialised `pb.Definition`, the bytes
//! `buildctl build` reads; [`decode`] reads one, from anywhere, into the structs of [`pb`].
//!
//! Place in the flow: after lowering, beside the solver. Nothing of rgraph's own cache depends on
//! it.
//!
//! Invariants:
//! - An op is named by the sha256 of its bytes, so bytes must be those that BuildKit's client writes:
//!   plain fields by number, then the oneof; maps sorted by key; an empty `constraints` message on
//!   every op but the terminal one. [`pb::Op::to_bytes`] is the only place that writes an op.
//! - Inputs stand before their users; equal bytes stand once; the terminal op is last.
//!
//! Source of the format: `solver/pb/ops.proto` and `client/llb` of moby/buildkit.

pub mod pb;

mod decode;
mod encode;
mod name;

pub use decode::{DecodeError, Decoded, DecodedOp, decode};
pub use encode::{Definition, encode};
pub use name::LlbDigest;

#[cfg(test)]
mod tests;
