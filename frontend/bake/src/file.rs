//! One file, parsed: HCL as it is, JSON in the same form.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use hcl_edit::Span as _;
use hcl_edit::expr::{Array, Expression, Object, ObjectKey};
use hcl_edit::structure::{Body, Structure};
use hcl_edit::template::{StringTemplate, Template};
use rgraph_ir::FileId;
use rgraph_ir::limits::MAX_BAKE_TARGETS;

use crate::budget::{Error, Result};
use crate::resolve::{folder_of, is_folder};

/// An attribute: its name stands in front of it.
#[derive(Debug)]
pub struct Attr {
    pub file: FileId,
    pub expr: Expression,
    pub span: Option<Range<usize>>,
}

/// A block with its labels.
#[derive(Debug)]
pub struct Block {
    pub kind: String,
    pub labels: Vec<String>,
    pub file: FileId,
    pub span: Option<Range<usize>>,
    pub attrs: BTreeMap<String, Rc<Attr>>,
    pub blocks: Vec<Block>,
    /// The folder of its file; empty: the working folder.
    pub base: String,
}

/// What stands at the top of a file.
#[derive(Debug, Default)]
pub struct Parsed {
    pub attrs: Vec<(String, Rc<Attr>)>,
    pub blocks: Vec<Block>,
    /// Blocks that mean nothing here.
    pub odd: Vec<Error>,
}

/// The kinds of blocks at the top.
const KINDS: [&str; 4] = ["target", "group", "variable", "function"];

/// Parses a file that is no compose file.
pub fn parse(name: &str, text: &str, file: FileId) -> Result<Parsed> {
    let parsed = match name.ends_with(".json") {
        true => json(text, file),
        false => match hcl(text, file) {
            Err(e) if !name.ends_with(".hcl") => json(text, file).map_err(|_| e),
            done => done,
        },
    };
    let mut parsed = parsed?;
    let base = if is_folder(name) { folder_of(name) } else { String::new() };
    for block in &mut parsed.blocks {
        block.base.clone_from(&base);
    }
    Ok(parsed)
}

fn hcl(text: &str, file: FileId) -> Result<Parsed> {
    let body = hcl_edit::parser::parse_body(text).map_err(|e| {
        let at = e.location().offset();
        Error::new(format!("this is no HCL: {}", e.message())).at(file, Some(at..at + 1))
    })?;
    let (attrs, blocks) = contents(body, file)?;
    let (blocks, odd): (Vec<Block>, Vec<Block>) =
        blocks.into_iter().partition(|b| KINDS.contains(&b.kind.as_str()));
    let odd = odd.into_iter().map(|b| {
        let e = Error::new(format!("unknown block `{}`", b.kind)).at(file, b.span);
        *match rgraph_ir::near::nearest(&b.kind, KINDS) {
            Some(near) => e.help(format!("did you mean `{near}`?")),
            None => e.help(format!("known: {}", KINDS.join(", "))),
        }
    });
    Ok(Parsed { attrs, blocks, odd: odd.collect() })
}

type Contents = (Vec<(String, Rc<Attr>)>, Vec<Block>);

fn contents(body: Body, file: FileId) -> Result<Contents> {
    let (mut attrs, mut blocks) = (Vec::new(), Vec::new());
    for structure in body {
        match structure {
            Structure::Attribute(a) => {
                let span = a.span();
                attrs.push((a.key.to_string(), Rc::new(Attr { file, expr: a.value, span })));
            }
            Structure::Block(b) => {
                // Where it begins is enough.
                let span = b.ident.span();
                let (attrs, inner) = contents(b.body, file)?;
                blocks.push(Block {
                    kind: b.ident.to_string(),
                    labels: b.labels.iter().map(|l| l.as_str().to_owned()).collect(),
                    file,
                    span,
                    attrs: attrs.into_iter().collect(),
                    blocks: inner,
                    base: String::new(),
                });
            }
        }
    }
    Ok((attrs, blocks))
}

/// Attributes of JSON whose strings are expressions, not templates.
const EXPRESSIONS: [&str; 3] = ["type", "params", "variadic_params"];

fn json(text: &str, file: FileId) -> Result<Parsed> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| {
        let line = text.split_inclusive('\n').take(e.line().saturating_sub(1));
        let at = line.map(str::len).sum::<usize>() + e.column().saturating_sub(1);
        Error::new(format!("this is no JSON: {e}")).at(file, Some(at..at + 1))
    })?;
    let serde_json::Value::Object(top) = value else {
        return Err(Error::new("the JSON is no object").at(file, Some(0..1)));
    };
    let mut out = Parsed::default();
    for (key, value) in top {
        if !KINDS.contains(&key.as_str()) {
            out.attrs.push((key.clone(), attr(&key, &value, file)?));
            continue;
        }
        for labelled in each(value) {
            let serde_json::Value::Object(labelled) = labelled else {
                return Err(in_json(file, format!("`{key}` is no object of names")));
            };
            for (label, body) in labelled {
                for body in each(body) {
                    out.blocks.push(block(&key, Some(label.clone()), body, file)?);
                }
            }
        }
        if out.blocks.len() > MAX_BAKE_TARGETS {
            return Err(Error::limit(format!("the file has more than {MAX_BAKE_TARGETS} blocks")));
        }
    }
    Ok(out)
}

fn in_json(file: FileId, message: String) -> Box<Error> {
    Error::new(message).at(file, Some(0..1))
}

fn each(value: serde_json::Value) -> Vec<serde_json::Value> {
    match value {
        serde_json::Value::Array(items) => items,
        one => vec![one],
    }
}

fn block(
    kind: &str,
    label: Option<String>,
    body: serde_json::Value,
    file: FileId,
) -> Result<Block> {
    let name = label.as_deref().unwrap_or_default();
    let serde_json::Value::Object(body) = body else {
        return Err(in_json(file, format!("{kind} `{name}` is no object")));
    };
    let (mut attrs, mut blocks) = (BTreeMap::new(), Vec::new());
    for (key, value) in body {
        if kind == "variable" && key == "validation" {
            for body in each(value) {
                blocks.push(block(&key, None, body, file)?);
            }
        } else {
            let a = attr(&key, &value, file).map_err(|e| e.about(&format!("{kind} `{name}`")))?;
            attrs.insert(key, a);
        }
    }
    let (kind, labels) = (kind.to_owned(), label.into_iter().collect());
    Ok(Block { kind, labels, file, span: Some(0..1), attrs, blocks, base: String::new() })
}

fn attr(key: &str, value: &serde_json::Value, file: FileId) -> Result<Rc<Attr>> {
    let expr = expression(value, EXPRESSIONS.contains(&key)).map_err(|e| e.about(key))?;
    Ok(Rc::new(Attr { file, expr, span: Some(0..1) }))
}

fn expression(value: &serde_json::Value, plain: bool) -> Result<Expression> {
    Ok(match value {
        serde_json::Value::Null => Expression::null(),
        serde_json::Value::Bool(b) => Expression::from(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(i), ..) => Expression::from(i),
            (_, Some(u), _) => Expression::from(u),
            (.., f) => match f.and_then(hcl_edit::Number::from_f64) {
                Some(n) => Expression::from(n),
                None => return Err(Error::new("a number is no finite number")),
            },
        },
        serde_json::Value::String(s) if plain => s
            .parse()
            .map_err(|e: hcl_edit::parser::Error| Error::new(format!("`{s}`: {}", e.message())))?,
        serde_json::Value::String(s) if s.contains("${") || s.contains("%{") => {
            let template: Template = s.parse().map_err(|e: hcl_edit::parser::Error| {
                Error::new(format!("`{s}`: {}", e.message()))
            })?;
            let parts: Vec<_> = template.into_iter().collect();
            Expression::StringTemplate(StringTemplate::from(parts))
        }
        serde_json::Value::String(s) => Expression::from(s.as_str()),
        serde_json::Value::Array(items) => {
            let items = items.iter().map(|i| expression(i, plain)).collect::<Result<Vec<_>>>()?;
            Expression::Array(items.into_iter().collect::<Array>())
        }
        serde_json::Value::Object(items) => {
            let mut object = Object::new();
            for (k, v) in items {
                let key = ObjectKey::Expression(expression(&k.as_str().into(), false)?);
                object.insert(key, expression(v, plain)?);
            }
            Expression::Object(object)
        }
    })
}
