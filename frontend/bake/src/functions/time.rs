//! Times.

use super::moment::{DAYS, MONTHS, Moment, duration};
use super::strings::text;
use super::{Row, number};
use crate::budget::{Error, Result};
use crate::eval::Eval;
use crate::value::{Number, Value, cut};

pub(super) const TABLE: &[Row] = &[
    ("timestamp", 0, 0, |_, cx| text(&Moment::of(cx.globals.now())?.rfc3339(), cx)),
    ("timeadd", 2, 2, |a, cx| {
        let sum = Moment::parse(&a[0].to_text()?)?.plus(duration(&a[1].to_text()?)?)?;
        text(&sum.rfc3339(), cx)
    }),
    ("formatdate", 2, 2, |a, cx| formatted(&a[0].to_text()?, Moment::parse(&a[1].to_text()?)?, cx)),
    ("formattimestamp", 2, 2, |a, cx| {
        let spec = a[0].to_text()?;
        let in_seconds = &*spec == "X";
        match &a[1] {
            // Of any year: it is on no calendar.
            Value::Number(n) if in_seconds => text(&whole_seconds(*n)?.to_string(), cx),
            Value::Number(n) => formatted(&spec, Moment::of(whole_seconds(*n)?)?, cx),
            other => {
                let at = Moment::parse(&other.to_text()?)?;
                match in_seconds {
                    true => text(&at.seconds().to_string(), cx),
                    false => formatted(&spec, at, cx),
                }
            }
        }
    }),
    ("unixtimestampparse", 1, 1, |a, cx| {
        let m = Moment::of(whole_seconds(a[0].to_number()?)?)?;
        let items = [
            ("year", m.year),
            ("month", m.month),
            ("day", m.day),
            ("hour", m.hour),
            ("minute", m.minute),
            ("second", m.second),
            ("year_day", m.year_day()),
            ("iso_year", m.iso_week().0),
            ("iso_week", m.iso_week().1),
        ];
        let mut out: std::collections::BTreeMap<_, _> =
            items.into_iter().map(|(k, n)| (k.into(), Value::Number(Number::from(n)))).collect();
        out.insert("month_name".into(), text(MONTHS[m.month as usize - 1], cx)?);
        out.insert("weekday_name".into(), text(DAYS[m.weekday()], cx)?);
        out.insert("weekday".into(), number(Number::from(m.weekday() as i64))?);
        out.insert("rfc3339".into(), text(&m.rfc3339(), cx)?);
        Value::object(out, cx.budget())
    }),
];

fn whole_seconds(n: Number) -> Result<i64> {
    n.whole().ok_or_else(|| Error::new("a time is whole seconds"))
}

/// Runs of letters are parts of a time, `'...'` is text.
fn formatted(spec: &str, at: Moment, cx: &Eval<'_>) -> Result<Value> {
    let mut out = String::new();
    let mut chars = spec.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\'' {
            if chars.next_if_eq(&'\'').is_some() {
                out.push('\'');
                continue;
            }
            loop {
                match chars.next() {
                    None => return Err(Error::new("a `'` is not closed")),
                    Some('\'') if chars.next_if_eq(&'\'').is_some() => out.push('\''),
                    Some('\'') => break,
                    Some(c) => out.push(c),
                }
            }
            continue;
        }
        if !c.is_ascii_alphabetic() {
            out.push(c);
            continue;
        }
        let mut run = String::from(c);
        while let Some(more) = chars.next_if_eq(&c) {
            run.push(more);
        }
        let (month, day) = (MONTHS[at.month as usize - 1], DAYS[at.weekday()]);
        let half = (at.hour + 11) % 12 + 1;
        out.push_str(&match run.as_str() {
            "YYYY" => format!("{:04}", at.year),
            "YY" => format!("{:02}", at.year % 100),
            "MMMM" => month.to_owned(),
            "MMM" => month[..3].to_owned(),
            "MM" => format!("{:02}", at.month),
            "M" => at.month.to_string(),
            "DD" => format!("{:02}", at.day),
            "D" => at.day.to_string(),
            "EEEE" => day.to_owned(),
            "EEE" => day[..3].to_owned(),
            "hh" => format!("{:02}", at.hour),
            "h" => at.hour.to_string(),
            "HH" => format!("{half:02}"),
            "H" => half.to_string(),
            "AA" => if at.hour < 12 { "AM" } else { "PM" }.to_owned(),
            "aa" => if at.hour < 12 { "am" } else { "pm" }.to_owned(),
            "mm" => format!("{:02}", at.minute),
            "m" => at.minute.to_string(),
            "ss" => format!("{:02}", at.second),
            "s" => at.second.to_string(),
            "ZZZZZ" => at.zone(":"),
            "ZZZZ" => at.zone(""),
            "ZZZ" if at.is_utc() => "UTC".to_owned(),
            "ZZZ" => at.zone(""),
            "Z" if at.is_utc() => "Z".to_owned(),
            "Z" => at.zone(":"),
            other => return Err(Error::new(format!("`{}` is no part of a time", cut(other)))),
        });
    }
    text(&out, cx)
}
