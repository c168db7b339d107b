//! Devices of the host: the specs of the Container Device Interface, read from its folders when a build
//! asks for a device.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rgraph_ir::cdi::{
    CLASS, CdiDevices, ContainerEdits, DeviceMount, DeviceNode, DeviceNumber, is_kind, is_name,
};
use serde::Deserialize;

/// Where specs lie, the ones that count more last (SPEC.md, "CDI JSON Specification").
pub const SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Largest spec, bytes.
const MAX_SPEC: u64 = 4 << 20;
/// Most specs of a folder.
const MAX_SPECS: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    groups: Vec<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    path: String,
    host_path: String,
    r#type: String,
    major: u32,
    minor: u32,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    r#type: String,
}

/// Reads all specs of these folders, those of later ones above those of earlier ones. What is wrong with
/// one is told by `warn`, and the others count.
pub fn devices(dirs: &[PathBuf], warn: &mut dyn FnMut(String)) -> CdiDevices {
    let mut out = CdiDevices::default();
    for dir in dirs {
        let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
            Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| is_spec(p)).collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => {
                warn(format!("cannot read the device specs in `{}`: {e}", dir.display()));
                continue;
            }
        };
        files.sort();
        if files.len() > MAX_SPECS {
            warn(format!("of the device specs in `{}` {MAX_SPECS} are read", dir.display()));
            files.truncate(MAX_SPECS);
        }
        for path in files {
            if let Err(why) = read(&path).and_then(|text| add(&text, &path, &mut out)) {
                warn(format!("the device spec `{}` is left out: {why}", path.display()));
            }
        }
    }
    out
}

fn is_spec(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["json", "yaml", "yml"].iter().any(|known| e == *known))
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err("it is no file".to_owned());
    }
    file.take(MAX_SPEC + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_SPEC {
        return Err(format!("it is larger than {MAX_SPEC} bytes"));
    }
    Ok(text)
}

fn add(text: &str, path: &Path, all: &mut CdiDevices) -> Result<(), String> {
    let spec: Spec = match path.extension().is_some_and(|e| e == "json") {
        true => serde_json::from_str(text).map_err(|e| e.to_string())?,
        false => {
            let value = rgraph_bake::yaml_value(text)?;
            serde_json::from_value(value).map_err(|e| e.to_string())?
        }
    };
    let major = spec.cdi_version.trim_start_matches('v').split('.').next();
    if !matches!(major, Some("0" | "1")) {
        return Err(format!("its version `{}` is not known here", spec.cdi_version));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("`{}` is no kind such as `vendor.com/class`", spec.kind));
    }
    let class = |own: &BTreeMap<String, String>| {
        own.get(CLASS).or_else(|| spec.annotations.get(CLASS)).cloned()
    };
    let mut devices = Vec::new();
    for d in spec.devices {
        if !is_name(&d.name) {
            return Err(format!("`{}` is no name of a device", d.name));
        }
        devices.push((d.name, class(&d.annotations), edits(d.container_edits)?));
    }
    all.add(&spec.kind, edits(spec.container_edits)?, devices);
    Ok(())
}

fn edits(raw: Edits) -> Result<ContainerEdits, String> {
    let mut out = ContainerEdits { groups: raw.groups, ..ContainerEdits::default() };
    for line in raw.env {
        let (key, value) = line.split_once('=').ok_or_else(|| format!("no variable: `{line}`"))?;
        if key.is_empty() || line.contains('\0') {
            return Err(format!("no variable: `{line}`"));
        }
        out.env.push((key.to_owned(), value.to_owned()));
    }
    for node in raw.device_nodes {
        out.nodes.push(self::node(node)?);
    }
    for mount in raw.mounts {
        out.mounts.extend(self::mount(mount, &mut out.refused)?);
    }
    for (what, there) in [
        ("hooks", !raw.hooks.is_empty()),
        ("network devices", !raw.net_devices.is_empty()),
        ("Intel RDT", raw.intel_rdt.is_some()),
    ] {
        if there {
            out.refused.push(what.to_owned());
        }
    }
    Ok(out)
}

fn absolute(path: &str) -> Result<(), String> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(()),
        false => Err(format!("`{path}` is no absolute path")),
    }
}

fn node(raw: Node) -> Result<DeviceNode, String> {
    let host = if raw.host_path.is_empty() { &raw.path } else { &raw.host_path };
    absolute(&raw.path)?;
    absolute(host)?;
    let block = match raw.r#type.as_str() {
        "b" => Some(true),
        "c" | "u" => Some(false),
        "" => None,
        other => return Err(format!("nodes of the type `{other}` are not known here")),
    };
    // Without a type the numbers are the host's too.
    let number = block.filter(|_| raw.major != 0 || raw.minor != 0);
    Ok(DeviceNode {
        host_path: host.into(),
        number: number.map(|block| DeviceNumber { block, major: raw.major, minor: raw.minor }),
        mode: raw.file_mode.map(|m| m & 0o777),
        uid: raw.uid.unwrap_or(0),
        gid: raw.gid.unwrap_or(0),
        path: raw.path,
    })
}

fn mount(raw: Mount, refused: &mut Vec<String>) -> Result<Option<DeviceMount>, String> {
    absolute(&raw.host_path)?;
    absolute(&raw.container_path)?;
    if !matches!(raw.r#type.as_str(), "" | "bind" | "none") {
        refused.push(format!("a mount of the type {}", raw.r#type));
        return Ok(None);
    }
    let mut readonly = false;
    for option in &raw.options {
        match option.as_str() {
            "ro" => readonly = true,
            "rw" => readonly = false,
            // Every mount here is one without nodes and setuid programs, and is nobody else's.
            "bind" | "rbind" | "nosuid" | "nodev" | "private" | "rprivate" | "slave" | "rslave" => {
            }
            other => refused.push(format!("the mount option {other}")),
        }
    }
    let (host_path, path) = (raw.host_path.into(), raw.container_path);
    Ok(Some(DeviceMount { host_path, path, readonly }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
cdiVersion: 0.6.0
kind: vendor.com/net
annotations: { org.mobyproject.buildkit.device.class: all }
containerEdits:
  env: [A=1]
  hooks: [{ hookName: createContainer, path: /bin/x }]
devices:
- name: \"0\"
  containerEdits:
    deviceNodes:
    - { path: /dev/net/tap, hostPath: /dev/net/tun, type: c, major: 10, minor: 200, fileMode: 0640, gid: 5 }
    - path: /dev/fuse
    mounts:
    - { hostPath: /lib/x, containerPath: /opt/x, options: [ro, rbind, noexec] }
    additionalGids: [44]
";

    #[test]
    fn specs_of_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        for (folder, name, text) in [
            (&low, "a.yaml", YAML),
            (
                &low,
                "b.json",
                r#"{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{"name":"x","containerEdits":{"env":["X=low"]}}]}"#,
            ),
            (
                &high,
                "b.json",
                r#"{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{"name":"x","containerEdits":{"env":["X=high"]}}]}"#,
            ),
            (&high, "c.json", r#"{"cdiVersion":"1.0.0","kind":"nothing","devices":[]}"#),
            (&high, "d.yml", "a: [b"),
            (&high, "e.json", r#"{"cdiVersion":"9.0.0","kind":"v.com/c","devices":[]}"#),
            (
                &high,
                "f.json",
                r#"{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{"name":"y","containerEdits":{"deviceNodes":[{"path":"dev/x"}]}}]}"#,
            ),
            (&high, "notes.txt", "no spec"),
        ] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(name), text).unwrap();
        }
        let mut said = Vec::new();
        let all = devices(&[dir.path().join("none"), low, high], &mut |w| said.push(w));
        assert_eq!(all.names().collect::<Vec<_>>(), ["v.com/c=x", "vendor.com/net=0"]);
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(all.edits(&["v.com/c=x"])[1].1.env, [("X".to_owned(), "high".to_owned())]);
        let edits = all.edits(&all.find("vendor.com/net=all"));
        let [(_, whole), (_, own)] = &edits[..] else { panic!("{edits:?}") };
        assert_eq!((&whole.env[0].1[..], &whole.refused[..]), ("1", &["hooks".to_owned()][..]));
        let number = Some(DeviceNumber { block: false, major: 10, minor: 200 });
        let (tap, fuse) = (&own.nodes[0], &own.nodes[1]);
        assert_eq!((tap.number, tap.mode, tap.uid, tap.gid), (number, Some(0o640), 0, 5));
        assert_eq!(tap.host_path, Path::new("/dev/net/tun"));
        assert_eq!((&*fuse.path, fuse.number, fuse.mode), ("/dev/fuse", None, None));
        assert!(own.mounts[0].readonly);
        assert_eq!(
            (&own.groups[..], &own.refused[..]),
            (&[44][..], &["the mount option noexec".to_owned()][..])
        );
    }
}
