use std::collections::HashMap;

use rgraph_ir::op::{ActionRef, FileAction, FileOp, ImageSource, MkfileAction, ResolveMode};
use rgraph_ir::{Edge, Env, GraphBuilder, SnapshotId, VertexMeta};

use super::*;
use crate::event::Timestamp;
use crate::fake::{exec, image, local};
use crate::key::{Slot, fields, op_digest, pin_digest};
use crate::ports::{CacheError, Hit, Query, Record};
use crate::state::slots;

/// Knows what the test says.
#[derive(Default)]
struct Scripted {
    last: PastBuild,
    recipes: HashMap<CacheKey, KeyRecipe>,
    by_slot: HashMap<Slot, KeyRecipe>,
    files: Option<FileChanges>,
    tree: Option<FileChanges>,
    elsewhere: Vec<Elsewhere>,
}

impl ResultCache for Scripted {
    fn lookup(&self, _: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        Ok(None)
    }
    fn content(&self, _: CacheKey, _: &Selector) -> Result<Option<TreeDigest>, CacheError> {
        Ok(None)
    }
    fn record_content(&self, _: CacheKey, _: &Selector, _: TreeDigest) -> Result<(), CacheError> {
        Ok(())
    }
    fn canonical(&self, key: CacheKey) -> CacheKey {
        key
    }
    fn created(&self, _: &Query<'_>) -> Result<Option<Timestamp>, CacheError> {
        Ok(None)
    }
    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        Ok(self.by_slot.get(slot).cloned())
    }
    fn record(&self, _: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        Ok(None)
    }
    fn recipe(&self, key: CacheKey) -> Result<Option<KeyRecipe>, CacheError> {
        Ok(self.recipes.get(&key).cloned())
    }
    fn last_build(&self) -> PastBuild {
        self.last.clone()
    }
    fn changed_files(&self, _: &Selector, _: TreeDigest, _: TreeDigest) -> Option<FileChanges> {
        self.files.clone()
    }
    fn changed_tree(&self, _: CacheKey, _: Tree) -> Option<FileChanges> {
        self.tree.clone()
    }
    fn elsewhere(&self, _: &Slot, _: &Op, _: Option<&rgraph_ir::Platform>) -> Vec<Elsewhere> {
        self.elsewhere.clone()
    }
}

/// One stage: a base, and steps on it, each on the one before.
struct Stage {
    graph: Graph,
    recipes: Vec<KeyRecipe>,
}

impl Stage {
    fn new(base: &str, pin: &str, steps: Vec<(Op, &str)>) -> Self {
        let mut g = GraphBuilder::new();
        let total = steps.len() + 1;
        let meta = |i: usize, command: &str| VertexMeta {
            name: format!("[s {:>2}/{total}] {command}", i + 1),
            command: Some(command.into()),
            stage: Some("s".into()),
            ..VertexMeta::default()
        };
        let mut on = g.add(image(base), vec![], None, meta(0, "FROM"));
        for (i, (op, command)) in steps.into_iter().enumerate() {
            on = g.add(op, vec![Edge::main(on)], None, meta(i + 1, command));
        }
        let graph = g.finish();
        let mut recipes: Vec<KeyRecipe> = Vec::new();
        for (_, v) in graph.iter() {
            let pin = matches!(v.op, Op::Source(_)).then(|| pin.to_owned());
            let on = |e: &Edge| InputKey::Chain(recipes[e.vertex.at()].key());
            recipes.push(KeyRecipe {
                fields: fields(&v.op, None),
                op: match &pin {
                    Some(pin) => pin_digest(v.op.kind(), pin),
                    None => op_digest(&v.op, None),
                },
                pin,
                inputs: v.inputs.iter().map(on).collect(),
            });
        }
        Self { graph, recipes }
    }

    fn runs(commands: &[&'static str]) -> Self {
        Self::new("a", "p", commands.iter().map(|c| (exec(c, true, &[]), *c)).collect())
    }

    /// What a cache knows when this was the last build.
    fn built(&self) -> Scripted {
        let slots = slots(&self.graph, "");
        let step = |(id, v): (VertexId, &rgraph_ir::Vertex)| {
            let key = self.recipes[id.at()].key();
            let (slot, op) = (slots[id.at()].clone(), op_digest(&v.op, None));
            PastStep { slot, op, key, canonical: key, name: v.meta.name.clone() }
        };
        Scripted {
            last: PastBuild {
                steps: self.graph.iter().map(step).collect(),
                args: BTreeSet::from(["V".to_owned()]),
            },
            recipes: self.recipes.iter().map(|r| (r.key(), r.clone())).collect(),
            ..Scripted::default()
        }
    }

    /// Why step `at` runs; 0 is the base.
    fn why(&self, cache: &Scripted, at: usize) -> String {
        let args = BTreeSet::from(["V".to_owned()]);
        let explainer = Explainer::new(&self.graph, cache, "", &args);
        let inputs: Vec<_> = self.recipes[at]
            .inputs
            .iter()
            .map(|_| (Tree::Snapshot(SnapshotId(1)), self.recipes[at - 1].pin.clone()))
            .collect();
        let vertex = VertexId(at as u32);
        let q = Question { vertex, recipe: &self.recipes[at], inputs: &inputs, expired: None };
        let reasons = explainer.explain(&q);
        assert!(reasons.iter().all(|r| !r.cause().is_empty()));
        reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn steps_are_found_again_whatever_was_put_in_or_taken_out() {
    let old = Stage::runs(&["a", "b", "c"]);
    let table: [(&[&'static str], &[&str]); 6] = [
        (&["a", "b", "c"], &["built before, but the result is gone"; 3]),
        (
            &["a", "x", "c"],
            &[
                "built before, but the result is gone",
                "command: `b` to `x`",
                "step 3 above gave another result",
            ],
        ),
        (
            &["a", "x", "b", "c"],
            &[
                "built before, but the result is gone",
                "this step is new",
                "step 3 above is new",
                "step 4 above gave another result",
            ],
        ),
        (
            &["a", "c"],
            &["built before, but the result is gone", "`[s  3/4] b` is no longer below it"],
        ),
        (
            &["b", "a", "c"],
            &[
                "it stood on `[s  2/4] a`, now on step 1 above",
                "it stood on `[s  1/4] FROM`, now on step 2 above",
                "it stood on `[s  3/4] b`, now on step 3 above",
            ],
        ),
        (&["a", "b", "c", "d"], &["", "", "", "this step is new"]),
    ];
    for (commands, want) in table {
        let new = Stage::runs(commands);
        for (i, want) in want.iter().enumerate().filter(|(_, w)| !w.is_empty()) {
            assert_eq!(new.why(&old.built(), i + 1), *want, "{commands:?}, step {}", i + 1);
        }
    }
}

#[test]
fn a_base_moves_or_is_another() {
    let step = || vec![(exec("a", true, &[]), "RUN a")];
    let old = Stage::new("docker.io/library/debian:12", "sha256:a1b2", step());
    let moved = Stage::new("docker.io/library/debian:12", "sha256:c3d4", step());
    assert_eq!(moved.why(&old.built(), 1), "base debian:12 moved a1b2 to c3d4");
    let at = |digest: &str| {
        Stage::new(&format!("docker.io/library/debian:12@sha256:{digest}"), digest, step())
    };
    assert_eq!(at("e5").why(&at("f6").built(), 1), "base debian:12 moved f6 to e5");
    let other = Stage::new("docker.io/me/alpine@sha256:c3", "sha256:c3d4", step());
    assert_eq!(other.why(&old.built(), 1), "base: debian:12 to me/alpine");
}

#[test]
fn the_instruction_itself() {
    let run = |args: &[&str], env: &[(&str, &str)], cwd: &str, text: &'static str| {
        let Op::Exec(mut op) = exec("", true, &[]) else { unreachable!() };
        op.args = args.iter().map(|a| (*a).to_owned()).collect();
        op.env = Env::from_iter(env.iter().copied());
        op.cwd = cwd.to_owned();
        Stage::new("a", "p", vec![(Op::Exec(op), text)])
    };
    let sh = ["/bin/sh", "-c", "make"];
    let env = [("A", "1"), ("V", "1")];
    let old = run(&sh, &env, "/", "RUN make");
    let table = [
        (run(&["/bin/sh", "-c", "cc"], &env, "/", "RUN cc"), "command: `make` to `cc`"),
        (run(&["bash", "-c", "make"], &env, "/", "RUN make"), "SHELL: `/bin/sh -c` to `bash -c`"),
        (
            run(
                &["bash", "-c", "make"],
                &env,
                "/",
                "RUN --network=none [\"bash\", \"-c\", \"make\"]",
            ),
            "command: `/bin/sh -c make` to `bash -c make`",
        ),
        (run(&sh, &[("A", "1"), ("V", "2")], "/", "RUN make"), "ARG V: 1 to 2"),
        (run(&sh, &[("A", "2"), ("V", "1")], "/", "RUN make"), "ENV A: 1 to 2"),
        (run(&sh, &env[..1], "/", "RUN make"), "ARG V: no longer 1"),
        (run(&sh, &[("V", "1"), ("A", "1")], "/", "RUN make"), "order of the environment changed"),
        (run(&sh, &env, "/x", "RUN make"), "WORKDIR: / to /x"),
    ];
    for (new, want) in &table {
        assert_eq!(new.why(&old.built(), 1), *want);
    }
}

#[test]
fn files_of_inputs() {
    let inline = {
        let data = std::sync::Arc::from(&b"x"[..]);
        let (path, timestamp) = ("/f".to_owned(), None);
        let kind = FileActionKind::Mkfile(MkfileAction {
            path,
            mode: 0o644,
            data,
            owner: None,
            timestamp,
        });
        Op::File(FileOp { actions: vec![FileAction { base: ActionRef::Scratch, kind }] })
    };
    let mut some = FileChanges::default();
    for (path, fate) in [
        ("a", FileFate::Changed),
        ("b", FileFate::New),
        ("c", FileFate::Mode(0o644, 0o755)),
        ("d", FileFate::Gone),
        ("", FileFate::Owner((0, 0), (5, 5))),
    ] {
        some.push(path.as_bytes(), fate);
    }
    let named = "a changed, b is new, c: mode 644 to 755 and 2 more";
    let brief = "a, b (new), c (mode 644 to 755) and 2 more";
    let of_stage = format!("stage other gave other files: {brief}");
    let table = [
        (local("context"), None, Some(&some), named.to_owned()),
        (local("libs"), None, Some(&some), format!("context libs: {named}")),
        (local("context"), None, None, "/src of the context changed".to_owned()),
        (inline, None, Some(&some), format!("heredoc: {named}")),
        (exec("x", false, &[]), Some("other"), Some(&some), of_stage),
        (exec("x", false, &[]), Some("other"), None, "stage other gave another result".to_owned()),
    ];
    for (from, stage, files, want) in table {
        let mut g = GraphBuilder::new();
        let stage = stage.map(Into::into);
        let meta = VertexMeta { name: "[x 1/1] X".into(), stage, ..VertexMeta::default() };
        let input = g.add(from, vec![], None, meta);
        let meta = VertexMeta { stage: Some("s".into()), ..VertexMeta::default() };
        let op = exec("c", false, &["/src"]);
        g.add(op.clone(), vec![Edge::main(input)], None, meta);
        let graph = g.finish();
        let recipe = |tree: &[u8]| KeyRecipe {
            fields: fields(&op, None),
            op: op_digest(&op, None),
            pin: None,
            inputs: vec![InputKey::Content(Selector::path("/src"), TreeDigest::of(tree))],
        };
        let by_slot = HashMap::from([(slots(&graph, "")[1].clone(), recipe(b"old"))]);
        let cache = Scripted { by_slot, files: files.cloned(), ..Scripted::default() };
        let args = BTreeSet::new();
        let explainer = Explainer::new(&graph, &cache, "", &args);
        let (new, inputs) = (recipe(b"new"), [(Tree::Context(0), None)]);
        let q = Question { vertex: VertexId(1), recipe: &new, inputs: &inputs, expired: None };
        let got = explainer.explain(&q);
        assert_eq!(got.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
        assert_eq!(got[0].files().is_some(), files.is_some());
    }
}

#[test]
fn what_is_not_known_is_not_guessed() {
    let new = Stage::runs(&["a"]);
    let mut cache = Scripted::default();
    assert_eq!(new.why(&cache, 1), "not built here before");
    let one = |cache: Option<&str>| Elsewhere {
        cache: cache.map(str::to_owned),
        platform: "linux/arm64".into(),
    };
    cache.elsewhere = vec![one(None), one(Some("D"))];
    assert_eq!(
        new.why(&cache, 1),
        "not built here before; it was for linux/arm64, the cache of D has it for linux/arm64"
    );
    // The step was there, its recipe is not any more.
    let mut cache = Stage::runs(&["b"]).built();
    cache.recipes.clear();
    assert_eq!(new.why(&cache, 1), "changed, but what it was before is not known any more");
    let mut cache = Stage::runs(&["b"]).built();
    cache.tree = Some(FileChanges::default());
    let two = Stage::runs(&["x", "a"]);
    cache.last.steps.push(PastStep {
        slot: Slot("0://1:s/exec#2".into()),
        op: op_digest(&exec("a", true, &[]), None),
        key: CacheKey::of(b"a"),
        canonical: CacheKey::of(b"a"),
        name: String::new(),
    });
    let mut old = two.recipes[2].clone();
    old.inputs = vec![InputKey::Chain(CacheKey::of(b"unknown"))];
    cache.recipes.insert(CacheKey::of(b"a"), old);
    // A difference that names no file is none.
    assert_eq!(two.why(&cache, 2), "step 2 above gave another result");
}

#[test]
fn rules_explain_what_they_hide() {
    let changes = |list: &[(&str, FileFate)]| {
        let mut all = FileChanges::default();
        for (path, fate) in list {
            all.push(path.as_bytes(), fate.clone());
        }
        all
    };
    let judged = |list: &[(&str, FileFate)], old: &[&str], new: &[&str]| {
        let owned = |l: &[&str]| l.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
        let mut all = changes(list);
        judge_rules(&mut all, &owned(old), &owned(new));
        all.to_string()
    };
    let gone = [("src/a.o", FileFate::Gone)];
    let new = [("src/a.o", FileFate::New)];
    assert_eq!(judged(&gone, &[], &["**/*.o"]), "src/a.o: the ignore rule `**/*.o` hides it now");
    assert_eq!(judged(&gone, &[], &["**/*.o", "!src/a.o"]), "src/a.o is gone");
    assert_eq!(judged(&gone, &["*.x"], &["*.x"]), "src/a.o is gone");
    assert_eq!(
        judged(&new, &["src"], &["src", "!src/a.o"]),
        "src/a.o: no ignore rule `src` hides it any more"
    );
    assert_eq!(judged(&new, &["lib"], &[]), "src/a.o is new");
}

#[test]
fn an_image_that_is_copied_from_is_a_base_too() {
    let mut g = GraphBuilder::new();
    let op = |name: &str| {
        Op::Source(SourceOp::Image(ImageSource {
            reference: name.to_owned(),
            resolve: ResolveMode::Default,
        }))
    };
    let from = g.add(op("docker.io/library/busybox:1"), vec![], None, VertexMeta::default());
    let run = exec("c", false, &["/bin"]);
    g.add(run.clone(), vec![Edge::main(from)], None, VertexMeta::default());
    let graph = g.finish();
    let slots = slots(&graph, "");
    let old_source = KeyRecipe {
        fields: fields(&op("docker.io/library/busybox:1"), None),
        op: [0; 32],
        pin: Some("chain:a1".into()),
        inputs: Vec::new(),
    };
    let recipe = |tree: &[u8]| KeyRecipe {
        fields: fields(&run, None),
        op: op_digest(&run, None),
        pin: None,
        inputs: vec![InputKey::Content(Selector::path("/bin"), TreeDigest::of(tree))],
    };
    let cache = Scripted {
        by_slot: HashMap::from([
            (slots[0].clone(), old_source),
            (slots[1].clone(), recipe(b"old")),
        ]),
        ..Scripted::default()
    };
    let args = BTreeSet::new();
    let (new, inputs) = (recipe(b"new"), [(Tree::Context(0), Some("chain:c3".to_owned()))]);
    let q = Question { vertex: VertexId(1), recipe: &new, inputs: &inputs, expired: None };
    let got = Explainer::new(&graph, &cache, "", &args).explain(&q);
    assert_eq!(got[0].to_string(), "base busybox:1 moved a1 to c3");
}

/// Two builds in one graph whose stages have one name: a step more in the first moves none of the second.
#[test]
fn units_have_places_of_their_own() {
    let graph = |first: &[&str]| {
        let mut g = GraphBuilder::new();
        for (unit, commands) in [("a", first), ("b", &["x", "y"])] {
            for command in commands {
                let meta = VertexMeta {
                    stage: Some("s".into()),
                    unit: Some(unit.into()),
                    ..VertexMeta::default()
                };
                g.add(exec(&format!("{unit}{command}"), true, &[]), vec![], None, meta);
            }
        }
        slots(&g.finish(), "")
    };
    let (before, after) = (graph(&["1"]), graph(&["1", "2"]));
    assert_eq!(before[1..], after[2..]);
}
