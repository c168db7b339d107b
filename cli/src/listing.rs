//! Lists with named fields, as `--format` draws them.

use serde_json::{Map, Value};

use crate::options::Layout;
use crate::progress::sanitize::harmless;
use crate::report::CliError;
use crate::table::Table;

/// Rows whose fields are all the same.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Names of the fields and their headings.
    fields: &'static [(&'static str, &'static str)],
    rows: Vec<Value>,
}

impl Listing {
    /// A list without rows.
    pub fn new(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self { fields, rows: Vec::new() }
    }

    /// Adds a row: one text per field, in order.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let names = self.fields.iter().map(|(name, _)| (*name).to_owned());
        let row: Map<String, Value> =
            names.zip(cells).map(|(n, c)| (n, Value::String(c.into()))).collect();
        self.rows.push(Value::Object(row));
    }

    fn headings(&self) -> Value {
        let all = self.fields.iter().map(|(n, h)| ((*n).to_owned(), Value::from(*h)));
        Value::Object(all.collect())
    }

    /// The list in the layout asked for; `columns` are the fields of the usual table.
    ///
    /// # Errors
    /// The template names a field that is none.
    pub fn draw(&self, layout: &Layout, columns: &[&str]) -> Result<Vec<u8>, CliError> {
        let mistake = |e: crate::template::TemplateError| CliError::usage(e.to_string());
        let mut out = Vec::new();
        match layout {
            Layout::Table => {
                let headings = self.headings();
                let text = |v: &Value, c: &str| v[c].as_str().unwrap_or_default().to_owned();
                let mut table = Table::new(columns.iter().map(|c| text(&headings, c)));
                for row in &self.rows {
                    table.row(columns.iter().map(|c| text(row, c)));
                }
                write(&table, &mut out)?;
            }
            Layout::Json => {
                for row in &self.rows {
                    out.extend(row.to_string().into_bytes());
                    out.push(b'\n');
                }
            }
            Layout::Rows(template) => {
                for row in &self.rows {
                    let line = harmless(&template.render(row).map_err(mistake)?);
                    out.extend(line.into_bytes());
                    out.push(b'\n');
                }
                // A mistake is told of an empty list too.
                template.render(&self.headings()).map_err(mistake)?;
            }
            Layout::Columns(template) => {
                let cells = |v: &Value| -> Result<Vec<String>, CliError> {
                    let line = template.render(v).map_err(mistake)?;
                    Ok(line.split('\t').map(str::to_owned).collect())
                };
                let mut table = Table::new(cells(&self.headings())?);
                for row in &self.rows {
                    table.row(cells(row)?);
                }
                write(&table, &mut out)?;
            }
        }
        Ok(out)
    }
}

fn write(table: &Table, out: &mut Vec<u8>) -> Result<(), CliError> {
    table.write(out).map_err(|e| CliError::failed("cannot write the table").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(format: &str) -> Result<String, CliError> {
        let mut list = Listing::new(&[("ID", "IMAGE ID"), ("Size", "SIZE"), ("Digest", "DIGEST")]);
        list.row(["0123", "1kB", "sha256:1"]);
        list.row(["4567", "\u{1b}[2J", "sha256:2"]);
        let layout = Layout::parse(Some(format)).unwrap();
        list.draw(&layout, &["ID", "Size"]).map(|t| String::from_utf8(t).unwrap())
    }

    #[test]
    fn layouts() {
        for (format, want) in [
            ("table", "IMAGE ID   SIZE\n0123       1kB\n4567       ^[[2J\n"),
            ("{{.ID}}:{{.Digest}}", "0123:sha256:1\n4567:sha256:2\n"),
            ("{{json .ID}} {{.Size}}", "\"0123\" 1kB\n\"4567\" ^[[2J\n"),
            (r"table {{.Size}}\t{{.ID}}", "SIZE      IMAGE ID\n1kB       0123\n^[[2J     4567\n"),
        ] {
            assert_eq!(drawn(format).unwrap(), want, "{format}");
        }
        assert!(drawn("json").unwrap().starts_with(r#"{"Digest":"sha256:1","ID":"0123","#));
        assert!(drawn("{{.Ids}}").unwrap_err().message.contains("did you mean `.ID`?"));
    }
}
