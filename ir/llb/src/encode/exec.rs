//! `RUN`: the process and its mounts (`client/llb/exec.go`).

use rgraph_ir::op::{CacheSharing, ExecOp, MountKind, NetworkMode, SecurityMode};

use super::Inputs;
use crate::pb;

pub(super) fn exec(op: &ExecOp, inputs: &mut Inputs<'_>) -> pb::ExecOp {
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
                m.tmpfs_opt = Some(pb::TmpfsOpt { size: i64::try_from(*size).unwrap_or(i64::MAX) });
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

/// A selector of the whole tree is left out, but for the script of a `RUN <<EOF` with `#!`: the
/// mount of that says it.
fn selector(path: &str, dest: &str) -> String {
    if path == "/" && dest != "/dev/pipes/" { String::new() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::selector;

    #[test]
    fn selectors_of_whole_trees() {
        for (path, dest, want) in
            [("/", "/t", ""), ("/", "/t/", ""), ("/", "/dev/pipes/", "/"), ("/a", "/t/", "/a")]
        {
            assert_eq!(selector(path, dest), want, "{path} {dest}");
        }
    }
}
