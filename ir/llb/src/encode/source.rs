//! Sources: identifiers and attributes (`solver/pb/attr.go`, `client/llb/source.go`).

use std::collections::BTreeMap;

use rgraph_ir::op::{GitSource, LocalSource, ResolveMode, SourceOp};

use crate::pb;

pub(super) fn source(op: &SourceOp) -> pb::SourceOp {
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
        SourceOp::Local(local) => {
            let LocalSource { name, follow_paths, include, exclude, shared_key_hint } = &**local;
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
