//! Why a step ran: one change at a time to one starting state, and every line that is told of it.
//!
//! A line that names another cause than the change, or a step that says nothing, fails the test: the
//! whole list is compared.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rgraph_tests::{BASE, Case, need};

/// What is done to the starting state.
type Change<'a> = &'a dyn Fn(&World);

/// One row: its name, the change, arguments of the build, and the lines `STEP: REASON; REASON`.
type Row<'a> = (&'a str, Change<'a>, &'a [&'a str], &'a [&'a str]);

/// A starting state that comes back before every change.
struct World {
    case: Case,
    dockerfile: &'static str,
    files: &'static [&'static str],
    args: &'static [&'static str],
}

impl World {
    fn new(
        dockerfile: &'static str,
        files: &'static [&'static str],
        args: &'static [&'static str],
    ) -> Self {
        Self { case: Case::with_base(), dockerfile, files, args }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.case.context().join(path)
    }

    /// Writes `path=text` or `path@target` with its mode after a colon.
    fn put(&self, line: &str) {
        let (line, mode) = line.split_once(':').unwrap_or((line, "644"));
        let at = line.find(['=', '@']).expect("a text or a target");
        let path = self.path(&line[..at]);
        fs::create_dir_all(path.parent().expect("below the context")).expect("folders");
        if line[at..].starts_with('@') {
            symlink(&line[at + 1..], path).expect("a link");
        } else {
            fs::write(&path, &line[at + 1..]).expect("a file");
            self.mode(&line[..at], u32::from_str_radix(mode, 8).expect("octal"));
        }
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).expect("a file");
    }

    fn gone(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("a folder");
        } else {
            fs::remove_file(path).expect("a file");
        }
    }

    /// Writes the Dockerfile with one text put in another's place.
    fn edit(&self, old: &str, new: &str) {
        assert!(self.dockerfile.contains(old), "no `{old}` in the Dockerfile");
        self.case.dockerfile(&self.dockerfile.replacen(old, new, 1));
    }

    /// The starting state, built.
    fn reset(&self) {
        let context = self.case.context();
        fs::remove_dir_all(&context).expect("the context");
        fs::create_dir(&context).expect("the context");
        self.case.dockerfile(self.dockerfile);
        for line in self.files {
            self.put(line);
        }
        self.case.build(self.args).ok();
    }

    /// The steps that ran in the newest build, `STEP: REASON; REASON`.
    fn why(&self) -> Vec<String> {
        let text = self.case.rgraph(&["explain", "--format=json"]).ok();
        let build: serde_json::Value = serde_json::from_slice(&text.stdout).expect("JSON");
        let mut lines = Vec::new();
        for step in build["steps"].as_array().expect("steps") {
            let name = step["name"].as_str().expect("a name");
            let (inside, _) = name.trim_start_matches('[').split_once('/').unwrap_or((name, ""));
            let why = step["why"].as_array().map(Vec::as_slice).unwrap_or_default();
            let texts: Vec<_> = why.iter().map(|w| w["text"].as_str().expect("a text")).collect();
            if step["status"] == "cached" || name.contains("FROM ") {
                assert!(texts.is_empty(), "a reason for what did not run: {step}");
                continue;
            }
            lines.push(format!("{inside}: {}", texts.join("; ")));
        }
        lines
    }

    fn check(&self, rows: &[Row<'_>]) {
        let mut wrong = Vec::new();
        for (name, change, args, want) in rows {
            self.reset();
            change(self);
            let run = self.case.build(&[self.args, *args].concat()).ok();
            let got = self.why();
            if got != *want {
                wrong.push(format!("{name}:\n   got {got:#?}\n  want {want:#?}"));
            }
            // What the screen says is what is kept; it names three reasons at most.
            for line in got.iter().filter(|l| l.matches("; ").count() < 3) {
                let why = line.split_once(": ").expect("a step").1;
                assert!(run.stderr.contains(&format!("why: {why}\n")), "{line}\n{}", run.stderr);
            }
        }
        let names: BTreeSet<&str> = rows.iter().map(|r| r.0).collect();
        assert_eq!(names.len(), rows.len(), "two rows of one name");
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    }
}

fn nothing(_: &World) {}

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
        ("a rule that hides nothing", &|w| w.put(".dockerignore=src/*.o\nnone\n"), &[], &[]),
    ]);
}

fn same_time(w: &World) {
    let path = w.path("src/a");
    let before = fs::metadata(&path).expect("a file").modified().expect("a time");
    fs::write(&path, "2").expect("a file");
    let file = fs::File::options().write(true).open(&path).expect("a file");
    file.set_modified(before).expect("a time");
}

#[test]
fn variables_and_settings() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nARG V=1\nENV E=1 F=2\nWORKDIR /w\nRUN echo one\n",
        &[],
        &["--add-host", "h:1.2.3.4", "--ulimit", "nofile=100:200"],
    );
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    world.check(&[
        ("an argument given", &nothing, &["--build-arg", "V=2"], &["3: ARG V: 1 to 2"]),
        ("an argument's default", &edit("V=1", "V=3"), &[], &["3: ARG V: 1 to 3"]),
        ("an argument less", &edit("ARG V=1\n", ""), &[], &["3: ARG V: no longer 1"]),
        ("an argument more", &edit("ENV", "ARG W=x\nENV"), &[], &["3: ARG W: set to x"]),
        ("an argument nobody declares", &nothing, &["--build-arg", "U=2"], &[]),
        ("a variable", &edit("E=1", "E=2"), &[], &["3: ENV E: 1 to 2"]),
        ("a variable less", &edit("F=2", ""), &[], &["3: ENV F: no longer 2"]),
        ("a variable more", &edit("F=2", "F=2 G=3"), &[], &["3: ENV G: set to 3"]),
        (
            "variables in another order",
            &edit("E=1 F=2", "F=2 E=1"),
            &[],
            &["3: order of the environment changed"],
        ),
        (
            "PATH",
            &edit("ENV", "ENV PATH=/bin\nENV"),
            &[],
            &["3: ENV PATH: /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin to /bin"],
        ),
        ("a label", &edit("ENV", "LABEL a=b\nENV"), &[], &[]),
        ("a comment", &edit("ENV", "# why\nENV"), &[], &[]),
        (
            "the working folder",
            &edit("/w", "/v"),
            &[],
            &[
                "2: WORKDIR: /w to /v",
                "3: WORKDIR: /w to /v; step 2 above gave other files: v (new), w (gone)",
            ],
        ),
        ("the user", &edit("RUN", "USER app\nRUN"), &[], &["3: USER: root to app"]),
        ("the user's number", &edit("RUN", "USER 5:6\nRUN"), &[], &["3: USER: root to 5:6"]),
        (
            "the user before a folder",
            &edit("WORKDIR", "USER app\nWORKDIR"),
            &[],
            &[
                "2: --chown: set to app",
                "3: USER: root to app; step 2 above gave other files: w (owner 0:0 to 1234:1235)",
            ],
        ),
        (
            "the shell",
            &edit("RUN", "SHELL [\"/bin/sh\", \"-ec\"]\nRUN"),
            &[],
            &["3: SHELL: `/bin/sh -c` to `/bin/sh -ec`"],
        ),
        (
            "the command",
            &edit("echo one", "echo two"),
            &[],
            &["3: command: `echo one` to `echo two`"],
        ),
        (
            "the form of the command",
            &edit("echo one", "[\"echo\", \"one\"]"),
            &[],
            &["3: command: `/bin/sh -c echo one` to `echo one`"],
        ),
        (
            "a heredoc",
            &edit("echo one", "<<EOF\necho one\necho two\nEOF"),
            &[],
            &["3: command: `echo one` to `echo one\\necho two\\n`"],
        ),
        (
            "the network",
            &edit("RUN", "RUN --network=none"),
            &[],
            &["3: --network: default to none"],
        ),
        (
            "the network of all",
            &nothing,
            &["--network=host", "--allow", "network.host"],
            &["3: --network: default to host"],
        ),
        (
            "the rights",
            &edit("RUN", "RUN --security=insecure"),
            &["--allow", "security.insecure"],
            &["3: --security: sandbox to insecure"],
        ),
        ("a host more", &nothing, &["--add-host", "i:::1"], &["3: --add-host i is new"]),
        ("a limit more", &nothing, &["--ulimit", "core=0"], &["3: --ulimit core is new"]),
        (
            "the host's name",
            &nothing,
            &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=x"],
            &["3: host name: set to x"],
        ),
        (
            "shared memory",
            &nothing,
            &["--shm-size=1m"],
            &["3: --mount=type=tmpfs,target=/dev/shm is new"],
        ),
        (
            "the time",
            &nothing,
            &["--build-arg", "SOURCE_DATE_EPOCH=1"],
            &["2: SOURCE_DATE_EPOCH: set to 1000000000"],
        ),
    ]);
}

#[test]
fn mounts_of_a_run() {
    need!(Root);
    let world = World::new(
        "FROM BASE AS seed\nRUN echo 1 > /seed\nFROM BASE\n\
         RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t true\n\
         RUN --mount=type=secret,id=s,target=/s --mount=type=bind,from=seed,target=/b true\n\
         RUN --mount=type=bind,source=f,target=/f true\n",
        &["f=1", "g=1", "s=hidden"],
        &["--secret", "id=s,src=context/s", "--secret", "id=z,src=context/s"],
    );
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    // `[stage-1 2/4]`: the base is step 1.
    world.check(&[
        ("a cache less", &edit("--mount=type=cache,target=/c", ""), &[], &[
            "stage-1 2: --mount=type=cache,target=/c is gone",
        ]),
        ("a cache more", &edit("RUN --mount=type=cache", "RUN --mount=type=cache,target=/d --mount=type=cache"), &[], &[
            "stage-1 2: --mount=type=cache,target=/d is new",
        ]),
        ("a cache's place", &edit("target=/c", "target=/e"), &[], &[
            "stage-1 2: --mount=type=cache,target=/c is gone; --mount=type=cache,target=/e is new",
        ]),
        ("a cache's name", &edit("target=/c", "target=/c,id=k"), &[], &[
            "stage-1 2: --mount=type=cache,target=/c id: /c to k",
        ]),
        ("a cache's sharing", &edit("target=/c", "target=/c,sharing=locked"), &[], &[
            "stage-1 2: --mount=type=cache,target=/c sharing: shared to locked",
        ]),
        ("a cache that is only read", &edit("target=/c", "target=/c,ro"), &[], &[
            "stage-1 2: --mount=type=cache,target=/c readonly: false to true",
        ]),
        ("another type", &edit("type=tmpfs,target=/t", "type=cache,target=/t"), &[], &[
            "stage-1 2: --mount=type=tmpfs,target=/t is gone; --mount=type=cache,target=/t is new",
        ]),
        ("the order of mounts", &edit("--mount=type=cache,target=/c --mount=type=tmpfs,target=/t", "--mount=type=tmpfs,target=/t --mount=type=cache,target=/c"), &[], &[
            "stage-1 2: order of --mount changed",
        ]),
        ("a limit of memory", &edit("target=/t", "target=/t,size=1m"), &[], &[
            "stage-1 2: --mount=type=tmpfs,target=/t size: 0 to 1048576",
        ]),
        ("a secret's name", &edit("id=s,", "id=z,"), &[], &[
            "stage-1 3: --mount=type=secret,target=/s id: s to z",
        ]),
        ("a secret's mode", &edit("id=s,", "id=s,mode=0444,"), &[], &[
            "stage-1 3: --mount=type=secret,target=/s mode: 400 to 444",
        ]),
        ("a secret's owner", &edit("id=s,", "id=s,uid=5,"), &[], &[
            "stage-1 3: --mount=type=secret,target=/s uid: 0 to 5",
        ]),
        ("a secret that must be there", &edit("id=s,", "id=s,required,"), &[], &[
            "stage-1 3: --mount=type=secret,target=/s required: false to true",
        ]),
        ("a secret as a variable", &edit("id=s,target=/s", "id=s,env=S"), &[], &[
            "stage-1 3: --mount=type=secret,target=/s is gone; --mount=type=secret,env=S is new",
        ]),
        ("a secret's value", &|w| w.put("s=other"), &[], &[]),
        ("a bind that is written", &edit("from=seed,", "from=seed,rw,"), &[], &[
            "stage-1 3: --mount=type=bind,target=/b readonly: true to false",
        ]),
        ("a part of a stage", &edit("from=seed,", "from=seed,source=/etc,"), &[], &[
            "stage-1 3: --mount=type=bind,target=/b source: / to /etc",
        ]),
        ("what a stage gave", &edit("echo 1", "echo 2"), &[], &[
            "seed 2: command: `echo 1 > /seed` to `echo 2 > /seed`",
            "stage-1 3: stage seed gave other files: seed",
        ]),
        ("a file that is mounted", &|w| w.put("f=2"), &[], &["stage-1 4: f changed"]),
        ("another file that is mounted", &edit("source=f", "source=g"), &[], &[
            "stage-1 4: --mount=type=bind,target=/f source: /f to /g",
        ]),
    ]);
}

#[test]
fn the_instruction_of_a_copy() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nRUN mkdir /q\nCOPY --chown=1:1 --chmod=644 a b /d/\nCOPY e /e/\nCOPY <<EOF /h\none\nEOF\n",
        &["a=1", "b=1", "c=1", "e/x=1", "e/y=1"],
        &[],
    );
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    let d = |text: &str| format!("4: step 3 above gave other files: {text}");
    let owner = d("d (owner 1:1 to 2:1), d/a (owner 1:1 to 2:1), d/b (owner 1:1 to 2:1)");
    let mode = d("d (mode 644 to 600), d/a (mode 644 to 600), d/b (mode 644 to 600)");
    let dest = d("d (gone), z (new)");
    let more = d("d/c (new)");
    let less = d("d/b (gone)");
    let other = d("d/b (gone), d/c (new)");
    let content = d("d/a");
    world.check(&[
        (
            "the owner",
            &edit("--chown=1:1", "--chown=2:1"),
            &[],
            &[
                "3: --chown: 1:1 to 2:1",
                &owner,
                "5: step 4 above gave other files: d (owner 1:1 to 2:1), d/a (owner 1:1 to 2:1), d/b (owner 1:1 to 2:1)",
            ],
        ),
        (
            "the mode",
            &edit("--chmod=644", "--chmod=600"),
            &[],
            &[
                "3: --chmod: 644 to 600",
                &mode,
                "5: step 4 above gave other files: d (mode 644 to 600), d/a (mode 644 to 600), d/b (mode 644 to 600)",
            ],
        ),
        (
            "the destination",
            &edit("a b /d/", "a b /z/"),
            &[],
            &[
                "3: destination: /d/ to /z/",
                &dest,
                "5: step 4 above gave other files: d (gone), z (new)",
            ],
        ),
        (
            "a source more",
            &edit("a b", "a b c"),
            &[],
            &["3: source /c is new", &more, "5: step 4 above gave other files: d/c (new)"],
        ),
        (
            "a source less",
            &edit("a b", "a"),
            &[],
            &["3: source /b is gone", &less, "5: step 4 above gave other files: d/b (gone)"],
        ),
        (
            "another source",
            &edit("a b", "a c"),
            &[],
            &[
                "3: source: /b to /c",
                &other,
                "5: step 4 above gave other files: d/b (gone), d/c (new)",
            ],
        ),
        (
            "a file of two",
            &|w| w.put("a=2"),
            &[],
            &["3: a changed", &content, "5: step 4 above gave other files: d/a"],
        ),
        ("a mode that is set anyway", &|w| w.mode("a", 0o777), &[], &[]),
        (
            "an exclusion",
            &edit("COPY e", "COPY --exclude=y e"),
            &[],
            &["4: --exclude: set to y", "5: step 4 above gave other files: e/y (gone)"],
        ),
        (
            "parents",
            &edit("COPY e /e/", "COPY --parents e /e/"),
            &[],
            &[
                "4: --parents: set to e",
                "5: step 4 above gave other files: e/e (new), e/x (gone), e/y (gone)",
            ],
        ),
        ("a link", &edit("COPY e", "COPY --link e"), &[], &[
            "4: --link was set", "4: --link was set", "5: step 4 above gave another result",
        ]),
        ("a pattern", &edit("COPY e", "COPY e/*"), &[], &["4: source: /e to /e/*"]),
        ("an ADD", &edit("COPY e", "ADD e"), &[], &["4: unpacking: false to true"]),
        ("a heredoc", &edit("one", "two"), &[], &["5: heredoc: EOF changed"]),
        ("a heredoc's place", &edit("/h", "/i"), &[], &["5: destination: /h to /i"]),
    ]);
}

#[test]
fn stages_and_order() {
    need!(Root);
    let world = World::new(
        "FROM BASE AS build\nRUN mkdir /o && echo 1 > /o/f && ln -s f /o/l\n\
         FROM BASE\nCOPY --from=build /o /o\nRUN echo a > /a\nRUN echo b > /b\n",
        &[],
        &[],
    );
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    const MAKE: &str = "mkdir /o && echo 1 > /o/f && ln -s f /o/l";
    let command = |more: &str| format!("build 2: command: `{MAKE}` to `{MAKE}{more}`");
    let (content, mode) = (command("; echo 2 > /o/f"), command("; chmod 600 /o/f"));
    let (owner, link) = (command("; chown 5:6 /o/f"), command("; ln -sf g /o/l"));
    let (more, less) = (command("; touch /o/n"), command("; rm /o/f"));
    let (nothing_else, elsewhere) = (command("; true"), command("; touch /n"));
    let never = "not built here before; it was for linux/amd64";
    world.check(&[
        ("content", &edit("/o/l", "/o/l; echo 2 > /o/f"), &[], &[
            &content,
            "stage-1 2: stage build gave other files: o/f",
            "stage-1 3: step 2 above gave other files: o/f",
            "stage-1 4: step 3 above gave other files: o/f",
        ]),
        ("a mode", &edit("/o/l", "/o/l; chmod 600 /o/f"), &[], &[
            &mode,
            "stage-1 2: stage build gave other files: o/f (mode 644 to 600)",
            "stage-1 3: step 2 above gave other files: o/f (mode 644 to 600)",
            "stage-1 4: step 3 above gave other files: o/f (mode 644 to 600)",
        ]),
        ("an owner", &edit("/o/l", "/o/l; chown 5:6 /o/f"), &[], &[
            &owner,
            "stage-1 2: stage build gave other files: o/f (owner 0:0 to 5:6)",
            "stage-1 3: step 2 above gave other files: o/f (owner 0:0 to 5:6)",
            "stage-1 4: step 3 above gave other files: o/f (owner 0:0 to 5:6)",
        ]),
        ("a link", &edit("/o/l", "/o/l; ln -sf g /o/l"), &[], &[
            &link,
            "stage-1 2: stage build gave other files: o/l (link target f to g)",
            "stage-1 3: step 2 above gave other files: o/l (link target f to g)",
            "stage-1 4: step 3 above gave other files: o/l (link target f to g)",
        ]),
        ("a file more", &edit("/o/l", "/o/l; touch /o/n"), &[], &[
            &more,
            "stage-1 2: stage build gave other files: o/n (new)",
            "stage-1 3: step 2 above gave other files: o/n (new)",
            "stage-1 4: step 3 above gave other files: o/n (new)",
        ]),
        ("a file less", &edit("/o/l", "/o/l; rm /o/f"), &[], &[
            &less,
            "stage-1 2: stage build gave other files: o/f (gone)",
            "stage-1 3: step 2 above gave other files: o/f (gone)",
            "stage-1 4: step 3 above gave other files: o/f (gone)",
        ]),
        ("an edit that changes nothing", &edit("/o/l", "/o/l; true"), &[], &[&nothing_else]),
        ("an edit beside what is copied", &edit("/o/l", "/o/l; touch /n"), &[], &[&elsewhere]),
        ("another part of a stage", &edit("/o /o", "/o/f /o"), &[], &[
            "stage-1 2: source: /o to /o/f",
            "stage-1 3: step 2 above gave other files: o (folder to file)",
            "stage-1 4: step 3 above gave other files: o (folder to file)",
        ]),
        ("a step between", &edit("RUN echo b", "RUN echo x > /x\nRUN echo b"), &[], &[
            "stage-1 4: this step is new",
            "stage-1 5: step 4 above is new",
        ]),
        ("a copy between", &edit("RUN echo b", "COPY Dockerfile /x\nRUN echo b"), &[], &[
            "stage-1 4: this step is new",
            "stage-1 5: step 4 above is new",
        ]),
        ("a step at the end", &edit("> /b\n", "> /b\nRUN echo c > /c\n"), &[], &[
            "stage-1 5: this step is new",
        ]),
        ("a step less", &edit("RUN echo a > /a\n", ""), &[], &[
            "stage-1 3: `[stage-1 3/4] RUN echo a > /a` is no longer below it",
        ]),
        (
            "steps in another order",
            &edit("RUN echo a > /a\nRUN echo b > /b\n", "RUN echo b > /b\nRUN echo a > /a\n"),
            &[],
            &["stage-1 4: it stood on `[stage-1 2/4] COPY --from=build /o /o`, now on step 3 above"],
        ),
        (
            "a stage's name",
            &|w| {
                w.case.dockerfile(&w.dockerfile.replace("build", "make"));
            },
            &[],
            &[],
        ),
        ("no cache for a stage", &nothing, &["--no-cache-filter", "build"], &[
            "build 2: the cache is ignored for this step",
        ]),
        ("no cache", &nothing, &["--no-cache"], &[
            "build 2: the cache is ignored for this step",
            "stage-1 2: the cache is ignored for this step",
            "stage-1 3: the cache is ignored for this step",
            "stage-1 4: the cache is ignored for this step",
        ]),
        ("another platform", &nothing, &["--platform=linux/386"], &[
            &format!("build 2: {never}"),
            &format!("stage-1 3: {never}"),
            &format!("stage-1 4: {never}"),
        ]),
    ]);
}

/// The first of these names the second's image from now on.
fn tag(case: &Case, image: &str, name: &str) {
    case.rgraph(&["tag", image, name]).ok();
}

#[test]
fn bases_that_move() {
    need!(Root);
    let world = World::new("FROM BASE\nRUN echo a\nCOPY --from=tool:1 /etc/tool /tool\n", &[], &[]);
    let case = &world.case;
    tag(case, BASE, "first:1");
    for (name, text) in [("second:1", "2"), ("tool:1", "3"), ("tool:2", "4"), ("third:1", "5")] {
        case.dockerfile(&format!("FROM BASE\nRUN mkdir -p /etc && echo {text} > /etc/tool\n"));
        case.build(&["-t", name]).ok();
    }
    tag(case, "tool:1", "tool:first");
    let moved = |name: &str, line: &str| {
        let (start, rest) = line.split_once(" moved ").expect("a line about a base");
        assert_eq!(start, format!("base {name}"));
        let (old, new) =
            rest.split_once(';').unwrap_or((rest, "")).0.split_once(" to ").expect("pins");
        assert!(old != new && old.len() == 12 && new.len() == 12, "{line}");
    };
    // The image it stands on.
    world.reset();
    tag(case, "second:1", BASE);
    case.build(&[]).ok();
    let why = world.why();
    assert_eq!(why.len(), 2, "{why:?}");
    moved("busybox:test", why[0].strip_prefix("stage-0 2: ").expect("the first step"));
    assert_eq!(why[1], "stage-0 3: step 2 above gave other files: etc/tool (new)");
    tag(case, "first:1", BASE);
    // The image it copies from.
    world.reset();
    tag(case, "tool:2", "tool:1");
    case.build(&[]).ok();
    let why = world.why();
    assert_eq!(why.len(), 1, "{why:?}");
    moved("tool:1", why[0].strip_prefix("stage-0 3: ").expect("the copy"));
    tag(case, "tool:first", "tool:1");
    // Another image.
    world.check(&[(
        "another base",
        &|w| w.edit("BASE", "third:1"),
        &[],
        &[
            "stage-0 2: base: busybox:test to third:1",
            "stage-0 3: step 2 above gave other files: etc/tool (new)",
        ],
    )]);
}

#[test]
fn what_was_removed_is_told_as_such() {
    need!(Root);
    let world = World::new("FROM BASE\nRUN echo a > /a\n", &[], &[]);
    world.reset();
    world.case.rgraph(&["prune", "-f"]).ok();
    world.case.build(&[]).ok();
    assert_eq!(world.why(), ["2: built before, but the result is gone"]);
    // Another file, another place.
    world.case.file("Other", format!("FROM {BASE}\nRUN echo b > /b\n"));
    let other = world.path("Other").display().to_string();
    world.case.build(&["-f", &other]).ok();
    assert_eq!(world.why(), ["2: not built here before"]);
}

#[test]
fn a_result_that_is_too_old_says_so_and_nothing_else_does() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nRUN true\n# cache=ttl=24h\nRUN cat /proc/sys/kernel/random/uuid > /now\n\
         # cache=ttl=7d\nRUN echo same > /same\nRUN echo above\n",
        &[],
        &[],
    );
    world.check(&[
        ("nothing", &nothing, &[], &[]),
        ("still good", &|w| w.edit("24h", "12h"), &[], &[]),
        (
            "other files",
            &|w| w.edit("24h", "0s"),
            &[],
            &[
                "3: older than 0s (ttl)",
                "4: step 3 above gave other files: now",
                "5: step 4 above gave other files: now",
            ],
        ),
        ("the same files", &|w| w.edit("7d", "0s"), &[], &["4: older than 0s (ttl)"]),
        (
            "the command too",
            &|w| w.edit("24h\nRUN cat", "0s\nRUN  head -n 9"),
            &[],
            &[
                "3: command: `cat /proc/sys/kernel/random/uuid > /now` to \
             `head -n 9 /proc/sys/kernel/random/uuid > /now`",
                "4: step 3 above gave other files: now",
                "5: step 4 above gave other files: now",
            ],
        ),
        (
            "of all",
            &nothing,
            &["--cache-ttl=0"],
            &[
                "2: older than 0s (ttl)",
                "3: older than 0s (ttl)",
                "4: step 3 above gave other files: now",
                "5: step 4 above gave other files: now",
            ],
        ),
    ]);
    let json = world.case.rgraph(&["explain", "--format=json"]).ok();
    assert!(json.text().contains(r#""cause":"expired""#), "{}", json.text());
}

/// Records and lists are on the disk, and stay when the cache goes.
#[test]
fn the_store_knows_what_explains() {
    need!(Root);
    let world = World::new("FROM BASE\nCOPY src /src\n", &["src/a=1"], &[]);
    world.reset();
    let kept = || -> Vec<String> {
        let ours = |n: &String| n.starts_with("builds/") || n.starts_with("file-lists/");
        world.case.state().into_keys().filter(ours).collect()
    };
    let before = kept();
    assert_eq!(before.len(), 2, "{before:?}");
    let usage = world.case.rgraph(&["du", "-v", "--format=json"]).ok();
    let usage: serde_json::Value = serde_json::from_str(usage.text()).expect("JSON");
    let lines = usage["Usage"].as_array().expect("lines");
    let sizes = |l: &serde_json::Value| l["Size"].as_u64().expect("a number");
    let logs = lines.iter().find(|l| l["Type"] == "Logs").map(sizes).expect("the line");
    let rest = |name: &str| usage["Rest"][name].as_u64().expect("a number");
    assert!(rest("builds") >= 4096 && rest("file-lists") >= 4096, "{usage}");
    assert_eq!(logs, rest("logs") + rest("builds") + rest("file-lists"));
    assert_eq!(Some(lines.iter().map(sizes).sum()), usage["TotalSize"].as_u64());
    let check = world.case.rgraph(&["store", "check", "--repair"]).ok();
    assert!(!check.text().contains("builds") && !check.text().contains("file-lists"));
    world.case.rgraph(&["prune", "-f", "-a"]).ok();
    assert_eq!(kept(), before);
}

#[test]
fn an_imported_cache_of_another_platform_is_named() {
    need!(Root);
    let (theirs, ours) = (Case::with_base(), Case::with_base());
    let cache = theirs.out("cache").display().to_string();
    for case in [&theirs, &ours] {
        case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    }
    let to = format!("type=local,dest={cache}");
    theirs.build(&["--platform=linux/386", "--cache-to", &to]).ok();
    let why = format!("why: not built here before; the cache of {cache} has it for linux/386\n");
    let from = format!("type=local,src={cache}");
    let run = ours.build(&["--cache-from", &from]).ok();
    assert!(run.stderr.contains(&why), "{}", run.stderr);
    // What the cache no longer has is not told of.
    theirs.dockerfile("FROM BASE\nRUN echo b > /b\n");
    theirs.build(&["--platform=linux/386", "--cache-to", &format!("{to},reset=true")]).ok();
    for (command, why) in
        [("echo a > /a", "why: not built here before\n".to_owned()), ("echo b > /b", why)]
    {
        let fresh = ours.fresh();
        fresh.dockerfile(&format!("FROM BASE\nRUN {command}\n"));
        let run = fresh.build(&["--cache-from", &from]).ok();
        assert!(run.stderr.contains(&why), "{command}: {}", run.stderr);
    }
}

#[test]
fn a_failed_build_is_explained_and_does_not_hide_the_one_before() {
    need!(Root);
    let world = World::new("FROM BASE\nRUN echo a > /a\nRUN echo b\n", &[], &[]);
    world.reset();
    world.edit("echo b", "exit 3");
    world.case.build(&[]).fails(1, &["why: command: `echo b` to `exit 3`"]);
    let text = world.case.rgraph(&["explain"]).ok();
    for part in [
        "  failed in ",
        "error: exit code: 3\n",
        "[2/3] RUN echo a > /a  (cached, line 2)",
        "[3/3] RUN exit 3  (failed after ",
        "why: command: `echo b` to `exit 3`\n",
    ] {
        assert!(text.text().contains(part), "no `{part}` in:\n{}", text.text());
    }
    world.edit("echo b", "echo c");
    world.case.build(&[]).ok();
    assert_eq!(world.why(), ["3: command: `echo b` to `echo c`"]);
    world.case.dockerfile("FROM BASE\nRUNN x\n");
    world.case.build(&[]).fails(1, &[]);
    let text = world.case.rgraph(&["explain"]).ok();
    assert!(text.text().contains("error: ") && text.text().contains("RUNN"), "{}", text.text());
}

#[test]
fn builds_and_steps_are_asked_for_by_name() {
    need!(Root);
    let world = World::new("FROM BASE AS one\nRUN echo a\nRUN echo b\n", &[], &[]);
    world.case.rgraph(&["explain"]).fails(1, &["nothing was built"]);
    world.reset();
    world.case.build(&[]).ok().all_cached();
    let rgraph = |args: &[&str]| world.case.rgraph(args);
    let ids = rgraph(&["builds", "-q"]).ok();
    let ids: Vec<&str> = ids.text().lines().collect();
    assert_eq!(ids.len(), 2);
    let (cached, ran) = (rgraph(&["explain"]).ok(), rgraph(&["explain", ids[1]]).ok());
    assert_eq!(cached.text().matches("(cached").count(), 3);
    assert_eq!(ran.text().matches("why: not built here before").count(), 2);
    assert_eq!(rgraph(&["explain", "latest"]).ok().text(), cached.text());
    let one = rgraph(&["explain", &ids[1][..7], "echo b"]).ok();
    assert!(one.text().contains("echo b") && !one.text().contains("echo a"), "{}", one.text());
    assert_eq!(rgraph(&["explain", ids[1], "3"]).ok().text(), one.text());
    // A word that is no build is a step of the newest.
    assert!(rgraph(&["explain", "echo b"]).ok().text().contains("(cached"));
    rgraph(&["explain", ids[1], "9"]).fails(1, &["no step 9"]);
    rgraph(&["explain", ids[1], "RUN"]).fails(1, &["may be step 2 or 3"]);
    rgraph(&["explain", ids[1], "nothing"]).fails(1, &["has no step `nothing`"]);
    rgraph(&["explain", "zz", "1"]).fails(1, &["no build `zz` is known", "rgraph builds"]);
    rgraph(&["explain", "--format=xml"]).fails(2, &["xml"]);
    let json = rgraph(&["builds", "--format=json"]).ok();
    let first: serde_json::Value =
        serde_json::from_str(json.text().lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["id"], &first["cached"]), (&ids[0].into(), &3.into()));
    let table = rgraph(&["builds"]).ok();
    assert!(table.text().starts_with("BUILD") && table.text().lines().count() == 3);
}

/// A cached build leaves its record and nothing else.
#[test]
fn a_cached_build_writes_one_small_file() {
    need!(Root);
    let world = World::new("FROM BASE\nCOPY src /src\nRUN true\n", &["src/a=1"], &[]);
    world.reset();
    // Only then a file's stamp is trusted, and written down once.
    std::thread::sleep(std::time::Duration::from_millis(100));
    world.case.build(&[]).ok().all_cached();
    let lists = |state: &std::collections::BTreeMap<String, u64>| {
        state.keys().filter(|n| n.starts_with("file-lists/")).count()
    };
    let before = world.case.state();
    assert_eq!(lists(&before), 1, "the list of what was copied");
    world.case.build(&[]).ok().all_cached();
    let mut after = world.case.state();
    after.retain(|name, size| before.get(name) != Some(size));
    assert_eq!(after.len(), 1, "{after:?}");
    assert!(after.iter().all(|(n, size)| n.starts_with("builds/") && *size < 4096), "{after:?}");
}
