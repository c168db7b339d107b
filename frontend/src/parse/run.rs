//! `RUN`.

use rgraph_ir::Diagnostic;
use rgraph_ir::limits::MAX_MOUNTS;
use rgraph_ir::near::nearest;
use rgraph_ir::op::{Device, NetworkMode, SecurityMode};

use super::flags::Takes;
use super::{Head, config, heredoc, value};
use crate::ast::{CmdForm, Heredoc, Kind, MountField, MountSpec, Run, Word};

pub(super) fn parse(
    head: &Head<'_>,
    heredocs: Vec<Heredoc>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Kind> {
    let flags = head.flags(
        &[
            ("mount", Takes::Many),
            ("network", Takes::One),
            ("security", Takes::One),
            ("device", Takes::Many),
        ],
        diags,
    );
    let cmd = config::command(head, diags)?;
    let only_heredoc = matches!(&cmd, CmdForm::Shell(t) if t.first().is_some_and(|t| heredoc::opening(t).is_some()));
    let network = match flags.get("network") {
        None => NetworkMode::Default,
        Some(w) => match w.text.as_str() {
            "default" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => {
                diags.push(choice(
                    w,
                    format!("invalid network mode \"{other}\""),
                    other,
                    &["default", "none", "host"],
                ));
                NetworkMode::Default
            }
        },
    };
    let security = match flags.get("security") {
        None => SecurityMode::Sandbox,
        Some(w) => match w.text.as_str() {
            "sandbox" => SecurityMode::Sandbox,
            "insecure" => SecurityMode::Insecure,
            other => {
                diags.push(choice(
                    w,
                    format!("security \"{other}\" is not valid"),
                    other,
                    &["sandbox", "insecure"],
                ));
                SecurityMode::Sandbox
            }
        },
    };
    let count = flags.all("mount").count();
    if count > MAX_MOUNTS {
        let message = format!("a step with {count} mounts; at most {MAX_MOUNTS} are taken");
        diags.push(head.error("too-large", message));
        return None;
    }
    let mounts = flags.all("mount").filter_map(|w| keep(mount(w), diags)).collect();
    let devices =
        flags.all("device").filter_map(|w| keep(device(w), diags).map(|d| (d, w.span))).collect();
    Some(Kind::Run(Box::new(Run {
        cmd,
        heredocs,
        only_heredoc,
        mounts,
        network,
        security,
        devices,
    })))
}

fn keep<T>(r: Result<T, Box<Diagnostic>>, diags: &mut Vec<Diagnostic>) -> Option<T> {
    r.map_err(|d| diags.push(*d)).ok()
}

fn choice(w: &Word, message: String, got: &str, all: &[&'static str]) -> Diagnostic {
    let d = Diagnostic::error("invalid-flag", w.span, message);
    match nearest(got, all.iter().copied()) {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d.help(format!("it is one of {}", all.join(", "))),
    }
}

fn mount(flag: &Word) -> Result<MountSpec, Box<Diagnostic>> {
    let err = |m: String| Box::new(Diagnostic::error("invalid-mount", flag.span, m));
    let fields =
        value::csv(&flag.text).map_err(|e| err(format!("failed to parse csv mounts: {e}")))?;
    let mut spec = MountSpec {
        fields: Vec::new(),
        from: None,
        written: format!("--mount={}", flag.text),
        span: flag.span,
    };
    for text in fields {
        let (key, value) = match text.split_once('=') {
            Some((k, v)) => (k.to_lowercase(), Some(v.to_owned())),
            None => (text.to_lowercase(), None),
        };
        if let ("from", Some(v)) = (key.as_str(), &value) {
            if v.find('$').is_some_and(|i| i + 1 != v.len()) {
                return Err(Box::new(
                    err("'from' doesn't support variable expansion, define alias stage instead"
                        .to_owned())
                    .help(format!("add a stage `FROM {v} AS name` and write `from=name`")),
                ));
            }
            spec.from = Some(Word { text: v.into(), span: flag.span });
        }
        spec.fields.push(MountField { key, value, text });
    }
    Ok(spec)
}

fn device(flag: &Word) -> Result<Device, Box<Diagnostic>> {
    let err = |m: String| Box::new(Diagnostic::error("invalid-device", flag.span, m));
    let fields =
        value::csv(&flag.text).map_err(|e| err(format!("failed to parse csv devices: {e}")))?;
    let mut d = Device { name: String::new(), required: false };
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((k, v)) => (k.to_lowercase(), Some(v)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => d.required = true,
            ("required", Some(v)) => {
                d.required = value::boolean(v)
                    .ok_or_else(|| err(format!("invalid value for required: {v}")))?;
            }
            ("name", Some(v)) => {
                if !d.name.is_empty() {
                    return Err(err(format!("device name already set to {}", d.name)));
                }
                d.name = v.to_owned();
            }
            _ if d.name.is_empty() => d.name = field,
            (_, None) => {
                return Err(err(format!("invalid field '{field}' must be a key=value pair")));
            }
            (key, Some(_)) => return Err(err(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    Ok(d)
}
