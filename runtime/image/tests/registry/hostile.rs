//! Against servers that lie, break off, never end, or want our credentials.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rgraph_image::registry::{
    Credential, ManifestRef, Mirror, Pushed, RegistryConfig, RegistryError, TransferEvent, Watch,
};

use super::server::{Request, Server, answer, head};
use super::{desc, listening, noise, quick, reference, with_client};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pulls the blob `want` from `server` and gives the error's text, or `""` and checks the bytes.
fn pull(server: &Server, config: RegistryConfig, want: &[u8]) -> (String, Vec<TransferEvent>) {
    let r = reference(&format!("{}/app:v1", server.addr));
    with_client(config, |client| {
        listening(|w| {
            let mut got = Vec::new();
            match client.blob(&r, &desc(want), &mut got, w) {
                Ok(()) => {
                    assert!(got == want, "a wrong blob was accepted");
                    String::new()
                }
                Err(e) => e.to_string(),
            }
        })
    })
}

#[test]
fn wrong_bytes_are_refused() {
    let good = noise(100_000, 1);
    let mut bad = good.clone();
    bad[70_000] ^= 1;
    let longer = [&good[..], b"x"].concat();
    let cases: [(&str, Vec<u8>, bool, &str); 5] = [
        ("flipped bit", bad, true, "digest mismatch: want sha256:"),
        ("longer", longer.clone(), true, "size mismatch"),
        ("longer, no length", longer, false, "size mismatch"),
        ("shorter", good[..99_999].to_vec(), true, "size mismatch"),
        ("right, no length", good.clone(), false, ""),
    ];
    for (name, body, with_length, want) in cases {
        let server = Server::start("127.0.0.1", move |_, out| {
            if with_length {
                answer(out, 200, &[], &body);
            } else {
                head(out, 200, &[]);
                let _ = out.write_all(&body);
            }
        });
        let (error, events) = pull(&server, quick(), &good);
        assert!(
            error.starts_with(want) && (want.is_empty() == error.is_empty()),
            "{name}: {error}"
        );
        assert!(events.is_empty(), "{name} was tried again: {events:?}");
    }
}

#[test]
fn one_byte_too_many_is_refused_even_if_it_comes_late() {
    let good = noise(1000, 2);
    for (extra, want) in [("", ""), ("1\r\nx\r\n", "size mismatch")] {
        let body = good.clone();
        let server = Server::start("127.0.0.1", move |_, out| {
            head(out, 200, &[("Transfer-Encoding", "chunked")]);
            let _ = out.write_all(b"3e8\r\n");
            let _ = out.write_all(&body);
            let _ = out.write_all(format!("\r\n{extra}0\r\n\r\n").as_bytes());
        });
        let (error, _) = pull(&server, quick(), &good);
        assert!(error.starts_with(want) && want.is_empty() == error.is_empty(), "{error}");
    }
}

#[test]
fn a_reader_never_sees_the_end_of_a_wrong_blob() {
    let good = noise(50_000, 3);
    let mut bad = good.clone();
    bad[0] ^= 1;
    let server = Server::start("127.0.0.1", move |_, out| answer(out, 200, &[], &bad));
    with_client(quick(), |client| {
        let r = reference(&format!("{}/app:v1", server.addr));
        let mut reader = client.open_blob(&r, &desc(&good), Watch::QUIET).unwrap();
        let mut got = Vec::new();
        let e = reader.read_to_end(&mut got).unwrap_err();
        assert!(matches!(RegistryError::from_io(e), RegistryError::Digest { .. }));
        assert!(reader.read(&mut [0; 8]).is_err(), "an error turned into an end");
    });
}

/// Sends `cut` bytes per request of what was asked for, with or without knowing ranges.
fn cutting(data: Vec<u8>, cut: usize, ranges: bool) -> impl Fn(&Request, &mut std::net::TcpStream) {
    move |q, out| {
        let at = q.range().filter(|_| ranges).unwrap_or(0);
        let total = data.len();
        let length = (total - at).to_string();
        let range = format!("bytes {at}-{}/{total}", total - 1);
        if at > 0 {
            head(out, 206, &[("Content-Length", &length), ("Content-Range", &range)]);
        } else {
            head(out, 200, &[("Content-Length", &length)]);
        }
        // Without ranges each answer gets a bit further, else it would never end.
        let end = if ranges { at + cut } else { cut * (q.number + 1) };
        let _ = out.write_all(&data[at..end.min(total)]);
    }
}

#[test]
fn a_cut_body_is_resumed() {
    for ranges in [true, false] {
        let data = noise(250_000, 4);
        let server = Server::start("127.0.0.1", cutting(data.clone(), 100_000, ranges));
        let (error, events) = pull(&server, quick(), &data);
        assert_eq!(error, "");
        let log = server.log();
        assert_eq!(log.len(), 3);
        assert_eq!(log[0].range(), None);
        assert!(log[1].range().is_some_and(|at| at > 0 && at <= 100_000), "{:?}", log[1]);
        let resumed = events.iter().filter(|e| e.to_string().starts_with("resuming at ")).count();
        assert_eq!(resumed, 2, "{events:?}");
        assert!(events[0].to_string().starts_with("retry 1/3 in "), "{}", events[0]);
    }
}

#[test]
fn a_cut_that_never_heals_ends() {
    let data = noise(3000, 5);
    let server = Server::start("127.0.0.1", cutting(data.clone(), 1, true));
    let (error, _) = pull(&server, quick(), &data);
    assert!(error.contains("broke"), "{error}");
    assert_eq!(server.log().len(), 4);
}

#[test]
fn a_wrong_range_is_refused() {
    let data = noise(1000, 6);
    let body = data.clone();
    let server = Server::start("127.0.0.1", move |q, out| match q.range() {
        None => {
            head(out, 200, &[("Content-Length", "1000")]);
            let _ = out.write_all(&body[..500]);
        }
        Some(_) => answer(out, 206, &[("Content-Range", "bytes 0-499/1000")], &body[..500]),
    });
    let (error, _) = pull(&server, quick(), &data);
    assert!(error.contains("another range"), "{error}");
}

#[test]
fn bad_moments_pass() {
    let data = noise(1000, 7);
    for (status, header) in
        [(500, None), (502, None), (503, None), (429, Some(("Retry-After", "1")))]
    {
        let body = data.clone();
        let server = Server::start("127.0.0.1", move |q, out| match q.number {
            0 => answer(out, status, header.as_slice(), b"{}"),
            _ => answer(out, 200, &[], &body),
        });
        let (error, events) = pull(&server, quick(), &data);
        assert_eq!(error, "", "{status}");
        let [TransferEvent::Retry { number: 1, of: 3, delay, cause }] = &events[..] else {
            panic!("{status}: {events:?}")
        };
        assert!(cause.contains(&status.to_string()), "{cause}");
        assert_eq!(*delay >= Duration::from_secs(1), header.is_some(), "{status}: {delay:?}");
    }
}

#[test]
fn tries_are_counted_and_4xx_is_final() {
    for (status, requests) in [(500, 4), (503, 4), (400, 1), (404, 1), (403, 1), (410, 1)] {
        let server = Server::start("127.0.0.1", move |_, out| answer(out, status, &[], b""));
        let (error, _) = pull(&server, quick(), b"x");
        assert_ne!(error, "");
        assert_eq!(server.log().len(), requests, "{status}: {error}");
    }
    let server =
        Server::start("127.0.0.1", |_, out| answer(out, 429, &[("Retry-After", "86400")], b""));
    let (error, _) = pull(&server, quick(), b"x");
    assert!(error.contains("429"), "{error}");
    assert_eq!(server.log().len(), 1, "a day was waited for");
}

#[test]
fn what_is_no_http_is_asked_for_once_more_and_a_cut_head_as_often_as_any() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(300));
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(1 << 20));
    let no_http: [&str; 12] = [
        "SSH-2.0-OpenSSH_9\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 99999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nlots\r\nx",
        &many,
        &long,
        "\u{15}\u{3}\u{1}\0\u{2}\u{2}\n",
    ];
    let cut = ["HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.", ""];
    let cases = no_http.map(|head| (head, 2, "does not answer in HTTP"));
    for (text, requests, want) in cases.into_iter().chain(cut.map(|head| (head, 4, "broke"))) {
        let bytes = text.as_bytes().to_vec();
        let server = Server::start("127.0.0.1", move |_, out| {
            let _ = out.write_all(&bytes);
        });
        let (error, events) = pull(&server, quick(), b"x");
        let shown = &text[..text.len().min(60)];
        assert!(error.contains(want), "{shown:?}: {error}");
        assert_eq!((server.log().len(), events.len()), (requests, requests - 1), "{shown:?}");
    }
}

#[test]
fn silence_ends() {
    let done = Arc::new(AtomicBool::new(false));
    let held = done.clone();
    let server = Server::start("127.0.0.1", move |q, out| {
        if q.number % 2 == 1 {
            head(out, 200, &[("Content-Length", "10")]);
        }
        while !held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let config = RegistryConfig { idle_timeout: Duration::from_millis(50), ..quick() };
    let (error, events) = pull(&server, config, b"0123456789");
    done.store(true, Ordering::SeqCst);
    assert!(error.contains("silent"), "{error}");
    assert_eq!(events.len(), 3);
}

#[test]
fn unreachable_is_one_sentence() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (text, events) = with_client(quick(), |client| {
        let r = reference(&format!("localhost:{}/app", addr.port()));
        listening(|w| client.resolve(&r, w).unwrap_err().to_string())
    });
    let want = format!("localhost:{} is not reachable: connection refused", addr.port());
    assert_eq!(text, want);
    assert!(events.is_empty());
}

#[test]
fn endless_answers_stop_at_their_limit() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let server = Server::start("127.0.0.1", move |q, out| {
        let status = if q.path.contains("/tags/") { 500 } else { 200 };
        head(out, status, &[("Content-Type", OCI)]);
        let piece = vec![b'['; 64 << 10];
        while out.write_all(&piece).is_ok() {
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    with_client(quick(), |client| {
        let r = reference(&format!("{}/app:v1", server.addr));
        let e = client.resolve(&r, &Watch::QUIET).unwrap_err().to_string();
        assert!(e.contains("larger than the limit of 4194304 bytes"), "{e}");
        let e = client.tags(&r, &Watch::QUIET).unwrap_err().to_string();
        assert!(e.contains("500"), "{e}");
        let mut sink = Vec::new();
        let e = client.blob(&r, &desc(b"[[["), &mut sink, &Watch::QUIET).unwrap_err().to_string();
        assert!(e.contains("size mismatch"), "{e}");
        assert!(sink.len() <= 3);
    });
    assert!(sent.load(Ordering::SeqCst) < 100 << 20, "{sent:?}");
}

#[test]
fn an_endless_token_ends() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let server = Server::start("127.0.0.1", move |q, out| {
        if !q.path.starts_with("/token") {
            let host = q.header("host").unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return answer(out, 401, &[("WWW-Authenticate", &challenge)], b"");
        }
        head(out, 200, &[]);
        let _ = out.write_all(b"{\"token\":\"");
        let piece = vec![b'a'; 64 << 10];
        while out.write_all(&piece).is_ok() {
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let (error, _) = pull(&server, with_login(&server.addr.to_string()), b"x");
    assert!(error.contains("larger than the limit of 1048576 bytes"), "{error}");
    assert!(sent.load(Ordering::SeqCst) < 32 << 20, "{sent:?}");
}

#[test]
fn a_wrong_manifest_by_digest_is_refused() {
    let server = Server::start("127.0.0.1", |q, out| {
        let claimed = q.path.rsplit('/').next().unwrap().to_owned();
        answer(out, 200, &[("Content-Type", OCI), ("Docker-Content-Digest", &claimed)], b"{}");
    });
    with_client(quick(), |client| {
        let r = reference(&format!("{}/app@{}", server.addr, desc(b"other").digest));
        let e = client.manifest(&r, ManifestRef::of(&r), &Watch::QUIET).unwrap_err();
        assert!(matches!(e, RegistryError::Digest { .. }), "{e}");
    });
}

#[test]
fn cancelling_ends_a_wait() {
    let done = Arc::new(AtomicBool::new(false));
    let held = done.clone();
    let server = Server::start("127.0.0.1", move |_, _| {
        while !held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    with_client(quick(), |client| {
        let r = reference(&format!("{}/app:v1", server.addr));
        let asked = AtomicUsize::new(0);
        let cancelled = || asked.fetch_add(1, Ordering::SeqCst) > 1;
        let watch = Watch { cancelled: &cancelled, ..Watch::QUIET };
        assert!(matches!(client.resolve(&r, &watch), Err(RegistryError::Cancelled)));
        assert!(matches!(client.open_blob(&r, &desc(b"x"), watch), Err(RegistryError::Cancelled)));
    });
    done.store(true, Ordering::SeqCst);
}

/// `quick`, with a login for one host.
fn with_login(host: &str) -> RegistryConfig {
    let mut config = quick();
    let login = Credential::Basic { user: "user".into(), password: "secret".into() };
    config.credentials.fixed.push((host.to_owned(), login));
    config
}

/// `Basic user:secret`.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[test]
fn credentials_stay_behind_on_a_redirect() {
    let data = noise(1000, 8);
    let body = data.clone();
    let thief = Server::start("127.0.0.2", move |_, out| answer(out, 200, &[], &body));
    let target = format!("http://{}/stolen", thief.addr);
    let server = Server::start("127.0.0.1", move |q, out| match q.header("authorization") {
        None => answer(out, 401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b""),
        Some(_) => answer(out, 307, &[("Location", &target)], b""),
    });
    let (error, _) = pull(&server, with_login(&server.addr.to_string()), &data);
    assert_eq!(error, "");
    assert_eq!(server.log()[1].header("authorization"), Some(BASIC));
    let stolen = thief.log();
    assert_eq!(stolen.len(), 1);
    assert_eq!(stolen[0].header("authorization"), None);
}

#[test]
fn a_redirect_target_may_not_ask_who_we_are() {
    let thief = Server::start("127.0.0.2", |_, out| {
        answer(out, 401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b"");
    });
    let target = format!("http://{}/stolen", thief.addr);
    let server =
        Server::start("127.0.0.1", move |_, out| answer(out, 307, &[("Location", &target)], b""));
    let (error, _) = pull(&server, with_login(&server.addr.to_string()), b"x");
    assert!(error.contains("denied"), "{error}");
    assert_eq!(thief.log().len(), 1);
    assert_eq!(thief.log()[0].header("authorization"), None);
}

#[test]
fn redirects_that_are_not_followed() {
    for target in ["file:///etc/passwd", "http://169.254.169.254/", "/again"] {
        let server = Server::start("127.0.0.1", move |_, out| {
            answer(out, 302, &[("Location", target)], b"")
        });
        let (error, _) = pull(&server, quick(), b"x");
        assert!(error.contains("refused"), "{target}: {error}");
        assert!(server.log().len() <= 11);
    }
}

#[test]
fn a_foreign_realm_gets_nothing() {
    let thief = Server::start("127.0.0.2", |_, out| answer(out, 200, &[], br#"{"token":"t"}"#));
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"", thief.addr);
    let server = Server::start("127.0.0.1", move |_, out| {
        answer(out, 401, &[("WWW-Authenticate", &challenge)], b"");
    });
    let (error, _) = pull(&server, with_login(&server.addr.to_string()), b"x");
    assert!(
        error.starts_with("realm `http://127.0.0.2:") && error.contains("` refused"),
        "{error}"
    );
    assert!(thief.log().is_empty());
}

/// A registry with its token service on the same host; tokens are `t-N-SCOPE`.
fn token_registry(data: Vec<u8>) -> Server {
    Server::start("127.0.0.1", move |q, out| {
        let host = q.header("host").unwrap();
        if q.path.starts_with("/token") {
            let ok = matches!(q.header("authorization"), None | Some(BASIC));
            let body = format!(r#"{{"token":"t-{}","expires_in":300}}"#, q.number);
            return answer(out, if ok { 200 } else { 403 }, &[], body.as_bytes());
        }
        let token = q.header("authorization").and_then(|a| a.strip_prefix("Bearer t-"));
        // The first token is a bad one.
        if token.is_none_or(|t| t == "1") {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"reg\"");
            return answer(out, 401, &[("WWW-Authenticate", &challenge)], b"");
        }
        answer(out, 200, &[], &data);
    })
}

#[test]
fn tokens_are_fetched_and_used_again() {
    let server = token_registry(b"blob".to_vec());
    let r = reference(&format!("{}/app:v1", server.addr));
    with_client(with_login(&server.addr.to_string()), |client| {
        let get = || client.blob_bytes(&r, &desc(b"blob"), 10, &Watch::QUIET);
        let e = get().unwrap_err();
        assert!(matches!(e, RegistryError::Denied { with_login: true, .. }), "{e}");
        let first = server.log();
        assert_eq!(first.len(), 3);
        assert!(first[1].path.contains("service=reg"), "{}", first[1].path);
        assert!(first[1].path.contains("scope=repository%3Aapp%3Apull"), "{}", first[1].path);
        assert_eq!(first[1].header("authorization"), Some(BASIC));
        // Bad token offered, refused, a new one fetched; then no more questions.
        assert_eq!(get().unwrap(), b"blob");
        assert_eq!(server.log().len(), 6);
        assert_eq!(get().unwrap(), b"blob");
        assert_eq!(server.log().len(), 7);
    });
}

#[test]
fn an_identity_token_is_shown_to_the_token_service_only() {
    let server = Server::start("127.0.0.1", |q, out| {
        let host = q.header("host").unwrap();
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"reg\"");
        let body = String::from_utf8_lossy(&q.body);
        match (q.path.as_str(), q.header("authorization")) {
            ("/token", None) if body.ends_with("&refresh_token=id%26tok") => {
                answer(out, 200, &[], br#"{"access_token":"short"}"#);
            }
            (_, Some("Bearer short")) => answer(out, 200, &[], b"blob"),
            _ => answer(out, 401, &[("WWW-Authenticate", &challenge)], b""),
        }
    });
    let mut config = quick();
    let token = Credential::IdentityToken("id&tok".into());
    config.credentials.fixed.push((server.addr.to_string(), token));
    let (error, _) = pull(&server, config, b"blob");
    assert_eq!(error, "");
    let log = server.log();
    assert_eq!((log.len(), log[1].method.as_str()), (3, "POST"));
    assert!(log.iter().filter(|q| q.path != "/token").all(|q| q.body.is_empty()));
}

#[test]
fn denied_without_and_with_a_login() {
    let server = Server::start("127.0.0.1", |_, out| {
        answer(out, 401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b"");
    });
    let (error, _) = pull(&server, quick(), b"x");
    assert!(error.contains("denied (no credentials for this registry)"), "{error}");
    let before = server.log().len();
    let (error, _) = pull(&server, with_login(&server.addr.to_string()), b"x");
    assert!(error.contains("denied: "), "{error}");
    assert_eq!(server.log().len(), before + 2);
}

#[test]
fn a_broken_mirror_is_passed_over() {
    let data = noise(2000, 9);
    let body = data.clone();
    let mirror = Server::start("127.0.0.1", move |q, out| match q.range() {
        None => {
            head(out, 200, &[("Content-Length", "2000")]);
            let _ = out.write_all(&body[..1000]);
        }
        Some(_) => answer(out, 404, &[], b""),
    });
    let server = Server::start("127.0.0.1", cutting(data.clone(), 2000, true));
    let mut config = quick();
    let mirrors = vec![Mirror::parse(&format!("{}/hub", mirror.addr)).unwrap()];
    config.hosts.entry(server.addr.to_string()).or_default().mirrors = mirrors;
    let (error, events) = pull(&server, config, &data);
    assert_eq!(error, "");
    assert!(mirror.log()[0].path.starts_with("/v2/hub/app/blobs/sha256:"));
    assert_eq!(server.log()[0].range(), Some(1000));
    assert!(events.iter().any(|e| matches!(e, TransferEvent::MirrorFailed { .. })), "{events:?}");
}

#[test]
fn a_push_heals() {
    let data = noise(300_000, 10);
    for single in [1 << 20, 1000] {
        let server = Server::start("127.0.0.1", |q, out| match (q.method.as_str(), q.number) {
            ("HEAD", _) => answer(out, 404, &[], b""),
            ("POST", _) => answer(out, 202, &[("Location", "/v2/app/blobs/uploads/1?s=a")], b""),
            // The first body meets a bad moment.
            ("PUT" | "PATCH", 2) => answer(out, 500, &[], b""),
            ("GET", _) => answer(
                out,
                204,
                &[("Location", "/v2/app/blobs/uploads/1?s=b"), ("Range", "0-99999")],
                b"",
            ),
            ("PATCH", _) => answer(out, 202, &[("Location", "/v2/app/blobs/uploads/1?s=c")], b""),
            _ => answer(out, 201, &[], b""),
        });
        let config = RegistryConfig { single_request_push: single, ..quick() };
        let r = reference(&format!("{}/app:v1", server.addr));
        let owned = data.clone();
        let source = move |at: u64| {
            Ok(Box::new(std::io::Cursor::new(owned[at as usize..].to_vec()))
                as Box<dyn Read + Send>)
        };
        let (out, events) = with_client(config, |client| {
            listening(|w| client.push_blob(&r, &desc(&data), source, None, w))
        });
        assert_eq!(out.unwrap(), Pushed::Uploaded);
        assert!(matches!(events[0], TransferEvent::Retry { .. }), "{events:?}");
        let log = server.log();
        let bodies: Vec<_> = log.iter().filter(|q| !q.body.is_empty()).collect();
        let last = bodies.last().unwrap();
        let methods: Vec<_> = log.iter().map(|q| q.method.as_str()).collect();
        if single > data.len() as u64 {
            assert_eq!(methods, ["HEAD", "POST", "PUT", "HEAD", "POST", "PUT"]);
            assert!(last.body == data);
        } else {
            assert_eq!(methods, ["HEAD", "POST", "PATCH", "GET", "PATCH", "PUT"]);
            assert!(last.body == data[100_000..]);
            assert_eq!(last.header("content-range"), Some("100000-299999"));
        }
        let put = log.last().unwrap();
        assert!(put.path.ends_with(&format!("&digest=sha256%3A{}", desc(&data).digest.hex())));
    }
}

#[test]
fn an_upload_location_elsewhere_gets_no_credentials() {
    let thief = Server::start("127.0.0.2", |_, out| answer(out, 201, &[], b""));
    let target = format!("http://{}/upload", thief.addr);
    let server = Server::start("127.0.0.1", move |q, out| match q.header("authorization") {
        None => answer(out, 401, &[("WWW-Authenticate", "Basic realm=\"x\"")], b""),
        Some(_) if q.method == "HEAD" => answer(out, 404, &[], b""),
        Some(_) => answer(out, 202, &[("Location", &target)], b""),
    });
    let r = reference(&format!("{}/app:v1", server.addr));
    with_client(with_login(&server.addr.to_string()), |client| {
        let source =
            |_| Ok(Box::new(std::io::Cursor::new(b"abc".to_vec())) as Box<dyn Read + Send>);
        let out = client.push_blob(&r, &desc(b"abc"), source, None, &Watch::QUIET);
        assert_eq!(out.unwrap(), Pushed::Uploaded);
    });
    assert_eq!(thief.log()[0].header("authorization"), None);
    assert_eq!(thief.log()[0].body, b"abc");
}

#[test]
fn lists_end() {
    let server = Server::start("127.0.0.1", |q, out| {
        let link = "</v2/app/tags/list?n=1000&last=x>; rel=\"next\"";
        let body = format!(r#"{{"tags":["t{}"]}}"#, q.number);
        answer(out, 200, &[("Link", link)], body.as_bytes());
    });
    with_client(quick(), |client| {
        let r = reference(&format!("{}/app:v1", server.addr));
        assert_eq!(client.tags(&r, &Watch::QUIET).unwrap(), ["t0", "t1"]);
    });
    let server = Server::start("127.0.0.1", |_, out| {
        answer(out, 200, &[], br#"{"tags":["../../x"]}"#);
    });
    with_client(quick(), |client| {
        let r = reference(&format!("{}/app:v1", server.addr));
        let e = client.tags(&r, &Watch::QUIET).unwrap_err().to_string();
        assert!(e.contains("no valid name"), "{e}");
    });
}

#[test]
fn an_insecure_host_without_tls_is_spoken_to_in_plain_http() {
    let data = b"blob".to_vec();
    // The proxy knows the host and refuses to tunnel.
    let proxy = Server::start("127.0.0.1", move |q, out| match q.method.as_str() {
        "CONNECT" => answer(out, 502, &[], b""),
        _ if q.path == "http://old.example/v2/" => answer(out, 200, &[], b"{}"),
        _ => answer(out, 200, &[], &data),
    });
    let url = format!("http://{}", proxy.addr);
    for insecure in [true, false] {
        let mut config = quick();
        config.proxies.http = Some(url.clone());
        config.proxies.https = Some(url.clone());
        if insecure {
            config.allow_insecure("old.example");
        }
        let before = proxy.log().len();
        with_client(config, |client| {
            let r = reference("old.example/app:v1");
            let got = client.blob_bytes(&r, &desc(b"blob"), 10, &Watch::QUIET);
            assert_eq!(got.is_ok(), insecure, "{got:?}");
        });
        let plain = proxy.log()[before..].iter().filter(|q| q.method != "CONNECT").count();
        assert_eq!(plain, if insecure { 2 } else { 0 });
    }
}

#[test]
fn a_lying_mirror_is_asked_once() {
    let data = noise(2000, 11);
    let mut bad = data.clone();
    bad[1999] ^= 1;
    let mirror = Server::start("127.0.0.1", move |_, out| answer(out, 200, &[], &bad));
    let server = Server::start("127.0.0.1", cutting(data.clone(), 2000, true));
    let mut config = quick();
    let mirrors = vec![Mirror::parse(&mirror.addr.to_string()).unwrap()];
    config.hosts.entry(server.addr.to_string()).or_default().mirrors = mirrors;
    let r = reference(&format!("{}/app:v1", server.addr));
    with_client(config, |client| {
        let get = || client.blob_bytes(&r, &desc(&data), 2000, &Watch::QUIET);
        let e = get().unwrap_err();
        assert!(matches!(e, RegistryError::Digest { .. }), "{e}");
        assert!(get().unwrap() == data);
        assert_eq!(mirror.log().len(), 1);
    });
}

#[test]
fn a_kept_part_that_is_damaged_or_too_long_is_noticed() {
    let data = noise(2000, 12);
    let server = Server::start("127.0.0.1", cutting(data.clone(), 2000, true));
    let r = reference(&format!("{}/app:v1", server.addr));
    let mut flipped = data[..1000].to_vec();
    flipped[5] ^= 1;
    with_client(quick(), |client| {
        for (front, want) in [
            (flipped, "digest mismatch"),
            (noise(2000, 13), "digest mismatch"),
            (noise(2001, 13), "size mismatch"),
            (data.clone(), ""),
            (Vec::new(), ""),
        ] {
            let front = Box::new(std::io::Cursor::new(front));
            let mut reader = client.resume_blob(&r, &desc(&data), front, Watch::QUIET);
            let mut got = Vec::new();
            match reader.read_to_end(&mut got) {
                Ok(_) => assert!(want.is_empty() && got == data),
                Err(e) => assert!(!want.is_empty() && e.to_string().contains(want), "{e}"),
            }
        }
    });
    assert_eq!(server.log().len(), 2, "what is whole is not asked for");
}
