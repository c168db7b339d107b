//! `RUN --mount=...`.

use rgraph_ir::Diagnostic;
use rgraph_ir::near::nearest;
use rgraph_ir::op::{
    ActionRef, CacheMount, CacheSharing, FileAction, FileActionKind, FileOp, MkdirAction, Mount,
    MountKind, Op, Owner, OwnerId, SecretEnv, SecretMount, SshMount,
};

use super::draft::{Inputs, Ref};
use super::state::StageState;
use super::{Cx, Step, path};
use crate::ast::{MountSpec, Run};
use crate::parse::value::{boolean, ram};

/// What a step's mounts come to.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub list: Vec<Mount>,
    pub secret_env: Vec<SecretEnv>,
    /// Variables that hold secrets.
    pub secret_names: Vec<String>,
    /// The first agent's socket.
    pub ssh_socket: Option<String>,
    ssh: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: [(&str, Type); 5] = [
    ("bind", Type::Bind),
    ("cache", Type::Cache),
    ("tmpfs", Type::Tmpfs),
    ("secret", Type::Secret),
    ("ssh", Type::Ssh),
];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// A mount with its values expanded.
struct Options {
    kind: Type,
    from: String,
    source: String,
    target: String,
    readonly: Option<bool>,
    size: u64,
    id: String,
    sharing: Option<CacheSharing>,
    required: bool,
    env: Option<String>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Options {
    fn has_owner(&self) -> bool {
        self.mode.is_some() || self.uid.is_some() || self.gid.is_some()
    }
}

/// What a mount wants of the caller or of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Secret,
    Ssh,
    Cache,
}

impl Cx<'_> {
    /// The kind, the id and whether the step fails without it; `None` for other mounts.
    pub(super) fn wanted(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        spec: &MountSpec,
    ) -> Result<Option<(Wanted, String, bool)>, Box<Diagnostic>> {
        let o = self.mount_options(st, step, spec)?;
        let required = o.required;
        Ok(match o.kind {
            Type::Secret => Some((Wanted::Secret, secret_id(&o), required)),
            Type::Ssh if o.id.is_empty() => Some((Wanted::Ssh, "default".to_owned(), required)),
            Type::Ssh => Some((Wanted::Ssh, o.id, required)),
            Type::Cache => Some((Wanted::Cache, cache_id(&o), false)),
            Type::Bind | Type::Tmpfs => None,
        })
    }

    pub(super) fn mounts(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        run: &Run,
        sources: &[Option<usize>],
        inputs: &mut Inputs,
        found: &mut Mounts,
    ) -> Result<(), Box<Diagnostic>> {
        for (i, spec) in run.mounts.iter().enumerate() {
            let o = self.mount_options(st, step, spec)?;
            if o.target.starts_with('/') && o.target.trim_matches('/').is_empty() {
                let message = format!("invalid mount target \"{}\"", o.target);
                return Err(Box::new(Diagnostic::error("invalid-mount", spec.span, message)));
            }
            match o.kind {
                Type::Secret => secret(&o, spec, found)?,
                Type::Ssh => ssh(&o, spec, found)?,
                _ => {
                    let source = sources.get(i).copied().flatten();
                    self.tree_mount(st, o, spec, source, inputs, found)?;
                }
            }
        }
        Ok(())
    }

    fn mount_options(
        &mut self,
        st: &StageState,
        step: &Step<'_>,
        spec: &MountSpec,
    ) -> Result<Options, Box<Diagnostic>> {
        let err = |m: String| Box::new(Diagnostic::error("invalid-mount", spec.span, m));
        let mut o = Options {
            kind: Type::Bind,
            from: String::new(),
            source: String::new(),
            target: String::new(),
            readonly: None,
            size: 0,
            id: String::new(),
            sharing: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        for f in &spec.fields {
            let key = f.key.as_str();
            let type_name = |t: Type| TYPES.iter().find(|(_, x)| *x == t).map_or("", |(n, _)| *n);
            let misplaced =
                |t| err(format!("unexpected key '{key}' for mount type '{}'", type_name(t)));
            let Some(raw) = &f.value else {
                match key {
                    "readonly" | "ro" => o.readonly = Some(true),
                    "readwrite" | "rw" => o.readonly = Some(false),
                    "required" if matches!(o.kind, Type::Secret | Type::Ssh) => o.required = true,
                    "required" => return Err(misplaced(o.kind)),
                    _ => {
                        let d = err(format!("invalid field '{}' must be a key=value pair", f.text));
                        return Err(match nearest(key, KEYS) {
                            Some(near) => Box::new(d.help(format!("did you mean `{near}=...`?"))),
                            None => d,
                        });
                    }
                }
                continue;
            };
            let value = self.expand_mode(st, step, raw, spec.span, self.mode())?;
            let yes =
                || boolean(&value).ok_or_else(|| err(format!("invalid value for {key}: {value}")));
            let number = |radix| {
                u32::from_str_radix(&value, radix)
                    .ok()
                    .filter(|_| !value.starts_with('+'))
                    .ok_or_else(|| err(format!("invalid value {value} for {key}")))
            };
            match key {
                "type" => {
                    let lower = value.to_lowercase();
                    let Some((_, t)) = TYPES.iter().find(|(n, _)| *n == lower) else {
                        let d = err(format!("unsupported mount type \"{value}\""));
                        let names = TYPES.iter().map(|(n, _)| *n);
                        return Err(Box::new(match nearest(&lower, names) {
                            Some(near) => d.help(format!("did you mean `{near}`?")),
                            None => d.help("it is one of bind, cache, tmpfs, secret, ssh"),
                        }));
                    };
                    o.kind = *t;
                }
                "from" => o.from = value.into(),
                "source" | "src" => o.source = value.into(),
                "target" | "dst" | "destination" => o.target = value.into(),
                "readonly" | "ro" => o.readonly = Some(yes()?),
                "readwrite" | "rw" => o.readonly = Some(!yes()?),
                "required" if matches!(o.kind, Type::Secret | Type::Ssh) => o.required = yes()?,
                "size" if o.kind == Type::Tmpfs => {
                    o.size = ram(&value)
                        .ok_or_else(|| err(format!("invalid value for {key}: {value}")))?;
                }
                "required" | "size" => return Err(misplaced(o.kind)),
                "id" => o.id = value.into(),
                "sharing" => {
                    o.sharing = Some(match value.to_lowercase().as_str() {
                        "shared" => CacheSharing::Shared,
                        "private" => CacheSharing::Private,
                        "locked" => CacheSharing::Locked,
                        _ => {
                            return Err(Box::new(
                                err(format!("unsupported sharing value \"{value}\""))
                                    .help("it is one of shared, private, locked"),
                            ));
                        }
                    });
                }
                "mode" => o.mode = Some(number(8)?),
                "uid" => o.uid = Some(number(10)?),
                "gid" => o.gid = Some(number(10)?),
                "env" => o.env = Some(value.into()),
                _ => {
                    let mut d = err(format!("unexpected key '{key}' in '{}'", f.text));
                    if let Some(near) = nearest(key, KEYS) {
                        d = Box::new(d.help(format!("did you mean `{near}`?")));
                    }
                    return Err(d);
                }
            }
        }
        check(&o).map_err(err)?;
        Ok(o)
    }

    /// Bind, cache and tmpfs.
    fn tree_mount(
        &mut self,
        st: &StageState,
        o: Options,
        spec: &MountSpec,
        source: Option<usize>,
        inputs: &mut Inputs,
        found: &mut Mounts,
    ) -> Result<(), Box<Diagnostic>> {
        let err = |m: String| Box::new(Diagnostic::error("invalid-mount", spec.span, m));
        let mut tree: Option<Ref> = match (source, o.kind) {
            (_, Type::Tmpfs) => None,
            (Some(at), kind) if !o.from.is_empty() || kind == Type::Cache => {
                if !self.nodes[at].dispatched {
                    return Err(err(format!(
                        "cannot mount from stage \"{}\" to \"{}\", stage needs to be defined before current command",
                        o.from, o.target
                    )));
                }
                self.nodes[at].root
            }
            (_, Type::Cache) => None,
            _ => Some(self.context),
        };
        let dest = if path::clean(&o.target).starts_with('/') {
            o.target.clone()
        } else {
            path::clean(&format!("/{}/{}", st.cwd, o.target))
        };
        if dest == "/" {
            return Err(err("invalid mount target \"/\"".to_owned()));
        }
        let selected = path::join("/", &o.source);
        let mut selector = selected.clone();
        if selected == "/" && o.has_owner() {
            tree = Some(self.cache_folder(&o, tree));
            selector = "/cache".to_owned();
        }
        let from = tree.map(|t| inputs.index(t));
        let default_readonly = o.kind == Type::Bind;
        let readonly = o.readonly.unwrap_or(default_readonly);
        let kind = match o.kind {
            Type::Cache => {
                let id = cache_id(&o);
                let namespace = self.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
                MountKind::Cache(CacheMount {
                    id: format!("{}/{id}", namespace.map_or("", String::as_str)),
                    sharing: o.sharing.unwrap_or_default(),
                    from,
                    selector,
                    readonly,
                })
            }
            Type::Tmpfs => MountKind::Tmpfs { size: o.size },
            _ => MountKind::Bind { from, selector, readonly },
        };
        found.list.push(Mount { dest, kind });
        let set = match source {
            Some(at) if !o.from.is_empty() => self.nodes[at].paths,
            _ if o.kind == Type::Cache => return Ok(()),
            _ => self.context_paths,
        };
        self.draft.paths[set].add(|| selected);
        Ok(())
    }

    /// `/cache` with the owner and mode the mount asks for.
    fn cache_folder(&mut self, o: &Options, tree: Option<Ref>) -> Ref {
        let mut inputs = Inputs::default();
        let base = match tree {
            Some(t) => ActionRef::Input(inputs.index(t)),
            None => ActionRef::Scratch,
        };
        let owner = Owner {
            user: Some(OwnerId::Id(o.uid.unwrap_or(0))),
            group: Some(OwnerId::Id(o.gid.unwrap_or(0))),
            lookup: base,
        };
        let mkdir = MkdirAction {
            path: "/cache".to_owned(),
            mode: o.mode.unwrap_or(0o755) & 0o777,
            make_parents: false,
            owner: Some(owner),
            timestamp: None,
        };
        let actions = vec![FileAction { base, kind: FileActionKind::Mkdir(mkdir) }];
        let meta = rgraph_ir::VertexMeta {
            name: "[internal] setting cache mount permissions".to_owned(),
            ..rgraph_ir::VertexMeta::default()
        };
        self.draft.add(Op::File(FileOp { actions }), inputs.0, None, meta)
    }
}

fn check(o: &Options) -> Result<(), String> {
    let name = TYPES.iter().find(|(_, t)| *t == o.kind).map_or("", |(n, _)| *n);
    if matches!(o.kind, Type::Bind | Type::Tmpfs) {
        for (key, set) in
            [("mode", o.mode.is_some()), ("uid", o.uid.is_some()), ("gid", o.gid.is_some())]
        {
            if set {
                return Err(format!("{key} not allowed for \"{name}\" type mounts"));
            }
        }
    }
    if o.kind == Type::Secret {
        if !o.from.is_empty() {
            return Err("secret mount should not have a from".to_owned());
        }
        if o.sharing.is_some() {
            return Err("secret mount should not define sharing".to_owned());
        }
        if o.source.is_empty() && o.target.is_empty() && o.id.is_empty() {
            return Err("invalid secret mount. one of source, target required".to_owned());
        }
        if !o.source.is_empty() && !o.id.is_empty() {
            return Err("both source and id can't be set".to_owned());
        }
    }
    if o.sharing.is_some() && o.kind != Type::Cache {
        return Err(format!("invalid cache sharing set for {name} mount"));
    }
    Ok(())
}

fn cache_id(o: &Options) -> String {
    if o.id.is_empty() { path::clean(&o.target) } else { o.id.clone() }
}

fn secret_id(o: &Options) -> String {
    let given = [&o.source, &o.id].into_iter().find(|s| !s.is_empty());
    given.map_or_else(|| path::base(&o.target).to_owned(), String::clone)
}

fn secret(o: &Options, spec: &MountSpec, found: &mut Mounts) -> Result<(), Box<Diagnostic>> {
    let id = secret_id(o);
    if id.is_empty() {
        let message = "one of source, target required";
        return Err(Box::new(Diagnostic::error("invalid-mount", spec.span, message)));
    }
    let dest = match (&o.env, o.target.is_empty()) {
        (Some(_), true) => None,
        (None, true) => Some(format!("/run/secrets/{}", path::base(&id))),
        (_, false) => Some(o.target.clone()),
    };
    if let Some(name) = &o.env {
        found.secret_names.push(name.clone());
        let (id, name) = (id.clone(), name.clone());
        found.secret_env.push(SecretEnv { id, name, required: o.required });
    }
    if let Some(dest) = dest {
        let kind = MountKind::Secret(SecretMount {
            id,
            uid: o.uid.unwrap_or(0),
            gid: o.gid.unwrap_or(0),
            mode: o.mode.unwrap_or(0o400),
            required: o.required,
        });
        found.list.push(Mount { dest, kind });
    }
    Ok(())
}

fn ssh(o: &Options, spec: &MountSpec, found: &mut Mounts) -> Result<(), Box<Diagnostic>> {
    if !o.source.is_empty() {
        let message = "ssh does not support source";
        return Err(Box::new(Diagnostic::error("invalid-mount", spec.span, message)));
    }
    let dest = if o.target.is_empty() {
        format!("/run/buildkit/ssh_agent.{}", found.ssh)
    } else {
        o.target.clone()
    };
    found.ssh += 1;
    found.ssh_socket.get_or_insert_with(|| dest.clone());
    let kind = MountKind::Ssh(SshMount {
        id: o.id.clone(),
        uid: o.uid.unwrap_or(0),
        gid: o.gid.unwrap_or(0),
        mode: o.mode.unwrap_or(0o600),
        required: o.required,
    });
    found.list.push(Mount { dest, kind });
    Ok(())
}
