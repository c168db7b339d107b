//! Values as Go prints them.

use serde_json::Value;

/// `%v`: lists as `[a b]`, maps as `map[k:v]` in the order of their keys.
pub(super) fn print(v: &Value, out: &mut String) {
    match v {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(s) => out.push_str(s),
        Value::Array(all) => {
            out.push('[');
            for (i, v) in all.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                print(v, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut all: Vec<_> = map.iter().collect();
            all.sort_by_key(|(k, _)| *k);
            out.push_str("map[");
            for (i, (k, v)) in all.into_iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(k);
                out.push(':');
                print(v, out);
            }
            out.push(']');
        }
    }
}

/// The text of `%v`.
pub(super) fn text(v: &Value) -> String {
    let mut out = String::new();
    print(v, &mut out);
    out
}
