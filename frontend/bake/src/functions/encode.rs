//! Other forms of values: JSON, base64, CSV, URLs, hashes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::Row;
use super::strings::text;
use crate::budget::Error;
use crate::csv;
use crate::value::Value;

pub(super) const TABLE: &[Row] = &[
    ("base64decode", 1, 1, |a, cx| {
        let bytes = STANDARD.decode(a[0].to_text()?.as_bytes());
        let bytes = bytes.map_err(|e| Error::new(format!("the text is no base64: {e}")))?;
        let t = String::from_utf8(bytes).map_err(|_| Error::new("what it holds is no text"))?;
        text(&t, cx)
    }),
    ("base64encode", 1, 1, |a, cx| text(&STANDARD.encode(a[0].to_text()?.as_bytes()), cx)),
    ("csvdecode", 1, 1, |a, cx| {
        let t = a[0].to_text()?;
        let mut lines = t.lines().filter(|l| !l.is_empty());
        let row = |line: &str| csv::split(line, ',').map_err(Error::new);
        let head = row(lines.next().unwrap_or_default())?;
        let mut rows = Vec::new();
        for line in lines {
            let fields = row(line)?;
            if fields.len() != head.len() {
                return Err(Error::new("a line has not as many fields as the first"));
            }
            let mut object = BTreeMap::new();
            for (k, v) in head.iter().zip(fields) {
                object.insert(Arc::from(k.as_str()), text(&v, cx)?);
            }
            rows.push(Value::object(object, cx.budget())?);
        }
        Value::list(rows, cx.budget())
    }),
    ("jsondecode", 1, 1, |a, cx| {
        let json = serde_json::from_str(&a[0].to_text()?);
        let json = json.map_err(|e| Error::new(format!("the text is no JSON: {e}")))?;
        Value::from_json(&json, cx.budget())
    }),
    ("jsonencode", 1, 1, |a, cx| text(&a[0].to_json().to_string(), cx)),
    ("md5", 1, 1, |a, cx| text(&hex(&Md5::digest(a[0].to_text()?.as_bytes())), cx)),
    ("sha1", 1, 1, |a, cx| text(&hex(&Sha1::digest(a[0].to_text()?.as_bytes())), cx)),
    ("sha256", 1, 1, |a, cx| text(&hex(&Sha256::digest(a[0].to_text()?.as_bytes())), cx)),
    ("sha512", 1, 1, |a, cx| text(&hex(&Sha512::digest(a[0].to_text()?.as_bytes())), cx)),
    ("urlencode", 1, 1, |a, cx| {
        let t = a[0].to_text()?;
        let mut out = String::with_capacity(t.len());
        for b in t.bytes() {
            match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    out.push(char::from(b));
                }
                b' ' => out.push('+'),
                b => write!(out, "%{b:02X}").map_err(|e| Error::new(e.to_string()))?,
            }
        }
        text(&out, cx)
    }),
];

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // A String takes all that is written.
        let _ = write!(out, "{b:02x}");
        out
    })
}
