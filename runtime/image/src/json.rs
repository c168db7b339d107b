//! JSON as Go's `encoding/json` writes it, which is what every other builder's digests are over,
//! and reading with limits on size and depth.

use std::io;

use rgraph_ir::limits::MAX_NESTING;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// It is larger than its limit.
    #[error("it has {got} bytes, {limit} are allowed")]
    Size {
        /// Its size.
        got: usize,
        /// The limit.
        limit: u64,
    },
    /// It is nested too deeply.
    #[error("it is nested more than {MAX_NESTING} levels deep")]
    Depth,
    /// It is not JSON, or not of the expected form.
    #[error("{0}")]
    Form(String),
}

/// Reads `bytes` after its size and depth were checked.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Result<T, JsonError> {
    check(bytes, limit)?;
    serde_json::from_slice(bytes).map_err(|e| JsonError::Form(e.to_string()))
}

/// Checks size and depth.
pub(crate) fn check(bytes: &[u8], limit: u64) -> Result<(), JsonError> {
    if bytes.len() as u64 > limit {
        return Err(JsonError::Size { got: bytes.len(), limit });
    }
    let (mut depth, mut text, mut escaped) = (0usize, false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'[' | b'{' if !text => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(JsonError::Depth);
                }
            }
            b']' | b'}' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// One line, `<`, `>`, `&` and the two line separators escaped (`json.Marshal`).
pub(crate) fn compact(value: &impl Serialize) -> Vec<u8> {
    write(value, CompactFormatter)
}

/// Indented by two spaces (`json.MarshalIndent(v, "", "  ")`).
pub(crate) fn pretty(value: &impl Serialize) -> Vec<u8> {
    write(value, PrettyFormatter::new())
}

fn write<F: Formatter>(value: &impl Serialize, inner: F) -> Vec<u8> {
    let mut out = Vec::new();
    let mut ser = Serializer::with_formatter(&mut out, Go(inner));
    value.serialize(&mut ser).expect("documents are made of strings, numbers, lists and objects");
    out
}

/// Go's escapes around another formatter's layout.
struct Go<F>(F);

impl<F: Formatter> Formatter for Go<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut start = 0;
        for (i, c) in fragment.char_indices() {
            if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                w.write_all(&fragment.as_bytes()[start..i])?;
                write!(w, "\\u{:04x}", u32::from(c))?;
                start = i + c.len_utf8();
            }
        }
        w.write_all(&fragment.as_bytes()[start..])
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        e: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(w, e)
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go_does() {
        let got = compact(&serde_json::json!({"a": "x && y <z>\u{2028}\n\t\"\u{1}é"}));
        assert_eq!(
            String::from_utf8(got).unwrap(),
            r#"{"a":"x \u0026\u0026 y \u003cz\u003e\u2028\n\t\"\u0001é"}"#
        );
    }

    #[test]
    fn depth_and_size_are_limited() {
        let nest = |n: usize| [vec![b'['; n], vec![b']'; n]].concat();
        assert!(check(&nest(MAX_NESTING), 1000).is_ok());
        assert!(matches!(check(&nest(MAX_NESTING + 1), 1000), Err(JsonError::Depth)));
        assert!(matches!(check(&nest(200_000), 1 << 20), Err(JsonError::Depth)));
        assert!(check(br#""[[[[[[\"[[[""#, 13).is_ok());
        assert!(matches!(check(b"1234", 3), Err(JsonError::Size { got: 4, limit: 3 })));
    }
}
