//! `--format` of commands that list.

use super::error::OptionsError;
use crate::template::Template;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Columns, or text.
    #[default]
    Table,
    /// JSON.
    Json,
}

impl Format {
    /// Reads the flag. Go templates are refused by name until they are built.
    pub fn parse(flag: Option<&str>) -> Result<Self, OptionsError> {
        match flag {
            None | Some("" | "table" | "text") => Ok(Self::Table),
            Some("json" | "{{json .}}") => Ok(Self::Json),
            Some(t) if t.contains("{{") => {
                Err(OptionsError::Unsupported("`--format` with a template".to_owned()))
            }
            Some(t) => Err(OptionsError::word("--format", t, "format", &["table", "json"])),
        }
    }
}

/// How a list with named fields is written: Docker's `--format`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Layout {
    /// The usual columns.
    #[default]
    Table,
    /// An object per line.
    Json,
    /// A template per row.
    Rows(Template),
    /// Columns between the tabulators of a template, under headings.
    Columns(Template),
}

impl Layout {
    /// Reads the flag: `table`, `json`, a template, or `table` and a template.
    pub fn parse(flag: Option<&str>) -> Result<Self, OptionsError> {
        let text = match flag.map(str::trim) {
            None | Some("" | "table") => return Ok(Self::Table),
            Some("json") => return Ok(Self::Json),
            Some(t) => t,
        };
        if !text.contains("{{") {
            let e = OptionsError::word("--format", text, "format", &["table", "json"]);
            return Err(e);
        }
        // As in a shell's quotes: `\\t` is two characters there.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let (columns, text) = match text.strip_prefix("table") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, &text[..]),
        };
        let template = template(text)?;
        Ok(if columns { Self::Columns(template) } else { Self::Rows(template) })
    }
}

/// Reads the template of a `--format`.
pub fn template(text: &str) -> Result<Template, OptionsError> {
    Template::parse(text).map_err(|e| OptionsError::value("--format", text, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!(Layout::parse(Some("table")).unwrap(), Layout::Table);
        assert_eq!(Layout::parse(Some("json")).unwrap(), Layout::Json);
        let columns = Layout::parse(Some(r"table {{.ID}}\t{{.Size}}")).unwrap();
        assert_eq!(columns, Layout::Columns(Template::parse("{{.ID}}\t{{.Size}}").unwrap()));
        for bad in ["{{.ID", "jsno", "{{frob"] {
            assert!(Layout::parse(Some(bad)).unwrap_err().is_usage(), "{bad}");
        }
    }

    #[test]
    fn words() {
        assert_eq!(Format::parse(None).unwrap(), Format::Table);
        assert_eq!(Format::parse(Some("json")).unwrap(), Format::Json);
        assert!(!Format::parse(Some("{{.ID}}")).unwrap_err().is_usage());
        let e = Format::parse(Some("jsno")).unwrap_err();
        assert!(e.is_usage());
        assert_eq!(e.help(), Some("did you mean `json`?"));
    }
}
