//! One CSV line of `key=value` fields, as `--output`, `--secret` and the cache flags take it.

/// Splits a line at commas; a field that starts with `"` ends at the next lone `"`, and `""` in it
/// is one `"` (RFC 4180, as Go's `encoding/csv` reads it).
pub fn fields(line: &str) -> Result<Vec<String>, String> {
    rgraph_bake::csv_fields(line, ',')
}

/// Fields split at their first `=`; keys in lower case, a field without `=` has no value.
pub fn pairs(line: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let split = |f: String| match f.split_once('=') {
        Some((k, v)) => (k.trim().to_ascii_lowercase(), Some(v.to_owned())),
        None => (f.trim().to_ascii_lowercase(), None),
    };
    Ok(fields(line)?.into_iter().map(split).collect())
}

/// An on-off value as Go's `strconv.ParseBool` takes it; a key alone means on.
pub fn switch(value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(_) => Err("expected `true` or `false`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_as_go_does() {
        for (line, want) in [
            ("a=1,b=2", Some(vec!["a=1", "b=2"])),
            ("\"name=x,y\",dest=d", Some(vec!["name=x,y", "dest=d"])),
            ("\"a=\"\"q\"\"\"", Some(vec!["a=\"q\""])),
            ("a=1,", Some(vec!["a=1", ""])),
            ("", Some(vec![""])),
            ("\"a", None),
            ("\"a\"b", None),
            ("a=\"b\"", None),
            ("a\nb", None),
        ] {
            let got = fields(line).ok();
            assert_eq!(got, want.map(|w| w.into_iter().map(str::to_owned).collect()), "{line:?}");
        }
        let got = pairs("Type=oci,dest=a=b,tar").unwrap();
        let want = [("type", Some("oci")), ("dest", Some("a=b")), ("tar", None)];
        assert_eq!(got, want.map(|(k, v)| (k.to_owned(), v.map(str::to_owned))));
    }
}
