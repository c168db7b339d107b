//! What was asked of a build, as a statement about its result tells it: the words are those of
//! BuildKit's frontend, and no path of this machine and no login is among them.

use std::collections::BTreeMap;

use rgraph_image::registry::shown_url;
use rgraph_ir::SourceMap;
use rgraph_ir::attest::{Asked, Dependency};
use rgraph_ir::op::{HostIp, NetworkMode};
use rgraph_runtime::attest::provenance::repository;
use rgraph_runtime::fetch::source::Sources;

use crate::context;
use crate::options::{BuildOptions, NamedContext};
use crate::pipeline::Origin;

/// Proxies are of the machine, and often have a password in them.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Puts it together. `id`: names the build; `started`: RFC 3339.
pub fn asked(
    opts: &BuildOptions,
    origin: &Origin,
    texts: &SourceMap,
    sources: &Sources<'_>,
    id: &str,
    started: &str,
) -> Asked {
    let file = texts.file(origin.loaded.dockerfile);
    let name = file.name.rsplit('/').next().unwrap_or(&file.name).to_owned();
    let context = origin.brought.as_ref().and_then(|b| match &b.origin {
        context::Origin::Stdin => None,
        context::Origin::Url(h) => Some(match sources.url_digest(h) {
            Ok(digest) => Dependency::sha256(shown_url(&h.url), digest.hex()),
            Err(_) => Dependency { uri: shown_url(&h.url), digest: None },
        }),
        context::Origin::Repository(g) => Some(match sources.git_commit(g) {
            Ok(commit) => Dependency::commit(repository(g), commit),
            Err(_) => Dependency { uri: repository(g), digest: None },
        }),
    });
    Asked {
        id: id.to_owned(),
        started: started.to_owned(),
        context,
        path: Some(name.clone()),
        args: args(opts),
        source: Some((name, file.text.clone())),
    }
}

fn args(opts: &BuildOptions) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut set = |name: &str, value: String| drop(out.insert(name.to_owned(), value));
    for (name, value) in &opts.build_args {
        if !PROXIES.contains(&name.to_ascii_uppercase().as_str()) {
            set(&format!("build-arg:{name}"), value.clone());
        }
    }
    for (name, value) in &opts.labels {
        set(&format!("label:{name}"), value.clone());
    }
    for (name, context) in &opts.build_contexts {
        let value = match context {
            NamedContext::Folder(_) => format!("local:{name}"),
            NamedContext::Image(reference) => format!("docker-image://{reference}"),
            NamedContext::OciLayout { digest: Some(d), .. } => format!("oci-layout://{name}@{d}"),
            NamedContext::OciLayout { .. } => format!("oci-layout://{name}"),
            NamedContext::Http(url) | NamedContext::Git(url) => shown_url(url),
            NamedContext::Target(name) | NamedContext::Build(name) => format!("target:{name}"),
        };
        set(&format!("context:{name}"), value);
    }
    if let Some(target) = &opts.target {
        set("target", target.clone());
    }
    if opts.no_cache {
        set("no-cache", String::new());
    } else if !opts.no_cache_filter.is_empty() {
        set("no-cache", opts.no_cache_filter.join(","));
    }
    match opts.network {
        Some(NetworkMode::Host) => set("force-network-mode", "host".to_owned()),
        Some(NetworkMode::None) => set("force-network-mode", "none".to_owned()),
        Some(NetworkMode::Default) | None => {}
    }
    if !opts.add_hosts.is_empty() {
        let line = |h: &HostIp| format!("{}={}", h.host, h.ip);
        set("add-hosts", opts.add_hosts.iter().map(line).collect::<Vec<_>>().join(","));
    }
    for service in &opts.services {
        set(&format!("service:{}", service.name), service.image.to_string());
    }
    if let Some(bytes) = opts.shm_size {
        set("shm-size", bytes.to_string());
    }
    if !opts.ulimits.is_empty() {
        let line = |u: &rgraph_ir::op::Ulimit| format!("{}={}:{}", u.name, u.soft, u.hard);
        set("ulimit", opts.ulimits.iter().map(line).collect::<Vec<_>>().join(","));
    }
    out
}
