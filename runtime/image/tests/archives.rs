//! Images as files: ours are taken by other tools, theirs and hostile ones by us (OUT-01, OUT-02,
//! SECU-22, SECU-27).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rgraph_image::archive::{ArchiveFile, write_docker_archive};
use rgraph_image::assemble::{AssembleOptions, Image, Layer, assemble};
use rgraph_image::blobs::{BlobSource, Export, open_verified, read_manifest};
use rgraph_image::layer::{
    Compressor, LayerSource, LayerWriteOptions, UnpackOptions, pack, repack, unpack_blob,
    write_layer,
};
use rgraph_image::layout::{LayoutDir, write_oci_archive, write_oci_layout};
use rgraph_image::manifest::{Document, OCI_INDEX, layer_media_type};
use rgraph_image::tar::{Kind, Member, TarWriter};
use rgraph_ir::image_config::ImageConfig;
use rgraph_ir::plan::{HistoryEntry, Target, TargetBase};
use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, DiffId, Edge, Platform, Reference, VertexId};

#[derive(Default)]
struct Memory(HashMap<BlobDigest, Vec<u8>>);

impl BlobSource for Memory {
    fn open(&self, d: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.0.get(d).ok_or(io::ErrorKind::NotFound)?.as_slice()))
    }

    fn size(&self, d: &BlobDigest) -> io::Result<u64> {
        Ok(self.0.get(d).ok_or(io::ErrorKind::NotFound)?.len() as u64)
    }
}

fn have(tool: &str) -> bool {
    if Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success()) {
        return true;
    }
    let _ = writeln!(io::stderr(), "SKIPPED: needs the program {tool}");
    false
}

/// An image of two layers, packed in this way.
fn image(how: Compression, oci: bool, platform: &str) -> (Image, Memory) {
    let mut blobs = Memory::default();
    let mut layers = Vec::new();
    for n in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("file{n}")), format!("content {n} {platform}")).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        let mut blob = Vec::new();
        let (_, packed) = pack(
            |out| {
                let src = LayerSource { upper: dir.path(), lowers: &[] };
                write_layer(&src, &LayerWriteOptions::default(), out)
            },
            how,
            None,
            &mut blob,
        )
        .unwrap();
        assert_eq!((packed.blob, packed.size), (BlobDigest::of(&blob), blob.len() as u64));
        layers.push(Layer {
            diff_id: packed.diff_id,
            blob: packed.blob,
            size: packed.size,
            media_type: layer_media_type(how, true).unwrap().to_owned(),
        });
        blobs.0.insert(packed.blob, blob);
    }
    let edge = Edge { vertex: VertexId(0), output: 0 };
    let entry = |layer| HistoryEntry {
        created_by: "RUN make && true".into(),
        comment: "buildkit.dockerfile.v0".into(),
        author: None,
        layer,
        span: None,
    };
    let platform: Platform = platform.parse().unwrap();
    let mut config = ImageConfig::empty(platform.clone());
    config.config.cmd = Some(vec!["/bin/sh".into()]);
    config.config.labels.insert("a".into(), "b".into());
    let target = Target {
        stage: "0".into(),
        platform,
        root: Some(edge),
        config,
        history: vec![entry(Some(edge)), entry(None), entry(Some(edge))],
        base: TargetBase::default(),
    };
    let opts = AssembleOptions {
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        epoch: None,
        oci_media_types: oci,
        annotations: BTreeMap::new(),
        descriptor: BTreeMap::new(),
        config: BTreeMap::new(),
        history: true,
    };
    (assemble(&target, &layers, &opts).unwrap(), blobs)
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {err}");
    String::from_utf8(out.stdout).unwrap()
}

/// Everything an archive lists is there and whole.
fn check_all(blobs: &dyn BlobSource, root: &rgraph_image::manifest::Descriptor) {
    let (_, document) = read_manifest(blobs, root).unwrap();
    match document {
        Document::Index(i) => i.manifests.iter().for_each(|m| check_all(blobs, m)),
        Document::Manifest(m) => {
            for d in m.layers.iter().chain([&m.config]) {
                open_verified(blobs, d).unwrap().drain().unwrap();
                assert_eq!(blobs.size(&d.digest).unwrap(), d.size);
            }
        }
    }
}

#[test]
fn archives_are_deterministic_and_read_back() {
    for how in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
        let (image, blobs) = image(how, true, "linux/amd64");
        let names = vec![name("app:v1"), name("localhost:5000/x/app:v2")];
        let export = [Export::image(&image, names.clone())];
        for write in [write_oci_archive, write_docker_archive] {
            let mut bytes = Vec::new();
            let n = write(&export, &blobs, &mut bytes).unwrap();
            assert_eq!(n, bytes.len() as u64);
            let mut again = Vec::new();
            write(&export, &blobs, &mut again).unwrap();
            assert!(bytes == again);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            let archive = ArchiveFile::open(file).unwrap();
            let [found] = archive.images() else { panic!("{:?}", archive.images()) };
            assert_eq!(found.root.digest, image.manifest_digest.into());
            assert_eq!(found.names, names);
            check_all(&archive, &found.root);
            // And out again from there.
            let stored = [Export::stored(found.root.clone(), names.clone(), &archive).unwrap()];
            assert_eq!(stored[0].documents, export[0].documents);
            assert_eq!(stored[0].layers, export[0].layers);
        }
    }
}

#[test]
fn layouts_keep_other_images() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("layout");
    let (a, blobs_a) = image(Compression::Gzip, true, "linux/amd64");
    let (b, blobs_b) = image(Compression::Gzip, true, "linux/arm64");
    write_oci_layout(&[Export::image(&a, vec![name("x:1")])], &blobs_a, &dest).unwrap();
    write_oci_layout(&[Export::image(&b, vec![name("x:2")])], &blobs_b, &dest).unwrap();
    write_oci_layout(&[Export::image(&b, vec![name("x:2")])], &blobs_b, &dest).unwrap();
    let layout = LayoutDir::open(&dest).unwrap();
    let found = layout.images().unwrap();
    let got: Vec<_> = found.iter().map(|f| (f.root.digest, f.names.clone())).collect();
    assert_eq!(
        got,
        [
            (a.manifest_digest.into(), vec![name("x:1")]),
            (b.manifest_digest.into(), vec![name("x:2")])
        ]
    );
    found.iter().for_each(|f| check_all(&layout, &f.root));
    let left = fs::read_dir(dest.join("blobs/sha256")).unwrap();
    assert!(left.map(|e| e.unwrap()).all(|e| e.file_name().len() == 64));
}

#[test]
fn a_blob_that_is_not_what_it_says_is_never_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (image, mut blobs) = image(Compression::Gzip, true, "linux/amd64");
    let digest = image.layers[0].digest;
    blobs.0.get_mut(&digest).unwrap()[5] ^= 1;
    let export = [Export::image(&image, vec![])];
    assert!(write_oci_archive(&export, &blobs, &mut Vec::new()).is_err());
    let dest = dir.path().join("layout");
    assert!(write_oci_layout(&export, &blobs, &dest).is_err());
    assert!(!dest.join("blobs/sha256").join(digest.hex()).exists());
    assert!(!dest.join("index.json").exists());
}

#[test]
fn skopeo_and_umoci_take_what_we_write() {
    if !have("skopeo") || !have("umoci") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n).display().to_string();
    for (i, (how, oci)) in [
        (Compression::Gzip, true),
        (Compression::Zstd, true),
        (Compression::Uncompressed, true),
        (Compression::Gzip, false),
    ]
    .into_iter()
    .enumerate()
    {
        let (image, blobs) = image(how, oci, "linux/amd64");
        let export = [Export::image(&image, vec![name("app:v1")])];
        let (o, d) = (at(&format!("{i}.oci")), at(&format!("{i}.docker")));
        write_oci_archive(&export, &blobs, &mut fs::File::create(&o).unwrap()).unwrap();
        write_docker_archive(&export, &blobs, &mut fs::File::create(&d).unwrap()).unwrap();
        for (source, exact) in
            [(format!("oci-archive:{o}"), true), (format!("docker-archive:{d}"), false)]
        {
            let text = run("skopeo", &["inspect", &source]);
            assert!(text.contains("\"Architecture\": \"amd64\""), "{text}");
            if exact {
                assert!(text.contains(&image.manifest_digest.to_string()), "{text}");
            }
            // Docker's format has no zstd for skopeo.
            if how == Compression::Zstd {
                continue;
            }
            let copy = at(&format!("{i}.{exact}.copy"));
            run(
                "skopeo",
                &[
                    "copy",
                    "-q",
                    "--insecure-policy",
                    &source,
                    &format!("docker-archive:{copy}:y:z"),
                ],
            );
            // What skopeo writes is the old form, and we read it.
            let archive = ArchiveFile::open(fs::File::open(&copy).unwrap()).unwrap();
            let [found] = archive.images() else { panic!() };
            assert_eq!(found.names, [name("y:z")]);
            check_all(&archive, &found.root);
            let (_, Document::Manifest(m)) = read_manifest(&archive, &found.root).unwrap() else {
                panic!()
            };
            assert_eq!(m.config.digest, image.config_digest.into());
        }
        // umoci knows no zstd and no Docker types.
        if oci && how == Compression::Gzip {
            let layout = at("layout");
            write_oci_layout(&export, &blobs, Path::new(&layout)).unwrap();
            let text = run("umoci", &["stat", "--image", &format!("{layout}:v1"), "--json"]);
            assert!(text.contains("make \\u0026\\u0026 true"), "{text}");
            run(
                "umoci",
                &["raw", "unpack", "--rootless", "--image", &format!("{layout}:v1"), &at("b")],
            );
            assert_eq!(
                fs::read_to_string(dir.path().join("b/file1")).unwrap(),
                "content 1 linux/amd64"
            );
        }
    }
}

#[test]
fn an_index_goes_into_archives_of_both_forms() {
    let (a, mut blobs) = image(Compression::Gzip, true, "linux/amd64");
    let (b, more) = image(Compression::Gzip, true, "linux/arm64");
    blobs.0.extend(more.0);
    let export = [Export::index(&[a, b], &[], OCI_INDEX, None, vec![name("app:v1")])];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write_oci_archive(&export, &blobs, &mut file).unwrap();
    let archive = ArchiveFile::open(file.reopen().unwrap()).unwrap();
    check_all(&archive, &archive.images()[0].root);
    // Readers that know no index see the first of them under the name.
    let mut docker = tempfile::NamedTempFile::new().unwrap();
    write_docker_archive(&export, &blobs, &mut docker).unwrap();
    let both = ArchiveFile::open(docker.reopen().unwrap()).unwrap();
    assert_eq!(both.images()[0].names, [name("app:v1")]);
    check_all(&both, &both.images()[0].root);
    if have("skopeo") {
        let source = format!("docker-archive:{}:app:v1", docker.path().display());
        let text = run("skopeo", &["inspect", &source]);
        assert!(text.contains("\"Architecture\": \"amd64\""), "{text}");
    }
    if have("skopeo") {
        let source = format!("oci-archive:{}", file.path().display());
        let text = run("skopeo", &["inspect", "--override-arch", "arm64", &source]);
        assert!(text.contains("\"Architecture\": \"arm64\""), "{text}");
    }
}

#[test]
fn blobs_unpack_and_repack() {
    let (image, blobs) = image(Compression::Zstd, true, "linux/amd64");
    let layer = &image.layers[1];
    let mut plain = Vec::new();
    let blob = open_verified(&blobs, layer).unwrap();
    let packed = repack(blob, Compression::Uncompressed, None, &mut plain).unwrap();
    assert_eq!(packed.diff_id, DiffId::of(&plain));
    let dir = tempfile::tempdir().unwrap();
    let blob = open_verified(&blobs, layer).unwrap();
    let opts = UnpackOptions { ignore_owner: true, ..UnpackOptions::default() };
    let (stats, diff_id) = unpack_blob(blob, dir.path(), &opts).unwrap();
    assert_eq!((stats.members, diff_id), (2, packed.diff_id));
    assert!(dir.path().join("file1").exists());

    // A blob of the right form and another digest is told, not unpacked as if it were right.
    let mut wrong = layer.clone();
    wrong.digest = BlobDigest::of(b"other");
    let mut lying = Memory::default();
    lying.0.insert(wrong.digest, blobs.0[&layer.digest].clone());
    let dir = tempfile::tempdir().unwrap();
    let blob = open_verified(&lying, &wrong).unwrap();
    let e = unpack_blob(blob, dir.path(), &opts).unwrap_err();
    let bad = rgraph_image::layer::mismatch(&e).expect("a mismatch");
    assert!(bad.to_string().starts_with("digest mismatch: want sha256:"), "{bad}");
}

#[test]
fn hostile_layouts_are_refused() {
    let (image, blobs) = image(Compression::Gzip, true, "linux/amd64");
    let layer = image.layers[0].digest.hex();
    type Evil = Box<dyn Fn(&Path)>;
    let replace = |path: String, with: fn(&Path)| -> Evil {
        Box::new(move |dir: &Path| {
            let p = dir.join(&path);
            fs::remove_file(&p).unwrap();
            with(&p);
        })
    };
    let edit = |from: &'static str, to: &'static str| -> Evil {
        Box::new(move |dir: &Path| {
            let p = dir.join("index.json");
            let text = fs::read_to_string(&p).unwrap();
            assert!(text.contains(from));
            fs::write(&p, text.replace(from, to)).unwrap();
        })
    };
    let link = |p: &Path| std::os::unix::fs::symlink("/etc/passwd", p).unwrap();
    let fifo = |p: &Path| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            p,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    };
    let blob = format!("blobs/sha256/{layer}");
    let cases: Vec<(&str, Evil)> = vec![
        ("linked blob", replace(blob.clone(), link)),
        ("pipe for a blob", replace(blob.clone(), fifo)),
        ("missing blob", replace(blob.clone(), |_| ())),
        ("longer blob", {
            Box::new(move |dir: &Path| {
                let mut f = fs::File::options().append(true).open(dir.join(&blob)).unwrap();
                f.write_all(b"x").unwrap();
            })
        }),
        ("linked index", replace("index.json".into(), link)),
        ("pipe for the index", replace("index.json".into(), fifo)),
        ("pipe for the version", replace("oci-layout".into(), fifo)),
        ("digest with a path", edit("sha256:", "sha256:../")),
        ("another algorithm", edit("sha256:", "sha512:")),
        ("negative size", edit("\"size\":", "\"size\":-")),
        ("two types", edit("\"manifests\":", "\"layers\":[],\"manifests\":")),
        ("linked folder", {
            Box::new(|dir: &Path| {
                fs::rename(dir.join("blobs"), dir.join("moved")).unwrap();
                std::os::unix::fs::symlink("moved", dir.join("blobs")).unwrap();
            })
        }),
    ];
    for (what, evil) in cases {
        let dir = tempfile::tempdir().unwrap();
        write_oci_layout(&[Export::image(&image, vec![])], &blobs, dir.path()).unwrap();
        evil(dir.path());
        let load = || -> Result<(), Box<dyn std::error::Error>> {
            let layout = LayoutDir::open(dir.path())?;
            for f in layout.images()? {
                let e = Export::stored(f.root, f.names, &layout)?;
                for l in e.layers.values() {
                    open_verified(&layout, l)?.drain()?;
                }
            }
            Ok(())
        };
        assert!(load().is_err(), "{what}");
    }
}

#[test]
fn hostile_archives_are_refused() {
    type M<'a> = (Kind, &'a str, &'a str);
    let make = |members: &[M<'_>]| {
        let mut out = tempfile::tempfile().unwrap();
        let mut w = TarWriter::new(&mut out);
        for (kind, path, text) in members {
            let mut m = Member::new(path.as_bytes().to_vec(), *kind);
            if *kind == Kind::File {
                m.size = text.len() as u64;
                w.member(&m, text.as_bytes()).unwrap();
            } else {
                m.link = text.as_bytes().to_vec();
                w.begin(&m).unwrap();
            }
        }
        w.finish().unwrap();
        out
    };
    let none = format!("sha256:{}", "0".repeat(64));
    let config = |layers: &str| {
        format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[{layers}]}}}}"#
        )
    };
    let one = config(&format!("\"{none}\""));
    let m = |config: &str, layers: &str| {
        format!(r#"[{{"Config":"{config}","RepoTags":["a:b"],"Layers":[{layers}]}}]"#)
    };
    use Kind::{File, Symlink};
    let good = m("c.json", "\"l.tar\"");
    let cases: Vec<(&str, bool, Vec<M<'_>>)> = vec![
        (
            "good",
            true,
            vec![(File, "manifest.json", &good), (File, "c.json", &one), (File, "l.tar", "x")],
        ),
        ("empty", false, vec![]),
        (
            "linked layer",
            false,
            vec![
                (File, "manifest.json", &good),
                (File, "c.json", &one),
                (Symlink, "l.tar", "/etc/passwd"),
            ],
        ),
        (
            "linked config",
            false,
            vec![
                (File, "manifest.json", &good),
                (Symlink, "c.json", "/etc/passwd"),
                (File, "l.tar", "x"),
            ],
        ),
        ("linked manifest", false, vec![(Symlink, "manifest.json", "/etc/passwd")]),
        ("layer missing", false, vec![(File, "manifest.json", &good), (File, "c.json", &one)]),
        (
            "twice",
            false,
            vec![
                (File, "manifest.json", &good),
                (File, "c.json", &one),
                (File, "l.tar", "x"),
                (File, "l.tar", "y"),
            ],
        ),
        ("not a list", false, vec![(File, "manifest.json", "{}")]),
        (
            "deep",
            false,
            vec![(
                File,
                "manifest.json",
                "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
            )],
        ),
    ];
    for (what, ok, members) in cases {
        assert_eq!(ArchiveFile::open(make(&members)).is_ok(), ok, "{what}");
    }
    let extra = [
        m("../../../etc/passwd", ""),
        m("/etc/passwd", ""),
        m("c.json", ""),
        m("c.json", "\"l.tar\",\"l.tar\""),
        good.replace("a:b", "A:b"),
        good.replace("a:b", "../x:b"),
    ];
    for manifest in &extra {
        let members = [
            (File, "manifest.json", manifest.as_str()),
            (File, "c.json", &one),
            (File, "l.tar", "x"),
        ];
        assert!(ArchiveFile::open(make(&members)).is_err(), "{manifest}");
    }
}

/// REPRO-04: other bytes for the same content would send every layer again. Whoever changes them means
/// it, and says so in the changelog.
#[test]
fn the_bytes_of_layers_are_pinned() {
    let mut content = Vec::new();
    let mut tar = TarWriter::new(&mut content);
    let mut x = 1u32;
    for (n, size) in [0usize, 1, 511, 70_000, 3 << 20].into_iter().enumerate() {
        let data: Vec<u8> = (0..size)
            .map(|i| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 { b'a' } else { (x >> 28) as u8 }
            })
            .collect();
        let mut m = Member::new(format!("dir/file{n}").into_bytes(), Kind::File);
        (m.mode, m.uid, m.gid, m.size) = (0o640, 1000, 100_000 + n as u32, size as u64);
        tar.begin(&m).unwrap();
        tar.data(&data).unwrap();
    }
    tar.finish().unwrap();
    let pins = [
        (Compression::Uncompressed, None, "350f54c2ddc7aeb0"),
        (Compression::Gzip, None, "b9f9c6356187b900"),
        (Compression::Gzip, Some(1), "1d79497c255908f9"),
        (Compression::Zstd, None, "ea42294058a9767b"),
        (Compression::Zstd, Some(12), "958bd95a07741d5c"),
    ];
    let mut wrong = String::new();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for (how, level, pin) in pins {
            let blob = pool.install(|| {
                let mut c = Compressor::new(Vec::new(), how, level).unwrap();
                c.write_all(&content).unwrap();
                c.finish().unwrap()
            });
            let mut packed = Vec::new();
            let write = |out: &mut dyn io::Write| {
                out.write_all(&content).map_err(rgraph_image::layer::LayerError::Write)
            };
            pack(write, how, level, &mut packed).unwrap();
            assert!(packed == blob, "{how:?} {level:?}: two ways to pack");
            let got = &BlobDigest::of(&blob).to_string()["sha256:".len()..][..16];
            if got != pin {
                wrong += &format!("{threads} {how:?} {level:?}: {got}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
