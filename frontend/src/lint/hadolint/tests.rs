//! For every rule, texts that it finds something in and texts that it does not.

mod hostile;
mod packages;
mod rest;
mod steps;
mod switches;

use crate::LowerOptions;
use crate::testkit::{lowered, said};
use rgraph_ir::Diagnostic;

/// A rule with texts it fires on and texts it does not. A text is a Dockerfile, or a `RUN` of one stage.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

fn file(text: &str) -> String {
    match text {
        t if t.starts_with(['F', '#']) => t.to_owned(),
        t if t.starts_with("RUN") => format!("FROM a:1\n{t}\n"),
        t => format!("FROM a:1\nRUN {t}\n"),
    }
}

/// What one rule says about a file.
fn found(rule: &str, text: &str) -> Vec<Diagnostic> {
    let text = format!("# check=experimental={rule}\n{}", file(text));
    let done = lowered(&text, &LowerOptions::default())
        .unwrap_or_else(|e| panic!("{:?}\n{text}", said(&text, &e)));
    done.warnings.into_iter().filter(|d| d.code == rule).collect()
}

fn check(cases: &[Case]) {
    for (rule, fires, quiet) in cases {
        assert!(fires.len() + quiet.len() >= 4, "{rule}: too few texts");
        for text in *fires {
            assert!(!found(rule, text).is_empty(), "{rule} finds nothing in\n{text}");
        }
        for text in *quiet {
            let d = found(rule, text);
            assert!(d.is_empty(), "{rule}: {}\n{text}", d[0].message);
        }
    }
}

#[test]
fn every_rule_has_texts() {
    let all = [packages::CASES, steps::CASES, rest::CASES].concat();
    for rule in super::rules::ALL {
        let n = all.iter().filter(|c| c.0 == rule.id).count();
        assert_eq!(n, 1, "{}", rule.id);
    }
    assert_eq!(all.len(), super::rules::ALL.len());
}
