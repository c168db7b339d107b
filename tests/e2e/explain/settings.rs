//! Changes of what a step runs with.

use rgraph_tests::need;

use super::world::{World, nothing};

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
        ("an argument given as it is", &nothing, &["--build-arg", "V=1"], &[]),
        ("another default of a given argument", &edit("V=1", "V=9"), &["--build-arg", "V=1"], &[]),
        ("an argument before FROM", &edit("FROM", "ARG X=1\nFROM"), &[], &[]),
        ("an empty argument", &nothing, &["--build-arg", "V="], &["3: ARG V: 1 to \"\""]),
        ("quotes", &edit("E=1 F=2", "E=\"1\" F='2'"), &[], &[]),
        ("two ENV for one", &edit("E=1 F=2", "E=1\nENV F=2"), &[], &[]),
        ("a variable by an argument", &edit("E=1", "E=$V"), &[], &[]),
        (
            "a variable by an argument given",
            &edit("E=1", "E=$V"),
            &["--build-arg", "V=2"],
            &["3: ENV E: 1 to 2; ARG V: 1 to 2"],
        ),
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
        (
            "what only the image's config says",
            &edit(
                "ENV",
                "CMD [\"a\"]\nENTRYPOINT [\"b\"]\nEXPOSE 80\nSTOPSIGNAL 9\nVOLUME /v\n\
             HEALTHCHECK CMD true\nONBUILD RUN x\nMAINTAINER me\nENV",
            ),
            &[],
            &[],
        ),
        ("a line that goes on", &edit("RUN echo", "RUN \\\n  echo"), &[], &[]),
        (
            "a comment in a line that goes on",
            &edit("RUN echo", "RUN \\\n# why\n\n  echo"),
            &[],
            &[],
        ),
        ("small letters", &edit("RUN", "run"), &[], &[]),
        ("an indented instruction", &edit("RUN", "  RUN"), &[], &[]),
        (
            "ends of lines",
            &|w| {
                w.case.dockerfile(&w.dockerfile.replace('\n', "\r\n"));
            },
            &[],
            &[],
        ),
        ("an escape directive", &edit("FROM", "# escape=`\nFROM"), &[], &[]),
        (
            "a space in the command",
            &edit("echo one", "echo  one"),
            &[],
            &["3: command: `echo one` to `echo  one`"],
        ),
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
        ("the user by name", &edit("RUN", "USER root\nRUN"), &[], &["3: USER: set to root"]),
        ("a folder on the way of another", &edit("WORKDIR /w", "WORKDIR /\nWORKDIR w"), &[], &[]),
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
        ("the network as it is", &edit("RUN", "RUN --network=default"), &[], &[]),
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
        ("a cache's mode", &edit("target=/c", "target=/c,mode=0700"), &[], &[
            "stage-1 2: --mount=type=cache,target=/c from, source, uid, gid or mode: changed",
        ]),
        // Where a cache starts from is in no key.
        ("a cache's owner", &edit("target=/c", "target=/c,uid=5"), &[], &[]),
        ("a cache's beginning", &edit("target=/c", "target=/c,from=seed"), &[], &[
            "stage-1 2: --mount=type=cache,target=/c from, source, uid, gid or mode: changed",
        ]),
        ("a mount in other words", &edit("type=cache,target=/c", "dst=/c,sharing=shared,type=cache"), &[], &[]),
        ("the order of secret and bind", &edit(
            "--mount=type=secret,id=s,target=/s --mount=type=bind,from=seed,target=/b",
            "--mount=type=bind,from=seed,target=/b --mount=type=secret,id=s,target=/s",
        ), &[], &["stage-1 3: order of --mount changed"]),
        ("what else a stage gave", &edit("echo 1 > /seed", "echo 1 > /seed; touch /etc/z"), &[], &[
            "seed 2: command: `echo 1 > /seed` to `echo 1 > /seed; touch /etc/z`",
            "stage-1 3: stage seed gave other files: etc/z (new)",
        ]),
        ("another image that is mounted", &edit("from=seed", "from=BASE"), &[], &[
            "stage-1 3: from: seed to busybox:test",
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
fn text_in_the_dockerfile() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nRUN <<EOF\necho one\necho two\nEOF\nCOPY <<A <<B /d/\na\nA\nb\nB\n",
        &[],
        &[],
    );
    let edit = |old: &'static str, new: &'static str| move |w: &World| w.edit(old, new);
    world.check(&[
        (
            "a line",
            &edit("echo two", "echo 2"),
            &[],
            &["2: command: `echo one\\necho two\\n` to `echo one\\necho 2\\n`"],
        ),
        (
            "a comment of the shell's",
            &edit("echo two", "# two\necho two"),
            &[],
            &["2: command: `echo one\\necho two\\n` to `echo one\\n# two\\necho two\\n`"],
        ),
        (
            "the word at the end",
            &|w| {
                w.case.dockerfile(&w.dockerfile.replace("EOF", "END"));
            },
            &[],
            &[],
        ),
        ("tabs that are taken away", &edit("<<EOF\necho one", "<<-EOF\n\techo one"), &[], &[]),
        ("one text of two", &edit("\nb\n", "\nc\n"), &[], &["3: heredoc: B changed"]),
        (
            "a text that a variable is put in",
            &edit("\na\n", "\n$X\n"),
            &[],
            &["3: heredoc: A changed"],
        ),
    ]);
}
