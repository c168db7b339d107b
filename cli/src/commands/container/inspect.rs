//! A container as Docker's JSON.

use rgraph_image::config::{ConfigObject, ImageConfigFile};
use rgraph_runtime::container::{
    ContainerError, Containers, NetworkChoice, Record, Settings, State, changed_bytes,
};
use rgraph_runtime::images;
use rgraph_runtime::sandbox::{ExtraHost, SandboxSpec};
use rgraph_runtime::volumes::Volumes;
use rgraph_store::Store;
use serde_json::{Map, Value, json};

use super::{container_error, ports, word};
use crate::report::CliError;

/// What Docker writes for a time that there is not.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Seconds since 1970 as text.
pub fn time(at: i64) -> String {
    jiff::Timestamp::from_second(at).map_or_else(|_| NEVER.to_owned(), |t| t.to_string())
}

/// The settings of a container's image; `None`: the image is gone.
pub fn image_config(store: &Store, record: &Record) -> Option<ImageConfigFile> {
    let row = Containers::new(store).image(record).ok()?;
    images::config(store, &row).ok()
}

/// The container of this name; `None`: there is none.
pub fn find(store: &Store, name: &str) -> Result<Option<Record>, CliError> {
    match Containers::new(store).find(name) {
        Err(ContainerError::NotFound(_)) => Ok(None),
        found => found.map(Some).map_err(|e| container_error(&e)),
    }
}

/// Everything known of a container; with `size` what it takes on disk too.
pub fn describe(store: &Store, record: &Record, size: bool) -> Result<Value, CliError> {
    let containers = Containers::new(store);
    let folder = containers.folder(record);
    let settings = &record.settings;
    let config = image_config(store, record);
    let (entrypoint, cmd) = split(&settings.args, config.as_ref());
    let path = |name: &str| folder.join(name).display().to_string();
    let of_image =
        |pick: fn(&ConfigObject) -> Value| config.as_ref().map_or(Value::Null, |c| pick(&c.config));
    let hostname = match settings.hostname.as_str() {
        "" => record.short(),
        name => name,
    };
    let mut out = json!({
        "Id": record.id,
        "Created": time(record.created),
        "Path": settings.args.first(),
        "Args": settings.args.get(1..).unwrap_or_default(),
        "State": state(record.state),
        "Image": format!("sha256:{}", record.image.config),
        "LogPath": path("log"),
        "Name": format!("/{}", record.name),
        "RestartCount": 0,
        "Driver": "overlayfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": {
            "Binds": binds(record),
            "NetworkMode": network(record),
            "PortBindings": ports::asked(record),
            "AutoRemove": record.remove,
            "ExtraHosts": extra_hosts(settings),
            "Ulimits": ulimits(settings),
            "ShmSize": shm_size(settings),
            "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
            "Privileged": false,
            "ReadonlyRootfs": false,
        },
        "GraphDriver": {
            "Name": "overlayfs",
            "Data": { "UpperDir": path("fs"), "WorkDir": path("work") },
        },
        "Mounts": mounts(store, record),
        "Config": {
            "Hostname": hostname,
            "Domainname": "",
            "User": settings.user,
            "AttachStdin": settings.open_input,
            "AttachStdout": true,
            "AttachStderr": true,
            "ExposedPorts": of_image(|c| json!(c.exposed_ports)),
            "Tty": settings.terminal,
            "OpenStdin": settings.open_input,
            "StdinOnce": settings.open_input,
            "Env": settings.env,
            "Cmd": cmd,
            "Image": record.image.name,
            "Volumes": of_image(|c| json!(c.volumes)),
            "WorkingDir": settings.cwd,
            "Entrypoint": entrypoint,
            "OnBuild": null,
            "Labels": of_image(|c| json!(c.labels.clone().unwrap_or_default())),
            "StopSignal": of_image(|c| json!(c.stop_signal)),
        },
        "NetworkSettings": {
            "Bridge": "",
            "Ports": ports::bound(record),
            "Gateway": "",
            "IPAddress": "",
            "MacAddress": "",
            "Networks": {},
        },
    });
    if size {
        let own = changed_bytes(&folder).map_err(|e| container_error(&e))?;
        let below = containers.image(record).map_or(0, |row| row.size);
        out["SizeRw"] = json!(own);
        out["SizeRootFs"] = json!(own + below);
    }
    Ok(out)
}

/// The image's own program, where it is the one that runs, and the rest.
fn split<'a>(args: &'a [String], config: Option<&ImageConfigFile>) -> (Value, &'a [String]) {
    let own = config.and_then(|c| c.config.entrypoint.as_ref()).filter(|e| !e.is_empty());
    match own.and_then(|e| Some((e, args.strip_prefix(e.as_slice())?))) {
        Some((entrypoint, rest)) => (json!(entrypoint), rest),
        None => (Value::Null, args),
    }
}

fn state(state: State) -> Value {
    let (mut pid, mut code) = (0, 0);
    let (mut started, mut finished) = (NEVER.to_owned(), NEVER.to_owned());
    match state {
        State::Created => {}
        State::Running { pid: number, since, .. } => (pid, started) = (number, time(since)),
        State::Exited { code: number, at } => (code, finished) = (number, time(at)),
    }
    json!({
        "Status": word(state),
        "Running": matches!(state, State::Running { .. }),
        "Paused": false,
        "Restarting": false,
        "OOMKilled": false,
        "Dead": false,
        "Pid": pid,
        "ExitCode": code,
        "Error": "",
        "StartedAt": started,
        "FinishedAt": finished,
    })
}

fn binds(record: &Record) -> Value {
    let line = |b: &rgraph_runtime::container::Bind| {
        let mode = if b.readonly { ":ro" } else { "" };
        format!("{}:{}{mode}", b.source.display(), b.dest)
    };
    let all: Vec<String> = record.settings.binds.iter().map(line).collect();
    if all.is_empty() { Value::Null } else { json!(all) }
}

/// The network of a container, by its name.
pub fn network(record: &Record) -> &'static str {
    match record.settings.network {
        NetworkChoice::Default => "default",
        NetworkChoice::Host => "host",
        NetworkChoice::None => "none",
    }
}

/// Sources of what is mounted in a container.
pub fn mount_names(record: &Record) -> impl Iterator<Item = String> {
    let volumes = record.settings.volumes.iter().map(|v| v.name.clone());
    volumes.chain(record.settings.binds.iter().map(|b| b.source.display().to_string()))
}

/// How many volumes a container has.
pub fn volume_count(record: &Record) -> usize {
    record.settings.volumes.len()
}

/// What is mounted in a container besides the usual.
fn mounts(store: &Store, record: &Record) -> Vec<Value> {
    let volumes = Volumes::new(store);
    let binds = record.settings.binds.iter().map(|b| {
        json!({
            "Type": "bind",
            "Source": b.source.display().to_string(),
            "Destination": b.dest,
            "Mode": if b.readonly { "ro" } else { "" },
            "RW": !b.readonly,
            "Propagation": "rprivate",
        })
    });
    let kept = record.settings.volumes.iter().map(|v| {
        json!({
            "Type": "volume",
            "Name": v.name,
            "Source": volumes.data(&v.name).display().to_string(),
            "Destination": v.dest,
            "Driver": "local",
            "Mode": if v.readonly { "ro" } else { "" },
            "RW": !v.readonly,
            "Propagation": "",
        })
    });
    let memory = record.settings.tmpfs.iter().map(|t| {
        json!({
            "Type": "tmpfs", "Source": "", "Destination": t.dest, "Mode": "", "RW": true,
            "Propagation": "",
        })
    });
    binds.chain(kept).chain(memory).collect()
}

/// Labels of a container: those of its image.
pub fn labels(store: &Store, record: &Record) -> Map<String, Value> {
    let labels = image_config(store, record).and_then(|c| c.config.labels).unwrap_or_default();
    labels.into_iter().map(|(k, v)| (k, Value::String(v))).collect()
}

/// `NAME:ADDRESS`; null without any.
fn extra_hosts(s: &Settings) -> Value {
    let line = |h: &ExtraHost| json!(format!("{}:{}", h.host, h.ip));
    match &s.extra_hosts[..] {
        [] => Value::Null,
        all => all.iter().map(line).collect(),
    }
}

fn ulimits(s: &Settings) -> Value {
    s.ulimits.iter().map(|u| json!({"Name": u.name, "Soft": u.soft, "Hard": u.hard})).collect()
}

fn shm_size(s: &Settings) -> u64 {
    if s.shm_size == 0 { SandboxSpec::SHM_SIZE } else { s.shm_size }
}
