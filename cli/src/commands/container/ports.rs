//! Ports of containers, as they are shown; `rgraph port`.

use rgraph_runtime::container::{Bound, Containers, Record, State};
use rgraph_store::Store;
use serde_json::{Map, Value, json};

use super::{Context, container_error, inspect, print};
use crate::args::PortArgs;
use crate::report::CliError;
use crate::session;

/// `rgraph port`.
pub fn port(cx: &Context, args: &PortArgs) -> Result<(), CliError> {
    let wanted = args.port.as_deref().map(wanted).transpose()?;
    let store = session::open_store(cx.root())?;
    let record = Containers::new(&store).find(&args.container).map_err(|e| container_error(&e))?;
    let running = matches!(record.state, State::Running { .. });
    let bound = record.bound.iter().filter(|_| running);
    let text: String = match &wanted {
        None => bound.map(|b| format!("{} -> {}\n", inside(b), b.host)).collect(),
        Some(port) => {
            bound.filter(|b| inside(b) == *port).map(|b| format!("{}\n", b.host)).collect()
        }
    };
    if let (Some(port), true) = (wanted, text.is_empty()) {
        let name = &record.name;
        return Err(CliError::failed(format!("no public port '{port}' published for {name}")));
    }
    print(text.as_bytes())
}

/// `80` or `80/tcp`, as a port of a container is called.
fn wanted(text: &str) -> Result<String, CliError> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match (number.parse::<u16>(), protocol) {
        (Ok(number), "tcp" | "udp") => Ok(format!("{number}/{protocol}")),
        _ => {
            let why = format!("invalid port `{text}`: expected PORT[/tcp] or PORT/udp");
            Err(CliError::usage(why))
        }
    }
}

/// What a port is called in the container.
fn inside(b: &Bound) -> String {
    format!("{}/{}", b.container, b.protocol)
}

/// The column of `ps`: what leads where, and what the image names beside that.
pub fn shown(store: &Store, r: &Record) -> String {
    if !matches!(r.state, State::Running { .. }) {
        return String::new();
    }
    let mut all: Vec<String> =
        r.bound.iter().map(|b| format!("{}->{}", b.host, inside(b))).collect();
    let named = inspect::image_config(store, r).and_then(|c| c.config.exposed_ports);
    for port in named.unwrap_or_default().into_keys() {
        if !r.bound.iter().any(|b| port == inside(b)) {
            all.push(port);
        }
    }
    all.join(", ")
}

fn entry(all: &mut Map<String, Value>, port: String, ip: String, host: String) {
    let list = all.entry(port).or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.push(json!({ "HostIp": ip, "HostPort": host }));
    }
}

/// Ports that were asked for, as Docker's `PortBindings`.
pub fn asked(r: &Record) -> Map<String, Value> {
    let mut all = Map::new();
    for p in &r.settings.ports {
        let host = if p.host == 0 { String::new() } else { p.host.to_string() };
        let port = format!("{}/{}", p.container, p.protocol);
        entry(&mut all, port, p.ip.map(|i| i.to_string()).unwrap_or_default(), host);
    }
    all
}

/// Ports that are there, as Docker's `Ports`.
pub fn bound(r: &Record) -> Map<String, Value> {
    let mut all = Map::new();
    for b in &r.bound {
        entry(&mut all, inside(b), b.host.ip().to_string(), b.host.port().to_string());
    }
    all
}
