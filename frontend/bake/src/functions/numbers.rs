//! Numbers, and comparisons of any values.

use super::{MANY, Row, bool, number};
use crate::budget::{Error, Result};
use crate::value::{Number, Value};

pub(super) const TABLE: &[Row] = &[
    ("absolute", 1, 1, |a, _| number(Number::made(a[0].to_number()?.float().abs())?)),
    ("add", 2, 2, |a, _| arithmetic("add", &a[0], &a[1])),
    ("and", 2, 2, |a, _| bool(a[0].to_bool()? & a[1].to_bool()?)),
    ("ceil", 1, 1, |a, _| rounded(&a[0], f64::ceil)),
    ("divide", 2, 2, |a, _| arithmetic("divide", &a[0], &a[1])),
    ("equal", 2, 2, |a, _| bool(a[0] == a[1])),
    ("floor", 1, 1, |a, _| rounded(&a[0], f64::floor)),
    ("greaterthan", 2, 2, |a, _| bool(a[0].to_number()? > a[1].to_number()?)),
    ("greaterthanorequalto", 2, 2, |a, _| bool(a[0].to_number()? >= a[1].to_number()?)),
    ("int", 1, 1, |a, _| rounded(&a[0], f64::trunc)),
    ("lessthan", 2, 2, |a, _| bool(a[0].to_number()? < a[1].to_number()?)),
    ("lessthanorequalto", 2, 2, |a, _| bool(a[0].to_number()? <= a[1].to_number()?)),
    ("log", 2, 2, |a, _| {
        number(Number::made(a[0].to_number()?.float().ln() / a[1].to_number()?.float().ln())?)
    }),
    ("max", 1, MANY, |a, _| extreme(a, |x, y| x > y)),
    ("min", 1, MANY, |a, _| extreme(a, |x, y| x < y)),
    ("modulo", 2, 2, |a, _| arithmetic("modulo", &a[0], &a[1])),
    ("multiply", 2, 2, |a, _| arithmetic("multiply", &a[0], &a[1])),
    ("negate", 1, 1, |a, _| negate(&a[0])),
    ("not", 1, 1, |a, _| bool(!a[0].to_bool()?)),
    ("notequal", 2, 2, |a, _| bool(a[0] != a[1])),
    ("or", 2, 2, |a, _| bool(a[0].to_bool()? | a[1].to_bool()?)),
    ("parseint", 2, 2, |a, _| {
        let (text, base) = (a[0].to_text()?, a[1].to_index()?);
        let base = u32::try_from(base).ok().filter(|b| (2..=36).contains(b));
        let base = base.ok_or_else(|| Error::new("a base is 2 to 36"))?;
        let n = i64::from_str_radix(&text, base);
        number(n.map_err(|_| Error::new("the text is no whole number of that base"))?.into())
    }),
    ("pow", 2, 2, |a, _| {
        number(Number::made(a[0].to_number()?.float().powf(a[1].to_number()?.float()))?)
    }),
    ("signum", 1, 1, |a, _| {
        let n = a[0].to_number()?.float();
        number(Number::from(f64::from(i8::from(n > 0.0) - i8::from(n < 0.0))))
    }),
    ("subtract", 2, 2, |a, _| arithmetic("subtract", &a[0], &a[1])),
];

fn rounded(value: &Value, how: fn(f64) -> f64) -> Result<Value> {
    match value.to_number()? {
        whole @ Number::Whole(_) => number(whole),
        Number::Float(f) => number(Number::from(how(f))),
    }
}

fn extreme(args: &[Value], wins: fn(&Number, &Number) -> bool) -> Result<Value> {
    let mut best = args[0].to_number()?;
    for a in &args[1..] {
        let n = a.to_number()?;
        if wins(&n, &best) {
            best = n;
        }
    }
    number(best)
}

/// The minus in front of a value.
pub fn negate(value: &Value) -> Result<Value> {
    number(Number::Whole(0).with(value.to_number()?, i64::checked_sub, |a, b| a - b)?)
}

/// One of the operators, by the name of its function.
pub fn arithmetic(name: &str, a: &Value, b: &Value) -> Result<Value> {
    let (a, b) = (a.to_number()?, b.to_number()?);
    let zero = || Error::new("this divides by zero");
    number(match name {
        "add" => a.with(b, i64::checked_add, |a, b| a + b)?,
        "subtract" => a.with(b, i64::checked_sub, |a, b| a - b)?,
        "multiply" => a.with(b, i64::checked_mul, |a, b| a * b)?,
        _ if b.float() == 0.0 => return Err(zero()),
        "divide" => a.with(
            b,
            |a, b| if a.checked_rem(b) == Some(0) { a.checked_div(b) } else { None },
            |a, b| a / b,
        )?,
        _ => a.with(b, i64::checked_rem, |a, b| a % b)?,
    })
}
