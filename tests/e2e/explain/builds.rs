//! Changes of how a build is asked for, and of what is left of earlier ones.

use rgraph_tests::need;

use super::world::{World, nothing};

#[test]
fn arguments_wherever_they_stand() {
    need!(Root);
    let world = World::new(
        "ARG TAG=test\nFROM busybox:$TAG\nARG DIR=src\nARG ID=1\nCOPY --chown=$ID $DIR /src\n\
         ARG LATE=1\nENV L=$LATE\nRUN true\n",
        &["src/a=1", "other/a=2"],
        &[],
    );
    world.case.rgraph(&["tag", "busybox:test", "busybox:other"]).ok();
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    world.check(&[
        ("a source", &nothing, &["--build-arg", "DIR=other"], &[
            "2: source: /src to /other",
            "3: ARG DIR: src to other; step 2 above gave other files: src/a",
        ]),
        ("an owner", &nothing, &["--build-arg", "ID=2"], &[
            "2: --chown: 1 to 2",
            "3: ARG ID: 1 to 2; step 2 above gave other files: src (owner 1:1 to 2:2), src/a (owner 1:1 to 2:2)",
        ]),
        ("a tag of the same image", &nothing, &["--build-arg", "TAG=other"], &[]),
        ("a value that ENV takes", &nothing, &["--build-arg", "LATE=2"], &[
            "3: ENV L: 1 to 2; ARG LATE: 1 to 2",
        ]),
        ("a default that is taken away", &edit("ARG LATE=1", "ARG LATE"), &[], &[
            "3: ENV L: 1 to \"\"; ARG LATE: no longer 1",
        ]),
        ("below what it does not matter to", &edit("ARG ID=1\nCOPY --chown=$ID $DIR /src\n", "ARG ID=1\nARG N=1\nCOPY --chown=$ID $DIR /src\n"), &[], &[
            "3: ARG N: set to 1",
        ]),
        ("at the end", &edit("RUN true\n", "RUN true\nARG N=1\n"), &[], &[]),
        ("a predefined one", &nothing, &["--build-arg", "HTTP_PROXY=http://127.0.0.1:1"], &[]),
        ("a platform's, declared", &edit("ARG LATE=1", "ARG TARGETARCH\nARG LATE=1"), &[], &[
            "3: ARG TARGETARCH: set to amd64",
        ]),
    ]);
}

#[test]
fn all_of_the_context() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nCOPY . /app\nRUN true\n",
        &[".dockerignore=*.log\n", "a=1", "x.log=1", "d/b=1", "d/e/c=1", "l@d"],
        &[],
    );
    let gave = |what: &str| format!("3: step 2 above gave other files: {what}");
    let deep = gave("app/d/e/c");
    world.check(&[
        (
            "a comment in the Dockerfile",
            &|w| w.edit("RUN", "# why\nRUN"),
            &[],
            &["2: Dockerfile changed", &gave("app/Dockerfile")],
        ),
        (
            "a rule",
            &|w| w.put(".dockerignore=*.log\nd\n"),
            &[],
            &[
                "2: .dockerignore changed, d: the ignore rule `d` hides it now",
                &gave("app/.dockerignore, app/d (gone)"),
            ],
        ),
        (
            "a rule without effect",
            &|w| w.put(".dockerignore=*.log\nnone\n"),
            &[],
            &["2: .dockerignore changed", &gave("app/.dockerignore")],
        ),
        ("a hidden file", &|w| w.put("x.log=2"), &[], &[]),
        ("a hidden file more", &|w| w.put("y.log=2"), &[], &[]),
        ("a deep file", &|w| w.put("d/e/c=2"), &[], &["2: d/e/c changed", &deep]),
        (
            "a folder that moves",
            &|w| std::fs::rename(w.path("d/e"), w.path("e")).expect("a rename"),
            &[],
            &["2: d/e is gone, e is new", &gave("app/d/e (gone), app/e (new)")],
        ),
        (
            "a name in other letters",
            &|w| std::fs::rename(w.path("a"), w.path("A")).expect("a rename"),
            &[],
            &["2: A is new, a is gone", &gave("app/A (new), app/a (gone)")],
        ),
        (
            "a link to nothing",
            &|w| {
                w.gone("l");
                w.put("l@nothing")
            },
            &[],
            &["2: l: link target d to nothing", &gave("app/l (link target d to nothing)")],
        ),
        (
            "a folder in a link's place",
            &|w| {
                std::fs::remove_file(w.path("l")).expect("a link");
                w.put("l/x=1")
            },
            &[],
            &["2: l: link to folder", &gave("app/l (link to folder)")],
        ),
        (
            "a link in a folder's place",
            &|w| {
                w.gone("d");
                w.put("d@a")
            },
            &[],
            &["2: d: folder to link", &gave("app/d (folder to link)")],
        ),
        (
            "a folder that is emptied",
            &|w| w.gone("d/e/c"),
            &[],
            &["2: d/e/c is gone", &gave("app/d/e/c (gone)")],
        ),
        (
            "a file in a folder's place",
            &|w| {
                w.gone("d/e");
                w.put("d/e=1")
            },
            &[],
            &["2: d/e: folder to file", &gave("app/d/e (folder to file)")],
        ),
        (
            "a name in another script",
            &|w| w.put("\u{e9}\u{4e2d}=1"),
            &[],
            &["2: \u{e9}\u{4e2d} is new", &gave("app/\u{e9}\u{4e2d} (new)")],
        ),
        (
            "two at once",
            &|w| {
                w.put("a=2");
                w.mode("d/b", 0o600)
            },
            &[],
            &["2: a changed, d/b: mode 644 to 600", &gave("app/a, app/d/b (mode 644 to 600)")],
        ),
        (
            "content and mode",
            &|w| w.put("a=2:600"),
            &[],
            &["2: a changed, a: mode 644 to 600", &gave("app/a, app/a (mode 644 to 600)")],
        ),
        (
            "of two platforms",
            &|w| w.put("a=2"),
            &["--platform=linux/amd64"],
            &["2: a changed", &gave("app/a")],
        ),
    ]);
}

#[test]
fn flags_that_are_taken_away() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nCOPY --chown=1:1 --chmod=u=rwX,go=rX a /a\nCOPY --link a /b\nCOPY --exclude=x d /d\n\
         RUN --network=none --mount=type=tmpfs,target=/t true\n",
        &["a=1", "d/x=1", "d/y=1"],
        &[],
    );
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    world.check(&[
        ("nothing", &nothing, &[], &[]),
        (
            "an exclusion",
            &edit(" --exclude=x", ""),
            &[],
            &[
                "stage-0 4: --exclude: no longer x",
                "stage-0 5: step 4 above gave other files: d/x (new)",
            ],
        ),
        (
            "another exclusion",
            &edit("--exclude=x", "--exclude=y"),
            &[],
            &[
                "stage-0 4: --exclude: x to y",
                "stage-0 5: step 4 above gave other files: d/x (new), d/y (gone)",
            ],
        ),
        ("what is excluded", &|w| w.put("d/x=2"), &[], &[]),
        (
            "a network",
            &edit(" --network=none", ""),
            &[],
            &["stage-0 5: --network: none to default"],
        ),
        (
            "a mount",
            &edit(" --mount=type=tmpfs,target=/t", ""),
            &[],
            &["5: --mount=type=tmpfs,target=/t is gone"],
        ),
        (
            "an agent",
            &edit("target=/t", "target=/t --mount=type=ssh"),
            &[],
            &["stage-0 5: --mount=type=ssh,target=/run/buildkit/ssh_agent.0 is new"],
        ),
        (
            "a secret more",
            &edit("target=/t", "target=/t --mount=type=secret,id=s"),
            &[],
            &["stage-0 5: --mount=type=secret,target=/run/secrets/s is new"],
        ),
        ("a secret of the caller's", &nothing, &["--secret", "id=s,src=context/a"], &[]),
    ]);
    world.reset();
    world.edit(" --link", "");
    world.case.build(&[]).ok();
    assert_eq!(world.why()[0], "stage-0 3: --link is gone");
    world.reset();
    world.edit("--chmod=u=rwX,go=rX", "--chmod=600");
    world.case.build(&[]).ok();
    assert_eq!(world.why()[0], "stage-0 2: --chmod: u=rwX,go=rX to 600");
    world.reset();
    world.edit("--chown=1:1 ", "");
    world.case.build(&[]).ok();
    assert_eq!(world.why()[0], "stage-0 2: --chown: no longer 1:1");
}

/// What no step can see makes none run.
#[test]
fn what_no_step_sees() {
    need!(Root);
    let world = World::new(
        "FROM BASE AS one\nRUN --mount=type=cache,target=/c echo a > /c/f\nFROM one AS two\nRUN echo b > /b\n",
        &["f=1"],
        &[],
    );
    world.check(&[
        ("names of the image", &nothing, &["-t", "other:1"], &[]),
        ("labels", &nothing, &["--label", "a=b"], &[]),
        ("another output", &nothing, &["-o", "type=cacheonly"], &[]),
        ("progress", &nothing, &["--progress=plain"], &[]),
        ("fewer steps at once", &nothing, &["--jobs=1"], &[]),
        ("another target", &nothing, &["--target=one"], &[]),
        ("the last target by name", &nothing, &["--target=two"], &[]),
        (
            "spaces at the ends of lines",
            &|w| {
                w.case.dockerfile(&w.dockerfile.replace('\n', "  \n"));
            },
            &[],
            &[],
        ),
        (
            "empty lines",
            &|w| {
                w.case.dockerfile(&w.dockerfile.replace('\n', "\n\n"));
            },
            &[],
            &[],
        ),
        (
            "no line end",
            &|w| {
                w.case.dockerfile(w.dockerfile.trim_end());
            },
            &[],
            &[],
        ),
        (
            "a directive",
            &|w| w.edit("FROM BASE", "# syntax=docker/dockerfile:1\nFROM BASE"),
            &[],
            &[],
        ),
        ("a check directive", &|w| w.edit("FROM BASE", "# check=skip=all\nFROM BASE"), &[], &[]),
        (
            "a stage of the same that is cached",
            &nothing,
            &["--no-cache-filter", "two"],
            &["two 1: the cache is ignored for this step"],
        ),
        ("a limit of memory", &nothing, &["--memory=1g"], &[]),
    ]);
    // A cache that was cleared, and one that was filled, are in no key.
    world.reset();
    world.case.rgraph(&["prune", "-f", "--filter", "type=exec.cachemount"]).ok();
    world.case.build(&[]).ok().all_cached();
    // The same files below another path: keys are what they were.
    let other = world.case.fresh();
    let to = world.case.out("elsewhere");
    std::fs::create_dir(&to).expect("a folder");
    std::fs::copy(world.path("Dockerfile"), to.join("Dockerfile")).expect("a copy");
    world.case.rgraph(&["build", "--progress=plain", &to.display().to_string()]).ok().all_cached();
    drop(other);
}
