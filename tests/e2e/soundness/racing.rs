//! Files that change while builds read them, back and forth, so that they may look the same before
//! and after they were copied. `RGRAPH_RACE_ROUNDS` builds race the writer.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rgraph_tests::{Case, need, setting};

use super::random::Random;
use super::world::set_time;

/// What a build copies. Each is one of two texts: the small ones of one size, the large ones not.
const FILES: [(&str, usize, usize); 4] =
    [("a", 8, 8), ("b", 8, 8), ("d/large", 600_000, 600_000), ("d/grows", 5_000, 400_000)];

fn text(file: usize, state: u8) -> Vec<u8> {
    let (_, zero, one) = FILES[file];
    vec![b'0' + state; if state == 0 { zero } else { one }]
}

/// In place: another size is cut off, or grown, first.
fn put(dir: &Path, file: usize, state: u8) {
    let path = dir.join(FILES[file].0);
    let text = text(file, state);
    let to = fs::File::options().write(true).create(true).truncate(false).open(&path);
    let to = to.expect("a file");
    to.set_len(text.len() as u64).expect("a length");
    for (n, part) in text.chunks(64 << 10).enumerate() {
        to.write_all_at(part, (n * (64 << 10)) as u64).expect("written");
    }
}

/// All files are changed to one state, then to the other; a new name comes and goes.
fn flip(dir: &Path, stop: &AtomicBool, seed: u64) -> u64 {
    let (mut r, mut turns) = (Random(seed), 0);
    let times: Vec<_> = FILES
        .iter()
        .map(|f| fs::metadata(dir.join(f.0)).and_then(|m| m.modified()).expect("a time"))
        .collect();
    while !stop.load(Ordering::Relaxed) {
        for state in [1, 0] {
            for (file, time) in times.iter().enumerate() {
                put(dir, file, state);
                set_time(&dir.join(FILES[file].0), *time);
            }
            let extra = dir.join("d/extra");
            match state {
                1 => fs::write(extra, "here").expect("a file"),
                _ => fs::remove_file(extra).expect("it was made"),
            }
            // Some builds are to see it rest.
            std::thread::sleep(std::time::Duration::from_millis(r.below(12) as u64));
        }
        turns += 1;
    }
    turns
}

const DOCKERFILE: &str = "FROM BASE AS run\nRUN --mount=type=bind,target=/m cp -r /m /r\n\
    FROM scratch\nCOPY a b /c/\nCOPY d /c/d\nCOPY --from=run /r /r\n";

#[test]
fn a_writer_racing_the_build() {
    need!(Root);
    let rounds = setting("RGRAPH_RACE_ROUNDS", 10);
    let case = Case::with_base();
    case.dockerfile(DOCKERFILE).file(".dockerignore", "Dockerfile\n.dockerignore\n");
    fs::create_dir(case.context().join("d")).expect("a folder");
    for file in 0..FILES.len() {
        put(&case.context(), file, 0);
    }
    let out = case.out("out");
    let build = || {
        if out.exists() {
            fs::remove_dir_all(&out).expect("our output");
        }
        case.build(&["-o", &format!("type=local,dest={}", out.display())])
    };
    let stop = AtomicBool::new(false);
    let (mut refused, mut told, mut silent) = (0, 0, 0);
    let turns = std::thread::scope(|s| {
        let context = case.context();
        let stop = &stop;
        let writer = s.spawn(move || flip(&context, stop, 7));
        for _ in 0..rounds {
            let run = build();
            let changed = run.stderr.contains("changed while");
            match run.code {
                0 if changed => told += 1,
                0 => silent += 1,
                _ => {
                    assert!(changed || run.stderr.contains("d/extra"), "{}", run.stderr);
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer writes")
    });
    eprintln!(
        "{rounds} builds, {turns} turns: {silent} saw rest, {told} warned, {refused} refused"
    );
    assert!(told + refused > 0, "no build met the writer");
    // Every state that was there at some time: what is remembered of it must be it.
    for states in 0..1 << (FILES.len() + 1) {
        let state = |file: usize| u8::from(states & (1 << file) != 0);
        for file in 0..FILES.len() {
            put(&case.context(), file, state(file));
        }
        let extra = case.context().join("d/extra");
        match state(FILES.len()) {
            1 => fs::write(&extra, "here").expect("a file"),
            _ if extra.exists() => fs::remove_file(&extra).expect("a file"),
            _ => {}
        }
        let run = build().ok();
        for from in ["c", "r"] {
            for (file, (name, ..)) in FILES.iter().enumerate() {
                let got = fs::read(out.join(from).join(name)).expect("the output");
                let want = text(file, state(file));
                assert!(
                    got == want,
                    "{from}/{name} in state {states:05b}: {} bytes `{}`..`{}`, want {} `{}`:\n{}",
                    got.len(),
                    char::from(got[0]),
                    char::from(got[got.len() - 1]),
                    want.len(),
                    char::from(want[0]),
                    run.stderr
                );
            }
            assert_eq!(
                out.join(from).join("d/extra").exists(),
                state(FILES.len()) == 1,
                "{from}/d/extra in state {states:05b}:\n{}",
                run.stderr
            );
        }
    }
}
