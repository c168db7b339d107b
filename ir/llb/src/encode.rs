//! From the graph to the wire.
//!
//! Walks the vertices below one edge, inputs first, without recursion (a graph may be a chain of
//! any length). Each op is serialised once, named by its bytes, and written straight into the
//! definition.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use rgraph_ir::op::{
    ActionRef, CacheSharing, ExecOp, FileAction, FileActionKind, FileMode, FileOp, GitSource,
    LocalSource, MountKind, NetworkMode, Owner, OwnerId, ResolveMode, SecurityMode, SourceOp,
};
use rgraph_ir::{Edge, Graph, InputIndex, Op, Platform, Vertex, VertexId, VertexMeta};

use crate::LlbDigest;
use crate::pb;

/// A serialised definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// `pb.Definition`; empty for the empty file system.
    pub bytes: Vec<u8>,
    /// Which vertex an op came from. Of vertices with equal ops, the first that was met.
    pub ids: BTreeMap<LlbDigest, VertexId>,
}

/// Serialises what `root` needs, and nothing else. `None` gives the empty definition (scratch).
///
/// # Panics
/// When an op names an input that its vertex does not have; [`rgraph_ir::verify`] finds such graphs.
pub fn encode(graph: &Graph, root: Option<Edge>) -> Definition {
    let mut enc = Encoder {
        names: HashMap::new(),
        bytes: Vec::new(),
        ids: BTreeMap::new(),
        metadata: BTreeMap::new(),
    };
    let Some(root) = root else {
        return Definition { bytes: enc.bytes, ids: enc.ids };
    };
    for id in inputs_first(graph, root.vertex) {
        enc.add(id, graph.vertex(id));
    }
    let terminal = pb::Op { inputs: vec![enc.input(root)], ..pb::Op::default() }.to_bytes();
    enc.write(&terminal);
    let rest = pb::Definition { def: Vec::new(), metadata: enc.metadata };
    rest.encode_raw(&mut enc.bytes);
    Definition { bytes: enc.bytes, ids: enc.ids }
}

/// The vertices below and with `root`, each after its inputs.
fn inputs_first(graph: &Graph, root: VertexId) -> Vec<VertexId> {
    let mut order = Vec::new();
    let mut seen = vec![false; graph.len()];
    let mut stack = vec![(root, 0usize)];
    seen[root.at()] = true;
    while let Some((id, next)) = stack.last_mut() {
        match graph.vertex(*id).inputs.get(*next) {
            Some(edge) => {
                *next += 1;
                if !std::mem::replace(&mut seen[edge.vertex.at()], true) {
                    stack.push((edge.vertex, 0));
                }
            }
            None => {
                order.push(*id);
                stack.pop();
            }
        }
    }
    order
}

struct Encoder {
    names: HashMap<VertexId, LlbDigest>,
    bytes: Vec<u8>,
    ids: BTreeMap<LlbDigest, VertexId>,
    metadata: BTreeMap<String, pb::OpMetadata>,
}

impl Encoder {
    fn add(&mut self, id: VertexId, v: &Vertex) {
        let mut inputs = Inputs { edges: &v.inputs, list: Vec::new(), enc: self };
        let kind = match &v.op {
            Op::Source(s) => pb::Kind::Source(source(s)),
            Op::Exec(e) => pb::Kind::Exec(exec(e, &mut inputs)),
            Op::File(f) => pb::Kind::File(file(f, &mut inputs)),
            Op::Merge(_) => pb::Kind::Merge(pb::MergeOp {
                inputs: (0..v.inputs.len()).map(|i| inputs.append(i)).collect(),
            }),
            Op::Diff(_) => {
                let (lower, upper) = (inputs.append(0), inputs.append(1));
                pb::Kind::Diff(pb::DiffOp { lower: Some(lower), upper: Some(upper) })
            }
        };
        let op = pb::Op {
            inputs: inputs.list,
            platform: v.platform.as_ref().filter(|_| has_platform(&v.op)).map(platform),
            constraints: Some(pb::WorkerConstraints::default()),
            kind: Some(kind),
        };
        let bytes = op.to_bytes();
        let name = LlbDigest::of(&bytes);
        self.names.insert(id, name);
        if let std::collections::btree_map::Entry::Vacant(slot) = self.ids.entry(name) {
            slot.insert(id);
            self.write(&bytes);
        }
        let meta = self.metadata.entry(name.to_string()).or_default();
        let ignore_cache = meta.ignore_cache | v.meta.ignore_cache;
        if *meta == pb::OpMetadata::default() {
            *meta = metadata(&v.meta);
        }
        meta.ignore_cache = ignore_cache;
    }

    /// Appends one element of `def`.
    fn write(&mut self, op: &[u8]) {
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut self.bytes);
        prost::encoding::encode_varint(op.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(op);
    }

    fn input(&self, edge: Edge) -> pb::Input {
        pb::Input { digest: self.names[&edge.vertex].to_string(), index: i64::from(edge.output) }
    }
}

/// Collects the inputs of one op in the order in which they are first named.
struct Inputs<'a> {
    edges: &'a [Edge],
    list: Vec<pb::Input>,
    enc: &'a Encoder,
}

impl Inputs<'_> {
    /// The position of an input in the op's list, equal ones shared.
    fn at(&mut self, index: InputIndex) -> i64 {
        let input = self.enc.input(self.edges[index.at()]);
        let found = self.list.iter().position(|i| *i == input);
        let at = found.unwrap_or_else(|| {
            self.list.push(input);
            self.list.len() - 1
        });
        at as i64
    }

    fn optional(&mut self, index: Option<InputIndex>) -> i64 {
        index.map_or(pb::NO_INPUT, |i| self.at(i))
    }

    /// Merges and diffs repeat equal inputs.
    fn append(&mut self, index: usize) -> pb::OneInput {
        self.list.push(self.enc.input(self.edges[index]));
        pb::OneInput { input: self.list.len() as i64 - 1 }
    }
}

/// Only these ops carry a platform; on the others BuildKit leaves it out.
fn has_platform(op: &Op) -> bool {
    matches!(op, Op::Exec(_) | Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)))
}

fn platform(p: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: p.architecture.clone(),
        os: p.os.clone(),
        variant: p.variant.clone(),
        os_version: p.os_version.clone(),
        os_features: Vec::new(),
    }
}

fn metadata(meta: &VertexMeta) -> pb::OpMetadata {
    let mut description = BTreeMap::new();
    if !meta.name.is_empty() {
        description.insert("llb.customname".to_owned(), meta.name.clone());
    }
    if let Some(command) = &meta.command {
        description.insert("com.docker.dockerfile.v1.command".to_owned(), command.clone());
    }
    pb::OpMetadata {
        ignore_cache: meta.ignore_cache,
        description,
        caps: BTreeMap::new(),
        progress_group: meta.progress_group.as_ref().map(|name| pb::ProgressGroup {
            id: name.clone(),
            name: name.clone(),
            weak: false,
        }),
        linux_resources: meta.resources.as_ref().map(|r| pb::LinuxResources {
            memory: r.memory,
            memory_swap: r.memory_swap,
            cpu_shares: r.cpu_shares.max(0) as u64,
            cpu_period: r.cpu_period.max(0) as u64,
            cpu_quota: r.cpu_quota,
            cpuset_cpus: r.cpuset_cpus.clone(),
            cpuset_mems: r.cpuset_mems.clone(),
        }),
    }
}

fn source(op: &SourceOp) -> pb::SourceOp {
    let mut attrs = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        attrs.insert(key.to_owned(), value);
    };
    let identifier = match op {
        SourceOp::Image(s) => {
            match s.resolve {
                ResolveMode::Default => {}
                ResolveMode::ForcePull => set("image.resolvemode", "pull".to_owned()),
                ResolveMode::PreferLocal => set("image.resolvemode", "local".to_owned()),
            }
            format!("docker-image://{}", s.reference)
        }
        SourceOp::Local(LocalSource { name, follow_paths, include, exclude, shared_key_hint }) => {
            if let Some(paths) = follow_paths {
                set("local.followpaths", json_list(paths));
            }
            if !include.is_empty() {
                set("local.includepattern", json_list(include));
            }
            if !exclude.is_empty() {
                set("local.excludepatterns", json_list(exclude));
            }
            if let Some(hint) = shared_key_hint {
                set("local.sharedkeyhint", hint.clone());
            }
            format!("local://{name}")
        }
        SourceOp::Http(s) => {
            if !s.filename.is_empty() {
                set("http.filename", s.filename.clone());
            }
            if let Some(sum) = &s.checksum {
                set("http.checksum", sum.clone());
            }
            s.url.clone()
        }
        SourceOp::Git(s) => {
            git_attrs(s, &mut set);
            let mut id = format!("git://{}", s.remote);
            if s.reference.is_some() || s.subdir.is_some() {
                id.push('#');
                id.push_str(s.reference.as_deref().unwrap_or(""));
            }
            if let Some(dir) = &s.subdir {
                id.push(':');
                id.push_str(dir);
            }
            id
        }
        SourceOp::OciLayout(s) => {
            set("oci.store", s.store.clone());
            format!("oci-layout://{}", s.reference)
        }
    };
    pb::SourceOp { identifier, attrs }
}

fn git_attrs(s: &GitSource, set: &mut impl FnMut(&str, String)) {
    let GitSource {
        remote: _,
        full_url,
        reference: _,
        subdir: _,
        keep_git_dir,
        checksum,
        skip_submodules,
        fetch_by_commit,
        ssh,
        mtime,
    } = s;
    set("git.fullurl", full_url.clone());
    set("git.authheadersecret", "GIT_AUTH_HEADER".to_owned());
    set("git.authtokensecret", "GIT_AUTH_TOKEN".to_owned());
    for (key, on) in [
        ("git.keepgitdir", keep_git_dir),
        ("git.skipsubmodules", skip_submodules),
        ("git.fetchbycommit", fetch_by_commit),
    ] {
        if *on {
            set(key, "true".to_owned());
        }
    }
    if let Some(sum) = checksum {
        set("git.checksum", sum.clone());
    }
    if let Some(mtime) = mtime {
        set("git.mtime", mtime.clone());
    }
    if *ssh {
        set("git.mountsshsock", "default".to_owned());
    }
}

/// A JSON list of texts with the escapes of Go's `encoding/json`, which escapes `<`, `>` and `&`
/// too: the text is part of an op's bytes.
fn json_list(list: &[String]) -> String {
    let mut out = String::from("[");
    for (i, text) in list.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    out.push_str(&format!("\\u{:04x}", c as u32));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out.push(']');
    out
}

fn exec(op: &ExecOp, inputs: &mut Inputs<'_>) -> pb::ExecOp {
    let ssh_dest = op.mounts.iter().find(|m| matches!(m.kind, MountKind::Ssh(_))).map(|m| &m.dest);
    let mut env = op.env.to_strings();
    if let Some(dest) = ssh_dest
        && op.env.get("SSH_AUTH_SOCK").is_none()
    {
        env.push(format!("SSH_AUTH_SOCK={dest}"));
    }
    pb::ExecOp {
        meta: Some(pb::Meta {
            args: op.args.clone(),
            env,
            cwd: op.cwd.clone(),
            user: op.user.clone(),
            proxy_env: op.proxy_env.as_ref().map(|p| pb::ProxyEnv {
                http_proxy: p.http.clone(),
                https_proxy: p.https.clone(),
                ftp_proxy: p.ftp.clone(),
                no_proxy: p.no.clone(),
                all_proxy: p.all.clone(),
            }),
            extra_hosts: op
                .extra_hosts
                .iter()
                .map(|h| pb::HostIp { host: h.host.clone(), ip: h.ip.clone() })
                .collect(),
            hostname: op.hostname.clone().unwrap_or_default(),
            ulimit: op
                .ulimits
                .iter()
                .map(|u| pb::Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard })
                .collect(),
            cgroup_parent: op.cgroup_parent.clone().unwrap_or_default(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: Vec::new(),
        }),
        mounts: mounts(op, inputs),
        network: match op.network {
            NetworkMode::Default => pb::NetMode::Unset,
            NetworkMode::None => pb::NetMode::None,
            NetworkMode::Host => pb::NetMode::Host,
        } as i32,
        security: match op.security {
            SecurityMode::Sandbox => pb::SecurityMode::Sandbox,
            SecurityMode::Insecure => pb::SecurityMode::Insecure,
        } as i32,
        secretenv: op
            .secret_env
            .iter()
            .map(|s| pb::SecretEnv {
                id: s.id.clone(),
                name: s.name.clone(),
                optional: !s.required,
            })
            .collect(),
        cdi_devices: op
            .devices
            .iter()
            .map(|d| pb::CdiDevice { name: d.name.clone(), optional: !d.required })
            .collect(),
    }
}

/// Root, binds, caches and memory sorted by path, then secrets, then agents, each in flag order.
/// Inputs are numbered in that order. Only the root has an output.
fn mounts(op: &ExecOp, inputs: &mut Inputs<'_>) -> Vec<pb::Mount> {
    enum Tree<'a> {
        Root,
        Of(&'a MountKind),
    }
    let mut trees = vec![("/", Tree::Root)];
    trees.extend(
        op.mounts
            .iter()
            .filter(|m| !matches!(m.kind, MountKind::Secret(_) | MountKind::Ssh(_)))
            .map(|m| (m.dest.as_str(), Tree::Of(&m.kind))),
    );
    trees.sort_by(|a, b| a.0.cmp(b.0));
    let mut out: Vec<pb::Mount> = Vec::with_capacity(op.mounts.len() + 1);
    for (dest, tree) in trees {
        let mut m = pb::Mount {
            input: pb::NO_INPUT,
            dest: dest.to_owned(),
            output: pb::NO_OUTPUT,
            ..pb::Mount::default()
        };
        match tree {
            Tree::Root => {
                m.input = inputs.optional(op.root);
                m.output = 0;
            }
            Tree::Of(MountKind::Bind { from, selector: sel, readonly }) => {
                m.input = inputs.optional(*from);
                m.selector = selector(sel, dest);
                m.readonly = *readonly;
            }
            Tree::Of(MountKind::Cache(c)) => {
                m.mount_type = pb::MountType::Cache as i32;
                m.input = inputs.optional(c.from);
                m.selector = selector(&c.selector, dest);
                m.readonly = c.readonly;
                m.cache_opt = Some(pb::CacheOpt {
                    id: c.id.clone(),
                    sharing: match c.sharing {
                        CacheSharing::Shared => pb::CacheSharingOpt::Shared,
                        CacheSharing::Private => pb::CacheSharingOpt::Private,
                        CacheSharing::Locked => pb::CacheSharingOpt::Locked,
                    } as i32,
                });
            }
            Tree::Of(MountKind::Tmpfs { size }) => {
                m.mount_type = pb::MountType::Tmpfs as i32;
                m.tmpfs_opt =
                    Some(pb::TmpfsOpt { size: i64::try_from(*size).unwrap_or(i64::MAX) });
            }
            Tree::Of(MountKind::Secret(_) | MountKind::Ssh(_)) => {
                unreachable!("filtered out above")
            }
        }
        out.push(m);
    }
    let special = |dest: &str, kind| pb::Mount {
        input: pb::NO_INPUT,
        dest: dest.to_owned(),
        mount_type: kind as i32,
        ..pb::Mount::default()
    };
    for m in &op.mounts {
        if let MountKind::Secret(s) = &m.kind {
            out.push(pb::Mount {
                secret_opt: Some(pb::SecretOpt {
                    id: s.id.clone(),
                    uid: s.uid,
                    gid: s.gid,
                    mode: s.mode,
                    optional: !s.required,
                }),
                ..special(&m.dest, pb::MountType::Secret)
            });
        }
    }
    for m in &op.mounts {
        if let MountKind::Ssh(s) = &m.kind {
            out.push(pb::Mount {
                ssh_opt: Some(pb::SecretOpt {
                    id: s.id.clone(),
                    uid: s.uid,
                    gid: s.gid,
                    mode: s.mode,
                    optional: !s.required,
                }),
                ..special(&m.dest, pb::MountType::Ssh)
            });
        }
    }
    out
}

/// A selector of the whole tree is left out, but for the script of a `RUN <<EOF` with `#!`: that
/// mount, the only one whose path ends in `/`, says it.
fn selector(path: &str, dest: &str) -> String {
    if path == "/" && !dest.ends_with('/') { String::new() } else { path.to_owned() }
}

fn file(op: &FileOp, inputs: &mut Inputs<'_>) -> pb::FileOp {
    // Actions are numbered after all inputs, so inputs come first.
    for a in &op.actions {
        for r in [Some(a.base), source_of(a)].into_iter().flatten() {
            if let ActionRef::Input(i) = r {
                inputs.at(i);
            }
        }
    }
    for o in op.actions.iter().filter_map(|a| a.kind.owner()) {
        if let ActionRef::Input(i) = o.lookup
            && by_name(o)
        {
            inputs.at(i);
        }
    }
    let count = inputs.list.len() as i64;
    let mut number = |r: ActionRef| match r {
        ActionRef::Scratch => pb::NO_INPUT,
        ActionRef::Input(i) => inputs.at(i),
        ActionRef::Action(k) => count + i64::from(k),
    };
    let last = op.actions.len().saturating_sub(1);
    let actions = op
        .actions
        .iter()
        .enumerate()
        .map(|(i, a)| pb::FileAction {
            input: number(a.base),
            secondary_input: source_of(a).map_or(pb::NO_INPUT, &mut number),
            output: if i == last { 0 } else { pb::NO_OUTPUT },
            action: Some(action(&a.kind, &mut number)),
        })
        .collect();
    pb::FileOp { actions }
}

fn source_of(a: &FileAction) -> Option<ActionRef> {
    match &a.kind {
        FileActionKind::Copy(c) => Some(c.from),
        _ => None,
    }
}

fn by_name(o: &Owner) -> bool {
    [&o.user, &o.group].into_iter().any(|id| matches!(id, Some(OwnerId::Name(_))))
}

fn action(kind: &FileActionKind, number: &mut impl FnMut(ActionRef) -> i64) -> pb::Action {
    let time = |t: Option<i64>| t.unwrap_or(pb::KEEP);
    let bits = |mode: u32| mode as i32;
    match kind {
        FileActionKind::Copy(c) => {
            let (mode, mode_str) = match &c.mode {
                None => (pb::KEEP as i32, String::new()),
                Some(FileMode::Bits(b)) => (bits(*b), String::new()),
                Some(FileMode::Symbolic(s)) => (0, s.clone()),
            };
            pb::Action::Copy(pb::FileActionCopy {
                src: c.src.clone(),
                dest: c.dest.clone(),
                owner: owner(c.owner.as_ref(), number),
                mode,
                follow_symlink: c.follow_symlink,
                dir_copy_contents: c.dir_copy_contents,
                attempt_unpack: c.attempt_unpack,
                create_dest_path: c.create_dest_path,
                allow_wildcard: c.allow_wildcard,
                allow_empty_wildcard: c.allow_empty_wildcard,
                timestamp: time(c.timestamp),
                include_patterns: c.include_patterns.clone(),
                exclude_patterns: c.exclude_patterns.clone(),
                always_replace: false,
                mode_str,
                required_paths: c.required_paths.clone(),
            })
        }
        FileActionKind::Mkfile(a) => pb::Action::Mkfile(pb::FileActionMkFile {
            path: a.path.clone(),
            mode: bits(a.mode),
            data: a.data.to_vec(),
            owner: owner(a.owner.as_ref(), number),
            timestamp: time(a.timestamp),
        }),
        FileActionKind::Mkdir(a) => pb::Action::Mkdir(pb::FileActionMkDir {
            path: a.path.clone(),
            mode: bits(a.mode),
            make_parents: a.make_parents,
            owner: owner(a.owner.as_ref(), number),
            timestamp: time(a.timestamp),
        }),
        FileActionKind::Rm(a) => pb::Action::Rm(pb::FileActionRm {
            path: a.path.clone(),
            allow_not_found: a.allow_not_found,
            allow_wildcard: a.allow_wildcard,
        }),
        FileActionKind::Symlink(a) => pb::Action::Symlink(pb::FileActionSymlink {
            oldpath: a.target.clone(),
            newpath: a.path.clone(),
            owner: owner(a.owner.as_ref(), number),
            timestamp: time(a.timestamp),
        }),
    }
}

fn owner(
    o: Option<&Owner>,
    number: &mut impl FnMut(ActionRef) -> i64,
) -> Option<pb::ChownOpt> {
    let Owner { user, group, lookup } = o?;
    let mut one = |id: &Option<OwnerId>| {
        id.as_ref().map(|id| pb::UserOpt {
            user: Some(match id {
                OwnerId::Id(n) => pb::User::ById(*n),
                OwnerId::Name(name) => pb::User::ByName(pb::NamedUserOpt {
                    name: name.clone(),
                    input: number(*lookup),
                }),
            }),
        })
    };
    Some(pb::ChownOpt { user: one(user), group: one(group) })
}
