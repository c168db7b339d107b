//! `format`: verbs as in C and Go.

use crate::budget::{Error, Result};
use crate::eval::Eval;
use crate::value::{Number, Value};

use super::collections::texts;

/// Widest field and longest fraction.
const WIDEST: usize = 1024;

#[derive(Default)]
struct Verb {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// `format(spec, args...)`.
pub(super) fn format(spec: &str, args: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut chars = spec.chars().peekable();
    let (mut next, mut used) = (0, 0);
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => verb.left = true,
                '+' => verb.plus = true,
                ' ' => verb.space = true,
                '0' => verb.zero = true,
                _ => verb.alternate = true,
            }
        }
        let mut digits = || {
            let mut n: Option<usize> = None;
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                let d = d.to_digit(10).unwrap_or(0) as usize;
                n = Some(n.unwrap_or(0).saturating_mul(10).saturating_add(d).min(WIDEST + 1));
            }
            n
        };
        verb.width = digits().unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            let mut n = 0usize;
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                n = (n * 10 + d.to_digit(10).unwrap_or(0) as usize).min(WIDEST + 1);
            }
            verb.precision = Some(n);
        }
        if verb.width > WIDEST || verb.precision.is_some_and(|p| p > WIDEST) {
            return Err(Error::limit(format!("a field is at most {WIDEST} characters wide")));
        }
        if chars.next_if_eq(&'[').is_some() {
            let mut n = 0usize;
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                n = n.saturating_mul(10).saturating_add(d.to_digit(10).unwrap_or(0) as usize);
            }
            if chars.next() != Some(']') || n == 0 {
                return Err(Error::new("expected `%[N]`"));
            }
            next = n - 1;
        }
        let mode = chars.next().ok_or_else(|| Error::new("the text ends after `%`"))?;
        let arg = args.get(next).ok_or_else(|| Error::new("there are not enough arguments"))?;
        next += 1;
        used = used.max(next);
        out.push_str(&verb.write(mode, arg)?);
        if out.len() > rgraph_ir::limits::MAX_BAKE_VALUE {
            return Err(Error::limit("the result would be too large"));
        }
    }
    if used < args.len() {
        return Err(Error::new("there are more arguments than verbs"));
    }
    Ok(out)
}

impl Verb {
    fn write(&self, mode: char, arg: &Value) -> Result<String> {
        let signed = |n: Number, digits: String| match (n.float() < 0.0, self.plus, self.space) {
            (true, ..) => format!("-{digits}"),
            (false, true, _) => format!("+{digits}"),
            (false, false, true) => format!(" {digits}"),
            _ => digits,
        };
        let whole = |digits: fn(u64) -> String| {
            let n = arg.to_number()?;
            let i = n.whole().ok_or_else(|| Error::new(format!("{n} is no whole number")))?;
            Ok::<_, Box<Error>>(signed(n, digits(i.unsigned_abs())))
        };
        let text = match mode {
            's' | 'v' if !matches!(arg, Value::List(_) | Value::Object(_) | Value::Null) => {
                let text = arg.to_text()?;
                match self.precision {
                    Some(p) if mode == 's' => text.chars().take(p).collect(),
                    _ => text.to_string(),
                }
            }
            'v' => arg.to_json().to_string(),
            's' => return Err(Error::new(format!("`%s` takes no {}", arg.kind()))),
            'q' => serde_json::Value::from(arg.to_text()?.to_string()).to_string(),
            't' => arg.to_bool()?.to_string(),
            'd' => whole(|n| n.to_string())?,
            'b' => whole(|n| format!("{n:b}"))?,
            'o' => whole(|n| format!("{n:o}"))?,
            'x' => whole(|n| format!("{n:x}"))?,
            'X' => whole(|n| format!("{n:X}"))?,
            'f' | 'F' => {
                let n = arg.to_number()?;
                signed(n, format!("{:.*}", self.precision.unwrap_or(6), n.float().abs()))
            }
            'e' | 'g' | 'E' | 'G' => {
                let n = arg.to_number()?;
                signed(
                    n,
                    match (mode, self.precision) {
                        ('e', Some(p)) => format!("{:.*e}", p, n.float().abs()),
                        ('e', None) => format!("{:e}", n.float().abs()),
                        ('E', Some(p)) => format!("{:.*E}", p, n.float().abs()),
                        ('E', None) => format!("{:E}", n.float().abs()),
                        _ => n.to_string().trim_start_matches('-').to_owned(),
                    },
                )
            }
            c => return Err(Error::new(format!("unknown verb `%{c}`"))),
        };
        let missing = self.width.saturating_sub(text.chars().count());
        Ok(match (self.left, self.zero && mode != 's') {
            (true, _) => text + &" ".repeat(missing),
            (false, true) => {
                let at = usize::from(text.starts_with(['-', '+', ' ']));
                format!("{}{}{}", &text[..at], "0".repeat(missing), &text[at..])
            }
            (false, false) => " ".repeat(missing) + &text,
        })
    }
}

/// `formatlist(spec, lists...)`: once for each item; what is no list is used each time.
pub(super) fn list(args: &[Value], cx: &Eval<'_>) -> Result<Value> {
    let spec = args[0].to_text()?;
    let lengths = args[1..].iter().filter_map(|a| match a {
        Value::List(l) => Some(l.len()),
        _ => None,
    });
    let length = lengths.clone().next().unwrap_or(1);
    if lengths.clone().any(|l| l != length) {
        return Err(Error::new("the lists are not equally long"));
    }
    let mut out = Vec::new();
    for at in 0..length {
        cx.budget().steps(args.len() + spec.len() / 8)?;
        let row: Vec<Value> = args[1..]
            .iter()
            .map(|a| match a {
                Value::List(l) => l[at].clone(),
                one => one.clone(),
            })
            .collect();
        let line = format(&spec, &row)?;
        cx.budget().value(line.len())?;
        out.push(line);
    }
    texts(out, cx)
}
