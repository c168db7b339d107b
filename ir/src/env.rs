//! Ordered environments that share structure.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::fields::{FieldVisitor, KeyFields, KeyHasher, Value};

/// An ordered list of variables, each key once; setting a key again moves it to the end, as the
/// environment of a BuildKit exec does. Cloning is cheap and every clone shares its past, so that
/// thousands of steps after thousands of `ENV` lines cost a pointer each.
///
/// Equal lists have equal digests, however they came about.
#[derive(Clone, Default)]
pub struct Env(Option<Arc<Node>>);

/// Names a list by identity: clones share it, an equal list made elsewhere has another one. Good for
/// as long as the list lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnvId(usize);

struct Node {
    parent: Env,
    key: Arc<str>,
    value: Arc<str>,
    len: usize,
    digest: [u8; 32],
}

impl Env {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// This environment with `key` set to `value`, at the end. O(1) for a key that is new to a
    /// caller that says so with [`Self::push_new`]; otherwise O(len).
    pub fn with(&self, key: &str, value: &str) -> Self {
        if self.get(key).is_none() {
            return self.push_new(key.into(), value.into());
        }
        let mut out = Self::new();
        for (k, v) in self.entries() {
            if &**k != key {
                out = out.push_new(k.clone(), v.clone());
            }
        }
        out.push_new(key.into(), value.into())
    }

    /// This environment with a key at the end that it does not hold yet.
    pub fn push_new(&self, key: Arc<str>, value: Arc<str>) -> Self {
        let mut h = KeyHasher::new("env");
        let v: &mut dyn FieldVisitor = &mut h;
        v.value("parent", self.0.as_ref().map_or(Value::None, |n| Value::Digest(&n.digest)));
        v.str("key", &key);
        v.str("value", &value);
        let digest = h.finish();
        Self(Some(Arc::new(Node { len: self.len() + 1, parent: self.clone(), key, value, digest })))
    }

    /// The list without its last variable; `None` of an empty list.
    pub fn parent(&self) -> Option<&Self> {
        self.0.as_deref().map(|n| &n.parent)
    }

    /// The last variable.
    pub fn last(&self) -> Option<(&str, &str)> {
        self.0.as_deref().map(|n| (&*n.key, &*n.value))
    }

    /// Tells shared lists from others without looking at them; `None` of an empty list.
    pub fn id(&self) -> Option<EnvId> {
        self.0.as_ref().map(|n| EnvId(Arc::as_ptr(n) as usize))
    }

    /// How many variables.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |n| n.len)
    }

    /// True without variables.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of `key`. O(len).
    pub fn get(&self, key: &str) -> Option<&str> {
        self.newest_first().find(|n| &*n.key == key).map(|n| &*n.value)
    }

    fn newest_first(&self) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.0.as_deref(), |n| n.parent.0.as_deref())
    }

    /// Of each variable, the last one first: how many there are up to it, what names the list up to
    /// it, and its key.
    pub(crate) fn back(&self) -> impl Iterator<Item = (usize, [u8; 32], &Arc<str>)> {
        self.newest_first().map(|n| (n.len, n.digest, &n.key))
    }

    fn entries(&self) -> Vec<(&Arc<str>, &Arc<str>)> {
        let mut all: Vec<_> = self.newest_first().map(|n| (&n.key, &n.value)).collect();
        all.reverse();
        all
    }

    /// Pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().into_iter().map(|(k, v)| (&**k, &**v))
    }

    /// `KEY=VALUE` strings in order.
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(|(k, v)| format!("{k}={v}")).collect()
    }

    /// Names the list by content.
    pub fn digest(&self) -> [u8; 32] {
        self.0.as_ref().map_or([0; 32], |n| n.digest)
    }
}

impl Drop for Node {
    /// Long chains are taken apart in a loop: the derived drop would recurse once per variable.
    fn drop(&mut self) {
        let mut next = self.parent.0.take();
        while let Some(node) = next {
            match Arc::try_unwrap(node) {
                Ok(mut n) => next = n.parent.0.take(),
                Err(_) => break,
            }
        }
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut seen = HashSet::new();
        pairs.into_iter().fold(Self::new(), |env, (k, v)| {
            let (k, v) = (k.as_ref(), v.as_ref());
            if seen.insert(k.to_owned()) {
                env.push_new(k.into(), v.into())
            } else {
                env.with(k, v)
            }
        })
    }
}

impl PartialEq for Env {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Env {}

impl Hash for Env {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl KeyFields for Env {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        if v.prefers_digests() {
            v.value("digest", Value::Digest(&self.digest()));
        } else {
            for (key, value) in self.iter() {
                v.str(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_again_moves_to_the_end_and_history_does_not_show() {
        let a = Env::new().with("A", "1").with("B", "2").with("A", "3");
        assert_eq!(a.to_strings(), ["B=2", "A=3"]);
        let b = Env::new().with("B", "2").with("A", "3");
        assert_eq!(a, b);
        assert_ne!(a, Env::new().with("A", "3").with("B", "2"));
        assert_eq!(a.get("A"), Some("3"));
        assert_eq!(a.get("C"), None);
        assert_eq!(Env::from_iter([("A", "1"), ("B", "2"), ("A", "3")]), a);
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let mut e = Env::new();
        for i in 0..200_000 {
            e = e.push_new(format!("K{i}").into(), "v".into());
        }
        assert_eq!(e.len(), 200_000);
    }
}
