//! Against Debian's `docker-registry`.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rgraph_image::registry::{
    HostConfig, ManifestRef, Pushed, RegistryClient, RegistryError, TransferEvent, Watch,
};
use rgraph_ir::ManifestDigest;

use super::{desc, listening, noise, quick, reference, with_client};

const BINARY: &str = "/usr/bin/docker-registry";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

struct Registry {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, said aloud, where the registry is not installed.
    fn start() -> Option<Self> {
        Self::start_with(|_| String::new(), |_| String::new())
    }

    /// With more settings below `http:`, and at the top level; both are told the folder.
    fn start_with(http: impl Fn(&Path) -> String, top: impl Fn(&Path) -> String) -> Option<Self> {
        if !Path::new(BINARY).exists() {
            eprintln!("SKIPPED: {BINARY} is not installed (apt-get install docker-registry)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{}{}",
            root.display(),
            http(dir.path()),
            top(dir.path()),
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(BINARY)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self { child, host: format!("localhost:{port}"), dir };
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(this);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{BINARY} does not listen");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn push(
    client: &RegistryClient,
    name: &str,
    data: &[u8],
    from: Option<&str>,
) -> (Pushed, Vec<TransferEvent>) {
    let owned = data.to_vec();
    let source = move |at: u64| {
        let rest = owned[at as usize..].to_vec();
        Ok(Box::new(std::io::Cursor::new(rest)) as Box<dyn Read + Send>)
    };
    let (out, events) =
        listening(|w| client.push_blob(&reference(name), &desc(data), source, from, w));
    (out.unwrap(), events)
}

fn manifest(config: &[u8], layer: &[u8]) -> Vec<u8> {
    let (c, l) = (desc(config), desc(layer));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        c.digest, c.size, l.digest, l.size
    )
    .into_bytes()
}

#[test]
fn pushes_and_pulls() {
    let Some(registry) = Registry::start() else { return };
    let mut config = quick();
    // Small enough that the layer takes the resumable way and the config the short one.
    config.single_request_push = 1 << 20;
    with_client(config, |client| {
        let name = format!("{}/team/app:v1", registry.host);
        let r = reference(&name);
        let quiet = &Watch::QUIET;
        let (config, layer) = (noise(1000, 1), noise(5_000_001, 2));

        assert!(!client.blob_exists(&r, &desc(&layer), quiet).unwrap());
        assert_eq!(push(client, &name, &config, None).0, Pushed::Uploaded);
        assert_eq!(push(client, &name, &layer, None).0, Pushed::Uploaded);
        let (again, events) = push(client, &name, &layer, None);
        assert_eq!(again, Pushed::Exists);
        assert!(matches!(events[..], [TransferEvent::Exists { .. }]));
        assert!(client.blob_exists(&r, &desc(&layer), quiet).unwrap());
        assert_eq!(push(client, &name, b"", None).0, Pushed::Uploaded);

        let bytes = manifest(&config, &layer);
        let digest = client.push_manifest(&r, OCI, &bytes, quiet).unwrap();
        assert_eq!(digest, ManifestDigest::of(&bytes));

        let resolved = client.resolve(&r, quiet).unwrap();
        assert_eq!((resolved.digest, resolved.size), (digest, bytes.len() as u64));
        assert_eq!(resolved.media_type, OCI);
        for which in [ManifestRef::Tag("v1"), ManifestRef::Digest(digest)] {
            let m = client.manifest(&r, which, quiet).unwrap();
            assert_eq!((&m.bytes, m.digest, m.media_type.as_str()), (&bytes, digest, OCI));
        }

        let mut pulled = Vec::new();
        let mut reader = client.open_blob(&r, &desc(&layer), *quiet).unwrap();
        reader.read_to_end(&mut pulled).unwrap();
        assert!(pulled == layer);
        assert_eq!(client.blob_bytes(&r, &desc(&config), 1000, quiet).unwrap(), config);
        assert_eq!(client.blob_bytes(&r, &desc(b""), 1000, quiet).unwrap(), b"");

        // An interrupted download goes on by Range.
        let front = Box::new(std::io::Cursor::new(layer[..2_000_000].to_vec()));
        let (again, events) = listening(|w| {
            let mut again = Vec::new();
            client.resume_blob(&r, &desc(&layer), front, *w).read_to_end(&mut again).unwrap();
            again
        });
        assert!(again == layer);
        assert!(
            matches!(events[..], [TransferEvent::Resuming { at: 2_000_000, .. }]),
            "{events:?}"
        );

        let other = format!("{}/other:v1", registry.host);
        assert_eq!(push(client, &other, &layer, Some("team/app")).0, Pushed::Mounted);
        assert_eq!(push(client, &other, &noise(9, 9), Some("team/app")).0, Pushed::Uploaded);

        let by_digest = reference(&format!("{}/team/app@{digest}", registry.host));
        assert_eq!(client.push_manifest(&by_digest, OCI, &bytes, quiet).unwrap(), digest);
        for tag in ["a", "b"] {
            let r = reference(&format!("{}/team/app:{tag}", registry.host));
            client.push_manifest(&r, OCI, &bytes, quiet).unwrap();
        }
        let mut tags = client.tags(&r, quiet).unwrap();
        tags.sort();
        assert_eq!(tags, ["a", "b", "v1"]);
        assert_eq!(client.catalog(&registry.host, quiet).unwrap(), ["other", "team/app"]);
    });
}

#[test]
fn says_what_is_missing() {
    let Some(registry) = Registry::start() else { return };
    with_client(quick(), |client| {
        let r = reference(&format!("{}/none:v1", registry.host));
        let quiet = &Watch::QUIET;
        let (out, events) = listening(|w| client.resolve(&r, w));
        let e = out.unwrap_err();
        assert!(matches!(e, RegistryError::NotFound { .. }), "{e}");
        assert!(e.to_string().contains("none:v1 not found"), "{e}");
        assert!(events.is_empty(), "a 404 was tried again: {events:?}");
        let e = client.open_blob(&r, &desc(b"x"), *quiet).err().unwrap();
        assert!(matches!(e, RegistryError::NotFound { .. }), "{e}");
        let e = client.tags(&r, quiet).unwrap_err();
        assert!(matches!(e, RegistryError::NotFound { .. }), "{e}");
        // A manifest before its blobs.
        let e = client.push_manifest(&r, OCI, &manifest(b"c", b"l"), quiet).unwrap_err();
        assert!(matches!(e, RegistryError::Status { status: 400, .. }), "{e}");
        // Bytes that are not what their descriptor says.
        let source =
            |_| Ok(Box::new(std::io::Cursor::new(b"abd".to_vec())) as Box<dyn Read + Send>);
        let e = client.push_blob(&r, &desc(b"abc"), source, None, quiet).unwrap_err();
        assert!(matches!(e, RegistryError::Status { status: 400, .. }), "{e}");
    });
}

#[test]
fn logs_in_as_the_docker_config_says() {
    // A bcrypt hash of `secret`, four rounds.
    let hash = "$2b$04$rdLoHjLhvTixvJvIu4MxdOiIrDqGw03ykiVMsayRg8SRLgWmHw3d.";
    let Some(registry) = Registry::start_with(
        |_| String::new(),
        |dir| {
            std::fs::write(dir.join("users"), format!("user:{hash}\n")).unwrap();
            format!("auth:\n  htpasswd:\n    realm: x\n    path: {}\n", dir.join("users").display())
        },
    ) else {
        return;
    };
    let name = format!("{}/app:v1", registry.host);
    let r = reference(&name);
    with_client(quick(), |client| {
        let e = client.tags(&r, &Watch::QUIET).unwrap_err();
        assert!(matches!(e, RegistryError::Denied { with_login: false, .. }), "{e}");
    });
    for (login, ok) in [("dXNlcjpzZWNyZXQ=", true), ("dXNlcjp3cm9uZw==", false)] {
        let file = registry.dir.path().join("config.json");
        let json = format!(r#"{{"auths":{{"{}":{{"auth":"{login}"}}}}}}"#, registry.host);
        std::fs::write(&file, json).unwrap();
        let mut config = quick();
        config.credentials.files.push(file);
        with_client(config, |client| {
            if ok {
                assert_eq!(push(client, &name, b"layer", None).0, Pushed::Uploaded);
                let bytes = manifest(b"layer", b"layer");
                client.push_manifest(&r, OCI, &bytes, &Watch::QUIET).unwrap();
                assert_eq!(client.tags(&r, &Watch::QUIET).unwrap(), ["v1"]);
            } else {
                let e = client.push_manifest(&r, OCI, b"{}", &Watch::QUIET).unwrap_err();
                assert!(matches!(e, RegistryError::Denied { with_login: true, .. }), "{e}");
            }
        });
    }
}

#[test]
fn trusts_only_the_certificates_it_was_told_to() {
    let made = |dir: &Path| {
        let name = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=rgraph test", "-addext", name])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(dir)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let probe = tempfile::tempdir().unwrap();
    if !made(probe.path()) {
        eprintln!("SKIPPED: no certificate, `openssl req` does not work here");
        return;
    }
    let Some(registry) = Registry::start_with(
        |dir| {
            for file in ["cert.pem", "key.pem"] {
                std::fs::copy(probe.path().join(file), dir.join(file)).unwrap();
            }
            let dir = dir.display();
            format!("  tls:\n    certificate: {dir}/cert.pem\n    key: {dir}/key.pem\n")
        },
        |_| String::new(),
    ) else {
        return;
    };
    let name = format!("{}/app:v1", registry.host);
    let ca = vec![registry.dir.path().join("cert.pem")];
    for (host, ok) in [
        (HostConfig { http: Some(false), ..HostConfig::default() }, false),
        (HostConfig { ca, ..HostConfig::default() }, true),
        (HostConfig { http: Some(false), insecure: true, ..HostConfig::default() }, true),
    ] {
        let mut config = quick();
        config.hosts.insert(registry.host.clone(), host.clone());
        with_client(config, |client| {
            let out = client.blob_exists(&reference(&name), &desc(b"none"), &Watch::QUIET);
            match out {
                Ok(there) => assert!(ok && !there, "{host:?}"),
                Err(e) => assert!(matches!(e, RegistryError::Tls { .. }) && !ok, "{host:?}: {e}"),
            }
        });
    }
    let mut config = quick();
    let missing = vec![registry.dir.path().join("none.pem")];
    config.hosts.entry(registry.host.clone()).or_default().ca = missing;
    with_client(config, |client| {
        let e = client.resolve(&reference(&name), &Watch::QUIET).unwrap_err().to_string();
        assert!(e.contains("none.pem"), "{e}");
    });
}
