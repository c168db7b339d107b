//! Cache keys and their parts.

use rgraph_ir::fields::{FieldList, FieldVisitor, KeyFields, KeyHasher, Value};
use rgraph_ir::op::Selector;
use rgraph_ir::{CacheKey, Op, Platform, TreeDigest};

/// How one input entered a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKey {
    /// By the key of what made it.
    Chain(CacheKey),
    /// By the digest of what is looked at.
    Content(Selector, TreeDigest),
    /// Not at all.
    Ignored,
}

/// The parts a key was made of. The key is a function of them, so that a comparison of two recipes
/// explains a difference of two keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecipe {
    /// The op's description as `path = value` pairs ([`rgraph_ir::fields::FieldList`]).
    pub fields: Vec<(String, String)>,
    /// Digest of the op's description and platform, or of the pin alone for a pinned source.
    pub op: [u8; 32],
    /// What a source meant.
    pub pin: Option<String>,
    /// The inputs in order.
    pub inputs: Vec<InputKey>,
}

impl KeyRecipe {
    /// The key.
    pub fn key(&self) -> CacheKey {
        let mut h = KeyHasher::new("key");
        let v: &mut dyn FieldVisitor = &mut h;
        v.value("op", Value::Digest(&self.op));
        v.open("inputs", self.inputs.len());
        for i in &self.inputs {
            match i {
                InputKey::Chain(k) => v.value("chain", Value::Digest(k.as_bytes())),
                InputKey::Content(sel, d) => {
                    v.one("selector", sel);
                    v.value("content", Value::Digest(d.as_bytes()));
                }
                InputKey::Ignored => v.value("ignored", Value::None),
            }
        }
        v.close();
        CacheKey::from_bytes(h.finish())
    }
}

/// Digest of an op that is keyed by its description, and of its platform when it has one.
pub fn op_digest(op: &Op, platform: Option<&Platform>) -> [u8; 32] {
    let mut h = KeyHasher::new("op");
    let v: &mut dyn FieldVisitor = &mut h;
    v.one("op", op);
    if let Some(p) = platform {
        v.one("platform", p);
    }
    h.finish()
}

/// Digest of a pinned source: its kind and pin, whatever it is called.
pub fn pin_digest(kind: &str, pin: &str) -> [u8; 32] {
    let mut h = KeyHasher::new("op");
    let v: &mut dyn FieldVisitor = &mut h;
    v.str("source", kind);
    v.str("pin", pin);
    h.finish()
}

/// What [`KeyRecipe::fields`] holds for an op: its leaves and those of its platform.
pub fn fields(op: &Op, platform: Option<&Platform>) -> Vec<(String, String)> {
    let mut all = FieldList::of("", op);
    if let Some(p) = platform {
        all.extend(FieldList::of("platform", p));
    }
    all
}

/// The key of one output of the vertex that `key` names. The main output has the vertex's own.
pub fn output_key(key: CacheKey, output: u32) -> CacheKey {
    if output == 0 {
        return key;
    }
    let mut h = KeyHasher::new("output");
    let v: &mut dyn FieldVisitor = &mut h;
    v.value("key", Value::Digest(key.as_bytes()));
    v.int("output", output);
    CacheKey::from_bytes(h.finish())
}

/// A place in a Dockerfile across builds: where "the last time" is looked up. Never part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot(pub String);

impl KeyFields for Slot {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        v.str("slot", &self.0);
    }
}
