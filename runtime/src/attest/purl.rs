//! Package URLs (package-url/purl-spec), written as BuildKit and the scanners write them.

use rgraph_ir::{Platform, Reference};

/// `pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`. Empty parts are left out; the namespace may hold
/// slashes.
pub fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut out = format!("pkg:{kind}");
    for part in namespace.split('/').filter(|p| !p.is_empty()) {
        out.push('/');
        escape(part, &mut out);
    }
    out.push('/');
    escape(name, &mut out);
    if !version.is_empty() {
        out.push('@');
        escape(version, &mut out);
    }
    let mut all: Vec<_> = qualifiers.iter().filter(|(_, v)| !v.is_empty()).collect();
    all.sort();
    for (i, (key, value)) in all.into_iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        escape(value, &mut out);
    }
    out
}

fn escape(text: &str, out: &mut String) {
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                out.push(char::from(b));
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
}

/// An image by its name. The digest is said beside it, unless there is no tag.
pub fn image(r: &Reference, platform: Option<&Platform>) -> String {
    let name = r.familiar_name();
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", &name));
    let digest = match &r.tag {
        Some(_) => String::new(),
        None => r.digest.map(|d| d.to_string()).unwrap_or_default(),
    };
    let platform = platform.map(|p| p.clone().normalize().to_string()).unwrap_or_default();
    let qualifiers = [("digest", &*digest), ("platform", &platform)];
    purl("docker", namespace, name, r.tag.as_deref().unwrap_or(""), &qualifiers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_called_as_buildkit_calls_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, want) in [
            ("alpine", "pkg:docker/alpine@latest?platform=linux%2Famd64".to_owned()),
            ("ghcr.io/a/b/c:1", "pkg:docker/ghcr.io/a/b/c@1?platform=linux%2Famd64".into()),
            ("localhost:5000/x:1+2", String::new()),
            ("localhost:5000/x:1", "pkg:docker/localhost:5000/x@1?platform=linux%2Famd64".into()),
            (
                &format!("alpine@{digest}"),
                format!("pkg:docker/alpine?digest={digest}&platform=linux%2Famd64"),
            ),
            (
                &format!("alpine:3@{digest}"),
                "pkg:docker/alpine@3?platform=linux%2Famd64".to_owned(),
            ),
        ] {
            let Ok(r) = name.parse() else {
                assert!(want.is_empty(), "{name}");
                continue;
            };
            assert_eq!(image(&r, Some(&Platform::linux_amd64())), want, "{name}");
        }
    }

    #[test]
    fn odd_names_are_escaped() {
        let got =
            purl("deb", "debian", "libstdc++6", "1:2~a/b", &[("z", ""), ("b", "2"), ("a", "é")]);
        assert_eq!(got, "pkg:deb/debian/libstdc%2B%2B6@1:2~a%2Fb?a=%C3%A9&b=2");
    }
}
