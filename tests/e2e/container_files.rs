//! Files of containers from outside: `cp` both ways, `export`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use rgraph_tests::{BASE, Case, Ids, Member, need, tar_of};

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

/// A folder that whoever runs the commands may write to.
fn open_folder(case: &Case, name: &str) -> String {
    let path = case.out(name);
    fs::create_dir(&path).expect("a folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("its mode");
    path.display().to_string()
}

#[test]
fn files_go_out_and_in() {
    need!(Root);
    let case = Case::with_base();
    let script = "mkdir -p /d/in; echo one > /d/one; echo two > /d/in/two; chmod 640 /d/one; \
                  chown 7:8 /d/one; ln -s /d/one /link; ln -s one /d/rel; ln /d/one /d/same";
    case.rgraph(&["run", "--name", "box", BASE, "sh", "-c", script]).ok();
    let out = open_folder(&case, "out");
    let at = |path: &str| format!("{out}/{path}");
    let cp = |from: &str, to: &str| case.rgraph(&["cp", from, to]);
    cp("box:/d/one", &at("renamed")).ok();
    cp("box:d/one", &out).ok();
    cp("box:/d", &at("new")).ok();
    cp("box:/d", &out).ok();
    fs::create_dir_all(at("merged")).expect("a folder");
    fs::set_permissions(at("merged"), fs::Permissions::from_mode(0o777)).expect("its mode");
    cp("box:/d/.", &at("merged")).ok();
    for path in ["renamed", "one", "new/one", "d/one", "merged/one", "d/rel"] {
        assert_eq!(fs::read_to_string(at(path)).expect(path), "one\n", "{path}");
    }
    for path in ["new/in/two", "d/in/two", "merged/in/two"] {
        assert_eq!(fs::read_to_string(at(path)).expect(path), "two\n", "{path}");
    }
    let me = fs::metadata(case.root()).expect("a folder").uid();
    let one = fs::metadata(at("d/one")).expect("a file");
    assert_eq!((one.mode() & 0o7777, one.uid(), one.nlink()), (0o640, me, 2));
    cp("box:/link", &at("link")).ok();
    assert_eq!(fs::read_link(at("link")).expect("a link").to_str(), Some("/d/one"));
    case.rgraph(&["cp", "-L", "box:/link", &at("followed")]).ok();
    assert_eq!(fs::read_to_string(at("followed")).expect("a file"), "one\n");

    // And in.
    case.file("tree/a", "in\n").file("tree/sub/b", "below\n").mode("tree/a", 0o755);
    let from = |path: &str| case.context().join(path).display().to_string();
    cp(&from("tree/a"), "box:/copied").ok();
    cp(&from("tree"), "box:/").ok();
    cp(&from("tree/."), "box:/d").ok();
    let said = cp(&from("tree/a"), "box:/d/one").ok();
    assert_eq!((said.text(), said.stderr.as_str()), ("", "copied to box:/d/one\n"));
    case.rgraph(&["commit", "box", "after"]).ok();
    let script = "cat /copied /tree/a /tree/sub/b /d/a /d/sub/b /d/one; stat -c '%a %u %g' /copied";
    let seen = text(&case, &["run", "--rm", "--network=none", "after", "sh", "-c", script]);
    assert_eq!(seen, "in\nin\nbelow\nin\nbelow\nin\n755 0 0\n");
    let diff = text(&case, &["diff", "box"]);
    for line in ["A /copied", "A /tree/sub/b", "A /d/sub/b"] {
        assert!(diff.lines().any(|l| l == line), "no `{line}` in:\n{diff}");
    }
    for (from_, to, said) in [
        ("box:/nowhere", out.as_str(), "no such file or folder: /nowhere"),
        ("box:/d/one", &at("no/where"), "no such folder"),
        ("box:/d/one", &at("none/"), "no such folder"),
        ("box:/d", &at("one"), "which is a file"),
        (&from("tree"), "box:/copied", "which is a file"),
        (&from("none"), "box:/", "no such file or folder"),
        (&from("tree/a"), "box:/no/where", "no such folder"),
        ("nobody:/x", &out, "no such container: nobody"),
    ] {
        cp(from_, to).fails(1, &[said]);
    }
    cp("box:/d", "d:/e").fails(2, &["two containers"]);
    cp("/a", "/b").fails(2, &["CONTAINER:PATH"]);
}

#[test]
fn archives_go_through_pipes() {
    need!(Root, Tool("tar"));
    let case = Case::with_base();
    let script = "mkdir -p /d/in; echo two > /d/in/two; echo one > /one; chown 7:8 /d/in/two";
    case.rgraph(&["run", "--name", "box", BASE, "sh", "-c", script]).ok();
    let list = |tar: &[u8], flags: &str| {
        let path = case.out("list.tar");
        fs::write(&path, tar).expect("a file");
        let out = Command::new("tar").args([flags, "-f"]).arg(&path).output().expect("tar");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    };
    let tar = case.rgraph(&["cp", "box:/d", "-"]).ok().stdout;
    assert_eq!(list(&tar, "-t"), "d/\nd/in/\nd/in/two\n");
    let one = case.rgraph(&["cp", "box:/one", "-"]).ok().stdout;
    assert_eq!(list(&one, "-t"), "one\n");
    case.rgraph(&["run", "--name", "other", BASE, "mkdir", "/to"]).ok();
    case.rgraph_reading(&["cp", "-", "other:/to"], &tar).ok();
    case.rgraph_reading(&["cp", "-a", "-", "other:/"], &tar).ok();
    case.rgraph_reading(&["cp", "-", "other:/none"], &tar).fails(1, &["no such folder: /none"]);
    case.rgraph_reading(&["cp", "-", "other:/to"], b"no archive").fails(1, &["archive"]);

    // All of it, flat, as a file that is whole or not there.
    let file = format!("{}/all.tar", open_folder(&case, "out"));
    assert_eq!(text(&case, &["export", "-o", &file, "other"]), "");
    let all = list(&fs::read(&file).expect("an archive"), "-tv");
    let line = |path: &str| {
        let found = all.lines().find(|l| l.ends_with(&format!(" {path}")));
        found.unwrap_or_else(|| panic!("no `{path}` in:\n{all}")).to_owned()
    };
    assert!(line("to/d/in/two").contains(" 0/0 ") || line("to/d/in/two").contains(" root/root "));
    assert!(line("d/in/two").contains("7/8"), "{}", line("d/in/two"));
    line("bin/busybox");
    assert!(!all.contains("/proc/") && !all.contains(" proc/1"), "{all}");
    let piped = case.rgraph(&["export", "other"]).ok().stdout;
    assert_eq!(piped, fs::read(&file).expect("an archive"));
    case.rgraph_reading(&["import", "-", "back:1"], &piped).ok();
    let back = text(&case, &["run", "--rm", "--network=none", "back:1", "cat", "/d/in/two"]);
    assert_eq!(back, "two\n");
    case.rgraph(&["export", "-o", "/nowhere/x.tar", "other"]).fails(1, &["/nowhere"]);
}

/// Links of a container lead nowhere but into the container, and its devices stay there.
#[test]
fn a_hostile_container_gets_nothing() {
    need!(Root);
    let case = Case::with_base();
    let out = open_folder(&case, "out");
    let secret = format!("{out}/secret");
    fs::write(&secret, "of the host").expect("a file");
    let script = format!(
        "ln -s {secret} /file; ln -s {out} /dir; ln -s ../../../../../../{out} /up; \
         mkdir -p /a; ln -s / /a/root; mknod /dev0 b 7 0 2>/dev/null; ln -s loop /loop; \
         mkfifo /pipe; echo mine > /etc/mine"
    );
    case.rgraph(&["run", "--name", "bad", BASE, "sh", "-c", &script]).ok();
    for path in ["bad:/file", "bad:/dir/secret", "bad:/up/secret", "bad:/a/root/dir/secret"] {
        for flags in [&["cp", "-L"][..], &["cp"]] {
            let run = case.rgraph(&[flags, &[path, &format!("{out}/got")]].concat());
            let got = fs::read_to_string(format!("{out}/got")).unwrap_or_default();
            // Without -L the link itself may come, which the caller then follows or not.
            if run.code == 0 {
                assert!(fs::symlink_metadata(format!("{out}/got")).is_ok_and(|m| m.is_symlink()));
                fs::remove_file(format!("{out}/got")).expect("a link");
            } else {
                assert_eq!((run.code, got.as_str()), (1, ""), "{path}: {}", run.stderr);
            }
        }
    }
    case.rgraph(&["cp", "-L", "bad:/loop", &out]).fails(1, &[]);
    assert!(case.rgraph(&["cp", "bad:/a/root/etc/mine", &out]).ok().code == 0);
    // What goes in stays in, whatever the links say.
    case.file("evil", "evil\n");
    let evil = case.context().join("evil").display().to_string();
    for to in ["bad:/dir/new", "bad:/up/new", "bad:/file"] {
        case.rgraph(&["cp", &evil, to]);
    }
    assert_eq!(fs::read_to_string(&secret).expect("a file"), "of the host");
    assert!(fs::metadata(format!("{out}/new")).is_err(), "a file came out through a link");
    if !fs::read_dir(case.root().join("containers")).expect("a folder").flatten().any(|c| {
        let node = fs::symlink_metadata(c.path().join("fs/dev0"));
        node.is_ok_and(|m| m.rdev() == rustix::fs::makedev(7, 0))
    }) {
        eprintln!("SKIPPED: no device node could be made here");
    } else {
        case.rgraph(&["cp", "bad:/dev0", &format!("{out}/disk")]).fails(1, &["is a device"]);
        assert!(fs::symlink_metadata(format!("{out}/disk")).is_err());
    }
    // A link in an archive that leads out.
    symlink("/tmp", case.context().join("leads")).expect("a link");
    let tar =
        Command::new("tar").arg("-C").arg(case.context()).args(["-c", "leads", "evil"]).output();
    let tar = tar.expect("tar").stdout;
    case.rgraph_reading(&["cp", "-", "bad:/a"], &tar).ok();
}

#[test]
fn a_running_container_gives_and_takes() {
    need!(Root);
    gives_and_takes(&Case::with_base());
}

#[test]
fn a_users_running_container_gives_and_takes() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for ids in [Ids::Range, Ids::One] {
        let case = Case::new().of_user(ids);
        case.import_base(BASE);
        gives_and_takes(&case);
    }
}

fn gives_and_takes(case: &Case) {
    case.file("data/f", "of the folder\n").file("new", "put\n");
    let bind = format!("{}:/data", case.context().join("data").display());
    let script = "echo ran > /x; echo begun >&2; while ! test -e /go; do sleep 0.05; done; cat /go";
    let args = ["run", "--name", "live", "-v", &bind, "-v", "/vol", BASE, "sh", "-c", script];
    let mut run = case.start(&args);
    run.wait_for("begun");
    let out = open_folder(case, "out");
    case.rgraph(&["cp", "live:/x", &out]).ok();
    case.rgraph(&["cp", "live:/data/f", &out]).ok();
    assert_eq!(fs::read_to_string(format!("{out}/x")).expect("a file"), "ran\n");
    assert_eq!(fs::read_to_string(format!("{out}/f")).expect("a file"), "of the folder\n");
    // The way back out of a volume leads to what is beside it.
    case.rgraph(&["cp", "live:/vol/../x", &format!("{out}/y")]).ok();
    assert_eq!(fs::read_to_string(format!("{out}/y")).expect("a file"), "ran\n");
    let tar = case.rgraph(&["export", "live"]).ok().stdout;
    assert!(tar.windows(4).any(|w| w == b"ran\n"));
    let new = case.context().join("new").display().to_string();
    case.rgraph(&["cp", &new, "live:/data/g"]).ok();
    assert_eq!(fs::read_to_string(case.context().join("data/g")).expect("a file"), "put\n");
    case.rgraph(&["cp", &new, "live:/vol/"]).ok();
    let inside = |words: &[&str]| {
        let args = [&["exec", "live"], words].concat();
        case.rgraph(&args).ok().text().to_owned()
    };
    assert_eq!(inside(&["cat", "/vol/new"]), "put\n");
    // Owners are root, as the container sees it.
    let tar = tar_of(&[Member::File("of7", b"x")]);
    case.rgraph_reading(&["cp", "-", "live:/tmp"], &tar).ok();
    assert_eq!(inside(&["stat", "-c", "%u:%g", "/tmp/of7", "/vol/new"]), "0:0\n0:0\n");
    case.rgraph(&["cp", &new, "live:/go"]).ok();
    let run = run.finish();
    assert_eq!((run.code, run.text()), (0, "put\n"));
}
