//! `--format` of commands that list.

use super::error::OptionsError;

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

#[cfg(test)]
mod tests {
    use super::*;

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
