//! `--format`: the part of Go's `text/template` that Docker's users write, over JSON values.
//!
//! Fields (`.A.B`), variables, pipelines, `if`, `with`, `range`, comments, trimming, and the
//! functions of [`functions`]. Templates are the caller's own text; the values in them are foreign,
//! so whoever prints the result makes it harmless first.

mod eval;
mod functions;
mod parse;
mod print;

use serde_json::Value;

pub use parse::TemplateError;

/// A template that can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<parse::Node>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// It is not one, or uses what is not supported; the text says which.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        parse::parse(text).map(Self)
    }

    /// What the template says of `value`.
    ///
    /// # Errors
    /// A field that `value` itself does not have, or a function that cannot take what it is given.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        eval::render(&self.0, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn show(template: &str) -> String {
        let value = json!({
            "ID": "0123456789abcdef", "Size": 1200, "Empty": "", "None": null, "On": true,
            "Config": {
                "Env": ["A=1", "B=2"], "Cmd": null,
                "Labels": {"org.x": "y", "a": "b"},
            },
            "Layers": [{"D": 1}, {"D": 2}],
        });
        match Template::parse(template).and_then(|t| t.render(&value)) {
            Ok(text) => text,
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn renders_as_go_does() {
        for (template, want) in [
            ("{{.ID}}", "0123456789abcdef"),
            ("{{ .Size }}/{{.On}}", "1200/true"),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{.Config.Labels}}", "map[a:b org.x:y]"),
            ("{{.None}}", "<nil>"),
            ("{{.Config.Cmd}}{{.Config.Volumes}}", "[]map[]"),
            ("{{.Config.Absent}}", "<no value>"),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{json .Config.Cmd}}", "null"),
            ("{{.Config.Env | json}}", r#"["A=1","B=2"]"#),
            (r#"{{index .Config.Labels "org.x"}}"#, "y"),
            (r#"{{index .Config.Labels "nope"}}"#, ""),
            ("{{index .Config.Env 1}}", "B=2"),
            ("{{(index .Layers 1).D}}", "2"),
            ("{{range .Config.Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
            ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "a:b org.x:y "),
            ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
            ("{{if .On}}yes{{else}}no{{end}}", "yes"),
            ("{{if .Empty}}a{{else if .None}}b{{else}}c{{end}}", "c"),
            ("{{if and .On (eq .Size 1200)}}ok{{end}}", "ok"),
            ("{{if not (or .Empty .None)}}ok{{end}}", "ok"),
            ("{{with .Config}}{{len .Env}}{{$.ID | upper}}{{end}}", "20123456789ABCDEF"),
            ("{{$x := .ID}}{{truncate $x 4}}", "0123"),
            (r#"{{join .Config.Env ","}}"#, "A=1,B=2"),
            (r#"{{range split "a:b" ":"}}{{println .}}{{end}}"#, "a\nb\n"),
            (
                r#"{{printf "%s|%5d|%-4v|%q|%.3s" .ID .Size .On "x" .ID}}"#,
                "0123456789abcdef| 1200|true|\"x\"|012",
            ),
            ("a {{- /* gone */ -}} b", "ab"),
            ("{{slice .ID 0 3}} {{pad .ID 1 2}}", "012  0123456789abcdef  "),
            (r#"{{"\t"}}|{{`raw`}}"#, "\t|raw"),
            ("{{len .ID}}{{lt 1 2}}{{ge 1 2}}{{ne .ID \"x\"}}", "16truefalsetrue"),
            ("{{title \"abc\"}}", "Abc"),
            ("{{println .ID}}", "0123456789abcdef\n"),
            ("plain", "plain"),
        ] {
            assert_eq!(show(template), want, "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, want) in [
            ("{{.Nope}}", "`.Nope`: there is no such field"),
            ("{{", "`{{` is not closed"),
            ("{{if .On}}x", "`{{if}}` has no `{{end}}`"),
            ("{{end}}", "`{{end}}` without a block"),
            ("{{frob .ID}}", "function `frob` is not known"),
            ("{{define \"x\"}}{{end}}", "`define` is not supported"),
            ("{{.ID .Size}}", "takes no arguments"),
            ("{{index .Config.Env 9}}", "index 9 is out of range"),
            ("{{$y}}", "variable `$y` is not set"),
            ("{{\"x}}", "a text is not closed"),
            ("{{json}}", "`json` takes 1 argument"),
            ("{{}}", "nothing between"),
        ] {
            let got = show(template);
            assert!(got.starts_with("error: ") && got.contains(want), "{template}: {got}");
        }
        let deep = "{{if .On}}".repeat(300);
        assert!(show(&deep).contains("nested too deeply"));
        let deep = format!("{{{{{}.ID{}}}}}", "(".repeat(300), ")".repeat(300));
        assert!(show(&deep).contains("nested too deeply"));
    }
}
