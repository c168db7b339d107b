//! Changes of what is copied.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rgraph_tests::need;

use super::world::{World, nothing};

#[test]
fn files_of_the_context() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nCOPY src /src\nRUN true\n",
        &[
            ".dockerignore=src/*.o\n",
            "src/a=1",
            "src/b=1",
            "src/dir/x=1",
            "src/dir/y=1",
            "src/h.o=1",
            "src/i.o=1",
            "src/l@a",
        ],
        &[],
    );
    world.check(&[
        ("nothing", &nothing, &[], &[]),
        ("what is not copied", &|w| w.put("other=1"), &[], &[]),
        ("content", &|w| w.put("src/a=two"), &[], &[
            "2: src/a changed",
            "3: step 2 above gave other files: src/a",
        ]),
        ("content of the same size and time", &same_time, &[], &[
            "2: src/a changed",
            "3: step 2 above gave other files: src/a",
        ]),
        ("a file more", &|w| w.put("src/n=1"), &[], &[
            "2: src/n is new",
            "3: step 2 above gave other files: src/n (new)",
        ]),
        ("a file less", &|w| w.gone("src/b"), &[], &[
            "2: src/b is gone",
            "3: step 2 above gave other files: src/b (gone)",
        ]),
        ("a name", &|w| fs::rename(w.path("src/b"), w.path("src/c")).expect("a rename"), &[], &[
            "2: src/b is gone, src/c is new",
            "3: step 2 above gave other files: src/b (gone), src/c (new)",
        ]),
        ("a mode", &|w| w.mode("src/b", 0o755), &[], &[
            "2: src/b: mode 644 to 755",
            "3: step 2 above gave other files: src/b (mode 644 to 755)",
        ]),
        ("a setuid bit", &|w| w.mode("src/b", 0o4644), &[], &[
            "2: src/b: mode 644 to 4644",
            "3: step 2 above gave other files: src/b (mode 644 to 4644)",
        ]),
        ("a folder's mode", &|w| w.mode("src/dir", 0o700), &[], &[
            "2: src/dir: mode 755 to 700",
            "3: step 2 above gave other files: src/dir (mode 755 to 700)",
        ]),
        ("a link", &|w| { w.gone("src/l"); w.put("src/l@b") }, &[], &[
            "2: src/l: link target a to b",
            "3: step 2 above gave other files: src/l (link target a to b)",
        ]),
        ("a link that is a file now", &|w| { w.gone("src/l"); w.put("src/l=1") }, &[], &[
            "2: src/l: link to file",
            "3: step 2 above gave other files: src/l (link to file)",
        ]),
        ("a file that is a folder now", &|w| { w.gone("src/b"); w.put("src/b/x=1") }, &[], &[
            "2: src/b: file to folder",
            "3: step 2 above gave other files: src/b (file to folder)",
        ]),
        ("a folder more", &|w| { w.put("src/new/x=1"); w.put("src/new/y=1") }, &[], &[
            "2: src/new is new",
            "3: step 2 above gave other files: src/new (new)",
        ]),
        ("a folder less", &|w| w.gone("src/dir"), &[], &[
            "2: src/dir is gone",
            "3: step 2 above gave other files: src/dir (gone)",
        ]),
        ("many", &|w| (0..15).for_each(|i| w.put(&format!("src/n{i:02}=1"))), &[], &[
            "2: src/n00 is new, src/n01 is new, src/n02 is new and 12 more",
            "3: step 2 above gave other files: src/n00 (new), src/n01 (new), src/n02 (new) and 12 more",
        ]),
        ("an ignore rule more", &|w| w.put(".dockerignore=src/*.o\n**/y\n"), &[], &[
            "2: src/dir/y: the ignore rule `**/y` hides it now",
            "3: step 2 above gave other files: src/dir/y (gone)",
        ]),
        ("an ignore rule less", &|w| w.put(".dockerignore="), &[], &[
            "2: src/h.o: no ignore rule `src/*.o` hides it any more, \
             src/i.o: no ignore rule `src/*.o` hides it any more",
            "3: step 2 above gave other files: src/h.o (new), src/i.o (new)",
        ]),
        ("an exception of a rule", &|w| w.put(".dockerignore=src/*.o\n!src/h.o\n"), &[], &[
            "2: src/h.o: no ignore rule `src/*.o` hides it any more",
            "3: step 2 above gave other files: src/h.o (new)",
        ]),
        ("times", &|w| set_time(w, "src/a", UNIX_EPOCH), &[], &[]),
        ("the owner in the context", &|w| {
            std::os::unix::fs::chown(w.path("src/a"), Some(5), Some(6)).expect("as root");
        }, &[], &[]),
        ("the same file made again", &|w| { w.gone("src/a"); w.put("src/a=1") }, &[], &[]),
        ("equal files that change places", &|w| {
            for (from, to) in [("src/a", "t"), ("src/b", "src/a"), ("t", "src/b")] {
                fs::rename(w.path(from), w.path(to)).expect("a rename");
            }
        }, &[], &[]),
        ("an attribute", &|w| attribute(&w.path("src/a")), &[], &[
            "2: src/a changed",
            "3: step 2 above gave other files: src/a",
        ]),
        ("a folder's attribute", &|w| attribute(&w.path("src/dir")), &[], &[
            "2: src/dir: attributes changed",
            "3: step 2 above gave other files: src/dir (attributes changed)",
        ]),
        ("a hard link in a copy's place", &|w| {
            w.gone("src/b");
            fs::hard_link(w.path("src/a"), w.path("src/b")).expect("a link");
        }, &[], &[
            "2: src/b: a hard link of src/a now",
            "3: step 2 above gave other files: src/b (a hard link of src/a now)",
        ]),
        ("a hard link from elsewhere", &|w| {
            fs::hard_link(w.path("src/a"), w.path("other")).expect("a link");
        }, &[], &[]),
        ("a link to the same, in other words", &|w| { w.gone("src/l"); w.put("src/l@./a") }, &[], &[
            "2: src/l: link target a to ./a",
            "3: step 2 above gave other files: src/l (link target a to ./a)",
        ]),
        ("a file that is emptied", &|w| w.put("src/a="), &[], &[
            "2: src/a changed",
            "3: step 2 above gave other files: src/a",
        ]),
        ("an empty folder", &|w| fs::create_dir(w.path("src/e")).expect("a folder"), &[], &[
            "2: src/e is new",
            "3: step 2 above gave other files: src/e (new)",
        ]),
        ("a folder's name", &|w| {
            fs::rename(w.path("src/dir"), w.path("src/d2")).expect("a rename");
        }, &[], &[
            "2: src/d2 is new, src/dir is gone",
            "3: step 2 above gave other files: src/d2 (new), src/dir (gone)",
        ]),
        ("a pipe", &|w| {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(rustix::fs::CWD, w.path("src/p"), rustix::fs::FileType::Fifo, mode, 0)
                .expect("a pipe");
        }, &[], &[
            "2: src/p is new",
            "3: step 2 above gave other files: src/p (new)",
        ]),
        ("a name with spaces", &|w| w.put("src/my file=1"), &[], &[
            "2: src/my file is new",
            "3: step 2 above gave other files: src/my file (new)",
        ]),
        ("a hidden file's content", &|w| w.put("src/h.o=2"), &[], &[]),
        ("the rules in another file", &|w| {
            w.gone(".dockerignore");
            w.put("Dockerfile.dockerignore=src/*.o\n");
        }, &[], &[]),
        ("a comment among the rules", &|w| w.put(".dockerignore=# objects\nsrc/*.o\n"), &[], &[]),
        ("an exception without effect", &|w| w.put(".dockerignore=!src/h.o\nsrc/*.o\n"), &[], &[]),
        ("a rule that hides nothing", &|w| w.put(".dockerignore=src/*.o\nnone\n"), &[], &[]),
    ]);
}

fn same_time(w: &World) {
    let before = fs::metadata(w.path("src/a")).expect("a file").modified().expect("a time");
    fs::write(w.path("src/a"), "2").expect("a file");
    set_time(w, "src/a", before);
}

fn set_time(w: &World, path: &str, time: SystemTime) {
    let file = fs::File::options().write(true).open(w.path(path)).expect("a file");
    file.set_modified(time).expect("a time");
}

fn attribute(path: &Path) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.rgraph", b"1", flags).expect("attributes");
}
