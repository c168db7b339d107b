//! The name of an op in a definition.

use std::fmt;

use rgraph_ir::BlobDigest;

/// The sha256 of an op's bytes: what BuildKit calls the vertex digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LlbDigest(BlobDigest);

impl LlbDigest {
    /// Names `op`, the serialised bytes of one op.
    pub fn of(op: &[u8]) -> Self {
        Self(BlobDigest::of(op))
    }

    /// Reads `sha256:` and 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for LlbDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for LlbDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LlbDigest({})", self.0.short())
    }
}
