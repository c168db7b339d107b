//! One CSV line, as values of buildx's flags are written.

/// Splits at `comma`; a field that starts with `"` ends at the next lone `"`, and `""` in it is one
/// `"` (RFC 4180, as Go's `encoding/csv` reads it).
///
/// # Errors
/// What is wrong with the quotes, or that it has more than one line.
pub fn split(line: &str, comma: char) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    None => return Err("a `\"` is not closed".to_owned()),
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                }
            }
            if chars.peek().is_some_and(|c| *c != comma) {
                return Err("text follows a closing `\"`".to_owned());
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != comma) {
                match c {
                    '"' => {
                        return Err(
                            "a `\"` inside a field: quote the whole field, `\"k=v\"`".into()
                        );
                    }
                    '\n' | '\r' => return Err("it has more than one line".to_owned()),
                    c => field.push(c),
                }
            }
        }
        out.push(field);
        if chars.next().is_none() {
            return Ok(out);
        }
    }
}

/// Joins fields, each quoted where it must be.
pub fn join<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(field);
        }
    }
    out
}
