//! Pulls from a registry whose every answer is written down here: layers are unpacked while they come,
//! what is wrong leaves nothing, what broke off goes on (REG-03, REG-09, SECU-22 to 25, ROB-13, 14).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rgraph_tests::{
    Answer, Case, Member, Parts, Request, Web, digest, gzip, need, noise, serve, tar_of, wait_until,
};
use rustix::process::Signal;
use serde_json::json;

/// Three layers, of which the upper ones need what is below them.
fn stack() -> Vec<Vec<u8>> {
    let bottom = tar_of(&[
        Member::Dir("usr/", 0o755),
        Member::Dir("usr/lib/", 0o711),
        Member::Link("lib", "usr/lib"),
        Member::File("usr/lib/old", b"old"),
        Member::File("usr/lib/gone", b"gone"),
    ]);
    let middle = tar_of(&[Member::File("lib/new", b"new"), Member::Hard("again", "usr/lib/old")]);
    let top = tar_of(&[Member::File("usr/lib/.wh.gone", b""), Member::File("lib/top", b"top")]);
    vec![bottom, middle, top]
}

fn is_blob(request: &Request, digest: &str) -> bool {
    request.line.ends_with(digest)
}

fn entries(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir).map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<_> =
        all.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Nothing of an image that was refused: no name, and of what was wrong of it not a byte.
fn assert_nothing_stays(case: &Case, what: &str, wrong: &[&str]) {
    assert_eq!(case.rgraph(&["images", "-aq"]).ok().text(), "", "{what}");
    for digest in wrong {
        let hex = digest.trim_start_matches("sha256:");
        for place in ["tmp/part-", "blobs/sha256/"] {
            assert!(!case.root().join(format!("{place}{hex}")).exists(), "{what}: {place}");
        }
    }
    case.rgraph(&["store", "check", "--read-data"]).ok();
}

#[test]
fn upper_layers_that_come_first_are_placed_as_if_they_came_last() {
    need!(Root);
    let parts = Parts::new(&stack());
    let bottom = parts.layer(0);
    let server = {
        let parts = parts.clone();
        Web::start(move |q| {
            if is_blob(q, &bottom) {
                std::thread::sleep(Duration::from_millis(400));
            }
            parts.answer(q)
        })
    };
    let case = Case::new();
    let name = format!("{}/app:1", server.host());
    let run = case.rgraph(&["pull", &name]).ok();
    assert_eq!(run.stderr.matches(": Pull complete").count(), 3, "{}", run.stderr);
    assert_eq!(entries(&case.root().join("snapshots")).len(), 3, "each layer has its folder");
    // Everything is here: nobody is asked for more.
    server.requests();
    case.file("Dockerfile", format!("FROM {name}\n"));
    let out = case.out("tree");
    case.build(&["--pull=never", "-o", &format!("type=local,dest={}", out.display())]).ok();
    assert!(server.requests().is_empty());
    assert_eq!(entries(&out.join("usr/lib")), ["new", "old", "top"]);
    assert_eq!(fs::read(out.join("again")).expect("a file"), b"old");
    assert_eq!(fs::read_link(out.join("lib")).expect("a link"), Path::new("usr/lib"));
    // Its blobs too: it can be saved and has the layers it came with.
    case.rgraph(&["save", "-o", &case.out("s.tar").display().to_string(), &name]).ok();
    assert!(server.requests().is_empty());
    let again = case.rgraph(&["pull", &name]).ok();
    assert_eq!(again.stderr.matches(": Already exists").count(), 3, "{}", again.stderr);
    assert!(server.lines().iter().all(|l| !l.contains("/blobs/")));
}

#[test]
fn wrong_layers_leave_nothing_and_a_right_one_heals() {
    need!(Root);
    let good = Parts::new(&stack());
    let second = good.layer(1);
    let flipped = |at: usize| {
        let mut parts = good.clone();
        let blob = parts.blobs.get_mut(&second).expect("a layer");
        let at = at.min(blob.len() - 1);
        blob[at] ^= 1;
        parts
    };
    let with = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = good.clone();
        f(parts.blobs.get_mut(&second).expect("a layer"));
        parts
    };
    // The blob is what its digest says; what is in it is not what the config says.
    let other = {
        let mut parts = good.clone();
        parts.config["rootfs"]["diff_ids"][1] = json!(digest(b"another"));
        parts.seal();
        parts
    };
    // A layer's blob that is no layer, and one that is cut off inside.
    let replaced = |blob: Vec<u8>| {
        let mut parts = good.clone();
        parts.manifest["layers"][1]["digest"] = json!(digest(&blob));
        parts.manifest["layers"][1]["size"] = json!(blob.len());
        parts.blobs.insert(digest(&blob), blob);
        parts
    };
    let packed = gzip(&stack()[1]);
    let cases = [
        ("a flipped bit in the middle", flipped(40), "cannot"),
        ("a flipped bit in the trailer", flipped(usize::MAX), "cannot"),
        ("longer", with(&|b| b.push(0)), "size mismatch"),
        ("shorter", with(&|b| b.truncate(b.len() - 1)), "size mismatch"),
        ("another diff ID", other, "the image config says"),
        ("no archive", replaced(b"no archive at all, and no gzip either".repeat(40)), "cannot"),
        ("half an archive", replaced(packed[..packed.len() / 2].to_vec()), "cannot"),
        ("xz", replaced(b"\xfd7zXZ\0and so on".to_vec()), "not bzip2 or xz"),
    ];
    for (what, bad, text) in cases {
        let wrong = bad.layer(1);
        let honest = Arc::new(AtomicUsize::new(0));
        let (ask, good) = (honest.clone(), good.clone());
        let server = Web::start(move |q| match ask.load(Ordering::SeqCst) {
            0 => bad.answer(q),
            _ => good.answer(q),
        });
        let case = Case::new();
        let name = format!("{}/app:1", server.host());
        let run = case.rgraph(&["pull", &name]).fails(1, &[text]);
        assert!(run.stdout.is_empty(), "{what}");
        assert_nothing_stays(&case, what, &[&wrong]);
        case.file("Dockerfile", format!("FROM {name}\nCOPY --from={name} /lib/new /copied\n"));
        case.build(&[]).fails(1, &[text]);
        honest.store(1, Ordering::SeqCst);
        case.build(&["--pull"]).ok();
        case.rgraph(&["pull", &name]).ok();
        case.rgraph(&["store", "check", "--read-data"]).ok();
    }
}

/// A blob that an image rightly has and another one calls a layer that it is not.
#[test]
fn what_one_image_says_of_a_layer_does_not_spoil_another() {
    need!(Root);
    let layers = stack();
    let honest = Parts::new(&layers[..1]);
    let other = Parts::new(&[tar_of(&[Member::File("x", b"x")])]);
    // Says that the blob of the honest layer is the other's.
    let mut liar = honest.clone();
    liar.config["rootfs"]["diff_ids"] = other.config["rootfs"]["diff_ids"].clone();
    liar.seal();
    let server = Web::start(move |q| {
        let which = [("/honest/", &honest), ("/other/", &other), ("/liar/", &liar)];
        let found = which.iter().find(|(n, _)| q.line.contains(n));
        found.map_or_else(|| Answer::ok("{}"), |(_, parts)| parts.answer(q))
    });
    let case = Case::new();
    let pull = |name: &str| case.rgraph(&["pull", &format!("{}/{name}:1", server.host())]);
    pull("honest").ok();
    pull("liar").fails(1, &["the image config says"]);
    pull("other").ok();
    case.rgraph(&["store", "check", "--read-data"]).ok();
}

/// An image with one layer of 6 MB that does not compress.
fn large() -> Parts {
    Parts::new(&[tar_of(&[Member::File("noise", &noise(6_000_000))])])
}

/// Pulls, and kills it when half of the layer is there.
fn killed_half_way(case: &Case, name: &str) -> u64 {
    let running = case.start(&["pull", name]);
    let part = || {
        let tmp = case.root().join("tmp");
        let found = entries(&tmp).into_iter().find(|n| n.starts_with("part-"));
        found.and_then(|n| fs::metadata(tmp.join(n)).ok()).map_or(0, |m| m.len())
    };
    assert!(wait_until(Duration::from_secs(20), || part() >= 2_900_000), "{}", running.said());
    running.signal(Signal::KILL);
    drop(running);
    part()
}

/// Serves `parts`, and of the layer only the first half when it is asked for as a whole, until `whole`.
fn half_server(parts: Parts, whole: Arc<AtomicUsize>) -> Web {
    let layer = parts.layer(0);
    Web::start(move |q| {
        let answer = parts.answer(q);
        if is_blob(q, &layer) && q.header("range").is_empty() && whole.load(Ordering::SeqCst) == 0 {
            let silence = Duration::from_secs(20);
            return Answer { cut: Some(3_000_000), silence, ..answer };
        }
        answer
    })
}

#[test]
fn a_killed_pull_goes_on_where_it_was() {
    need!(Root);
    let parts = large();
    let layer = parts.layer(0);
    let server = half_server(parts, Arc::default());
    let case = Case::new();
    let name = format!("{}/app:1", server.host());
    let half = killed_half_way(&case, &name);
    server.requests();
    let run = case.rgraph(&["pull", &name]).ok();
    assert!(run.stderr.contains(&format!("resuming at {half} of ")), "{}", run.stderr);
    let asked: Vec<_> = server.requests().into_iter().filter(|q| is_blob(q, &layer)).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("range"), format!("bytes={half}-"));
    assert_nothing_but_the_image(&case);
}

fn assert_nothing_but_the_image(case: &Case) {
    assert!(!entries(&case.root().join("tmp")).iter().any(|n| n.starts_with("part-")));
    case.rgraph(&["store", "check", "--read-data"]).ok();
}

#[test]
fn what_a_killed_pull_left_is_not_trusted() {
    need!(Root);
    for at in [20, 1_500_000] {
        let parts = large();
        let layer = parts.layer(0);
        let whole = Arc::new(AtomicUsize::new(0));
        let server = half_server(parts, whole.clone());
        let case = Case::new();
        let name = format!("{}/app:1", server.host());
        killed_half_way(&case, &name);
        let tmp = case.root().join("tmp");
        let part = entries(&tmp).into_iter().find(|n| n.starts_with("part-")).expect("a part");
        let mut bytes = fs::read(tmp.join(&part)).expect("the part");
        bytes[at] ^= 1;
        fs::write(tmp.join(&part), bytes).expect("the part");
        whole.store(1, Ordering::SeqCst);
        server.requests();
        case.rgraph(&["pull", &name]).ok();
        let asked: Vec<_> = server.requests().into_iter().filter(|q| is_blob(q, &layer)).collect();
        assert!(asked.iter().any(|q| q.header("range").is_empty()), "from its first byte");
        assert_nothing_but_the_image(&case);
    }
}

#[test]
fn bad_moments_of_a_registry_pass() {
    need!(Root);
    type Moment = fn(usize, Answer) -> Answer;
    // What happens to the first request for the layer.
    let moments: [(&str, Moment, &str); 6] = [
        ("500", |n, a| if n == 0 { Answer::status(500) } else { a }, "retry 1/5 in "),
        ("503", |n, a| if n == 0 { Answer::status(503) } else { a }, "retry 1/5 in "),
        (
            "429",
            |n, a| match n {
                0 => Answer::status(429).header("Retry-After: 1"),
                _ => a,
            },
            "retry 1/5 in 1.",
        ),
        ("cut", |n, a| if n == 0 { Answer { cut: Some(100_000), ..a } } else { a }, "resuming at"),
        ("nothing", |n, a| if n == 0 { Answer { cut: Some(0), ..a } } else { a }, "retry 1/5"),
        ("cut twice", |n, a| if n < 2 { Answer { cut: Some(90_000), ..a } } else { a }, "resuming"),
    ];
    for (what, moment, said) in moments {
        let parts = Parts::new(&[tar_of(&[Member::File("noise", &noise(400_000))])]);
        let layer = parts.layer(0);
        let count = AtomicUsize::new(0);
        let server = Web::start(move |q| {
            let answer = parts.answer(q);
            match is_blob(q, &layer) {
                true => moment(count.fetch_add(1, Ordering::SeqCst), answer),
                false => answer,
            }
        });
        let case = Case::new();
        let name = format!("{}/app:1", server.host());
        let run = case.rgraph(&["pull", &name]).ok();
        assert!(run.stderr.contains(said), "{what}:\n{}", run.stderr);
        case.rgraph(&["store", "check", "--read-data"]).ok();
    }
}

#[test]
fn a_registry_that_wants_a_day_or_says_no_is_not_asked_again() {
    need!(Root);
    for (answer, requests) in [
        (Answer::status(429).header("Retry-After: 86400"), 1),
        (Answer::status(404), 1),
        (Answer::status(403), 1),
    ] {
        let parts = large();
        let layer = parts.layer(0);
        let refused = answer.clone();
        let wanted = layer.clone();
        let server = Web::start(move |q| match is_blob(q, &wanted) {
            true => refused.clone(),
            false => parts.answer(q),
        });
        let case = Case::new();
        let name = format!("{}/app:1", server.host());
        case.rgraph(&["pull", &name]).fails(1, &[]);
        let asked = server.requests().into_iter().filter(|q| is_blob(q, &layer)).count();
        assert_eq!(asked, requests, "{answer:?}");
        assert_nothing_stays(&case, &answer.status.to_string(), &[&layer]);
    }
}

#[test]
fn a_range_that_is_another_one_is_refused() {
    need!(Root);
    let parts = Parts::new(&[tar_of(&[Member::File("noise", &noise(400_000))])]);
    let layer = parts.layer(0);
    let blob = parts.blobs[&layer].clone();
    // Ignoring the range altogether is allowed (RFC 9110, 14.2).
    for (honest, code) in [(false, 1), (true, 0)] {
        let (parts, layer, blob) = (parts.clone(), layer.clone(), blob.clone());
        let server = Web::start(move |q| match (is_blob(q, &layer), q.header("range")) {
            (true, "") => Answer { cut: Some(200_000), ..serve(q, &blob) },
            (true, _) if honest => Answer::ok(&blob[..]),
            (true, _) => Answer { status: 206, ..Answer::ok(&blob[7..]) }.header(format!(
                "Content-Range: bytes 7-{}/{}",
                blob.len() - 1,
                blob.len()
            )),
            _ => parts.answer(q),
        });
        let case = Case::new();
        let run = case.rgraph(&["pull", &format!("{}/app:1", server.host())]);
        assert_eq!(run.code, code, "{}", run.stderr);
    }
}

/// Everything that can be wrong with documents: an error, no panic, nothing kept.
#[test]
fn hostile_documents_are_refused() {
    need!(Root);
    let good = Parts::new(&stack());
    let manifest = good.manifest.to_string();
    let layer = good.layer(0);
    let index = "application/vnd.oci.image.index.v1+json";
    let edit = |from: &str, to: &str| {
        assert!(manifest.contains(from), "{from}");
        manifest.replacen(from, to, 1)
    };
    let size = format!("\"size\":{}", good.blobs[&layer].len());
    let texts = [
        ("both types", edit("\"layers\":", "\"manifests\":[],\"layers\":")),
        ("another type inside", edit(&good.media_type, index)),
        ("deep", "[".repeat(200_000)),
        ("nothing", String::new()),
        ("null", "null".to_owned()),
        ("negative size", edit(&size, "\"size\":-1")),
        ("size of 2^63", edit(&size, "\"size\":9223372036854775808")),
        ("a float", edit(&size, "\"size\":1.5")),
        ("a digest with a path", edit(&layer, "sha256:../../../../etc/passwd")),
        ("another algorithm", edit("sha256:", "md5:")),
        ("schema 1", r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.to_owned()),
        ("5 MiB", format!("{manifest}{}", " ".repeat(5 << 20))),
        ("an index of itself", {
            let me = json!({"mediaType": index, "digest": digest(b"me"), "size": 100,
                "platform": {"os": "linux", "architecture": "amd64"}});
            json!({"schemaVersion": 2, "mediaType": index, "manifests": [me]}).to_string()
        }),
        ("a config of 9 MiB", {
            let mut m = good.manifest.clone();
            m["config"]["size"] = json!(9 << 20);
            m.to_string()
        }),
        ("one layer less than the config says", {
            let mut m = good.manifest.clone();
            m["layers"].as_array_mut().expect("layers").pop();
            m.to_string()
        }),
    ];
    for (what, text) in texts {
        let good = good.clone();
        let server = Web::start(move |q| match q.line.contains("/manifests/") {
            true => good.manifest_answer(text.clone().into_bytes()),
            false => good.answer(q),
        });
        let case = Case::new();
        let run = case.rgraph(&["pull", &format!("{}/app:1", server.host())]);
        assert_eq!(run.code, 1, "{what}:\n{}", run.stderr);
        assert_nothing_stays(&case, what, &[]);
    }
    let configs = ["[", "{}", "null", r#"{"rootfs":{"diff_ids":["sha256:x"]}}"#, r#"{"rootfs":7}"#];
    for text in configs {
        let mut bad = good.clone();
        bad.manifest["config"]["digest"] = json!(digest(text.as_bytes()));
        bad.manifest["config"]["size"] = json!(text.len());
        bad.blobs.insert(digest(text.as_bytes()), text.as_bytes().to_vec());
        let server = Web::start(move |q| bad.answer(q));
        let case = Case::new();
        case.rgraph(&["pull", &format!("{}/app:1", server.host())]).fails(1, &[]);
        assert_nothing_stays(&case, text, &[]);
    }
}

#[test]
fn endless_answers_end() {
    need!(Root);
    let good = Parts::new(&stack());
    let endless = |kind: &'static str| {
        let good = good.clone();
        Web::start(move |q| match q.line.contains(kind) {
            // No length, and far more than any limit.
            true => Answer { unmeasured: true, ..good.manifest_answer(vec![b' '; 64 << 20]) },
            false => good.answer(q),
        })
    };
    let first = good.layer(0);
    for (kind, text) in [("/manifests/", "limit"), ("/blobs/", "size mismatch")] {
        let server = endless(kind);
        let case = Case::new();
        case.rgraph(&["pull", &format!("{}/app:1", server.host())]).fails(1, &[text]);
        assert_nothing_stays(&case, kind, &[&first]);
    }
}

/// `tester:secret`
const LOGIN: &str = "Basic dGVzdGVyOnNlY3JldA==";

fn log_in(case: &Case, host: &str) {
    let json = json!({"auths": {host: {"auth": LOGIN.trim_start_matches("Basic ")}}});
    fs::write(case.dir().join("docker/config.json"), json.to_string()).expect("a file");
}

#[test]
fn credentials_stay_with_their_host() {
    need!(Root);
    let parts = Parts::new(&stack());
    let elsewhere = parts.clone();
    let thief = Arc::new(Web::start(move |q| {
        let path = q.line.replace("/moved", "");
        elsewhere.answer(&Request { line: path, ..q.clone() })
    }));
    let (target, layer) = (thief.url("/moved"), parts.layer(0));
    let mut parts = parts;
    // A place of a layer outside of registries: an old form, which nobody has to follow.
    parts.manifest["layers"][1]["urls"] = json!([thief.url("/foreign")]);
    let server = Web::start(move |q| {
        if q.header("authorization") != LOGIN {
            return Answer::status(401).header("WWW-Authenticate: Basic realm=\"x\"");
        }
        let path = q.line.split(' ').nth(1).unwrap_or_default();
        match is_blob(q, &layer) {
            true => Answer::status(307).header(format!("Location: {target}{path}")),
            false => parts.answer(q),
        }
    });
    let case = Case::new();
    log_in(&case, &server.host());
    case.rgraph(&["pull", &format!("{}/app:1", server.host())]).ok();
    let seen = thief.requests();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen.iter().all(|q| q.header("authorization").is_empty()), "{seen:?}");
    assert!(server.requests().iter().any(|q| q.header("authorization") == LOGIN));
}

#[test]
fn a_token_service_elsewhere_gets_no_login() {
    need!(Root);
    let thief = Web::start(|_| Answer::ok(r#"{"token":"t"}"#));
    // On the registry's own host, whatever the port, it may be asked: these are others.
    let realms = [
        thief.url("/token").replace("127.0.0.1", "localhost"),
        "http://169.254.169.254/token".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("http://x@{}/token", thief.host()),
        "ftp://127.0.0.1/token".to_owned(),
    ];
    for realm in realms {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"");
        let server = Web::start(move |_| Answer::status(401).header(challenge.clone()));
        let case = Case::new();
        log_in(&case, &server.host());
        let run = case.rgraph(&["pull", &format!("{}/app:1", server.host())]).fails(1, &[]);
        assert!(!run.stderr.contains("secret") && !run.stderr.contains("dGVz"), "{}", run.stderr);
        assert!(run.stderr.contains("refused"), "{realm}:\n{}", run.stderr);
    }
    let seen = thief.requests();
    assert!(seen.iter().all(|q| q.header("authorization").is_empty()), "{seen:?}");
}

/// A push that meets a bad moment heals, and the second one sends nothing (ROB-15).
#[test]
fn a_push_is_sent_once() {
    need!(Root);
    let case = Case::with_base();
    let there: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
    let failed = AtomicUsize::new(0);
    let has = there.clone();
    let server = Web::start(move |q| {
        let mut has = has.lock().expect("no panic");
        let (method, path) = q.line.split_once(' ').unwrap_or_default();
        match method {
            "HEAD" | "GET" if path == "/v2/" => Answer::ok("{}"),
            "HEAD" => match has.iter().find(|(d, _)| path.ends_with(d.as_str())) {
                Some((_, n)) => Answer { unmeasured: true, ..Answer::status(200) }
                    .header(format!("Content-Length: {n}")),
                None => Answer::status(404),
            },
            "POST" => Answer::status(202).header("Location: /v2/app/blobs/uploads/1?s=a"),
            "PUT" if path.contains("/uploads/") => {
                if failed.fetch_add(1, Ordering::SeqCst) == 0 {
                    return Answer::status(500);
                }
                has.push((digest(&q.body), q.body.len()));
                Answer::status(201)
            }
            "PUT" => Answer::status(201),
            _ => Answer::status(404),
        }
    });
    let name = format!("{}/app:1", server.host());
    case.rgraph(&["tag", rgraph_tests::BASE, &name]).ok();
    let run = case.rgraph(&["push", &name]).ok();
    let first = server.lines();
    assert!(run.stderr.contains("retry 1/5 in "), "{}\n{first:?}", run.stderr);
    let manifest = first.iter().position(|l| l.starts_with("PUT") && l.contains("/manifests/"));
    assert_eq!(manifest, Some(first.len() - 1), "the manifest is last: {first:?}");
    let run = case.rgraph(&["push", &name]).ok();
    assert!(run.stderr.contains(": Layer already exists"), "{}", run.stderr);
    let second = server.lines();
    assert!(!second.iter().any(|l| l.contains("/uploads/")), "{second:?}");
}

/// A small file system of its own at `at`, gone when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: std::path::PathBuf, size: &str) -> Self {
        fs::create_dir(&at).expect("a folder");
        let options = format!("size={size},mode=700");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).status();
        assert!(mount.expect("mount").success());
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().map(drop).unwrap_or(());
    }
}

/// A store without room for the image (ROB-03).
#[test]
fn a_full_store_is_told_and_all_is_well_after() {
    need!(Root);
    let files: Vec<Vec<u8>> = (0..4).map(|_| noise(5_000_000)).collect();
    let names: Vec<String> = (0..4).map(|n| format!("noise{n}")).collect();
    let members: Vec<Member<'_>> =
        names.iter().zip(&files).map(|(n, f)| Member::File(n, f)).collect();
    let large = Parts::new(&[tar_of(&members)]);
    let small = Parts::new(&stack());
    let server = Web::start(move |q| match q.line.contains("/large/") {
        true => large.answer(q),
        false => small.answer(q),
    });
    let case = Case::new();
    let _root = Small::mount(case.root(), "24m");
    let text = "no space left in store";
    case.rgraph(&["pull", &format!("{}/large:1", server.host())]).fails(1, &[text]);
    assert!(!entries(&case.root().join("tmp")).iter().any(|n| n.starts_with("part-")));
    let name = format!("{}/small:1", server.host());
    case.rgraph(&["pull", &name]).ok();
    case.rgraph(&["store", "check", "--read-data"]).ok();
    case.rgraph(&["prune", "-f"]).ok();
}

/// A target without room (ROB-02): the older file stays, nothing is left beside it.
#[test]
fn a_full_target_keeps_the_older_file() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/big bs=1M count=20 2>/dev/null\n");
    case.build(&["-t", "big"]).ok();
    let target = Small::mount(case.out("small"), "16m");
    let file = target.0.join("out.tar");
    fs::write(&file, "the older file").expect("a file");
    let path = file.display().to_string();
    let full = "No space left on device";
    case.rgraph(&["save", "-o", &path, "big"]).fails(1, &[full]);
    for kind in ["oci", "docker", "tar"] {
        let to = format!("type={kind},dest={path}");
        case.build(&["-o", &to]).fails(1, &[full]);
    }
    let to = format!("type=oci,compression=uncompressed,dest={path}");
    case.build(&["-o", &to]).fails(1, &[full]);
    assert_eq!(fs::read(&file).expect("the file"), b"the older file");
    assert_eq!(entries(&target.0), ["out.tar"]);
}

/// No name is a path, and none says how it is to be reached (SECU-26).
#[test]
fn names_that_are_none() {
    let case = Case::new();
    for name in [
        "docker-archive:/etc/passwd",
        "oci:/etc/passwd:x",
        "dir:/etc",
        "http://127.0.0.1/x",
        "../../etc/passwd",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a/",
        "x:../y",
        "x:.",
        "x:a/b:c",
        "x:t:u",
        "UPPER",
        "x@sha256:zz",
        "x@sha256:../../x",
        "x y",
        "x\u{1b}[2J",
        "x:tag\n",
    ] {
        let run = case.rgraph(&["pull", name]).fails(2, &["invalid reference"]);
        assert!(!run.stderr.contains("\u{1b}[2J"), "{name:?}");
    }
}

/// A document is what its index and its manifest say it is, in type and size.
#[test]
fn what_names_a_document_says_what_it_is() {
    need!(Root);
    let parts = Parts::new(&[tar_of(&[Member::File("a", b"a")])]);
    let index_of = |change: &dyn Fn(&mut serde_json::Value)| {
        let image = parts.manifest.to_string();
        let mut entry = json!({
            "mediaType": parts.media_type, "digest": digest(image.as_bytes()),
            "size": image.len(), "platform": {"os": "linux", "architecture": "amd64"},
        });
        change(&mut entry);
        let kind = "application/vnd.oci.image.index.v1+json";
        json!({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).to_string()
    };
    let pull = |index: Option<String>, parts: Parts| {
        let web = Web::start(move |q| match &index {
            Some(index) if q.line.ends_with("/manifests/1") => Answer::ok(index.clone())
                .header("Content-Type: application/vnd.oci.image.index.v1+json"),
            _ => parts.answer(q),
        });
        let case = Case::new();
        let run = case.rgraph(&["pull", &format!("{}/x:1", web.host())]);
        case.rgraph(&["store", "check"]).ok();
        run
    };
    pull(Some(index_of(&|_| ())), parts.clone()).ok();
    let config = "application/vnd.oci.image.config.v1+json";
    let short = index_of(&|e| e["size"] = 5.into());
    pull(Some(short), parts.clone()).fails(1, &["ambiguous", "5 bytes"]);
    let other = index_of(&|e| e["mediaType"] = config.into());
    pull(Some(other), parts.clone()).fails(1, &["ambiguous", config]);
    for kind in [config, &parts.media_type] {
        let mut odd = parts.clone();
        odd.manifest["layers"][0]["mediaType"] = kind.into();
        pull(None, odd).fails(1, &["ambiguous", "one of its layers"]);
    }
    for (key, word) in [("os", "../.."), ("architecture", "a\0b"), ("variant", "\u{1b}[31m")] {
        let mut odd = parts.clone();
        odd.config[key] = word.into();
        odd.seal();
        pull(None, odd).fails(1, &["is no word", key]);
    }
}
