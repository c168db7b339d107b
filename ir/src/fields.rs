//! One description of an op, two readers: the hash that becomes a cache key, and the list that
//! explains later why the key changed. Both walk the same [`KeyFields::visit`], so they cannot
//! drift apart.
//!
//! The encoding is injective: every value is tagged and length-prefixed, every struct is opened
//! and closed. [`KEY_VERSION`] enters every key; change it whenever an encoding changes.

use std::fmt::Write as _;

/// Enters every key. Any change to what `visit` emits for an op must change it.
pub const KEY_VERSION: u32 = 1;

/// One leaf of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// UTF-8 text.
    Str(&'a str),
    /// Raw bytes, such as the body of a heredoc.
    Bytes(&'a [u8]),
    /// Any number.
    Int(i64),
    /// A switch.
    Bool(bool),
    /// An absent optional.
    None,
    /// A digest standing for something described elsewhere, such as an environment.
    Digest(&'a [u8; 32]),
}

/// Receives a description, field by field, in a fixed order.
pub trait FieldVisitor {
    /// A leaf.
    fn value(&mut self, name: &str, value: Value<'_>);
    /// Starts a struct or a list of `len` members (structs give 0).
    fn open(&mut self, name: &str, len: usize);
    /// Ends what the last unmatched `open` started.
    fn close(&mut self);
    /// True when the reader wants large shared parts (an environment) by digest instead of in full.
    fn prefers_digests(&self) -> bool {
        false
    }
}

/// Something whose description takes part in a key.
pub trait KeyFields {
    /// Emits every field. Implementations destructure `self` without `..`, so that a new field does
    /// not compile until it is described or deliberately left out.
    fn visit(&self, v: &mut dyn FieldVisitor);
}

/// Conveniences for writing `visit`.
impl dyn FieldVisitor + '_ {
    /// A text.
    pub fn str(&mut self, name: &str, s: &str) {
        self.value(name, Value::Str(s));
    }
    /// A number.
    pub fn int(&mut self, name: &str, n: impl Into<i64>) {
        self.value(name, Value::Int(n.into()));
    }
    /// A switch.
    pub fn bool(&mut self, name: &str, b: bool) {
        self.value(name, Value::Bool(b));
    }
    /// An optional text.
    pub fn opt_str(&mut self, name: &str, s: Option<&str>) {
        self.value(name, s.map_or(Value::None, Value::Str));
    }
    /// An optional number.
    pub fn opt_int(&mut self, name: &str, n: Option<impl Into<i64>>) {
        self.value(name, n.map_or(Value::None, |n| Value::Int(n.into())));
    }
    /// A list of texts.
    pub fn strs(&mut self, name: &str, list: &[String]) {
        self.open(name, list.len());
        for s in list {
            self.value("", Value::Str(s));
        }
        self.close();
    }
    /// A list of described things.
    pub fn list<T: KeyFields>(&mut self, name: &str, list: &[T]) {
        self.open(name, list.len());
        for item in list {
            self.one("", item);
        }
        self.close();
    }
    /// One described thing.
    pub fn one(&mut self, name: &str, item: &(impl KeyFields + ?Sized)) {
        self.open(name, 0);
        item.visit(self);
        self.close();
    }
}

/// Hashes a description with blake3. Descriptions are many short pieces, so they are gathered before
/// they are hashed.
pub struct KeyHasher {
    hash: blake3::Hasher,
    gathered: Vec<u8>,
}

/// How much is gathered, bytes.
const GATHER: usize = 1024;

impl KeyHasher {
    /// A hasher in `domain` ("op", "key", ...): equal descriptions in two domains differ.
    pub fn new(domain: &str) -> Self {
        let mut this = Self { hash: blake3::Hasher::new(), gathered: Vec::with_capacity(GATHER) };
        this.raw(b"rgraph");
        this.raw(&KEY_VERSION.to_le_bytes());
        this.bytes(b'd', domain.as_bytes());
        this
    }

    fn raw(&mut self, b: &[u8]) {
        if self.gathered.len() + b.len() > GATHER {
            self.hash.update(&self.gathered);
            self.gathered.clear();
        }
        if b.len() > GATHER {
            self.hash.update(b);
        } else {
            self.gathered.extend_from_slice(b);
        }
    }

    fn bytes(&mut self, tag: u8, b: &[u8]) {
        self.raw(&[tag]);
        self.raw(&(b.len() as u64).to_le_bytes());
        self.raw(b);
    }

    /// The 32 bytes.
    pub fn finish(mut self) -> [u8; 32] {
        self.hash.update(&self.gathered);
        *self.hash.finalize().as_bytes()
    }
}

impl FieldVisitor for KeyHasher {
    fn value(&mut self, name: &str, value: Value<'_>) {
        self.bytes(b'n', name.as_bytes());
        match value {
            Value::Str(s) => self.bytes(b's', s.as_bytes()),
            Value::Bytes(b) => self.bytes(b'b', b),
            Value::Int(n) => self.bytes(b'i', &n.to_le_bytes()),
            Value::Bool(b) => self.bytes(b't', &[u8::from(b)]),
            Value::None => self.bytes(b'0', b""),
            Value::Digest(d) => self.bytes(b'h', d),
        }
    }
    fn open(&mut self, name: &str, len: usize) {
        self.bytes(b'(', name.as_bytes());
        self.raw(&(len as u64).to_le_bytes());
    }
    fn close(&mut self) {
        self.raw(b")");
    }
    fn prefers_digests(&self) -> bool {
        true
    }
}

/// Lists a description as `path = value` pairs, in order, for people and for comparison.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FieldList {
    /// Pairs such as (`exec.args[2]`, `make`); an absent optional gives no pair.
    pub fields: Vec<(String, String)>,
    path: Vec<(String, Option<usize>)>,
}

impl FieldList {
    /// The description of `item` below `name`.
    pub fn of(name: &str, item: &(impl KeyFields + ?Sized)) -> Vec<(String, String)> {
        let mut list = Self::default();
        let v: &mut dyn FieldVisitor = &mut list;
        v.one(name, item);
        list.fields
    }

    fn here(&mut self, name: &str) -> String {
        let mut out = String::new();
        for (part, _) in &self.path {
            if !part.is_empty() && !part.starts_with('[') && !out.is_empty() {
                out.push('.');
            }
            out.push_str(part);
        }
        let leaf = self.member(name);
        if !leaf.is_empty() && !leaf.starts_with('[') && !out.is_empty() {
            out.push('.');
        }
        out.push_str(&leaf);
        out
    }

    /// Unnamed members of a list are named by position.
    fn member(&mut self, name: &str) -> String {
        if !name.is_empty() {
            return name.to_owned();
        }
        match self.path.last_mut() {
            Some((_, Some(n))) => {
                *n += 1;
                format!("[{}]", *n - 1)
            }
            _ => String::new(),
        }
    }
}

impl FieldVisitor for FieldList {
    fn value(&mut self, name: &str, value: Value<'_>) {
        let path = self.here(name);
        let text = match value {
            Value::None => return,
            Value::Str(s) => s.to_owned(),
            Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
            Value::Int(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Digest(d) => d.iter().fold(String::with_capacity(64), |mut s, b| {
                let _ = write!(s, "{b:02x}");
                s
            }),
        };
        self.fields.push((path, text));
    }
    fn open(&mut self, name: &str, _len: usize) {
        let part = self.member(name);
        self.path.push((part, Some(0)));
    }
    fn close(&mut self) {
        self.path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct T(Vec<String>, Option<i64>);
    impl KeyFields for T {
        fn visit(&self, v: &mut dyn FieldVisitor) {
            let Self(list, n) = self;
            v.strs("list", list);
            v.opt_int("n", *n);
        }
    }

    fn key(t: &T) -> [u8; 32] {
        let mut h = KeyHasher::new("test");
        t.visit(&mut h);
        h.finish()
    }

    #[test]
    fn no_two_encodings_collide() {
        let s = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let all = [
            T(s(&[]), None),
            T(s(&[]), Some(0)),
            T(s(&["a"]), None),
            T(s(&["a", ""]), None),
            T(s(&["", "a"]), None),
            T(s(&["ab"]), None),
            T(s(&["a", "b"]), None),
            T(s(&["a", "b"]), Some(1)),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(key(a), key(b));
            }
        }
    }

    #[test]
    fn list_names_every_leaf() {
        let t = T(vec!["x".into(), "y".into()], Some(7));
        let got = FieldList::of("t", &t);
        let got: Vec<_> = got.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(got, ["t.list[0]=x", "t.list[1]=y", "t.n=7"]);
    }
}
