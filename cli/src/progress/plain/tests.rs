//! What the plain view shows.

use super::*;
use crate::options::ProgressMode;
use crate::progress::Redactor;
use crate::progress::testing::{announced, at, log, play, settings};
use rgraph_solver::MissReason;
use rgraph_solver::event::Stream;
use rgraph_solver::explain::{FileChanges, FileFate};
use rgraph_solver::ports::Origin;

fn screen(events: impl IntoIterator<Item = Event>) -> String {
    play(&settings(ProgressMode::Plain, |_| ()), events)
}

fn started(ms: u64, v: u32) -> Event {
    at(ms, v, EventKind::Started)
}

fn finished(ms: u64, v: u32) -> Event {
    at(ms, v, EventKind::Finished)
}

#[test]
fn buildkits_form() {
    let mut changes = FileChanges::default();
    changes.push(b"src/a.c", FileFate::Changed);
    let missed = EventKind::Missed { reasons: vec![MissReason::Files { whose: None, changes }] };
    let fail =
        EventKind::Failed { message: "process \"make\" did not complete: exit code: 2".into() };
    let text = screen([
        announced(7, "[build 1/3] FROM busybox"),
        announced(8, "[build 2/3] RUN make"),
        announced(9, "[build 3/3] COPY a b"),
        at(10, 7, EventKind::Cached { origin: Origin::Local }),
        at(11, 8, missed),
        started(12, 8),
        log(135, 8, "compiling a.c\ncompi"),
        log(140, 8, "ling b.c\n"),
        at(150, 8, EventKind::Log { stream: Stream::Stderr, data: b"oh no".to_vec() }),
        at(412, 8, fail),
        at(413, 9, EventKind::Cancelled),
    ]);
    insta::assert_snapshot!(text, @r##"
    #1 [build 1/3] FROM busybox
    #1 CACHED

    #2 [build 2/3] RUN make
    #2 why: src/a.c changed
    #2 0.123 compiling a.c
    #2 0.128 compiling b.c
    #2 0.400 oh no
    #2 ERROR: process "make" did not complete: exit code: 2
    "##);
}

#[test]
fn steps_take_turns() {
    let text = screen([
        announced(1, "[a 1/1] RUN one"),
        announced(2, "[b 1/1] RUN two"),
        started(0, 1),
        started(1, 2),
        log(10, 1, "one 1\n"),
        log(11, 2, "two 1\n"),
        log(12, 1, "one 2\n"),
        log(13, 2, "two 2\ntwo half"),
        log(900, 2, " whole\n"),
        log(901, 1, "one 3\n"),
        finished(1000, 2),
        finished(1100, 1),
    ]);
    insta::assert_snapshot!(text, @r##"
    #1 [a 1/1] RUN one
    #1 0.010 one 1
    #1 0.012 one 2
    #1 ...

    #2 [b 1/1] RUN two
    #2 0.010 two 1
    #2 0.012 two 2
    #2 0.899 two half whole
    #2 DONE 1.0s

    #1 [a 1/1] RUN one
    #1 0.901 one 3
    #1 DONE 1.1s
    "##);
}

#[test]
fn control_bytes_secrets_and_colours() {
    let s = settings(ProgressMode::Plain, |s| s.secrets = Redactor::new([&b"hunter2"[..]]));
    let events = || {
        [
            announced(1, "RUN x\x1b[2J"),
            started(0, 1),
            log(1, 1, "a\x1b[31mred \x1b[2Jhun"),
            log(2, 1, "ter2\n10%\r20%\r30%\n"),
            finished(3, 1),
        ]
    };
    insta::assert_snapshot!(play(&s, events()), @r##"
    #1 RUN x^[[2J
    #1 0.002 ared ^[[2J***
    #1 0.002 10%
    #1 0.002 20%
    #1 0.002 30%
    #1 DONE 0.0s
    "##);
    let coloured = Settings { colours: true, ..s };
    assert!(play(&coloured, events()).contains("a\x1b[31mred ^[[2J***\x1b[0m\n"));
}

#[test]
fn held_back_lines_come_without_another_event() {
    let s = settings(ProgressMode::Plain, |_| ());
    let (mut view, mut book) = (Plain::new(&s), Book::new(s.secrets.clone(), 5));
    let mut out = String::new();
    for e in [
        announced(1, "one"),
        announced(2, "two"),
        started(0, 1),
        started(1, 2),
        log(2, 2, "waits\n"),
    ] {
        let entered = book.enter(&e);
        view.event(&book, &e, &entered, &mut out);
    }
    view.tick(&book, started(400, 1).at, &mut out);
    assert_eq!(out, "#1 one\n");
    view.tick(&book, started(500, 1).at, &mut out);
    assert_eq!(out, "#1 one\n#1 ...\n\n#2 two\n#2 0.001 waits\n");
}

#[test]
fn what_comes_late_is_shown_and_an_end_counts_once() {
    let text = screen([
        announced(1, "RUN x"),
        started(0, 1),
        finished(5, 1),
        finished(5, 1),
        at(6, 1, EventKind::Cancelled),
        at(7, 1, EventKind::Warning { text: "the cache is full".into() }),
    ]);
    insta::assert_snapshot!(text, @r##"
    #1 RUN x
    #1 DONE 0.0s

    #1 RUN x
    #1 WARN: the cache is full
    "##);
}

#[test]
fn long_output_is_clipped_with_a_note() {
    let s = settings(ProgressMode::Plain, |s| {
        s.clip = 100;
        s.log_hint = Some("rgraph logs x".into());
    });
    let logs = (0..1000).map(|i| log(i, 1, "0123456789\n"));
    let text = play(
        &s,
        [announced(1, "[a 2/3] RUN x"), started(0, 1)]
            .into_iter()
            .chain(logs)
            .chain([finished(2000, 1)]),
    );
    assert_eq!(text.matches("0123456789").count(), 9);
    assert_eq!(
        text.matches("#1 [output clipped at 100 bytes; all of it: rgraph logs x '[a 2/3]']\n")
            .count(),
        1
    );
    assert!(text.ends_with("#1 DONE 2.0s\n\n"), "{text}");
}

#[test]
fn transfers_are_thinned() {
    let p = |ms, current| {
        at(
            ms,
            1,
            EventKind::Progress {
                id: "sha256:aa".into(),
                action: "downloading",
                current,
                total: 5_000_000,
            },
        )
    };
    let text = screen(
        [announced(1, "[1/1] FROM busybox"), started(0, 1)]
            .into_iter()
            .chain((0..100).map(|i| p(i * 80, i * 50_000)))
            .chain([p(8100, 5_000_000), p(8200, 5_000_000), finished(8300, 1)]),
    );
    insta::assert_snapshot!(text, @r##"
    #1 [1/1] FROM busybox
    #1 downloading sha256:aa 650.00kB / 5.00MB 1.0s
    #1 downloading sha256:aa 3.80MB / 5.00MB 6.1s
    #1 downloading sha256:aa 5.00MB / 5.00MB 8.1s done
    #1 DONE 8.3s
    "##);
}

#[test]
fn the_lines_of_one_step_never_mix_with_anothers() {
    // Two steps with interleaved halves, in every turn: each line is whole and its own.
    let mut events = vec![announced(1, "one"), announced(2, "two"), started(0, 1), started(0, 2)];
    for i in 0..200 {
        events.push(log(i * 40, 1, "aaaa"));
        events.push(log(i * 40 + 1, 2, "bbbb"));
        if i % 3 == 0 {
            events.push(log(i * 40 + 2, 1, "\n"));
            events.push(log(i * 40 + 3, 2, "\n"));
        }
    }
    events.push(finished(10_000, 1));
    events.push(finished(10_000, 2));
    let text = screen(events);
    for line in text.lines() {
        assert!(!(line.contains('a') && line.contains('b')) || line.contains("[output"), "{line}");
        let own = line.strip_prefix("#1 ").or(line.strip_prefix("#2 "));
        assert!(line.is_empty() || own.is_some(), "{line}");
    }
    assert_eq!(text.matches("aaaa").count(), 200);
    assert_eq!(text.matches("bbbb").count(), 200);
}
