//! Layers are packed while later steps run, where an output takes them so, and nowhere else.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rgraph_tests::{Access, Answer, Case, Registry, Web, need, wait_until};

/// Bytes of the first step's file, which do not compress.
const LARGE: u64 = 3 << 20;

/// Blobs of the store that are gzip and larger than the first step's file.
fn packed(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("blobs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let mut start = [0; 2];
            let read = fs::File::open(entry.path()).and_then(|mut f| f.read_exact(&mut start));
            if meta.len() > LARGE && read.is_ok() && start == [0x1f, 0x8b] {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Answers when the first layer is packed: with the inode of its blob.
fn server(case: &Case, seen: Arc<Mutex<u64>>) -> Web {
    let root = case.root();
    Web::start(move |_| {
        let there = wait_until(Duration::from_secs(60), || !packed(&root).is_empty());
        let inode = packed(&root).first().and_then(|p| p.metadata().ok()).map_or(0, |m| m.ino());
        *seen.lock().expect("no panic") = inode;
        if there { Answer::ok("ready") } else { Answer::status(404) }
    })
}

fn dockerfile(web: &Web) -> String {
    format!(
        "FROM BASE\nRUN head -c {LARGE} /dev/urandom > /large\n\
         RUN --network=host wget -q -O /ready {}\n",
        web.url("/")
    )
}

#[test]
fn a_layer_is_packed_while_the_next_step_runs() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("ahead:1");
    for output in ["type=oci,dest=OUT", "type=registry"] {
        let case = Case::with_base();
        let seen = Arc::new(Mutex::new(0));
        let web = server(&case, seen.clone());
        case.dockerfile(&dockerfile(&web));
        let out = case.out("image.tar").display().to_string();
        let output = output.replace("OUT", &out);
        case.build(&["--allow", "network.host", "-t", &name, "-o", &output]).ok();
        // The output takes that one, and no second one was made.
        let [blob] = &packed(&case.root())[..] else { panic!("more than one") };
        assert_eq!(blob.metadata().expect("a file").ino(), *seen.lock().expect("no panic"));
        let digest = format!("sha256:{}", blob.file_name().expect("a name").to_string_lossy());
        match output.starts_with("type=oci") {
            true => {
                let list = std::process::Command::new("tar").args(["-tf", &out]).output();
                let list = String::from_utf8(list.expect("tar runs").stdout).expect("text");
                assert!(list.contains(&digest["sha256:".len()..]), "{digest} in {list}");
            }
            false => assert!(registry.blob_file(&digest).exists(), "{digest}"),
        }
    }
}

#[test]
fn other_outputs_pack_nothing() {
    need!(Root);
    let case = Case::with_base();
    let step = format!("FROM BASE\nRUN head -c {LARGE} /dev/urandom > /large\nRUN echo\n");
    case.dockerfile(&step);
    let out = |name: &str| case.out(name).display().to_string();
    for output in [
        "type=image".to_owned(),
        "type=cacheonly".to_owned(),
        format!("type=docker,dest={}", out("d.tar")),
        format!("type=oci,compression=uncompressed,dest={}", out("o.tar")),
        format!("type=local,dest={}", out("folder")),
        format!("type=tar,dest={}", out("t.tar")),
    ] {
        case.build(&["-t", "x:1", "-o", &output]).ok();
        assert_eq!(packed(&case.root()), [] as [PathBuf; 0], "{output}");
    }
}

#[test]
fn a_failure_ends_what_is_packed_beside() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN head -c 67108864 /dev/urandom > /large\nRUN exit 3\n");
    let out = case.out("image.tar").display().to_string();
    case.build(&["-o", &format!("type=oci,dest={out}")]).fails(1, &["exit code"]);
    let tmp = fs::read_dir(case.root().join("tmp")).expect("a folder").flatten();
    let left: Vec<_> = tmp.filter(|e| e.metadata().is_ok_and(|m| m.is_file())).collect();
    assert!(left.is_empty(), "{left:?}");
    case.rgraph(&["store", "check"]).ok();
    // And what was done is of use.
    case.dockerfile("FROM BASE\nRUN head -c 67108864 /dev/urandom > /large\nRUN echo\n");
    case.build(&["-o", &format!("type=oci,dest={out}")]).ok();
    assert_eq!(packed(&case.root()).len(), 1);
}
