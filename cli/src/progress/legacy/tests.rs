//! What the legacy view shows.

use rgraph_ir::CacheKey;
use rgraph_solver::EventSink as _;
use rgraph_solver::ports::Origin;

use super::*;
use crate::options::ProgressMode;
use crate::progress::Progress;
use crate::progress::testing::{Paper, announced, at, log, settings};

fn line(text: &str, vertices: &[u32]) -> ScriptLine {
    ScriptLine {
        text: text.to_owned(),
        from: text.starts_with("FROM"),
        stands_on: None,
        run: text.starts_with("RUN"),
        vertices: vertices.iter().map(|v| VertexId(*v)).collect(),
    }
}

fn keyed(ms: u64, v: u32) -> Event {
    at(ms, v, EventKind::Keyed { key: CacheKey::from_bytes([v as u8 * 17; 32]) })
}

fn ran(ms: u64, v: u32) -> [Event; 3] {
    [keyed(ms, v), at(ms, v, EventKind::Started), at(ms + 1, v, EventKind::Finished)]
}

fn screen(clip: usize, script: &[ScriptLine], events: impl IntoIterator<Item = Event>) -> String {
    let s = settings(ProgressMode::Legacy, |s| {
        s.clip = clip;
        s.log_hint = Some("rgraph logs x".into());
    });
    let paper = Paper::default();
    let progress = Progress::new(&s, Box::new(paper.clone()));
    progress.script(script.to_vec());
    for e in events {
        progress.emit(e);
    }
    progress.close();
    paper.text()
}

#[test]
fn the_tutorials_form() {
    let script = [
        line("ARG B=debian", &[]),
        line("FROM $B", &[1]),
        line("ENV A=1", &[]),
        line("COPY a b", &[2]),
        line("RUN make", &[3]),
        line("CMD [\"x\"]", &[]),
    ];
    let cached = |v| [keyed(0, v), at(0, v, EventKind::Cached { origin: Origin::Local })];
    let events = [announced(1, "x"), announced(2, "y"), announced(3, "z")].into_iter();
    let events = events.chain(cached(1)).chain(cached(2)).chain([
        keyed(1, 3),
        at(1, 3, EventKind::Started),
        log(2, 3, "one\x1b[2J\ntwo"),
        at(3, 3, EventKind::Warning { text: "slow".into() }),
        keyed(4, 3),
        at(4, 3, EventKind::Finished),
    ]);
    insta::assert_snapshot!(screen(1000, &script, events), @r#"
    Step 1/6 : ARG B=debian
    Step 2/6 : FROM $B
     ---> 111111111111
    Step 3/6 : ENV A=1
     ---> 111111111111
    Step 4/6 : COPY a b
     ---> Using cache
     ---> 222222222222
    Step 5/6 : RUN make
     ---> Running in 333333333333
    one^[[2J
     ---> [Warning] slow
    two
    Removing intermediate container 333333333333
     ---> 333333333333
    Step 6/6 : CMD ["x"]
     ---> 333333333333
    "#);
}

#[test]
fn steps_beside_each_other_come_in_the_order_of_the_file() {
    let script = [
        line("FROM a AS one", &[1]),
        line("RUN one", &[2]),
        line("FROM a", &[]),
        line("RUN two", &[3]),
        line("COPY --from=one x y", &[4, 5]),
    ];
    let events = ran(0, 1).into_iter().chain([
        keyed(1, 2),
        at(1, 2, EventKind::Started),
        keyed(2, 3),
        at(2, 3, EventKind::Started),
        log(3, 3, "two\n"),
        log(4, 2, "one\n"),
        at(5, 3, EventKind::Finished),
        log(6, 2, "one again\n"),
        at(7, 2, EventKind::Finished),
    ]);
    let events = events.chain(ran(8, 4)).chain(ran(9, 5));
    insta::assert_snapshot!(screen(1000, &script, events), @r"
    Step 1/5 : FROM a AS one
     ---> 111111111111
    Step 2/5 : RUN one
     ---> Running in 222222222222
    one
    one again
    Removing intermediate container 222222222222
     ---> 222222222222
    Step 3/5 : FROM a
    Step 4/5 : RUN two
     ---> Running in 333333333333
    two
    Removing intermediate container 333333333333
     ---> 333333333333
    Step 5/5 : COPY --from=one x y
     ---> 555555555555
    ");
}

#[test]
fn an_equal_line_has_the_id_of_the_first() {
    let second = ScriptLine { stands_on: Some(0), ..line("FROM a", &[]) };
    let script = [line("FROM a", &[1]), line("RUN one", &[2]), second, line("RUN one", &[])];
    insta::assert_snapshot!(screen(1000, &script, ran(0, 1).into_iter().chain(ran(1, 2))), @r"
    Step 1/4 : FROM a
     ---> 111111111111
    Step 2/4 : RUN one
     ---> Running in 222222222222
    Removing intermediate container 222222222222
     ---> 222222222222
    Step 3/4 : FROM a
     ---> 111111111111
    Step 4/4 : RUN one
     ---> Using cache
     ---> 222222222222
    ");
}

#[test]
fn a_failure_further_down_is_shown() {
    let script = [line("FROM a", &[1]), line("RUN one", &[2]), line("RUN two", &[3])];
    let events = ran(0, 1).into_iter().chain([
        keyed(1, 2),
        at(1, 2, EventKind::Started),
        keyed(1, 3),
        at(1, 3, EventKind::Started),
        log(2, 3, "oh no\n"),
        at(3, 3, EventKind::Failed { message: "exit code: 1".into() }),
        at(4, 2, EventKind::Cancelled),
    ]);
    insta::assert_snapshot!(screen(1000, &script, events), @r"
    Step 1/3 : FROM a
     ---> 111111111111
    Step 2/3 : RUN one
     ---> Running in 222222222222
    Step 3/3 : RUN two
     ---> Running in 333333333333
    oh no
    ");
}

#[test]
fn settings_alone_are_shown() {
    let script = [line("FROM scratch", &[]), line("CMD [\"x\"]", &[])];
    assert_eq!(screen(9, &script, []), "Step 1/2 : FROM scratch\nStep 2/2 : CMD [\"x\"]\n");
}

#[test]
fn what_is_held_back_is_bounded() {
    let script = [line("RUN one", &[1]), line("RUN two", &[2])];
    let many = (0..10_000).map(|i| log(i, 2, &format!("{}\n", "x".repeat(99))));
    let events = [keyed(0, 1), at(0, 1, EventKind::Started), at(0, 2, EventKind::Started)];
    let events = events
        .into_iter()
        .chain(many)
        .chain([at(1, 1, EventKind::Finished), at(2, 2, EventKind::Finished)]);
    let text = screen(1 << 30, &script, events);
    assert_eq!(text.matches("[output clipped; all of it: rgraph logs x]\n").count(), 1);
    assert!(text.len() > HELD - 100 && text.len() < HELD + 1000, "{}", text.len());
    let shown = (0..100).map(|i| log(i, 1, "0123456789\n"));
    let text = screen(100, &script, [at(0, 1, EventKind::Started)].into_iter().chain(shown));
    assert_eq!((text.matches("0123456789").count(), text.matches("clipped").count()), (9, 1));
}
