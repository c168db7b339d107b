//! `RUN --device`: what a step gets with the devices that it asks for.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use rgraph_ir::cdi::{CdiDevices, ContainerEdits, DeviceMount, DeviceNode, DeviceNumber};
use rgraph_ir::op::Device;

use crate::sandbox::{HostDevice, MountSource, SandboxMount, SandboxMountKind};

/// Permission bits of a node whose spec says nothing, as container runtimes have them.
const MODE: u32 = 0o666;

/// Why a step does not get a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No spec describes it.
    #[error(
        "device `{name}` is required, and no spec in the folders of --cdi-spec-dir names it; {known}"
    )]
    Unknown {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Its spec asks for what is not done here.
    #[error("device `{name}` cannot be given: its spec asks for {what}, which rgraph does not do")]
    Refused {
        /// Its full name.
        name: String,
        /// What.
        what: String,
    },
    /// The host does not have it.
    #[error("device `{name}`: cannot look at `{}`", path.display())]
    Missing {
        /// Its full name.
        name: String,
        /// The node on the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is there is no device.
    #[error("device `{name}`: `{}` is no device node", path.display())]
    NoNode {
        /// Its full name.
        name: String,
        /// The path on the host.
        path: PathBuf,
    },
}

/// What a step gets.
#[derive(Debug, Default)]
pub struct Given {
    env: Vec<(String, String)>,
    /// Nodes and files.
    pub mounts: Vec<SandboxMount>,
    /// Groups of its process.
    pub groups: Vec<u32>,
}

impl Given {
    /// Sets its variables.
    pub fn set(&self, env: &mut Vec<String>) {
        for (key, value) in &self.env {
            env.retain(|line| line.split_once('=').is_none_or(|(k, _)| k != key));
            env.push(format!("{key}={value}"));
        }
    }
}

/// What a step gets that asks for `wanted`. One that is not required and not there is told by `warn`.
///
/// # Errors
/// It cannot have one that it must have, or that there is.
pub fn of_step(
    all: &CdiDevices,
    wanted: &[Device],
    warn: &dyn Fn(String),
) -> Result<Given, DeviceError> {
    let mut names = Vec::new();
    for Device { name, required } in wanted {
        let found = all.find(name);
        if found.is_empty() && *required {
            return Err(DeviceError::Unknown { name: name.clone(), known: known(all) });
        }
        if found.is_empty() {
            warn(format!("no spec names the device `{name}`: the step goes without it"));
        }
        names.extend(found);
    }
    let mut given = Given::default();
    for (name, edits) in all.edits(&names) {
        add(name, edits, &mut given)?;
    }
    Ok(given)
}

fn known(all: &CdiDevices) -> String {
    const MOST: usize = 20;
    let names: Vec<_> = all.names().map(|n| format!("`{n}`")).collect();
    match names.len() {
        0 => "there are none".to_owned(),
        n if n > MOST => {
            format!("there are {}, ... and {} more", names[..MOST].join(", "), n - MOST)
        }
        _ => format!("there are {}", names.join(", ")),
    }
}

fn add(name: &str, edits: &ContainerEdits, given: &mut Given) -> Result<(), DeviceError> {
    let ContainerEdits { env, nodes, mounts, groups, refused } = edits;
    if !refused.is_empty() {
        let (name, what) = (name.to_owned(), refused.join(", "));
        return Err(DeviceError::Refused { name, what });
    }
    given.env.extend(env.iter().cloned());
    given.groups.extend(groups);
    for node in nodes {
        let kind = SandboxMountKind::Device(device(name, node)?);
        given.mounts.push(SandboxMount { dest: node.path.clone(), kind });
    }
    given.mounts.extend(mounts.iter().map(bind));
    Ok(())
}

fn device(name: &str, node: &DeviceNode) -> Result<HostDevice, DeviceError> {
    let (name, path) = (name.to_owned(), node.host_path.clone());
    let DeviceNumber { block, major, minor } = match node.number {
        Some(number) => number,
        None => match std::fs::metadata(&path) {
            Err(source) => return Err(DeviceError::Missing { name, path, source }),
            Ok(m) if m.file_type().is_char_device() || m.file_type().is_block_device() => {
                DeviceNumber {
                    block: m.file_type().is_block_device(),
                    major: rustix::fs::major(m.rdev()),
                    minor: rustix::fs::minor(m.rdev()),
                }
            }
            Ok(_) => return Err(DeviceError::NoNode { name, path }),
        },
    };
    let (mode, uid, gid) = (node.mode.unwrap_or(MODE), node.uid, node.gid);
    Ok(HostDevice { source: path, block, major, minor, mode, uid, gid })
}

fn bind(m: &DeviceMount) -> SandboxMount {
    let (source, selector) = MountSource::of_host(&m.host_path);
    let kind = SandboxMountKind::Bind { source, selector, readonly: m.readonly };
    SandboxMount { dest: m.path.clone(), kind }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn spec(nodes: Vec<DeviceNode>, refused: &[&str]) -> CdiDevices {
        let mut all = CdiDevices::default();
        let edits = ContainerEdits {
            env: vec![("A".into(), "new".into())],
            nodes,
            groups: vec![7],
            refused: refused.iter().map(|r| (*r).to_owned()).collect(),
            ..ContainerEdits::default()
        };
        all.add("v.com/c", ContainerEdits::default(), vec![("x".into(), None, edits)]);
        all
    }

    fn node(host: &str) -> DeviceNode {
        DeviceNode {
            path: "/dev/x".into(),
            host_path: host.into(),
            number: None,
            mode: None,
            uid: 0,
            gid: 0,
        }
    }

    fn want(name: &str, required: bool) -> Vec<Device> {
        vec![Device { name: name.into(), required }]
    }

    #[test]
    fn what_a_step_gets() {
        let said = RefCell::new(Vec::new());
        let warn = |text: String| said.borrow_mut().push(text);
        let all = spec(vec![node("/dev/null")], &[]);
        let given = of_step(&all, &want("v.com/c", true), &warn).unwrap();
        let SandboxMountKind::Device(d) = &given.mounts[0].kind else { panic!() };
        assert_eq!((d.block, d.major, d.minor, d.mode), (false, 1, 3, 0o666));
        assert_eq!(given.groups, [7]);
        let mut env = vec!["A=old".to_owned(), "AB=1".to_owned()];
        given.set(&mut env);
        assert_eq!(env, ["AB=1", "A=new"]);
        assert!(of_step(&all, &want("v.com/other", false), &warn).unwrap().mounts.is_empty());
        assert_eq!(said.borrow().len(), 1);
        for (all, name, part) in [
            (&all, "v.com/other", "there are `v.com/c=x`"),
            (&CdiDevices::default(), "v.com/c", "there are none"),
            (&spec(vec![], &["hooks", "x"]), "v.com/c=*", "asks for hooks, x"),
            (&spec(vec![node("/dev/none")], &[]), "v.com/c", "cannot look at `/dev/none`"),
            (&spec(vec![node("/etc/passwd")], &[]), "v.com/c", "is no device node"),
        ] {
            let e = of_step(all, &want(name, true), &warn).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }

    #[test]
    fn a_file_is_found_in_its_folder() {
        let m = DeviceMount { host_path: "/etc/passwd".into(), path: "/p".into(), readonly: true };
        let SandboxMountKind::Bind { source, selector, readonly } = bind(&m).kind else { panic!() };
        assert_eq!(source, MountSource::Path("/etc".into()));
        assert_eq!((&*selector, readonly), ("/passwd", true));
    }
}
