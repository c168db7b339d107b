//! `login`, `logout`, `search`, and the way to a registry through a proxy.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use rgraph_tests::{Access, Case, Certificate, Registry, Run, need};

/// `login` with a password on stdin.
fn login(case: &Case, host: &str, password: &str) -> Run {
    let args = ["login", "-u", "tester", "--password-stdin", host];
    case.rgraph_reading(&args, password.as_bytes())
}

#[test]
fn credentials_are_tried_kept_and_forgotten() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Password);
    let host = registry.host();
    let case = Case::with_base();
    let name = registry.name("app:1");
    case.rgraph(&["tag", rgraph_tests::BASE, &name]).ok();
    case.rgraph(&["push", &name]).fails(1, &["denied", "no credentials"]);
    login(&case, &host, "wrong\n").fails(1, &["denied"]);
    let config = case.dir().join("docker/config.json");
    assert!(!config.exists(), "a login that failed is not kept");
    let run = login(&case, &host, "secret\n").ok();
    assert_eq!(run.text(), "Login Succeeded\n");
    assert!(run.stderr.contains("unencrypted") && !run.stderr.contains("secret\n"));
    assert_eq!(fs::metadata(&config).expect("kept").permissions().mode() & 0o777, 0o600);
    case.rgraph(&["push", &name]).ok();
    let again = case.rgraph(&["login", "-u", "tester", "-p", "secret", &host]).ok();
    assert!(again.stderr.contains("--password-stdin"), "{}", again.stderr);
    let out = case.rgraph(&["logout", &host]).ok();
    assert_eq!(out.text(), format!("Removing login credentials for {host}\n"));
    case.rgraph(&["pull", &name]).fails(1, &["denied"]);
    let out = case.rgraph(&["logout", &host]).ok();
    assert_eq!(out.text(), format!("Not logged in to {host}\n"));
    case.rgraph(&["login", &host]).fails(1, &["--password-stdin"]);
}

#[test]
fn a_credential_helper_keeps_what_it_is_given() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Password);
    let host = registry.host();
    let mut case = Case::with_base();
    let bin = case.dir().join("bin");
    fs::create_dir(&bin).expect("a folder");
    let kept = case.dir().join("kept");
    let helper = bin.join("docker-credential-shelf");
    let script = format!(
        "#!/bin/sh\ncase $1 in store) cat > {k};; get) cat {k};; erase) rm {k};; esac\n",
        k = kept.display()
    );
    fs::write(&helper, script).expect("a script");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = format!("{}:{}", bin.display(), "/usr/sbin:/usr/bin:/sbin:/bin");
    case.env("PATH", &path);
    let config = case.dir().join("docker/config.json");
    fs::write(&config, r#"{"credsStore":"shelf"}"#).expect("a config");
    login(&case, &host, "secret").ok();
    let text = fs::read_to_string(&config).expect("still there");
    assert!(text.contains("shelf") && text.contains(&host) && !text.contains("\"auth\""), "{text}");
    assert!(fs::read_to_string(&kept).expect("stored").contains("secret"));
    let name = registry.name("app:1");
    case.rgraph(&["tag", rgraph_tests::BASE, &name]).ok();
    case.rgraph(&["push", &name]).ok();
    case.rgraph(&["logout", &host]).ok();
    assert!(!kept.exists());
}

#[test]
fn a_registry_without_a_search_is_searched_by_its_catalog() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = Case::with_base();
    for name in ["team/web:1", "team/db:1"] {
        let name = registry.name(name);
        case.rgraph(&["tag", rgraph_tests::BASE, &name]).ok();
        case.rgraph(&["push", "-q", &name]).ok();
    }
    let term = registry.name("we");
    let run = case.rgraph(&["search", &term]).ok();
    assert!(run.stderr.contains("has no search"), "{}", run.stderr);
    let lines: Vec<&str> = run.text().lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[0].contains("STARS"), "{lines:?}");
    assert_eq!(lines.len(), 2);
    let all = case.rgraph(&["search", "--format", "{{.Name}}", &registry.name("")]).ok();
    let want = format!("{}\n{}\n", registry.name("team/db"), registry.name("team/web"));
    assert_eq!(all.text(), want);
    let few = case.rgraph(&["search", "--limit=1", "--format={{.Name}}", &registry.name("")]).ok();
    assert_eq!(few.text().lines().count(), 1);
    let none = case.rgraph(&["search", "-f", "stars=1", "--format={{.Name}}", &term]).ok();
    assert_eq!(none.text(), "");
}

/// Takes requests for `host` and passes them on to `server`; gives its address.
fn proxy(host: &str, server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (prefix, server) = (format!(" http://{host}/"), server.to_owned());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let Ok(mut there) = TcpStream::connect(&server) else { return };
            let (Ok(mut back), Ok(mut from)) = (client.try_clone(), there.try_clone()) else {
                return;
            };
            let prefix = prefix.clone();
            std::thread::spawn(move || std::io::copy(&mut from, &mut back).map(drop));
            std::thread::spawn(move || {
                let mut buf = vec![0; 64 << 10];
                while let Ok(n @ 1..) = client.read(&mut buf) {
                    let text = String::from_utf8_lossy(&buf[..n]);
                    // Requests begin with the bytes of one read, and have no body here.
                    if there.write_all(text.replacen(&prefix, " /", 1).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn registries_are_reached_through_the_proxy_of_the_environment() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let mut case = Case::with_base();
    let there = registry.name("app:1");
    case.rgraph(&["tag", rgraph_tests::BASE, &there]).ok();
    case.rgraph(&["push", &there]).ok();
    // A host that only the proxy knows.
    let config = case.dir().join("config.toml");
    fs::write(&config, "[registry.'far.test:5000']\nhttp = true\n").expect("a config");
    case.env("RGRAPH_CONFIG", &config.display().to_string());
    let name = "far.test:5000/app:1";
    case.rgraph(&["pull", name]).fails(1, &["far.test"]);
    case.env("http_proxy", &proxy("far.test:5000", &registry.host()));
    case.rgraph(&["pull", name]).ok();
    // Loopback never goes through it, and what NO_PROXY names neither.
    case.rgraph(&["pull", &there]).ok();
    case.env("NO_PROXY", "far.test");
    case.rgraph(&["pull", name]).fails(1, &["far.test"]);
}

#[test]
fn https_with_a_certificate_of_ones_own() {
    need!(Root, Tool("docker-registry"), Tool("openssl"));
    let certificate = Certificate::make();
    let registry = Registry::start_tls(Access::Password, &certificate);
    let host = registry.host();
    let with = |text: String| {
        let mut case = Case::with_base();
        let path = case.out("config.toml");
        fs::write(&path, text).expect("a config");
        case.env("RGRAPH_CONFIG", &path.display().to_string());
        case.rgraph(&["tag", rgraph_tests::BASE, &registry.name("app:1")]).ok();
        case
    };
    let trust = |ca: &std::path::Path| format!("[registry.'{host}']\nca = '{}'\n", ca.display());
    let case = with(trust(&certificate.ca()));
    let name = registry.name("app:1");
    login(&case, &host, "wrong").fails(1, &["denied"]);
    login(&case, &host, "secret").ok();
    case.rgraph(&["push", &name]).ok();
    case.rgraph(&["rmi", &name]).ok();
    case.rgraph(&["pull", &name]).ok();
    case.dockerfile(&format!("FROM {name}\nRUN echo tls > /tls\n"));
    let other = registry.name("built:1");
    case.build(&["--pull", "--push", "-t", &other]).ok();
    // Signed by somebody else, or by nobody known: refused before any credential is sent.
    let stranger = Certificate::make();
    for config in [trust(&stranger.ca()), format!("[registry.'{host}']\nhttp = false\n")] {
        let case = with(config);
        login(&case, &host, "secret").fails(1, &["no trusted connection"]);
        case.rgraph(&["push", &name]).fails(1, &["no trusted connection"]);
        assert!(!case.dir().join("docker/config.json").exists());
    }
    // Taken unseen when that is asked for.
    let case = with(format!("[registry.'{host}']\nhttp = false\ninsecure = true\n"));
    let auth = serde_json::json!({"auths": {&host: {"auth": "dGVzdGVyOnNlY3JldA=="}}});
    fs::write(case.dir().join("docker/config.json"), auth.to_string()).expect("a config");
    case.rgraph(&["pull", &name]).ok();
}
