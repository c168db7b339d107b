//! `RUN`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use foldhash::quality::RandomState;
use rgraph_ir::limits::MAX_CONFIG;
use rgraph_ir::op::{
    ActionRef, Device, ExecOp, FileAction, FileActionKind, FileOp, MkfileAction, Mount, MountKind,
    NetworkMode, Op,
};
use rgraph_ir::{Diagnostic, VertexMeta};

use super::draft::Inputs;
use super::mounts::Mounts;
use super::names::{shown, summary};
use super::state::StageState;
use super::{Cx, Step, TOO_LARGE};
use crate::ast::{CmdForm, Run};
use crate::expand::{Lookup, Mode};

impl Cx<'_> {
    pub(super) fn run_step(
        &mut self,
        st: &mut StageState,
        step: &Step<'_>,
        run: &Run,
        sources: &[Option<usize>],
    ) -> Result<(), Box<Diagnostic>> {
        // A step may look at any file of what it stands on.
        let paths = self.nodes[step.node].paths;
        self.draft.paths[paths].add_all();
        let mut inputs = Inputs::default();
        let root = st.root.map(|r| inputs.index(r));
        let mut found = Mounts::default();
        let mut title = Cow::Borrowed(&*step.instruction.text);
        let args = match &run.cmd {
            CmdForm::Exec(args) => args.clone(),
            CmdForm::Shell(text) => {
                let text = self.script(run, text, &mut title, &mut inputs, &mut found.list, st);
                st.shell(text)
            }
        };
        if args.is_empty() {
            return Err(step.error("empty-run", "RUN has no command: the list is empty"));
        }
        self.mounts(st, step, run, sources, &mut inputs, &mut found)?;
        if !run.devices.is_empty() && !self.opts.allow_labs {
            return Err(Box::new(Diagnostic::error(
                "labs",
                run.devices[0].1,
                "`RUN --device` is not enabled",
            )));
        }
        if let Some(size) = self.opts.shm_size.filter(|s| *s > 0) {
            found.list.push(Mount { dest: "/dev/shm".to_owned(), kind: MountKind::Tmpfs { size } });
        }
        let env = st.vars.env().map_err(|e| step.error(TOO_LARGE, e))?;
        let env = match &found.ssh_socket {
            Some(socket) if st.vars.get("SSH_AUTH_SOCK").is_none() => {
                env.push_new("SSH_AUTH_SOCK".into(), socket.as_str().into())
            }
            _ => env,
        };
        let network = match run.network {
            NetworkMode::Default => self.opts.network,
            other => other,
        };
        let hostname = self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME");
        let hostname = hostname.or(self.opts.hostname.as_ref()).filter(|h| !h.is_empty()).cloned();
        let masked = Masked { names: &found.secret_names, env: &st.vars };
        let text = shown(&title, &masked, Mode::display(self.ast.escape));
        let name = self.nodes[step.node].counter.next(&text, step.onbuild, Some(st), &st.platform);
        let mut meta = self.meta(step, name);
        meta.ignore_cache = self.nodes[step.node].ignore_cache;
        let created_by = created_by(&args, st);
        if st.history_size + created_by.len() > MAX_CONFIG as usize {
            let message = format!("the image's history would be larger than {MAX_CONFIG} bytes");
            return Err(step.error(TOO_LARGE, message));
        }
        let services = self.services_of(step.node, network, &mut inputs);
        let op = ExecOp {
            args,
            env,
            cwd: st.cwd.clone(),
            user: st.user.clone(),
            root,
            mounts: found.list,
            network,
            security: run.security,
            secret_env: found.secret_env,
            devices: run.devices.iter().map(|(d, _)| Device::clone(d)).collect(),
            proxy_env: self.proxy.clone(),
            extra_hosts: self.opts.add_hosts.clone(),
            hostname,
            ulimits: self.opts.ulimits.clone(),
            cgroup_parent: self.opts.cgroup_parent.clone().filter(|c| !c.is_empty()),
            services,
        };
        let done = self.draft.add(op.into(), inputs.0, Some(st.platform.clone()), meta);
        st.root = Some(done);
        st.commit(created_by, Some(done), step.instruction.span);
        Ok(())
    }

    /// The text for the shell. A heredoc that starts with `#!` becomes a file.
    fn script(
        &mut self,
        run: &Run,
        text: &[String],
        title: &mut Cow<'_, str>,
        inputs: &mut Inputs,
        mounts: &mut Vec<Mount>,
        st: &StageState,
    ) -> String {
        let text = text.join(" ");
        let Some(first) = run.heredocs.first() else { return text };
        if !run.only_heredoc {
            return run.heredocs.iter().fold(text, |all, h| format!("{all}\n{}{}", h.body, h.name));
        }
        let content = first.content();
        title.to_mut().push_str(&format!(" ({})", summary(&first.body)));
        if st.image.platform.os == "windows" || !content.starts_with("#!") {
            return content;
        }
        let file = self.inline_file(&first.name, content, 0o755);
        let from = Some(inputs.index(file));
        mounts.push(Mount {
            dest: "/dev/pipes/".to_owned(),
            kind: MountKind::Bind { from, selector: "/".to_owned(), readonly: true },
        });
        super::path::join("/dev/pipes", &first.name)
    }

    /// A tree of nothing but one file.
    pub(super) fn inline_file(&mut self, name: &str, content: String, mode: u32) -> super::Ref {
        let action = MkfileAction {
            path: super::path::join("/", name),
            mode,
            data: Arc::from(content.into_bytes()),
            owner: None,
            timestamp: None,
        };
        let op = FileOp {
            actions: vec![FileAction {
                base: ActionRef::Scratch,
                kind: FileActionKind::Mkfile(action),
            }],
        };
        let meta = VertexMeta {
            name: "[internal] preparing inline document".to_owned(),
            ..VertexMeta::default()
        };
        self.draft.add(Op::File(op), Vec::new(), None, meta)
    }
}

/// Secrets given as variables are shown as stars.
struct Masked<'a> {
    names: &'a [String],
    env: &'a dyn Lookup,
}

impl Lookup for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if self.names.iter().any(|n| n == name) { Some("****") } else { self.env.get(name) }
    }
}

/// The history's form: `|1 A=x /bin/sh -c make`.
fn created_by(args: &[String], st: &StageState) -> String {
    const END: &str = " # buildkit";
    let length = args.iter().map(|a| a.len() + 1).sum::<usize>();
    let mut out = String::with_capacity(length + 3 + END.len());
    out.push_str("RUN");
    if !st.build_args.is_empty() {
        let mut seen: Vec<(&str, &str)> = Vec::with_capacity(st.build_args.len());
        let mut at: HashMap<&str, usize, RandomState> = HashMap::default();
        for (key, declared) in &st.build_args {
            let value = st.vars.get(key).or(declared.as_deref()).unwrap_or_default();
            // Nearly always the only one.
            if st.build_args.len() == 1 {
                seen.push((key, value));
                break;
            }
            let slot = *at.entry(key.as_str()).or_insert(seen.len());
            match seen.get_mut(slot) {
                Some(entry) => entry.1 = value,
                None => seen.push((key, value)),
            }
        }
        let _ = write!(out, " |{}", seen.len());
        for (key, value) in seen {
            out.extend([" ", key, "=", value]);
        }
    }
    for arg in args {
        out.push(' ');
        out.push_str(arg);
    }
    out.push_str(END);
    out
}
