//! Changes of instructions, stages and their order.

use rgraph_tests::need;

use super::world::{World, nothing};

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
    let named = d("d (owner 1:1 to 1234:1), d/a (owner 1:1 to 1234:1), d/b (owner 1:1 to 1234:1)");
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
        ("a destination that is no folder", &edit("COPY e /e/", "COPY e /e"), &[], &[
            "4: destination: /e/ to /e",
        ]),
        ("a source in other words", &edit("COPY e /e/", "COPY ./e/ /e/"), &[], &[]),
        ("an owner's name", &edit("--chown=1:1", "--chown=app:1"), &[], &[
            "3: --chown: 1:1 to app:1",
            &named,
            &named.replacen("4: step 3", "5: step 4", 1),
        ]),
        ("a mode in other digits", &edit("--chmod=644", "--chmod=0644"), &[], &[]),
        ("flags in another order", &edit("--chown=1:1 --chmod=644", "--chmod=644 --chown=1:1"), &[], &[]),
        ("the form of a list", &edit("COPY e /e/", "COPY [\"e\", \"/e/\"]"), &[], &[]),
        ("sources in another order", &edit("a b", "b a"), &[], &[
            "3: order of sources changed",
        ]),
        ("an exclusion that excludes nothing", &edit("COPY e", "COPY --exclude=z e"), &[], &[
            "4: --exclude: set to z",
        ]),
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
        ("a stage by its number", &edit("--from=build", "--from=0"), &[], &[]),
        ("a stage that nobody needs", &edit("FROM BASE\nCOPY", "FROM BASE AS idle\nRUN false\nFROM BASE\nCOPY"), &[], &[]),
        ("a stage's end as a stage", &edit("FROM BASE\nCOPY --from=build", "FROM build AS two\nFROM BASE\nCOPY --from=two"), &[], &[]),
        ("an empty folder", &edit("/o/l", "/o/l; mkdir /o/e"), &[], &[
            &command("; mkdir /o/e"),
            "stage-1 2: stage build gave other files: o/e (new)",
            "stage-1 3: step 2 above gave other files: o/e (new)",
            "stage-1 4: step 3 above gave other files: o/e (new)",
        ]),
        ("hard links", &edit("/o/l", "/o/l; ln /o/f /o/g"), &[], &[
            &command("; ln /o/f /o/g"),
            "stage-1 2: stage build gave other files: o/g (new)",
            "stage-1 3: step 2 above gave other files: o/g (new)",
            "stage-1 4: step 3 above gave other files: o/g (new)",
        ]),
        ("a folder's mode", &edit("/o/l", "/o/l; chmod 700 /o"), &[], &[
            &command("; chmod 700 /o"),
            "stage-1 2: stage build gave other files: o (mode 755 to 700)",
        ]),
        ("times", &edit("/o/l", "/o/l; touch -t 200001010000 /o/f"), &[], &[
            &command("; touch -t 200001010000 /o/f"),
        ]),
        ("another stage", &edit("FROM BASE\nCOPY --from=build", "FROM build AS two\nRUN echo 3 > /o/f\nFROM BASE\nCOPY --from=two"), &[], &[
            "two 1: not built here before",
            "stage-2 2: from: build to two",
            "stage-2 3: step 2 above gave other files: o/f",
            "stage-2 4: step 3 above gave other files: o/f",
        ]),
        ("another target", &nothing, &["--target=build"], &[]),
        ("the same instruction twice", &edit("RUN echo a > /a\n", "RUN echo a > /a\nRUN echo a > /a\n"), &[], &[
            "stage-1 4: this step is new",
            "stage-1 5: step 4 above is new",
        ]),
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
