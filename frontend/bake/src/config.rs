//! A definition: variables, functions, groups and targets of all files together. Everything is
//! evaluated when something needs it, once; what needs itself is an error.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, TraversalOperator};
use rgraph_ir::limits::MAX_BAKE_TARGETS;
use rgraph_ir::near::nearest;
use rgraph_ir::{Diagnostic, FileId, SourceMap};

use crate::budget::{Budget, Error, Result};
use crate::compose::join;
use crate::eval::{Eval, Globals, Scope, UserFunction};
use crate::file::{Attr, Block, Parsed};
use crate::target::{ATTRIBUTES, Group, Target, texts};
use crate::types::Type;
use crate::value::Value;
use crate::{File, Inputs, compose, entry, file};

/// What the files say, evaluated.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    /// Groups in the order of the files, then those that a matrix makes.
    pub groups: Vec<Group>,
    /// Targets in the order of the files.
    pub targets: Vec<Target>,
    /// Variables by name.
    pub variables: Vec<Variable>,
    /// What is not an error, and may be a slip.
    pub warnings: Vec<Diagnostic>,
    /// See [`Inputs::is_remote`].
    pub(crate) is_remote: bool,
}

/// A variable, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// Its type; empty: not said.
    pub kind: String,
    /// Its value as text; `None`: null.
    pub value: Option<String>,
}

/// Reads all files.
pub fn load(files: &[File], inputs: &Inputs<'_>, sources: &mut SourceMap) -> Result<Definition> {
    let mut composes = Vec::new();
    let mut parsed: Vec<Parsed> = Vec::new();
    for f in files {
        let id = sources.add(f.name.as_str(), f.text.clone());
        match compose::read(&f.name, &f.text, id)? {
            Some(document) => composes.push((f.name.clone(), document)),
            None => parsed.push(file::parse(&f.name, &f.text, id)?),
        }
    }
    let budget = Budget::default();
    let mut out = compose::definition(composes, inputs, sources, &budget)?;
    out.is_remote = inputs.is_remote;
    if !parsed.is_empty() {
        for odd in parsed.iter_mut().flat_map(|p| p.odd.drain(..)) {
            out.warnings.push(odd.into_diagnostic());
        }
        let world = World::new(parsed, inputs, budget, &mut out.warnings)?;
        // The group of all services gives way to one that a file names so.
        let services = std::mem::take(&mut out.groups);
        world.fill(&mut out)?;
        let said: Vec<String> = out.groups.iter().map(|g| g.name.clone()).collect();
        out.groups.extend(services.into_iter().filter(|g| !said.contains(&g.name)));
    }
    out.merge_equal_names();
    Ok(out)
}

impl Definition {
    fn merge_equal_names(&mut self) {
        let mut places = HashMap::new();
        for t in std::mem::take(&mut self.targets) {
            match places.get(&t.name) {
                Some(at) => {
                    let first: &mut Target = &mut self.targets[*at];
                    first.merge(&t);
                }
                None => {
                    places.insert(t.name.clone(), self.targets.len());
                    self.targets.push(t);
                }
            }
        }
        for g in &mut self.groups {
            let mut seen = HashSet::new();
            g.targets.retain(|t| seen.insert(t.clone()));
        }
    }
}

/// What is known of something that is evaluated when it is needed.
#[derive(Clone)]
enum State<T> {
    InWork,
    Done(T),
}

type Memo<K, T> = RefCell<HashMap<K, State<T>>>;

/// The files while they are evaluated.
/// A block, and which variant of its matrix.
type Places = Vec<(usize, usize)>;

struct World<'a> {
    inputs: &'a Inputs<'a>,
    budget: Budget,
    attrs: HashMap<String, Rc<Attr>>,
    variables: BTreeMap<String, Block>,
    functions: HashMap<String, Block>,
    /// Targets and groups, in the order of the files.
    blocks: Vec<Block>,
    /// Blocks by kind and name, with the variant of a matrix; empty until all names are known.
    names: RefCell<HashMap<(String, String), Places>>,
    /// The names that each block's matrix gives, in its order.
    variants: RefCell<HashMap<usize, Rc<Vec<Variant>>>>,
    values: Memo<String, Value>,
    defined: Memo<String, Option<Rc<UserFunction>>>,
    of_blocks: Memo<(usize, usize, String), Value>,
}

/// One combination of a matrix; without one there is a single empty combination.
#[derive(Debug, Default)]
struct Variant {
    names: Vec<(Arc<str>, Value)>,
}

const LOCAL_PLATFORM: &str = "BAKE_LOCAL_PLATFORM";
const CONTEXT: &str = "BAKE_CMD_CONTEXT";

/// Attributes of the blocks that are not targets.
const OF_GROUP: &[&str] = &["description", "targets"];
const OF_VARIABLE: &[&str] = &["type", "default", "description"];
const OF_FUNCTION: &[&str] = &["params", "variadic_params", "result"];

impl<'a> World<'a> {
    fn new(
        files: Vec<Parsed>,
        inputs: &'a Inputs<'a>,
        budget: Budget,
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Self> {
        let mut world = Self {
            inputs,
            budget,
            attrs: HashMap::new(),
            variables: BTreeMap::new(),
            functions: HashMap::new(),
            blocks: Vec::new(),
            names: RefCell::default(),
            variants: RefCell::default(),
            values: RefCell::default(),
            defined: RefCell::default(),
            of_blocks: RefCell::default(),
        };
        for f in files {
            // What a later file says again counts.
            world.attrs.extend(f.attrs);
            for mut block in f.blocks {
                let [label] = &block.labels[..] else {
                    let message = format!("a {} has one name", block.kind);
                    return Err(Error::new(message).at(block.file, block.span.clone()));
                };
                let label = label.clone();
                let known = match block.kind.as_str() {
                    "variable" => OF_VARIABLE,
                    "function" => OF_FUNCTION,
                    "group" => OF_GROUP,
                    _ => ATTRIBUTES,
                };
                check_attributes(&mut block, &label, known, warnings)?;
                match block.kind.as_str() {
                    "variable" => drop(world.variables.insert(label, block)),
                    "function" => drop(world.functions.insert(label, block)),
                    _ => {
                        check_name(&label).map_err(|e| e.at(block.file, block.span.clone()))?;
                        world.blocks.push(block);
                    }
                }
            }
        }
        if world.blocks.len() > MAX_BAKE_TARGETS {
            return Err(too_many());
        }
        Ok(world)
    }

    fn eval(&self, file: FileId) -> Eval<'_> {
        Eval { globals: self, file }
    }

    fn of(&self, attr: &Attr, names: &[(Arc<str>, Value)]) -> Result<Value> {
        let value = self.eval(attr.file).value(&attr.expr, &Scope::new(names, None));
        value.map_err(|e| e.at(attr.file, attr.span.clone()))
    }

    /// Evaluates everything into `out`.
    fn fill(&self, out: &mut Definition) -> Result<()> {
        for (name, block) in &self.variables {
            let kind = self.type_of(block)?;
            let value = self.variable(name)?.unwrap_or(Value::Null);
            let description = match block.attrs.get("description") {
                Some(a) => self.of(a, &[])?.to_text()?.to_string(),
                None => String::new(),
            };
            let value = match &value {
                Value::Null => None,
                Value::List(_) | Value::Object(_) => Some(value.to_json().to_string()),
                plain => Some(plain.to_text()?.to_string()),
            };
            let kind = kind.map(|k| k.name()).unwrap_or_default();
            out.variables.push(Variable { name: name.clone(), description, kind, value });
        }
        self.validate()?;
        for name in self.functions.keys() {
            self.function(name)?;
        }
        self.name_blocks()?;
        let mut renamed: Vec<(String, Vec<String>)> = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let mut names = Vec::new();
            for (variant, _) in self.variants(at)?.iter().enumerate() {
                let name = self.name_of(at, variant)?;
                names.push(name.clone());
                match block.kind.as_str() {
                    "group" => out.groups.push(self.group(at, name)?),
                    _ => {
                        let t = self.target(at, variant, name)?;
                        self.budget.value(t.weight())?;
                        out.targets.push(t);
                    }
                }
            }
            let own = &block.labels[0];
            if names != [own.clone()] {
                match renamed.iter_mut().find(|(n, _)| n == own) {
                    Some((_, all)) => all.extend(names),
                    None => renamed.push((own.clone(), names)),
                }
            }
        }
        for (name, targets) in renamed {
            out.groups.push(Group { name, targets, ..Group::default() });
        }
        for (name, attr) in &self.attrs {
            if !self.variables.contains_key(name) {
                self.variable(name).map_err(|e| e.at(attr.file, attr.span.clone()))?;
            }
        }
        Ok(())
    }

    fn group(&self, at: usize, name: String) -> Result<Group> {
        let block = &self.blocks[at];
        let mut out = Group { name, ..Group::default() };
        for (attr, a) in &block.attrs {
            let value = self.block_value(at, 0, attr)?;
            let done = match attr.as_str() {
                "description" => value.to_text().map(|t| out.description = t.to_string()),
                _ => texts(&value).map(|t| out.targets = t.unwrap_or_default()),
            };
            done.map_err(|e| e.about(attr).at(a.file, a.expr.span().or(a.span.clone())))?;
        }
        Ok(out)
    }

    fn target(&self, at: usize, variant: usize, name: String) -> Result<Target> {
        let block = &self.blocks[at];
        let mut out = Target { name, ..Target::default() };
        for (attr, a) in &block.attrs {
            if matches!(attr.as_str(), "matrix" | "name") {
                continue;
            }
            let value = self.block_value(at, variant, attr)?;
            out.set(attr, &value)
                .map_err(|e| e.about(attr).at(a.file, a.expr.span().or(a.span.clone())))?;
        }
        if self.inputs.relative_paths {
            self.rebase(block, &mut out);
        }
        Ok(out)
    }

    /// Makes the folders of a target those that they are from the folder of its file.
    fn rebase(&self, block: &Block, t: &mut Target) {
        let base = &block.base;
        t.default_context = Some(base.clone()).filter(|b| !b.is_empty());
        if let (Some(context), Some(a)) = (&mut t.context, block.attrs.get("context")) {
            // The context of another target is what it is there.
            let other = self.context_of(&a.expr);
            *context = join(other.as_deref().unwrap_or(base), context);
        }
        for folder in t.contexts.values_mut() {
            *folder = join(base, folder);
        }
    }

    /// Of `target.NAME.context`, where that target's paths begin.
    fn context_of(&self, e: &Expression) -> Option<String> {
        let t = e.as_traversal()?;
        let names: Vec<String> = t
            .operators
            .iter()
            .map(|o| match o.value() {
                TraversalOperator::GetAttr(n) => Some(n.value().to_string()),
                TraversalOperator::Index(e) => Some(e.as_str()?.to_owned()),
                _ => None,
            })
            .collect::<Option<_>>()?;
        match (t.expr.as_variable()?.as_str(), &names[..]) {
            ("target", [name, attr]) if attr == "context" => {
                let of = |b: &&Block| b.kind == "target" && b.labels[0] == *name;
                let says = self.blocks.iter().rev().filter(of);
                let mut all = says.clone().filter(|b| b.attrs.contains_key("context"));
                all.next().or(says.clone().next()).map(|b| b.base.clone())
            }
            _ => None,
        }
    }

    /// An attribute of a block, evaluated once.
    fn block_value(&self, at: usize, variant: usize, attr: &str) -> Result<Value> {
        let key = (at, variant, attr.to_owned());
        let block = &self.blocks[at];
        let cycle = || format!("{}.{}.{attr} needs itself", block.kind, block.labels[0]);
        once(&self.of_blocks, key, cycle, || {
            let a = &block.attrs[attr];
            self.of(a, &self.variants(at)?[variant].names)
        })
    }

    fn variants(&self, at: usize) -> Result<Rc<Vec<Variant>>> {
        if let Some(known) = self.variants.borrow().get(&at) {
            return Ok(known.clone());
        }
        let block = &self.blocks[at];
        let place = |e: Box<Error>, a: &Attr| e.at(a.file, a.expr.span().or(a.span.clone()));
        let variants = match block.attrs.get("matrix") {
            None => match block.attrs.get("name") {
                Some(a) => return Err(place(Error::new("`name` needs a `matrix`"), a)),
                None => vec![Variant::default()],
            },
            Some(a) => self.combinations(a).map_err(|e| place(e.about("matrix"), a))?,
        };
        let variants = Rc::new(variants);
        self.variants.borrow_mut().insert(at, variants.clone());
        Ok(variants)
    }

    fn combinations(&self, matrix: &Attr) -> Result<Vec<Variant>> {
        let value = self.of(matrix, &[])?.to_object()?;
        // In the order they are written, where that is to be seen.
        let mut axes: Vec<(Arc<str>, Value)> =
            value.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        if let Expression::Object(o) = &matrix.expr {
            let written: Vec<String> = o
                .iter()
                .map(|(k, _)| k.as_ident().map(|i| i.as_str().to_owned()).unwrap_or_default())
                .collect();
            axes.sort_by_key(|(k, _)| written.iter().position(|w| **w == **k));
        }
        let mut out = vec![Variant::default()];
        for (name, values) in axes {
            let values = values.to_list().map_err(|e| e.about(&name))?;
            if out.len().saturating_mul(values.len()) > MAX_BAKE_TARGETS {
                return Err(too_many());
            }
            let mut longer = Vec::new();
            for v in values.iter() {
                for before in &out {
                    self.budget.steps(1 + before.names.len())?;
                    let mut names = before.names.clone();
                    names.push((name.clone(), v.clone()));
                    longer.push(Variant { names });
                }
            }
            out = longer;
        }
        Ok(out)
    }

    fn name_of(&self, at: usize, variant: usize) -> Result<String> {
        let block = &self.blocks[at];
        let Some(a) = block.attrs.get("name") else { return Ok(block.labels[0].clone()) };
        let name = self.block_value(at, variant, "name")?.to_text();
        let name = name.and_then(|n| check_name(&n).map(|()| n.to_string()));
        name.map_err(|e| e.about("name").at(a.file, a.expr.span().or(a.span.clone())))
    }

    fn name_blocks(&self) -> Result<()> {
        let mut all: HashMap<(String, String), Vec<(usize, usize)>> = HashMap::new();
        let mut count = 0;
        for (at, block) in self.blocks.iter().enumerate() {
            let mut own = HashSet::new();
            for variant in 0..self.variants(at)?.len() {
                count += 1;
                if count > MAX_BAKE_TARGETS {
                    return Err(too_many());
                }
                let name = self.name_of(at, variant)?;
                if !own.insert(name.clone()) {
                    let message = format!("the matrix gives the name `{name}` twice");
                    return Err(Error::new(message)
                        .help("`name` makes a name of each combination")
                        .at(block.file, block.span.clone()));
                }
                all.entry((block.kind.clone(), name)).or_default().push((at, variant));
            }
        }
        *self.names.borrow_mut() = all;
        Ok(())
    }

    fn type_of(&self, block: &Block) -> Result<Option<Type>> {
        match block.attrs.get("type") {
            None => Ok(None),
            Some(a) if matches!(a.expr, Expression::Null(_)) => Ok(None),
            Some(a) => Type::read(&a.expr)
                .map(Some)
                .map_err(|e| e.at(a.file, a.expr.span().or(a.span.clone()))),
        }
    }

    /// What the caller sets a variable to, and whether it is JSON.
    fn given(&self, name: &str, typed: bool) -> Option<(String, bool)> {
        let plain = (self.inputs.lookup)(name);
        if plain.is_none() || typed {
            let json = format!("{name}_JSON");
            if !self.variables.contains_key(&json)
                && let Some(text) = (self.inputs.lookup)(&json)
            {
                return Some((text, true));
            }
        }
        plain.map(|text| (text, false))
    }

    fn evaluate_variable(&self, name: &str, block: &Block) -> Result<Value> {
        let kind = self.type_of(block)?;
        // An attribute of that name at the top stands for the default.
        let default = self.attrs.get(name).or(block.attrs.get("default"));
        let value = default.map(|a| {
            let value = self.of(a, &[])?;
            match &kind {
                Some(k) => k
                    .convert(&value, &self.budget)
                    .map_err(|e| e.at(a.file, a.expr.span().or(a.span.clone()))),
                None => Ok(value),
            }
        });
        let value = value.transpose()?;
        let Some((text, is_json)) = self.given(name, kind.is_some()) else {
            return match (value, kind) {
                (Some(v), _) => Ok(v),
                (None, Some(_)) => Ok(Value::Null),
                (None, None) => Value::text("", &self.budget),
            };
        };
        let about = |e: Box<Error>| e.about(&format!("variable `{name}` from outside"));
        match (kind, is_json, value) {
            (Some(k), true, _) => {
                let json = serde_json::from_str(&text)
                    .map_err(|e| about(Error::new(format!("it is no JSON: {e}"))))?;
                let value = Value::from_json(&json, &self.budget)?;
                k.convert(&value, &self.budget).map_err(about)
            }
            (Some(k), false, _) => k.of_text(&text, &self.budget).map_err(about),
            (None, _, None | Some(Value::Null | Value::String(_))) => {
                Value::text(text, &self.budget)
            }
            (None, _, Some(Value::Bool(_))) => {
                Type::Bool.of_text(&text, &self.budget).map_err(about)
            }
            (None, _, Some(Value::Number(_))) => {
                Type::Number.of_text(&text, &self.budget).map_err(about)
            }
            (None, _, Some(Value::List(_) | Value::Object(_))) => {
                let message = "a list or object can be given only with a type";
                Err(about(Error::new(message).help("add `type = list(string)` or the like")))
            }
        }
    }

    fn validate(&self) -> Result<()> {
        for (name, block) in &self.variables {
            for rule in &block.blocks {
                if let Some(odd) =
                    rule.attrs.keys().find(|k| !matches!(k.as_str(), "condition" | "error_message"))
                {
                    let message = format!("variable `{name}`: `validation` has no `{odd}`");
                    return Err(Error::new(message).at(rule.file, rule.span.clone()));
                }
                let missing = || Error::new("`validation` needs `condition` and `error_message`");
                let (Some(condition), Some(message)) =
                    (rule.attrs.get("condition"), rule.attrs.get("error_message"))
                else {
                    return Err(missing().at(rule.file, rule.span.clone()));
                };
                let at = |e: Box<Error>| {
                    e.at(condition.file, condition.expr.span().or(condition.span.clone()))
                };
                if !self.of(condition, &[])?.to_bool().map_err(at)? {
                    let message = self.of(message, &[])?.to_text()?;
                    return Err(at(Error::new(format!("variable `{name}`: {message}"))));
                }
            }
        }
        Ok(())
    }

    fn evaluate_function(&self, name: &str) -> Result<Option<Rc<UserFunction>>> {
        let Some(block) = self.functions.get(name) else { return Ok(None) };
        let missing = |what: &str| {
            Error::new(format!("function `{name}` has no `{what}`"))
                .at(block.file, block.span.clone())
        };
        let ident = |e: &Expression, a: &Attr| match e.as_variable() {
            Some(i) => Ok(Arc::<str>::from(i.as_str())),
            None => {
                Err(Error::new("a parameter is a name").at(a.file, e.span().or(a.span.clone())))
            }
        };
        let params = block.attrs.get("params").ok_or_else(|| missing("params"))?;
        let result = block.attrs.get("result").ok_or_else(|| missing("result"))?;
        let list = params.expr.as_array().ok_or_else(|| {
            Error::new("`params` is a list of names").at(params.file, params.span.clone())
        })?;
        let params = list.iter().map(|e| ident(e, params)).collect::<Result<_>>()?;
        let variadic = block.attrs.get("variadic_params").map(|a| ident(&a.expr, a)).transpose()?;
        Ok(Some(Rc::new(UserFunction { params, variadic, result: result.clone() })))
    }
}

impl Globals for World<'_> {
    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn variable(&self, name: &str) -> Result<Option<Value>> {
        match name {
            LOCAL_PLATFORM => {
                return Value::text(&*self.inputs.local_platform, &self.budget).map(Some);
            }
            CONTEXT => {
                return Value::text(&*self.inputs.command_context, &self.budget).map(Some);
            }
            _ => {}
        }
        let cycle = || format!("variable `{name}` needs itself");
        if let Some(block) = self.variables.get(name) {
            let about = |e: Box<Error>| e.at(block.file, block.span.clone());
            let make = || self.evaluate_variable(name, block).map_err(about);
            return once(&self.values, name.to_owned(), cycle, make).map(Some);
        }
        match self.attrs.get(name) {
            Some(a) => once(&self.values, name.to_owned(), cycle, || self.of(a, &[])).map(Some),
            None => Ok(None),
        }
    }

    fn of_block(&self, kind: &str, name: &str, attr: Option<&str>) -> Result<Option<Value>> {
        if !matches!(kind, "target" | "group") {
            return Ok(None);
        }
        let Some(attr) = attr else {
            return match name.is_empty() {
                true => Ok(Some(Value::Null)),
                false => Err(Error::new(format!("`{kind}.{name}` needs an attribute after it"))),
            };
        };
        let known = self.names.borrow().get(&(kind.to_owned(), name.to_owned())).cloned();
        let Some(blocks) = known else {
            let e = Error::new(format!("there is no {kind} named `{name}`"));
            let names = self.names.borrow();
            if names.is_empty() {
                return Err(e.help("names of targets may not need attributes of targets"));
            }
            let of_kind = names.keys().filter(|(k, _)| k == kind).map(|(_, n)| n.as_str());
            return Err(match nearest(name, of_kind) {
                Some(near) => e.help(format!("did you mean `{near}`?")),
                None => e,
            });
        };
        // The last that says it counts.
        let says = |(at, _): &&(usize, usize)| self.blocks[*at].attrs.contains_key(attr);
        match blocks.iter().rev().find(says) {
            Some((at, variant)) => {
                let value = self.block_value(*at, *variant, attr)?;
                entry::as_objects(attr, value, &self.budget).map(Some)
            }
            None if attr == "name" => Value::text(name, &self.budget).map(Some),
            None => Ok(Some(Value::Null)),
        }
    }

    fn function(&self, name: &str) -> Result<Option<Rc<UserFunction>>> {
        let cycle = || format!("function `{name}` needs itself");
        once(&self.defined, name.to_owned(), cycle, || self.evaluate_function(name))
    }

    fn names(&self) -> Vec<String> {
        self.variables.keys().chain(self.attrs.keys()).cloned().collect()
    }

    fn now(&self) -> i64 {
        self.inputs.now
    }

    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        (self.inputs.random)(bytes)
    }

    fn home(&self) -> Option<String> {
        let home = self.inputs.environment.iter().find(|(k, _)| k == "HOME");
        home.map(|(_, v)| v.clone())
    }
}

/// Makes a value when it is first asked for.
fn once<K: std::hash::Hash + Eq + Clone, T: Clone>(
    memo: &Memo<K, T>,
    key: K,
    cycle: impl Fn() -> String,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match memo.borrow().get(&key) {
        Some(State::Done(v)) => return Ok(v.clone()),
        // `try` does not get around it: what comes of it would depend on where one begins.
        Some(State::InWork) => return Err(Error::limit(cycle())),
        None => {}
    }
    memo.borrow_mut().insert(key.clone(), State::InWork);
    let made = make();
    match &made {
        Ok(v) => memo.borrow_mut().insert(key, State::Done(v.clone())),
        Err(_) => memo.borrow_mut().remove(&key),
    };
    made
}

fn too_many() -> Box<Error> {
    Error::limit(format!("there would be more than {MAX_BAKE_TARGETS} targets and groups"))
}

/// Takes away what a block does not have; what a target does not have is a warning, as files of others
/// have had it for long.
fn check_attributes(
    block: &mut Block,
    label: &str,
    known: &[&str],
    warnings: &mut Vec<Diagnostic>,
) -> Result<()> {
    let kind = block.kind.clone();
    let about = |e: Box<Error>| e.about(&format!("{kind} `{label}`"));
    let mut odd = Vec::new();
    block.attrs.retain(|name, attr| {
        let is_known = known.contains(&name.as_str());
        if !is_known {
            odd.push((name.clone(), attr.clone()));
        }
        is_known
    });
    for (name, attr) in odd {
        let of_targets = kind == "group" && matches!(name.as_str(), "matrix" | "name");
        let message = match of_targets {
            true => format!("`{name}` is for targets, not for groups"),
            false => format!("there is no attribute `{name}`"),
        };
        let e = about(Error::new(message)).at(attr.file, attr.span.clone());
        let e = match nearest(&name, known.iter().copied()) {
            Some(near) => e.help(format!("did you mean `{near}`?")),
            None => e.help(format!("known: {}", known.join(", "))),
        };
        match kind.as_str() {
            "target" | "group" if !of_targets => warnings.push(e.into_warning()),
            _ => return Err(e),
        }
    }
    let allowed = |b: &&Block| block.kind == "variable" && b.kind == "validation";
    match block.blocks.iter().find(|b| !allowed(b)) {
        None => Ok(()),
        Some(odd) => {
            let e = about(Error::new(format!("there is no block `{}` in it", odd.kind)));
            let e = match known.contains(&odd.kind.as_str()) {
                true => e.help(format!("write `{} = ...`", odd.kind)),
                false => e,
            };
            Err(e.at(odd.file, odd.span.clone()))
        }
    }
}

/// Names of targets are letters, digits, `_` and `-`.
pub fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(fine) {
        true => Ok(()),
        false => Err(Error::new(format!(
            "`{}` is no name: letters, digits, `_` and `-` are allowed",
            crate::value::cut(name)
        ))),
    }
}
