//! Devices of the host by the names of the Container Device Interface (CDI specification 1.0, SPEC.md of
//! cncf-tags/container-device-interface): what specs say of them, and which ones a step means.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The annotation by which devices of a kind have a name in common (BuildKit's).
pub const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// All devices that the host's specs describe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CdiDevices {
    /// What whole specs add, once for each of which a device is given.
    specs: Vec<ContainerEdits>,
    /// By `vendor/class=name`.
    devices: BTreeMap<String, CdiDevice>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CdiDevice {
    spec: usize,
    class: Option<String>,
    edits: ContainerEdits,
}

/// What a container gets with a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerEdits {
    /// Variables; they win over those that are there.
    pub env: Vec<(String, String)>,
    /// Nodes.
    pub nodes: Vec<DeviceNode>,
    /// Files and folders of the host.
    pub mounts: Vec<DeviceMount>,
    /// Further groups of the process.
    pub groups: Vec<u32>,
    /// What it asks for that nobody here does, in words.
    pub refused: Vec<String>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute path in the container.
    pub path: String,
    /// Absolute path on the host.
    pub host_path: PathBuf,
    /// Kind and numbers; `None`: those of the host's.
    pub number: Option<DeviceNumber>,
    /// Permission bits; `None`: 0666.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A file or folder of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceMount {
    /// Absolute path on the host.
    pub host_path: PathBuf,
    /// Absolute path in the container.
    pub path: String,
    /// No writes.
    pub readonly: bool,
}

impl CdiDevices {
    /// Adds a spec: its kind (`vendor/class`), what it adds as a whole, and its devices by name with
    /// their class. Of equal names the later one counts.
    pub fn add(
        &mut self,
        kind: &str,
        edits: ContainerEdits,
        devices: Vec<(String, Option<String>, ContainerEdits)>,
    ) {
        let spec = self.specs.len();
        self.specs.push(edits);
        for (name, class, edits) in devices {
            self.devices.insert(format!("{kind}={name}"), CdiDevice { spec, class, edits });
        }
    }

    /// The names of all, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// The names that `wanted` means: `vendor/class=name`, else devices of that class by annotation;
    /// `vendor/class=*`: all of a kind; `vendor/class`: its first.
    pub fn find(&self, wanted: &str) -> Vec<&str> {
        let (kind, name) = wanted.split_once('=').unwrap_or((wanted, ""));
        let of_kind = || {
            let is_it = |n: &str| n.split_once('=').is_some_and(|(k, _)| k == kind);
            self.devices.iter().filter(move |(n, _)| is_it(n))
        };
        match name {
            "" => of_kind().map(|(n, _)| n.as_str()).take(1).collect(),
            "*" => of_kind().map(|(n, _)| n.as_str()).collect(),
            _ => match self.devices.get_key_value(wanted) {
                Some((found, _)) => vec![found],
                None => {
                    let is_it = |d: &CdiDevice| d.class.as_deref() == Some(name);
                    of_kind().filter(|(_, d)| is_it(d)).map(|(n, _)| n.as_str()).collect()
                }
            },
        }
    }

    /// What a container gets with these: for each spec what it adds as a whole, then each device's own,
    /// once.
    pub fn edits<'a>(&'a self, names: &[&str]) -> Vec<(&'a str, &'a ContainerEdits)> {
        let (mut specs, mut seen, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            let Some((name, device)) = self.devices.get_key_value(*name) else { continue };
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            if !specs.contains(&device.spec) {
                specs.push(device.spec);
                out.push((name.as_str(), &self.specs[device.spec]));
            }
            out.push((name.as_str(), &device.edits));
        }
        out
    }
}

/// Whether `vendor/class` is one (SPEC.md, "Kind").
pub fn is_kind(kind: &str) -> bool {
    let letters = |t: &str| t.starts_with(|c: char| c.is_ascii_alphabetic());
    let all = |t: &str, more: &str| {
        t.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
            && t.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    kind.split_once('/').is_some_and(|(vendor, class)| {
        letters(vendor) && letters(class) && all(vendor, "_-.") && all(class, "_-")
    })
}

/// Whether `name` is a device's (SPEC.md, "Device names").
pub fn is_name(name: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(end)
        && name.ends_with(end)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// Whether a grant is for what a step asks for: that name, its whole kind, or all of it.
pub fn grants(grant: &str, wanted: &str) -> bool {
    let kind = wanted.split_once('=').map_or(wanted, |(kind, _)| kind);
    grant == wanted || grant == kind || grant.strip_suffix("=*") == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> CdiDevices {
        let mut all = CdiDevices::default();
        let one = |name: &str, class: Option<&str>| {
            let env = vec![("D".to_owned(), name.to_owned())];
            let edits = ContainerEdits { env, ..ContainerEdits::default() };
            (name.to_owned(), class.map(str::to_owned), edits)
        };
        let whole = |name: &str| ContainerEdits {
            env: vec![("S".to_owned(), name.to_owned())],
            ..ContainerEdits::default()
        };
        all.add("a.com/gpu", whole("1"), vec![one("1", Some("big")), one("0", None)]);
        all.add("a.com/gpux", whole("2"), vec![one("0", Some("big"))]);
        all.add("a.com/gpu", whole("3"), vec![one("0", Some("big"))]);
        all
    }

    #[test]
    fn names() {
        let all = all();
        for (wanted, found) in [
            ("a.com/gpu", &["a.com/gpu=0"][..]),
            ("a.com/gpu=1", &["a.com/gpu=1"]),
            ("a.com/gpu=*", &["a.com/gpu=0", "a.com/gpu=1"]),
            ("a.com/gpu=big", &["a.com/gpu=0", "a.com/gpu=1"]),
            ("a.com/gpux=big", &["a.com/gpux=0"]),
            ("a.com/gpu=2", &[]),
            ("b.com/gpu", &[]),
            ("0", &[]),
        ] {
            assert_eq!(all.find(wanted), found, "{wanted}");
        }
    }

    #[test]
    fn edits_of_a_spec_come_once() {
        let all = all();
        let got = |names: &[&str]| -> Vec<String> {
            let edits = all.edits(names);
            edits.iter().map(|(_, e)| format!("{}{}", e.env[0].0, e.env[0].1)).collect()
        };
        // The later spec has taken the name over.
        assert_eq!(got(&["a.com/gpu=0"]), ["S3", "D0"]);
        assert_eq!(got(&["a.com/gpu=1", "a.com/gpu=1", "a.com/gpux=0"]), ["S1", "D1", "S2", "D0"]);
    }

    #[test]
    fn what_is_a_name() {
        for (kind, want) in [
            ("vendor.com/class", true),
            ("v/c", true),
            ("vendor.com", false),
            ("1v/c", false),
            ("v-/c", false),
            ("v/c.d", false),
            ("v/", false),
            ("v/c/d", false),
        ] {
            assert_eq!(is_kind(kind), want, "{kind}");
        }
        for (name, want) in
            [("0", true), ("a:b.c-d_e", true), ("-a", false), ("", false), ("*", false)]
        {
            assert_eq!(is_name(name), want, "{name}");
        }
    }

    #[test]
    fn grants_are_for_a_name_or_a_kind() {
        for (grant, wanted, want) in [
            ("a/b=c", "a/b=c", true),
            ("a/b=c", "a/b=*", false),
            ("a/b=c", "a/b", false),
            ("a/b", "a/b=*", true),
            ("a/b=*", "a/b=c", true),
            ("a/b=*", "a/b", true),
            ("a/b", "a/bc=c", false),
        ] {
            assert_eq!(grants(grant, wanted), want, "{grant} {wanted}");
        }
    }
}
