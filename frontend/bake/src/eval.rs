//! Expressions to values. What HCL says holds; where its types differ only in name (list, tuple, set;
//! object, map) there is one kind of value here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::sync::Arc;

use hcl_edit::Span as _;
use hcl_edit::expr::{
    BinaryOperator, Expression, ForExpr, FuncCall, ObjectKey, Traversal, TraversalOperator,
    UnaryOperator,
};
use rgraph_ir::FileId;
use rgraph_ir::near::nearest;

use crate::budget::{Budget, Error, Result};
use crate::file::Attr;
use crate::functions;
use crate::value::{Number, Object, Value};

/// Names that hold inside of an expression: those of `for`, of parameters, of a matrix.
#[derive(Clone, Copy, Default)]
pub struct Scope<'s> {
    names: &'s [(Arc<str>, Value)],
    outer: Option<&'s Scope<'s>>,
}

impl<'s> Scope<'s> {
    /// Names on top of what holds already.
    pub fn new(names: &'s [(Arc<str>, Value)], outer: Option<&'s Scope<'s>>) -> Self {
        Self { names, outer }
    }

    fn get(&self, name: &str) -> Option<&'s Value> {
        let mut scope = Some(self);
        while let Some(s) = scope {
            if let Some((_, v)) = s.names.iter().rev().find(|(n, _)| **n == *name) {
                return Some(v);
            }
            scope = s.outer;
        }
        None
    }
}

/// A function of the file.
#[derive(Debug)]
pub struct UserFunction {
    pub params: Vec<Arc<str>>,
    pub variadic: Option<Arc<str>>,
    pub result: Rc<Attr>,
}

/// What is defined outside of the expression. Both look-ups may evaluate other expressions.
pub trait Globals {
    /// What all evaluation is paid from.
    fn budget(&self) -> &Budget;
    /// A variable or attribute of the file.
    fn variable(&self, name: &str) -> Result<Option<Value>>;
    /// An attribute of a target or group; `None`: there is no such block kind.
    fn of_block(&self, kind: &str, name: &str, attr: Option<&str>) -> Result<Option<Value>>;
    /// A function of the file.
    fn function(&self, name: &str) -> Result<Option<Rc<UserFunction>>>;
    /// The names that are known, for hints.
    fn names(&self) -> Vec<String>;
    /// Seconds since 1970.
    fn now(&self) -> i64;
    /// Fills it with random bytes.
    fn random(&self, bytes: &mut [u8]) -> std::io::Result<()>;
    /// A variable of the environment.
    fn home(&self) -> Option<String>;
}

/// Evaluates expressions of one file.
#[derive(Clone, Copy)]
pub struct Eval<'a> {
    pub globals: &'a dyn Globals,
    pub file: FileId,
}

impl<'a> Eval<'a> {
    pub fn budget(&self) -> &'a Budget {
        self.globals.budget()
    }

    /// The value of an expression.
    pub fn value(&self, e: &Expression, scope: &Scope<'_>) -> Result<Value> {
        let _level = self.budget().deeper()?;
        self.inner(e, scope).map_err(|err| err.at(self.file, e.span()))
    }

    fn inner(&self, e: &Expression, scope: &Scope<'_>) -> Result<Value> {
        match e {
            Expression::Null(_) => Ok(Value::Null),
            Expression::Bool(b) => Ok(Value::Bool(*b.value())),
            Expression::Number(n) => Ok(Value::Number(number(n.value()))),
            Expression::String(s) => Value::text(s.value().as_str(), self.budget()),
            Expression::Array(a) => {
                let items = a.iter().map(|i| self.value(i, scope)).collect::<Result<_>>()?;
                Value::list(items, self.budget())
            }
            Expression::Object(o) => {
                let mut items = BTreeMap::new();
                for (key, value) in o {
                    let key = match key {
                        ObjectKey::Ident(name) => Arc::from(name.as_str()),
                        ObjectKey::Expression(Expression::Variable(name)) => {
                            Arc::from(name.value().as_str())
                        }
                        ObjectKey::Expression(e) => self.value(e, scope)?.to_text()?,
                    };
                    items.insert(key, self.value(value.expr(), scope)?);
                }
                Value::object(items, self.budget())
            }
            Expression::StringTemplate(t) => self.template(t, scope),
            Expression::HeredocTemplate(t) => self.template(&t.template, scope),
            Expression::Parenthesis(p) => self.value(p.inner(), scope),
            Expression::Variable(name) => self.variable(name.value().as_str(), scope),
            Expression::Conditional(c) => match self.value(&c.cond_expr, scope)?.to_bool()? {
                true => self.value(&c.true_expr, scope),
                false => self.value(&c.false_expr, scope),
            },
            Expression::FuncCall(call) => self.call(call, scope),
            Expression::Traversal(t) => self.traversal(t, scope),
            Expression::UnaryOp(op) => {
                let value = self.value(&op.expr, scope)?;
                match op.operator.value() {
                    UnaryOperator::Neg => functions::negate(&value),
                    UnaryOperator::Not => Ok(Value::Bool(!value.to_bool()?)),
                }
            }
            Expression::BinaryOp(op) => {
                let left = self.value(&op.lhs_expr, scope)?;
                match op.operator.value() {
                    BinaryOperator::And if !left.to_bool()? => Ok(Value::Bool(false)),
                    BinaryOperator::Or if left.to_bool()? => Ok(Value::Bool(true)),
                    operator => {
                        let right = self.value(&op.rhs_expr, scope)?;
                        self.budget().steps((left.weight() + right.weight()) / 16)?;
                        binary(*operator, &left, &right)
                    }
                }
            }
            Expression::ForExpr(f) => self.for_expr(f, scope),
        }
    }

    fn variable(&self, name: &str, scope: &Scope<'_>) -> Result<Value> {
        if let Some(v) = scope.get(name) {
            return Ok(v.clone());
        }
        if let Some(v) = self.globals.variable(name)? {
            return Ok(v);
        }
        if self.globals.of_block(name, "", None)?.is_some() {
            let message = format!("`{name}` is no variable: name a block and an attribute of it");
            return Err(Error::new(message).help(format!("such as `{name}.NAME.ATTRIBUTE`")));
        }
        let names = self.globals.names();
        self.budget().steps(names.len())?;
        let e = Error::new(format!("there is no variable named `{name}`"));
        Err(match nearest(name, names.iter().map(String::as_str)) {
            Some(near) => e.help(format!("did you mean `{near}`?")),
            None => e.help(format!("declare it with `variable \"{name}\" {{}}`")),
        })
    }

    fn traversal(&self, t: &Traversal, scope: &Scope<'_>) -> Result<Value> {
        let mut operators = &t.operators[..];
        let value = match (&t.expr, operators) {
            (Expression::Variable(kind), [first, rest @ ..])
                if scope.get(kind.value().as_str()).is_none()
                    && self.globals.variable(kind.value().as_str())?.is_none() =>
            {
                let kind = kind.value().as_str();
                let (name, attr) = (self.key(first.value(), scope)?, rest.first());
                let attr = match attr.map(|a| a.value()) {
                    Some(TraversalOperator::GetAttr(a)) => Some(a.value().as_str()),
                    _ => None,
                };
                match self.globals.of_block(kind, &name, attr)? {
                    None => self.variable(kind, scope)?,
                    Some(v) => {
                        operators = rest.get(1..).unwrap_or_default();
                        v
                    }
                }
            }
            (e, _) => self.value(e, scope)?,
        };
        self.walk(value, operators.iter().map(|o| o.value()).collect::<Vec<_>>().as_slice(), scope)
    }

    fn key(&self, operator: &TraversalOperator, scope: &Scope<'_>) -> Result<Arc<str>> {
        match operator {
            TraversalOperator::GetAttr(name) => Ok(Arc::from(name.value().as_str())),
            TraversalOperator::LegacyIndex(n) => Ok(n.value().to_string().into()),
            TraversalOperator::Index(e) => self.value(e, scope)?.to_text(),
            TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => {
                Err(Error::new("`*` stands for no single block"))
            }
        }
    }

    fn walk(&self, start: Value, path: &[&TraversalOperator], scope: &Scope<'_>) -> Result<Value> {
        let mut value = start;
        for (at, operator) in path.iter().enumerate() {
            self.budget().steps(1)?;
            value = match operator {
                TraversalOperator::GetAttr(name) => member(&value, name.value().as_str())?,
                TraversalOperator::Index(e) => functions::index(&value, &self.value(e, scope)?)?,
                TraversalOperator::LegacyIndex(n) => {
                    functions::index(&value, &Value::int(*n.value() as usize))?
                }
                TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => {
                    let items = match &value {
                        Value::Null => Vec::new(),
                        Value::List(l) => l.to_vec(),
                        one => vec![one.clone()],
                    };
                    let rest = &path[at + 1..];
                    // `.*` goes on over names only; what else follows is about the whole list.
                    let (each, after) = match operator {
                        TraversalOperator::FullSplat(_) => (rest, &[][..]),
                        _ => {
                            let is_name =
                                |o: &&TraversalOperator| matches!(o, TraversalOperator::GetAttr(_));
                            rest.split_at(rest.iter().take_while(|o| is_name(o)).count())
                        }
                    };
                    let _level = self.budget().deeper()?;
                    let items = items.into_iter().map(|v| self.walk(v, each, scope));
                    let list = Value::list(items.collect::<Result<_>>()?, self.budget())?;
                    return self.walk(list, after, scope);
                }
            };
        }
        Ok(value)
    }

    fn call(&self, call: &FuncCall, scope: &Scope<'_>) -> Result<Value> {
        let name = call.name.name.value().as_str();
        if call.name.is_namespaced() {
            return Err(Error::new(format!("there is no function `{}`", name)));
        }
        let user = self.globals.function(name)?;
        if user.is_none() {
            match name {
                "try" => {
                    let mut last = Error::new("`try` needs an expression");
                    for e in call.args.iter() {
                        match self.value(e, scope) {
                            Err(e) if !e.is_limit => last = e,
                            done => return done,
                        }
                    }
                    return Err(Error::new(format!(
                        "no expression works, the last: {}",
                        last.message
                    )));
                }
                "can" => {
                    let [one] = call.args.iter().collect::<Vec<_>>()[..] else {
                        return Err(Error::new("`can` takes one expression"));
                    };
                    return match self.value(one, scope) {
                        Err(e) if e.is_limit => Err(e),
                        done => Ok(Value::Bool(done.is_ok())),
                    };
                }
                "convert" => {
                    let [value, kind] = call.args.iter().collect::<Vec<_>>()[..] else {
                        return Err(Error::new("`convert` takes a value and a type"));
                    };
                    let kind = crate::types::Type::read(kind)?;
                    return kind.convert(&self.value(value, scope)?, self.budget());
                }
                _ => {}
            }
        }
        let mut args =
            call.args.iter().map(|a| self.value(a, scope)).collect::<Result<Vec<_>>>()?;
        if call.args.expand_final()
            && let Some(last) = args.pop()
        {
            let last =
                last.to_list().map_err(|e| e.about("`...` follows a value that is no list"))?;
            self.budget().value(last.len() * 16)?;
            args.extend(last.iter().cloned());
        }
        match user {
            Some(f) => self.call_user(name, &f, args),
            None => functions::call(name, &args, self).map_err(|e| e.about(name)),
        }
    }

    fn call_user(&self, name: &str, f: &UserFunction, args: Vec<Value>) -> Result<Value> {
        let (given, takes) = (args.len(), f.params.len());
        if given < takes || (given > takes && f.variadic.is_none()) {
            let s = if takes == 1 { "" } else { "s" };
            let most = if f.variadic.is_some() { " or more" } else { "" };
            return Err(Error::new(format!(
                "`{name}` takes {takes}{most} argument{s}, not {given}"
            )));
        }
        let mut args = args.into_iter();
        let mut names: Vec<(Arc<str>, Value)> =
            f.params.iter().cloned().zip(args.by_ref()).collect();
        if let Some(variadic) = &f.variadic {
            names.push((variadic.clone(), Value::list(args.collect(), self.budget())?));
        }
        let inside = Eval { file: f.result.file, ..*self };
        inside.value(&f.result.expr, &Scope::new(&names, None))
    }

    fn for_expr(&self, f: &ForExpr, scope: &Scope<'_>) -> Result<Value> {
        let over = self.value(&f.intro.collection_expr, scope)?;
        let key_name = f.intro.key_var.as_ref().map(|k| Arc::<str>::from(k.value().as_str()));
        let value_name: Arc<str> = f.intro.value_var.value().as_str().into();
        let mut list = Vec::new();
        let mut object: BTreeMap<Arc<str>, Value> = BTreeMap::new();
        let mut groups: BTreeMap<Arc<str>, Vec<Value>> = BTreeMap::new();
        for (key, value) in pairs(&over)? {
            self.budget().steps(1)?;
            let mut names = vec![(value_name.clone(), value)];
            names.extend(key_name.clone().map(|name| (name, key)));
            let inside = Scope::new(&names, Some(scope));
            if let Some(cond) = &f.cond
                && !self.value(&cond.expr, &inside)?.to_bool()?
            {
                continue;
            }
            let Some(key) = &f.key_expr else {
                list.push(self.value(&f.value_expr, &inside)?);
                continue;
            };
            let key = self.value(key, &inside)?.to_text()?;
            let value = self.value(&f.value_expr, &inside)?;
            if f.grouping {
                groups.entry(key).or_default().push(value);
            } else {
                match object.entry(key) {
                    Entry::Vacant(free) => drop(free.insert(value)),
                    Entry::Occupied(taken) => {
                        let message = format!("two items have the key `{}`", taken.key());
                        return Err(Error::new(message)
                            .help("`...` after the value collects them in lists"));
                    }
                }
            }
        }
        match (&f.key_expr, f.grouping) {
            (None, _) => Value::list(list, self.budget()),
            (Some(_), false) => Value::object(object, self.budget()),
            (Some(_), true) => {
                let groups =
                    groups.into_iter().map(|(k, v)| Ok((k, Value::list(v, self.budget())?)));
                Value::object(groups.collect::<Result<_>>()?, self.budget())
            }
        }
    }
}

/// Keys and values of what `for` goes over. Whoever goes over them pays for each.
pub fn pairs(over: &Value) -> Result<Box<dyn Iterator<Item = (Value, Value)> + '_>> {
    match over {
        Value::List(l) => {
            Ok(Box::new(l.iter().enumerate().map(|(i, v)| (Value::int(i), v.clone()))))
        }
        Value::Object(o) => {
            Ok(Box::new(o.iter().map(|(k, v)| (Value::String(k.clone()), v.clone()))))
        }
        other => {
            Err(Error::new(format!("`for` goes over lists and objects, not a {}", other.kind())))
        }
    }
}

fn member(value: &Value, name: &str) -> Result<Value> {
    let object: Object =
        value.to_object().map_err(|e| e.about(&format!("cannot take `.{name}`")))?;
    object.get(name).cloned().ok_or_else(|| {
        let e = Error::new(format!("the object has no attribute `{name}`"));
        match nearest(name, object.keys().map(|k| &**k)) {
            Some(near) => e.help(format!("did you mean `{near}`?")),
            None => e,
        }
    })
}

fn number(n: &hcl_edit::Number) -> Number {
    match (n.as_i64(), n.as_f64()) {
        (Some(i), _) => Number::from(i),
        (None, f) => Number::from(f.unwrap_or(0.0)),
    }
}

fn binary(operator: BinaryOperator, a: &Value, b: &Value) -> Result<Value> {
    use BinaryOperator as Op;
    let compared = |holds: fn(std::cmp::Ordering) -> bool| {
        Ok(Value::Bool(holds(a.to_number()?.cmp(&b.to_number()?))))
    };
    match operator {
        Op::Eq => Ok(Value::Bool(a == b)),
        Op::NotEq => Ok(Value::Bool(a != b)),
        Op::Less => compared(|o| o.is_lt()),
        Op::LessEq => compared(|o| o.is_le()),
        Op::Greater => compared(|o| o.is_gt()),
        Op::GreaterEq => compared(|o| o.is_ge()),
        Op::Plus => functions::arithmetic("add", a, b),
        Op::Minus => functions::arithmetic("subtract", a, b),
        Op::Mul => functions::arithmetic("multiply", a, b),
        Op::Div => functions::arithmetic("divide", a, b),
        Op::Mod => functions::arithmetic("modulo", a, b),
        // The left side did not decide.
        Op::And | Op::Or => Ok(Value::Bool(b.to_bool()?)),
    }
}
