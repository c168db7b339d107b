//! An imported cache is untrusted: whatever was done to it, the result is right.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rgraph_tests::{Case, Image, need};

const STEPS: &str = "FROM BASE AS a\nCOPY f /f\nRUN cat /f /f > /g\nFROM BASE\nCOPY --from=a /g /g\nRUN echo end > /end\n";

fn case() -> Case {
    let case = Case::with_base();
    case.file("f", "text\n");
    case.dockerfile(STEPS);
    case
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        fs::read_dir(dir).expect("a folder").flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

fn records(cache: &Path) -> Vec<PathBuf> {
    files(&cache.join("rgraph/v1/records"))
}

fn layers(cache: &Path) -> Vec<PathBuf> {
    let mut all = files(&cache.join("blobs/sha256"));
    all.retain(|p| fs::read(p).expect("a blob").starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    assert!(all.len() > 2, "few layers");
    all
}

fn each(paths: Vec<PathBuf>, change: impl Fn(&mut Vec<u8>)) {
    for p in paths {
        let mut bytes = fs::read(&p).expect("a file");
        change(&mut bytes);
        fs::write(&p, bytes).expect("a file");
    }
}

fn replaced(paths: Vec<PathBuf>, by: impl Fn(&Path)) {
    for p in paths {
        fs::remove_file(&p).expect("a file");
        by(&p);
    }
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// Changes every record as JSON.
fn rewrite(cache: &Path, change: impl Fn(&mut serde_json::Value)) {
    each(records(cache), |bytes| {
        let mut v = serde_json::from_slice(bytes).expect("JSON");
        change(&mut v);
        *bytes = v.to_string().into_bytes();
    });
}

/// What was done, and whether it is told as a rejected entry.
type Mutation = (&'static str, bool, fn(&Path));

const MUTATIONS: &[Mutation] = &[
    ("blobs flipped", true, |c| {
        each(layers(c), |b| {
            let at = b.len() / 2;
            b[at] ^= 0x40;
        });
    }),
    ("blobs cut", true, |c| each(layers(c), |b| b.truncate(b.len() / 2))),
    ("blobs longer", true, |c| each(layers(c), |b| b.push(0))),
    ("blobs missing", false, |c| replaced(layers(c), |_| ())),
    ("blobs swapped", true, |c| {
        let all = layers(c);
        let bytes: Vec<_> = all.iter().map(|p| fs::read(p).expect("a blob")).collect();
        for (p, b) in all.iter().zip(bytes.iter().cycle().skip(1)) {
            fs::write(p, b).expect("a blob");
        }
    }),
    ("blobs linked", true, |c| {
        replaced(layers(c), |p| std::os::unix::fs::symlink("/etc/passwd", p).expect("a link"));
    }),
    ("blobs that are FIFOs", true, |c| replaced(layers(c), fifo)),
    ("blobs that are folders", true, |c| {
        replaced(layers(c), |p| fs::create_dir(p).expect("a folder"));
    }),
    ("records cut", true, |c| each(records(c), |b| b.truncate(b.len() / 2))),
    ("records of other keys", true, |c| {
        let all = records(c);
        let bytes: Vec<_> = all.iter().map(|p| fs::read(p).expect("a record")).collect();
        for (p, b) in all.iter().zip(bytes.iter().cycle().skip(1)) {
            fs::write(p, b).expect("a record");
        }
    }),
    ("records that are FIFOs", true, |c| replaced(records(c), fifo)),
    ("records without end", true, |c| each(records(c), |b| b.resize(2 << 20, b' '))),
    ("records with nested JSON", true, |c| each(records(c), |b| *b = vec![b'['; 100_000])),
    ("records with many layers", true, |c| {
        rewrite(c, |r| {
            let one = r["layers"][0].clone();
            r["layers"] = vec![one; 200].into();
        });
    }),
    ("records with other layers", true, |c| {
        rewrite(c, |r| {
            for l in r["layers"].as_array_mut().expect("layers") {
                l["diff_id"] = format!("sha256:{}", "1".repeat(64)).into();
            }
        });
    }),
    ("records with odd types", true, |c| {
        rewrite(c, |r| {
            for l in r["layers"].as_array_mut().expect("layers") {
                l["blob"]["mediaType"] = "text/html".into();
            }
        });
    }),
    ("records with huge sizes", true, |c| {
        rewrite(c, |r| {
            for l in r["layers"].as_array_mut().expect("layers") {
                l["blob"]["size"] = u64::MAX.into();
            }
        });
    }),
    ("digests that are none", true, |c| {
        replaced(records(c), |_| ());
        each(files(&c.join("rgraph/v1/content")), |b| *b = b"blake3:x\n".to_vec());
    }),
];

#[test]
fn whatever_was_done_to_a_cache_the_result_is_right() {
    need!(Root);
    let maker = case();
    let good = maker.out("cache");
    maker.build(&["--cache-to", &format!("type=local,dest={},mode=max", good.display())]).ok();
    for (name, told, mutate) in MUTATIONS {
        let user = case();
        let (cache, path) = (user.out("cache"), user.out("image.tar"));
        let copied = Command::new("cp").arg("-a").arg(&good).arg(&cache).status().expect("cp");
        assert!(copied.success());
        mutate(&cache);
        let from = format!("type=local,src={}", cache.display());
        let out = format!("type=oci,dest={}", path.display());
        let run = user.build(&["--cache-from", &from, "-o", &out]);
        assert_eq!(run.code, 0, "{name}:\n{}", run.stderr);
        let image = Image::from_archive(&path);
        let got = (image.read("g"), image.read("end"));
        assert_eq!(got, ("text\ntext\n".into(), "end\n".into()), "{name}");
        let rejected = |l: &str| l.contains("cache entry ") && l.contains(" rejected: ");
        let said = run.stderr.lines().any(rejected);
        assert!(said || !told, "{name} is not told:\n{}", run.stderr);
    }
}

#[test]
fn a_broken_index_does_no_harm_and_is_mended() {
    need!(Root);
    let maker = case();
    let cache = maker.out("cache");
    let to = format!("type=local,dest={}", cache.display());
    let from = format!("type=local,src={}", cache.display());
    maker.build(&["--cache-to", &to]).ok();
    let index = cache.join("index.json");
    let good = fs::read(&index).expect("a file");
    let liar = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"sha256:{}","size":1}}]}}"#,
        "0".repeat(64)
    );
    for (name, bytes) in [
        ("missing", None),
        ("empty", Some(vec![])),
        ("cut", Some(good[..good.len() / 2].to_vec())),
        ("nested", Some(vec![b'['; 100_000])),
        ("huge", Some(vec![b' '; 5 << 20])),
        ("naming nothing", Some(liar.into_bytes())),
    ] {
        fs::remove_file(&index).expect("a file");
        if let Some(b) = bytes {
            fs::write(&index, b).expect("a file");
        }
        let user = case();
        let run = user.build(&["--cache-from", &from, "--cache-to", &to]).ok();
        run.all_cached();
        assert_eq!(fs::read(&index).expect("a file"), good, "{name} is not mended");
    }
}
