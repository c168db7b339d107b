//! One description of an op, two readers: the hash that becomes a cache key, and the list that
//! explains later why the key changed. Both walk the same [`KeyFields::visit`], so they cannot
//! drift apart.
//!
//! The encoding is injective: every value is tagged and prefixed by its length (as a LEB128 number),
//! every struct is opened and closed. [`KEY_VERSION`] enters every key; change it whenever an encoding changes.

use std::borrow::Cow;

use crate::digest::to_hex;

/// Enters every key. Any change to what `visit` emits for an op must change it.
pub const KEY_VERSION: u32 = 2;

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
/// they are hashed; most fit into one go.
pub struct KeyHasher {
    gathered: [u8; GATHER],
    /// How much of it is filled.
    len: usize,
    /// What came before `gathered`, in a description longer than [`GATHER`].
    before: Option<Box<blake3::Hasher>>,
}

/// How much is gathered, bytes: a chunk of blake3.
const GATHER: usize = 1024;

impl KeyHasher {
    /// A hasher in `domain` ("op", "key", ...): equal descriptions in two domains differ.
    pub fn new(domain: &str) -> Self {
        let mut this = Self { gathered: [0; GATHER], len: 0, before: None };
        this.raw(b"rgraph");
        this.raw(&KEY_VERSION.to_le_bytes());
        this.bytes(b'd', domain.as_bytes());
        this
    }

    fn raw(&mut self, b: &[u8]) {
        if self.len + b.len() > GATHER {
            let hash = self.spill();
            if b.len() > GATHER {
                hash.update(b);
                return;
            }
        }
        self.gathered[self.len..self.len + b.len()].copy_from_slice(b);
        self.len += b.len();
    }

    fn byte(&mut self, b: u8) {
        self.gathered[self.len] = b;
        self.len += 1;
    }

    fn spill(&mut self) -> &mut blake3::Hasher {
        let hash = self.before.get_or_insert_default();
        hash.update(&self.gathered[..self.len]);
        self.len = 0;
        hash
    }

    /// `tag` and a length. Byte by byte: most lengths are one, and a copy costs a call.
    fn head(&mut self, tag: u8, len: usize) {
        if self.len + 11 > GATHER {
            self.spill();
        }
        self.byte(tag);
        let mut left = len as u64;
        while left >= 0x80 {
            self.byte(left as u8 | 0x80);
            left >>= 7;
        }
        self.byte(left as u8);
    }

    fn bytes(&mut self, tag: u8, b: &[u8]) {
        self.head(tag, b.len());
        self.raw(b);
    }

    /// The 32 bytes.
    pub fn finish(self) -> [u8; 32] {
        let rest = &self.gathered[..self.len];
        let hash = match self.before {
            None => blake3::hash(rest),
            Some(mut before) => before.update(rest).finalize(),
        };
        *hash.as_bytes()
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
        self.head(b'#', len);
    }
    fn close(&mut self) {
        self.raw(b")");
    }
    fn prefers_digests(&self) -> bool {
        true
    }
}

/// The place of a field in a description, such as `exec.args[2]`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FieldPath {
    text: String,
    /// Of every struct or list that is open: the length of `text` before it, and how many unnamed
    /// members it had so far.
    open: Vec<(usize, usize)>,
}

impl FieldPath {
    /// Goes into a struct or list.
    pub fn enter(&mut self, name: &str) {
        let before = self.text.len();
        self.push(name);
        self.open.push((before, 0));
    }

    /// Leaves what was entered last.
    pub fn leave(&mut self) {
        if let Some((before, _)) = self.open.pop() {
            self.text.truncate(before);
        }
    }

    /// Appends the path of a member to a text.
    #[inline]
    pub fn write(&mut self, name: &str, out: &mut String) {
        out.push_str(&self.text);
        if !name.is_empty() {
            if !self.text.is_empty() {
                out.push('.');
            }
            out.push_str(name);
        } else if let Some((_, n)) = self.open.last_mut() {
            push_position(out, n);
        }
    }

    /// Passes a member over.
    pub fn skip(&mut self, name: &str) {
        if name.is_empty()
            && let Some((_, n)) = self.open.last_mut()
        {
            *n += 1;
        }
    }

    /// Unnamed members of a list are named by position.
    fn push(&mut self, name: &str) {
        if !name.is_empty() {
            if !self.text.is_empty() {
                self.text.push('.');
            }
            self.text.push_str(name);
        } else if let Some((_, n)) = self.open.last_mut() {
            push_position(&mut self.text, n);
        }
    }
}

fn push_position(out: &mut String, n: &mut usize) {
    out.push('[');
    push_number(out, *n as u64);
    out.push(']');
    *n += 1;
}

/// Appends the decimal digits of a number. Formatting by `fmt` costs more than all else that is done
/// with most of them.
pub fn push_number(out: &mut String, n: u64) {
    out.push_str(itoa::Buffer::new().format(n));
}

impl Value<'_> {
    /// The value for people; an absent optional has none.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::None => return None,
            Self::Str(s) => Cow::Borrowed(*s),
            Self::Bytes(b) => String::from_utf8_lossy(b),
            Self::Int(n) => Cow::Owned(n.to_string()),
            Self::Bool(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            Self::Digest(d) => Cow::Owned(to_hex(d)),
        })
    }
}

/// Lists a description as `path = value` pairs, in order, for people and for comparison.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FieldList {
    /// Pairs such as (`exec.args[2]`, `make`); an absent optional gives no pair.
    pub fields: Vec<(String, String)>,
    path: FieldPath,
}

impl FieldList {
    /// The description of `item` below `name`.
    pub fn of(name: &str, item: &(impl KeyFields + ?Sized)) -> Vec<(String, String)> {
        let mut list = Self::default();
        let v: &mut dyn FieldVisitor = &mut list;
        v.one(name, item);
        list.fields
    }
}

impl FieldVisitor for FieldList {
    fn value(&mut self, name: &str, value: Value<'_>) {
        let mut path = String::new();
        self.path.write(name, &mut path);
        self.fields.extend(value.text().map(|text| (path, text.into_owned())));
    }
    fn open(&mut self, name: &str, _len: usize) {
        self.path.enter(name);
    }
    fn close(&mut self) {
        self.path.leave();
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
