//! PROP-01: any text parses without panic; spans lie in order and leave out nothing but blank lines,
//! comments and what is wrong; what the spans cover parses to the same again.

use rgraph_frontend::ast::{Dockerfile, Instruction};
use rgraph_frontend::parse;
use rgraph_ir::Span;
use rgraph_ir::span::{FileId, SourceFile};

fn source(text: &str) -> SourceFile {
    SourceFile::new(FileId(0), "Dockerfile", text)
}

/// Keyword, text and span of everything, in file order.
fn statements(ast: &Dockerfile) -> Vec<(String, String, Span)> {
    let one = |i: &Instruction| (i.name().to_owned(), i.text.to_string(), i.span);
    let mut all: Vec<_> = ast.global_args.iter().map(one).collect();
    for s in &ast.stages {
        all.push(("FROM".to_owned(), s.text.clone(), s.span));
        all.extend(s.instructions.iter().map(one));
    }
    all
}

/// Checks one text.
pub fn holds(text: &str) {
    let parsed = parse(&source(text));
    for label in parsed.diags.iter().flat_map(|d| &d.labels) {
        assert!(
            text.get(label.span.start as usize..label.span.end as usize).is_some(),
            "{label:?}"
        );
    }
    if !parsed.is_ok() {
        return;
    }
    let all = statements(&parsed.ast);
    let escape = parsed.ast.escape;
    let mut again = format!("# escape={escape}\n");
    let mut end = 0;
    for (name, said, span) in &all {
        let (from, to) = (span.start as usize, span.end as usize);
        assert!(end <= from && from <= to, "{name} at {span:?} after {end}");
        let gap = text.get(end..from).expect("spans cut no character");
        let skipped = |l: &str| {
            let l = l.trim_start_matches('\u{feff}').trim();
            l.is_empty() || l.starts_with('#')
        };
        assert!(gap.split('\n').all(skipped), "left out: {gap:?}");
        again.push_str(text.get(from..to).expect("spans cut no character"));
        again.push('\n');
        assert!(!said.is_empty());
        end = to;
    }
    let second = parse(&source(&again));
    assert!(second.is_ok(), "{text:?} parses, {again:?} does not: {:?}", second.diags);
    let shown = |ast: &Dockerfile| -> Vec<(String, String)> {
        statements(ast).into_iter().map(|(n, t, _)| (n, t)).collect()
    };
    assert_eq!(shown(&parsed.ast), shown(&second.ast), "{text:?}");
}
