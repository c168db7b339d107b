//! The functions that expressions may call: what buildx offers, but for cryptography with keys. A function
//! pays before it makes anything large.

mod collections;
mod encode;
mod format;
mod moment;
mod names;
mod net;
mod numbers;
mod strings;
mod time;
mod versions;

use rgraph_ir::near::nearest;

use crate::budget::{Error, Result};
use crate::eval::Eval;
use crate::value::{Number, Value};

pub use collections::index;
pub use numbers::{arithmetic, negate};

type Function = fn(&[Value], &Eval<'_>) -> Result<Value>;

/// Name, fewest and most arguments, and the function.
type Row = (&'static str, usize, usize, Function);

/// No bound on arguments.
const MANY: usize = usize::MAX;

/// What buildx has and this does not, with the reason.
const LACKING: &[(&str, &str)] = &[("rsadecrypt", "keys are not read here")];

fn tables() -> impl Iterator<Item = &'static Row> {
    let plain = [numbers::TABLE, collections::TABLE, strings::TABLE, encode::TABLE];
    let others = [time::TABLE, versions::TABLE, net::TABLE, names::TABLE];
    plain.into_iter().chain(others).flatten()
}

/// Calls a function by its name.
pub fn call(name: &str, args: &[Value], eval: &Eval<'_>) -> Result<Value> {
    let Some((_, fewest, most, function)) = tables().find(|(n, ..)| *n == name) else {
        if let Some((_, why)) = LACKING.iter().find(|(n, _)| *n == name) {
            return Err(Error::new(format!("this function is not supported: {why}")));
        }
        let e = Error::new("there is no such function");
        return Err(match nearest(name, tables().map(|(n, ..)| *n)) {
            Some(near) => e.help(format!("did you mean `{near}`?")),
            None => e,
        });
    };
    if args.len() < *fewest || args.len() > *most {
        let takes = match (*fewest, *most) {
            (n, MANY) => format!("{n} or more arguments"),
            (n, m) if n == m => format!("{n} argument{}", if n == 1 { "" } else { "s" }),
            (n, m) => format!("{n} to {m} arguments"),
        };
        return Err(Error::new(format!("it takes {takes}, not {}", args.len())));
    }
    // No function looks at its arguments more than a few times.
    let weight: usize = args.iter().map(Value::weight).sum();
    eval.budget().steps(1 + weight / 8)?;
    function(args, eval)
}

/// Random bytes.
fn random<const N: usize>(eval: &Eval<'_>) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let made = eval.globals.random(&mut bytes);
    made.map_err(|e| Error::new(format!("there are no random numbers: {e}")))?;
    Ok(bytes)
}

fn bool(b: bool) -> Result<Value> {
    Ok(Value::Bool(b))
}

fn number(n: Number) -> Result<Value> {
    Ok(Value::Number(n))
}
