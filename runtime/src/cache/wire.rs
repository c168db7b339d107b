//! How recipes and selectors are written down. Versioned; what does not read back is a miss.

use rgraph_ir::fields::{KeyFields, KeyHasher};
use rgraph_ir::op::{SelectedPath, Selector};
use rgraph_ir::{CacheKey, TreeDigest};
use rgraph_solver::key::{InputKey, KeyRecipe};
use serde::{Deserialize, Serialize};

/// Version of everything here.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Recipe {
    v: u32,
    fields: Vec<(String, String)>,
    op: TreeDigest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
    inputs: Vec<Input>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Input {
    Chain(CacheKey),
    Content(SelectorWire, TreeDigest),
    Ignored,
}

#[derive(Serialize, Deserialize)]
struct SelectorWire {
    paths: Vec<PathWire>,
    owner: bool,
    mode: bool,
}

#[derive(Serialize, Deserialize)]
struct PathWire {
    path: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    wildcard: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    follow: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    name: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
}

/// Writes a recipe.
pub(crate) fn recipe_to_bytes(r: &KeyRecipe) -> Vec<u8> {
    let inputs = r.inputs.iter().map(|i| match i {
        InputKey::Chain(k) => Input::Chain(*k),
        InputKey::Content(s, d) => Input::Content(selector_out(s), *d),
        InputKey::Ignored => Input::Ignored,
    });
    let wire = Recipe {
        v: VERSION,
        fields: r.fields.clone(),
        op: TreeDigest::from_bytes(r.op),
        pin: r.pin.clone(),
        inputs: inputs.collect(),
    };
    serde_json::to_vec(&wire).expect("strings and digests always serialise")
}

/// Reads a recipe; `None`: another version, or damaged.
pub(crate) fn recipe_from_bytes(bytes: &[u8]) -> Option<KeyRecipe> {
    let r: Recipe = serde_json::from_slice(bytes).ok()?;
    if r.v != VERSION {
        return None;
    }
    let inputs = r.inputs.into_iter().map(|i| match i {
        Input::Chain(k) => InputKey::Chain(k),
        Input::Content(s, d) => InputKey::Content(selector_in(s), d),
        Input::Ignored => InputKey::Ignored,
    });
    Some(KeyRecipe { fields: r.fields, op: *r.op.as_bytes(), pin: r.pin, inputs: inputs.collect() })
}

fn selector_out(s: &Selector) -> SelectorWire {
    let Selector { paths, owner, mode } = s;
    let paths = paths.iter().map(|p| {
        let SelectedPath { path, wildcard, follow, name, include, exclude } = p.clone();
        PathWire { path, wildcard, follow, name, include, exclude }
    });
    SelectorWire { paths: paths.collect(), owner: *owner, mode: *mode }
}

fn selector_in(s: SelectorWire) -> Selector {
    let paths = s.paths.into_iter().map(|p| {
        let PathWire { path, wildcard, follow, name, include, exclude } = p;
        SelectedPath { path, wildcard, follow, name, include, exclude }
    });
    Selector { paths: paths.collect(), owner: s.owner, mode: s.mode }
}

/// Names a selector.
pub(crate) fn selector_digest(sel: &Selector) -> [u8; 32] {
    let mut h = KeyHasher::new("selector");
    sel.visit(&mut h);
    h.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_reads_back_with_its_key() {
        let mut sel = Selector::path("/a b/*");
        sel.paths[0].exclude = vec!["*.o".into()];
        let r = KeyRecipe {
            fields: vec![("exec.args[0]".into(), "ö\n".into())],
            op: [7; 32],
            pin: Some("chain x".into()),
            inputs: vec![
                InputKey::Chain(CacheKey::of(b"k")),
                InputKey::Content(sel, TreeDigest::of(b"t")),
                InputKey::Ignored,
            ],
        };
        let back = recipe_from_bytes(&recipe_to_bytes(&r)).unwrap();
        assert_eq!(back, r);
        assert_eq!(back.key(), r.key());
        assert!(recipe_from_bytes(b"{}").is_none());
    }
}
