//! The packages of an image as an SPDX 2.3 document in JSON (spdx.github.io/spdx-spec/v2.3).

use rgraph_image::attestation::Claim;
use rgraph_ir::BlobDigest;
use serde_json::{Value, json};

use super::packages::{Inventory, Manager, Package};
use super::purl::purl;

/// Its name as a file.
pub const FILENAME: &str = "sbom.spdx.json";

const NOTHING: &str = "NOASSERTION";

/// The statement without its subjects. `name`: what the image is called. `created`: RFC 3339.
pub fn claim(found: &Inventory, name: &str, created: &str) -> Claim {
    Claim {
        predicate_type: "https://spdx.dev/Document".to_owned(),
        predicate: document(found, name, created),
    }
}

fn document(found: &Inventory, name: &str, created: &str) -> Value {
    let packages: Vec<Value> =
        found.packages.iter().enumerate().map(|(n, p)| package(found, n, p)).collect();
    let contains = |n: usize| {
        json!({
            "spdxElementId": "SPDXRef-Image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id(n),
        })
    };
    let mut relations = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    })];
    relations.extend((0..packages.len()).map(contains));
    // What has other content has another name; equal content has an equal one.
    let content = json!([name, created, packages]).to_string();
    let image = json!({
        "SPDXID": "SPDXRef-Image",
        "name": name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "primaryPackagePurpose": "CONTAINER",
    });
    let mut all = vec![image];
    all.extend(packages);
    let mut creation = json!({
        "created": created,
        "creators": [concat!("Tool: rgraph-", env!("CARGO_PKG_VERSION"))],
    });
    if !found.unread.is_empty() {
        creation["comment"] = format!("not read: {}", found.unread.join("; ")).into();
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("urn:rgraph:sbom:{}", BlobDigest::of(content.as_bytes())),
        "creationInfo": creation,
        "packages": all,
        "relationships": relations,
    })
}

fn id(n: usize) -> String {
    format!("SPDXRef-Package-{}", n + 1)
}

fn package(found: &Inventory, n: usize, p: &Package) -> Value {
    let mut out = json!({
        "SPDXID": id(n),
        "name": p.name,
        "versionInfo": match p.epoch {
            Some(epoch) => format!("{epoch}:{}", p.version),
            None => p.version.clone(),
        },
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": locator(found, p),
        }],
    });
    if let Some(maker) = &p.maker {
        out["supplier"] = format!("Organization: {maker}").into();
    }
    if let Some(homepage) = p.homepage.as_ref().filter(|h| h.starts_with("http")) {
        out["homepage"] = homepage.clone().into();
    }
    // The managers' words are seldom SPDX expressions, so they are told as words.
    if let Some(license) = &p.license {
        out["licenseComments"] = format!("the package says: {license}").into();
    }
    if let Some(source) = &p.source {
        out["sourceInfo"] = format!("built from {source}").into();
    }
    out
}

fn locator(found: &Inventory, p: &Package) -> String {
    let (kind, usual) = match p.manager {
        Manager::Apk => ("apk", "alpine"),
        Manager::Deb => ("deb", "debian"),
        Manager::Rpm => ("rpm", "redhat"),
    };
    let os = found.os.as_deref().unwrap_or(usual);
    let distro = match &found.os_version {
        Some(v) => format!("{os}-{v}"),
        None => os.to_owned(),
    };
    let epoch = p.epoch.map(|e| e.to_string()).unwrap_or_default();
    // An rpm is built from an rpm, by name of its file.
    let upstream = match (&p.source, p.manager) {
        (Some(s), Manager::Deb) => s.replace(" (", "@").replace(')', ""),
        (Some(s), Manager::Rpm) => s.clone(),
        (Some(s), Manager::Apk) if *s != p.name => s.clone(),
        _ => String::new(),
    };
    let qualifiers =
        [("arch", &*p.arch), ("distro", &distro), ("epoch", &epoch), ("upstream", &upstream)];
    purl(kind, os, &p.name, &p.version, &qualifiers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn some(manager: Manager, name: &str) -> Package {
        Package {
            manager,
            name: name.to_owned(),
            version: "1+b".to_owned(),
            arch: "amd64".to_owned(),
            epoch: None,
            source: Some("src (1.0)".to_owned()),
            maker: Some("M <m@x>".to_owned()),
            homepage: Some("https://x".to_owned()),
            license: Some("MIT".to_owned()),
        }
    }

    #[test]
    fn every_package_is_in_the_image_and_named_once() {
        let packages: BTreeSet<_> =
            [some(Manager::Deb, "a"), some(Manager::Deb, "b++"), some(Manager::Rpm, "a")].into();
        let found = Inventory {
            packages,
            os: Some("debian".to_owned()),
            os_version: Some("12".to_owned()),
            unread: vec!["x".to_owned()],
        };
        let doc = document(&found, "img", "2024-01-01T00:00:00Z");
        let all = doc["packages"].as_array().unwrap();
        assert_eq!(all.len(), 4);
        let ids: BTreeSet<_> = all.iter().map(|p| p["SPDXID"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), 4);
        for r in doc["relationships"].as_array().unwrap() {
            assert!(ids.contains(r["relatedSpdxElement"].as_str().unwrap()));
        }
        let locator = |n: usize| all[n]["externalRefs"][0]["referenceLocator"].as_str().unwrap();
        assert_eq!(
            locator(2),
            "pkg:deb/debian/b%2B%2B@1%2Bb?arch=amd64&distro=debian-12&upstream=src%401.0"
        );
        assert!(doc["creationInfo"]["comment"].as_str().unwrap().contains("not read: x"));
        // Equal content, equal document.
        assert_eq!(doc, document(&found, "img", "2024-01-01T00:00:00Z"));
        let other = document(&found, "img2", "2024-01-01T00:00:00Z");
        assert_ne!(doc["documentNamespace"], other["documentNamespace"]);
    }
}
