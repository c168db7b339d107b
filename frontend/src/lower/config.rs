//! Instructions that change settings: `ENV`, `ARG`, `WORKDIR`, `CMD`, ...

use compact_str::CompactString;
use rgraph_ir::limits::MAX_PORTS;
use rgraph_ir::op::{ActionRef, FileAction, FileActionKind, FileOp, MkdirAction, Op};
use rgraph_ir::{Diagnostic, Span};

use super::draft::Inputs;
use super::gofmt;
use super::names::shown;
use super::state::StageState;
use super::{Cx, Step, TOO_LARGE, copy, expose, path};
use crate::ast::{ArgDef, CmdForm, Kind, Pair};
use crate::expand::Lookup;
use crate::lint::rules;

/// Instructions of which only the last counts, and whether they were seen.
#[derive(Debug, Default)]
pub(super) struct Once {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

/// Variables that steer the builder and never reach a step.
const NOT_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Cx<'_> {
    pub(super) fn config_step(
        &mut self,
        st: &mut StageState,
        step: &Step<'_>,
        once: &mut Once,
    ) -> Result<(), Box<Diagnostic>> {
        let span = step.instruction.span;
        let said = match &step.instruction.kind {
            Kind::Env(pairs) => {
                let pairs = self.pairs(st, step, pairs)?;
                let said = said("ENV", &pairs);
                for (k, v) in &pairs {
                    self.lint_secret(step, "ENV", k);
                    // A name that came out with `=` in it reads as its first part.
                    match k.split_once('=') {
                        Some((k, rest)) => st.set_env(k, &format!("{rest}={v}")),
                        None => st.set_env(k, v),
                    }
                }
                said
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(st, step, pairs)?;
                let said = said("LABEL", &pairs);
                let pairs = pairs.into_iter().map(|(k, v)| (k.into(), v.into()));
                st.config().labels.extend(pairs);
                said
            }
            Kind::Arg(args) => self.arg(st, step, args)?,
            Kind::Workdir(word) => {
                let dir = self.expand(st, step, word)?;
                return self.workdir(st, step, &dir);
            }
            Kind::User(word) => {
                let user = self.expand(st, step, word)?;
                let said = format!("USER {user}");
                st.user = user.to_string();
                st.config().user = user.into();
                said
            }
            Kind::Expose(words) => {
                let mut ports = Vec::new();
                for w in words {
                    let e = crate::expand::expand(&w.text, &st.vars, self.mode().split()).map_err(
                        |e| Box::new(Diagnostic::error("expansion", w.span, e.to_string())),
                    )?;
                    for p in e.words {
                        let port = expose::parse(&p)
                            .map_err(|e| Box::new(Diagnostic::error("expose", w.span, e)))?;
                        self.lint_port(step, &p, &port);
                        ports.extend(port.list());
                        if ports.len() > MAX_PORTS {
                            let message = format!("more than {MAX_PORTS} ports are exposed");
                            return Err(step.error(TOO_LARGE, message));
                        }
                    }
                }
                let said = format!("EXPOSE {}", gofmt::plain_list(&ports));
                st.config().exposed_ports.extend(ports);
                said
            }
            Kind::Volume(words) => {
                let mut list = Vec::with_capacity(words.len());
                for w in words {
                    let v = self.expand(st, step, w)?;
                    if v.is_empty() {
                        let message = "VOLUME specified can not be an empty string";
                        return Err(Box::new(Diagnostic::error("empty-volume", w.span, message)));
                    }
                    list.push(v.into());
                }
                let said = format!("VOLUME {}", gofmt::plain_list(&list));
                st.config().volumes.extend(list);
                said
            }
            Kind::Cmd(form) => {
                self.only_once(step, &mut once.cmd);
                let args = self.command(st, step, form);
                let said = format!("CMD {}", gofmt::quoted_list(&args));
                st.config().cmd = Some(args);
                st.config().args_escaped = true;
                said
            }
            Kind::Entrypoint(form) => {
                self.only_once(step, &mut once.entrypoint);
                let args = self.command(st, step, form);
                let said = format!("ENTRYPOINT {}", gofmt::quoted_list(&args));
                let none = matches!(form, CmdForm::Exec(l) if l.is_empty());
                st.config().entrypoint = (!none).then_some(args);
                if once.cmd.is_none() {
                    st.config().cmd = None;
                }
                said
            }
            Kind::Shell(list) => {
                st.config().shell = Some(list.clone());
                format!("SHELL {}", gofmt::plain_list(list))
            }
            Kind::StopSignal(word) => {
                let signal = self.expand(st, step, word)?;
                if !valid_signal(&signal) {
                    return Err(Box::new(
                        Diagnostic::error(
                            "stop-signal",
                            word.span,
                            format!("invalid signal: {signal}"),
                        )
                        .help("give a name such as `SIGTERM` or a number"),
                    ));
                }
                let said = format!("STOPSIGNAL {signal}");
                st.config().stop_signal = Some(signal.into());
                said
            }
            Kind::Healthcheck(h) => {
                self.only_once(step, &mut once.healthcheck);
                st.config().healthcheck = Some(h.health.clone());
                format!("HEALTHCHECK {}", gofmt::healthcheck(&h.health))
            }
            Kind::Maintainer(word) => {
                st.image.author = Some(word.text.to_string());
                format!("MAINTAINER {}", word.text)
            }
            Kind::Onbuild(text) => {
                st.config().on_build.push(text.text.to_string());
                return Ok(());
            }
            Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) => return Ok(()),
        };
        st.commit(said, None, span);
        Ok(())
    }

    /// All values are taken from before the line.
    fn pairs(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        pairs: &[Pair],
    ) -> Result<Vec<(CompactString, CompactString)>, Box<Diagnostic>> {
        let mut out = Vec::with_capacity(pairs.len());
        for p in pairs {
            if p.legacy {
                let name = &step.instruction.keyword.text;
                let message = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                self.warn(step, &rules::LEGACY_KEY_VALUE_FORMAT, message);
            }
            out.push((self.expand(st, step, &p.key)?, self.expand(st, step, &p.value)?));
        }
        Ok(out)
    }

    fn arg(
        &mut self,
        st: &mut StageState,
        step: &Step<'_>,
        args: &[ArgDef],
    ) -> Result<String, Box<Diagnostic>> {
        let mut said = "ARG".to_owned();
        for a in args {
            let key = &a.key.text;
            self.lint_secret(step, "ARG", key);
            let value = match (self.build_args.get(key.as_str()), &a.value) {
                (Some(v), _) => Some(v.into()),
                (None, Some(v)) => Some(self.expand(st, step, v)?),
                (None, None) => self.globals.get(key).map(CompactString::from),
            };
            said.push(' ');
            said.push_str(key);
            if let Some(v) = &value {
                if !NOT_ENV.contains(&key.as_str()) {
                    st.set_arg(key, v);
                }
                said.push('=');
                said.push_str(v);
            }
            st.build_args.push((key.clone(), value));
        }
        Ok(said)
    }

    /// Makes `dir` the working directory of what follows.
    pub(super) fn enter(&mut self, st: &mut StageState, dir: String) {
        st.cwd.clone_from(&dir);
        st.image.config.working_dir =
            if st.os() == "windows" { dir.replace('/', "\\") } else { dir };
    }

    fn workdir(
        &mut self,
        st: &mut StageState,
        step: &Step<'_>,
        dir: &str,
    ) -> Result<(), Box<Diagnostic>> {
        let platform = st.platform.clone();
        let os = platform.os.as_str();
        if !st.workdir_set && !path::is_abs(dir, os) {
            let message = format!(
                "Relative workdir \"{dir}\" can have unexpected results if the base image changes"
            );
            self.warn(step, &rules::WORKDIR_RELATIVE_PATH, message);
        }
        st.workdir_set = true;
        let current = st.image.config.working_dir.clone();
        let dir = path::normalize(&current, dir, os, false)
            .map_err(|e| step.error("workdir", format!("normalizing workdir: {e}")))?;
        self.enter(st, dir.clone());
        let mut layer = None;
        if dir != "/" {
            let mut inputs = Inputs::default();
            let base = match st.root {
                Some(r) => ActionRef::Input(inputs.index(r)),
                None => ActionRef::Scratch,
            };
            let user = &st.image.config.user;
            let mkdir = MkdirAction {
                path: path::clean(&dir),
                mode: 0o755,
                make_parents: true,
                owner: (!user.is_empty()).then(|| copy::owner(user, base)),
                timestamp: self.epoch.map(|s| s.saturating_mul(1_000_000_000)),
            };
            let actions = vec![FileAction { base, kind: FileActionKind::Mkdir(mkdir) }];
            let text = shown(&step.instruction.text, &st.vars, self.mode());
            let name = self.nodes[step.node].counter.next(&text, step.onbuild, Some(st), &platform);
            let meta = self.meta(step, name);
            let made = self.draft.add(Op::File(FileOp { actions }), inputs.0, None, meta);
            st.root = Some(made);
            layer = Some(made);
        }
        st.commit(format!("WORKDIR {dir}"), layer, step.instruction.span);
        Ok(())
    }

    fn command(&mut self, st: &StageState, step: &Step<'_>, form: &CmdForm) -> Vec<String> {
        match form {
            CmdForm::Exec(list) => list.clone(),
            CmdForm::Shell(text) => {
                if st.image.config.shell.as_ref().is_none_or(Vec::is_empty) {
                    let message = format!(
                        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                        step.instruction.keyword.text
                    );
                    self.warn(step, &rules::JSON_ARGS_RECOMMENDED, message);
                }
                st.shell(text.join(" "))
            }
        }
    }

    fn only_once(&mut self, step: &Step<'_>, seen: &mut Option<Span>) {
        if let Some(before) = seen.replace(step.instruction.span) {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                step.instruction.keyword.text
            );
            let rule = &rules::MULTIPLE_INSTRUCTIONS_DISALLOWED;
            self.lint.warn(rule, before, &step.instruction.comments, message);
        }
    }
}

/// The history's form: `ENV A=1 B=2`.
fn said(keyword: &str, pairs: &[(CompactString, CompactString)]) -> String {
    let length = pairs.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
    let mut out = String::with_capacity(keyword.len() + length);
    out.push_str(keyword);
    for (k, v) in pairs {
        out.extend([" ", k, "=", v]);
    }
    out
}

/// Names with or without `SIG`, `RTMIN+n`, `RTMAX-n`, or a number from 1.
fn valid_signal(text: &str) -> bool {
    if let Ok(n) = text.parse::<i32>() {
        return n != 0;
    }
    const NAMES: [&str; 37] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "UNUSED", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU",
        "XFSZ", "RTMIN", "RTMAX",
    ];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, max: u32| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| (1..=max).contains(&n))
    };
    NAMES.contains(&name) || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}
