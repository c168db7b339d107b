//! What a Dockerfile offers and asks for, as data: its targets, and the arguments, secrets, agents and
//! caches of one of them. Read from the tree; nothing is fetched and nothing runs, so variables of a
//! base image are not seen.
//!
//! Which names are listed, and with which value, is as in BuildKit's `outline.go`; cache ids are ours.

use rgraph_ir::{Diagnostic, Span};

use crate::ast::Dockerfile;
use crate::options::LowerOptions;

/// What a target may be told and needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// The stage's name; `None`: it has none.
    pub name: Option<String>,
    /// From the comment above its `FROM`.
    pub description: Option<String>,
    /// `ARG`s that can change the result, in file order.
    pub args: Vec<Arg>,
    /// Secrets, in file order.
    pub secrets: Vec<Need>,
    /// Agents, in file order.
    pub ssh: Vec<Need>,
    /// Ids of cache mounts, in file order.
    pub caches: Vec<Need>,
}

/// One `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// From the comment above it.
    pub description: Option<String>,
    /// What it is with the build args given; `None`: not set.
    pub value: Option<String>,
    /// The instruction.
    pub span: Span,
}

/// A secret, an agent or a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its id.
    pub id: String,
    /// The build fails without it, as its first mention says. Never true of a cache.
    pub required: bool,
    /// The instruction that names it first.
    pub span: Span,
}

/// One stage as a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, in lower case; `None`: only its number can name it.
    pub name: Option<String>,
    /// True of the stage that is built when none is named.
    pub default: bool,
    /// From the comment above its `FROM`.
    pub description: Option<String>,
    /// The base as written.
    pub base: String,
    /// `--platform` as written.
    pub platform: Option<String>,
    /// The `FROM` line.
    pub span: Span,
}

/// Every stage, in file order.
pub fn targets(ast: &Dockerfile) -> Vec<Target> {
    let last = ast.stages.len().saturating_sub(1);
    let target = |(i, s): (usize, &crate::ast::Stage)| Target {
        name: s.name.clone(),
        default: i == last,
        description: s.name.as_deref().and_then(|n| description(&s.comments, n)),
        base: s.base.text.to_string(),
        platform: s.platform.as_ref().map(|p| p.text.to_string()),
        span: s.span,
    };
    ast.stages.iter().enumerate().map(target).collect()
}

/// What the target of `opts` may be told and needs, with all that it is made from.
///
/// # Errors
/// What [`crate::lower`] would say with stubs for base images.
pub fn outline(ast: &Dockerfile, opts: &LowerOptions) -> Result<Outline, Vec<Diagnostic>> {
    crate::lower::outline(ast, opts)
}

/// What a comment `NAME text` says about `name`.
pub(crate) fn description(comments: &[String], name: &str) -> Option<String> {
    comments
        .iter()
        .find_map(|c| c.strip_prefix(name)?.strip_prefix(' '))
        .map(str::to_owned)
        .filter(|d| !d.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{said, source};

    fn of(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> Outline {
        let opts = LowerOptions {
            target: target.map(str::to_owned),
            build_args: args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..LowerOptions::default()
        };
        let parsed = crate::parse(&source(text));
        assert!(parsed.is_ok(), "{:?}", said(text, &parsed.diags));
        outline(&parsed.ast, &opts).unwrap_or_else(|e| panic!("{:?}", said(text, &e)))
    }

    /// `LINE NAME=VALUE DESCRIPTION`
    fn args(text: &str, o: &Outline) -> Vec<String> {
        let src = source(text);
        let show = |a: &Arg| {
            let line = src.line_col(a.span.start).line;
            let value = a.value.as_ref().map(|v| format!("={v}")).unwrap_or_default();
            let about = a.description.as_ref().map(|d| format!(" {d}")).unwrap_or_default();
            format!("{line} {}{value}{about}", a.name)
        };
        o.args.iter().map(show).collect()
    }

    fn needs(text: &str, list: &[Need]) -> Vec<String> {
        let src = source(text);
        let show = |n: &Need| {
            let line = src.line_col(n.span.start).line;
            format!("{line} {}{}", n.id, if n.required { " required" } else { "" })
        };
        list.iter().map(show).collect()
    }

    #[test]
    fn args_of_a_target_and_what_it_stands_on() {
        let text = "\
ARG os=linux
ARG other=x
ARG unused=a${other}
# flavour names the variant
ARG flavour=\"slim-${os}\"
FROM debian:${flavour} AS tools
# nothing about LEVEL
ARG LEVEL=1
# DEPTH is how deep
ARG DEPTH=2
RUN true
FROM alpine:${unused} AS aside
ARG LOST
FROM scratch AS under
ARG ABC=a
# check=skip=all
ARG token
# goal is what ships
FROM under AS goal
COPY --from=tools /x /
FROM aside
";
        let o = of(text, Some("goal"), &[("DEPTH", "9")]);
        assert_eq!(
            (o.name.as_deref(), o.description.as_deref()),
            (Some("goal"), Some("is what ships"))
        );
        assert_eq!(
            args(text, &o),
            [
                "1 os=linux",
                "5 flavour=slim-linux names the variant",
                "8 LEVEL=1",
                "10 DEPTH=9 is how deep",
                "15 ABC=a",
                "17 token",
            ]
        );
        let o = of(text, None, &[]);
        assert_eq!(o.name, None);
        assert_eq!(args(text, &o), ["2 other=x", "3 unused=ax", "13 LOST"]);
    }

    #[test]
    fn an_arg_that_refers_to_itself_keeps_what_it_was_made_of() {
        let text = "\
ARG A=1
ARG B=b
ARG C=c
ARG A=${A}${B}
ARG D=${A}4
ARG A=${A}4${D}
FROM scratch
ARG A
ARG X=1
ARG Y=${X}4
ARG X=${X}4${Y}
";
        assert_eq!(
            args(text, &of(text, None, &[])),
            ["2 B=b", "5 D=1b4", "6 A=1b41b4", "10 Y=14", "11 X=1414"]
        );
    }

    #[test]
    fn what_names_the_platform_is_used() {
        let text = "ARG os=linux\nARG cpu=amd64\nFROM --platform=${os}/${cpu} scratch\n";
        assert_eq!(args(text, &of(text, None, &[])), ["1 os=linux", "2 cpu=amd64"]);
    }

    #[test]
    fn a_child_uses_what_named_its_base() {
        let text = "ARG A=a\nFROM $A AS b\nARG A=c\nFROM b\n";
        assert_eq!(args(text, &of(text, None, &[])), ["1 A=a"]);
        assert_eq!(args(text, &of(text, Some("b"), &[])), ["3 A=c"]);
    }

    #[test]
    fn secrets_agents_and_caches() {
        let text = "\
FROM busybox AS first
RUN --mount=type=secret,target=/etc/key,required=true --mount=type=ssh true
FROM alpine AS aside
RUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true
FROM scratch AS third
ARG N
RUN --mount=type=secret,id=second${N} --mount=type=cache,target=/c/ true
FROM third AS goal
COPY --from=first /foo /
RUN --mount=type=ssh,id=ssh3,required --mount=type=cache,id=go,target=/g true
RUN --mount=type=secret,id=second7,env=TOKEN true
FROM aside
";
        let o = of(text, Some("goal"), &[("N", "7")]);
        assert_eq!(needs(text, &o.secrets), ["2 key required", "11 second7"]);
        assert_eq!(needs(text, &o.ssh), ["2 default", "10 ssh3 required"]);
        assert_eq!(needs(text, &o.caches), ["7 /c", "10 go"]);
    }

    #[test]
    fn triggers_of_a_stage_count() {
        let text = "FROM scratch AS a\nONBUILD ARG V=1\nFROM a\n";
        assert_eq!(args(text, &of(text, None, &[])), ["3 V=1"]);
    }

    #[test]
    fn stages_as_targets() {
        let text = "# base for all\n# base has tools\nFROM --platform=$BUILDPLATFORM alpine AS Base\nFROM base\n";
        let list = targets(&crate::parse(&source(text)).ast);
        assert_eq!(list[0].name.as_deref(), Some("base"));
        assert_eq!(list[0].description.as_deref(), Some("for all"));
        assert_eq!(list[0].platform.as_deref(), Some("$BUILDPLATFORM"));
        assert!(!list[0].default && list[1].default);
        assert_eq!((list[1].name.as_deref(), list[1].base.as_str()), (None, "base"));
    }

    #[test]
    fn an_unknown_target_is_an_error() {
        let parsed = crate::parse(&source("FROM scratch AS a\n"));
        let opts = LowerOptions { target: Some("b".to_owned()), ..LowerOptions::default() };
        let errors = outline(&parsed.ast, &opts).unwrap_err();
        assert_eq!(errors[0].code, "target");
    }
}
