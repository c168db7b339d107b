//! `--progress rawjson`: one JSON object per event, with the field names of BuildKit's client
//! (`client/graph.go`: `vertexes`, `statuses`, `logs`, `warnings`).
//!
//! These structs are the contract, the event enum is not. `digest` is a name of the step within
//! this build (`vertex:5`, `step:1`), not a hash. Log data are whole lines in base64, secrets
//! hidden, control bytes as the step wrote them.

use rgraph_solver::event::{Event, EventKind, Step, Stream, Timestamp};
use serde::Serialize;

use super::{Book, Entered, LogLine, StepInfo, View};

#[derive(Default, Serialize)]
struct Status {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<VertexStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<VertexLog>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<VertexWarning>,
}

#[derive(Serialize)]
struct Vertex {
    digest: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[derive(Serialize)]
struct VertexStatus {
    id: String,
    vertex: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "is_zero")]
    total: u64,
    current: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Serialize)]
struct VertexLog {
    vertex: String,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Serialize)]
struct VertexWarning {
    #[serde(skip_serializing_if = "String::is_empty")]
    vertex: String,
    level: u8,
    short: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// See the module.
#[derive(Default)]
pub struct RawJson;

impl View for RawJson {
    fn event(&mut self, book: &Book, event: &Event, entered: &Entered, out: &mut String) {
        let vertex = name(event.step);
        let mut status = Status {
            logs: entered.lines.iter().map(|l| log(&vertex, event.at, l)).collect(),
            ..Status::default()
        };
        let info = book.get(event.step);
        let status_of = |id: &str, name: &str, current, total, done: bool| VertexStatus {
            id: id.to_owned(),
            vertex: vertex.clone(),
            name: name.to_owned(),
            total,
            current,
            timestamp: time(event.at),
            completed: done.then(|| time(event.at)),
        };
        match &event.kind {
            EventKind::Log { .. } | EventKind::Keyed { .. } => {}
            // A second end of a step says nothing new.
            EventKind::Cached { .. }
            | EventKind::Finished
            | EventKind::Failed { .. }
            | EventKind::Cancelled
                if !entered.ended => {}
            EventKind::Pinned { what } => {
                status.statuses.push(status_of(&format!("resolve {what}"), "", 0, 0, true));
            }
            EventKind::Missed { reasons } => {
                let why = reasons.iter().map(|r| status_of(&format!("why: {r}"), "", 0, 0, true));
                status.statuses.extend(why);
            }
            EventKind::Progress { id, action, current, total } => {
                let done = *total > 0 && current >= total;
                status.statuses.push(status_of(id, action, *current, *total, done));
            }
            EventKind::Warning { text } => status.warnings.push(VertexWarning {
                vertex: vertex.clone(),
                level: 1,
                short: base64(text.as_bytes()),
            }),
            kind => {
                let error = match kind {
                    EventKind::Failed { message } => message.clone(),
                    // The words by which BuildKit's clients know it.
                    EventKind::Cancelled => "context canceled".to_owned(),
                    _ => String::new(),
                };
                let cached = matches!(kind, EventKind::Cached { .. });
                status.vertexes.extend(info.map(|i| state(i, &vertex, cached, error, event.at)));
            }
        }
        line(&status, out);
    }

    fn message(&mut self, text: &str, out: &mut String) {
        let w = VertexWarning { vertex: String::new(), level: 1, short: base64(text.as_bytes()) };
        line(&Status { warnings: vec![w], ..Status::default() }, out);
    }

    fn close(&mut self, _: &Book, _: Timestamp, _: &mut String) {}
}

fn state(info: &StepInfo, digest: &str, cached: bool, error: String, at: Timestamp) -> Vertex {
    let ended = info.ended;
    Vertex {
        digest: digest.to_owned(),
        name: info.name.clone(),
        // A cached step has an instant, as in BuildKit.
        started: info.started.or(ended.map(|_| at)).map(time),
        completed: ended.map(time),
        cached,
        error,
    }
}

fn log(vertex: &str, at: Timestamp, line: &LogLine) -> VertexLog {
    let mut data = line.bytes.clone();
    data.push(b'\n');
    VertexLog {
        vertex: vertex.to_owned(),
        stream: if line.stream == Stream::Stdout { 1 } else { 2 },
        data: base64(&data),
        timestamp: time(at),
    }
}

fn line(status: &Status, out: &mut String) {
    // Strings and numbers only: this cannot fail.
    if let Ok(text) = serde_json::to_string(status)
        && text != "{}"
    {
        out.push_str(&text);
        out.push('\n');
    }
}

fn name(step: Step) -> String {
    match step {
        Step::Vertex(v) => format!("vertex:{}", v.0),
        Step::Other(n) => format!("step:{n}"),
    }
}

fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.0)).map(|t| t.to_string()).unwrap_or_default()
}

fn base64(data: &[u8]) -> String {
    const ABC: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(data.len().div_ceil(3) * 4);
    for three in data.chunks(3) {
        let bits =
            three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let letter = ABC[(bits >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { letter as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Redactor;
    use super::super::testing::{announced, at, log, play, settings};
    use super::*;
    use crate::options::ProgressMode;

    #[test]
    fn base64_of_the_rfc() {
        for (text, want) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }

    #[test]
    fn one_object_per_event() {
        let s = settings(ProgressMode::RawJson, |s| s.secrets = Redactor::new([&b"hunter2"[..]]));
        let progress = |current| EventKind::Progress {
            id: "sha256:aa".into(),
            action: "downloading",
            current,
            total: 10,
        };
        let text = play(
            &s,
            [
                announced(1, "[1/2] FROM busybox"),
                at(1, 1, EventKind::Started),
                at(2, 1, progress(5)),
                at(3, 1, progress(10)),
                log(4, 1, "half "),
                log(5, 1, "a hunter2 line\n"),
                at(6, 1, EventKind::Warning { text: "w".into() }),
                at(7, 1, EventKind::Finished),
                announced(2, "x"),
                at(8, 2, EventKind::Failed { message: "exit code: 1".into() }),
            ],
        );
        insta::assert_snapshot!(text, @r##"
        {"vertexes":[{"digest":"vertex:1","name":"[1/2] FROM busybox"}]}
        {"vertexes":[{"digest":"vertex:1","name":"[1/2] FROM busybox","started":"2023-11-14T22:13:20.001Z"}]}
        {"statuses":[{"id":"sha256:aa","vertex":"vertex:1","name":"downloading","total":10,"current":5,"timestamp":"2023-11-14T22:13:20.002Z"}]}
        {"statuses":[{"id":"sha256:aa","vertex":"vertex:1","name":"downloading","total":10,"current":10,"timestamp":"2023-11-14T22:13:20.003Z","completed":"2023-11-14T22:13:20.003Z"}]}
        {"logs":[{"vertex":"vertex:1","stream":1,"data":"aGFsZiBhICoqKiBsaW5lCg==","timestamp":"2023-11-14T22:13:20.005Z"}]}
        {"warnings":[{"vertex":"vertex:1","level":1,"short":"dw=="}]}
        {"vertexes":[{"digest":"vertex:1","name":"[1/2] FROM busybox","started":"2023-11-14T22:13:20.001Z","completed":"2023-11-14T22:13:20.007Z"}]}
        {"vertexes":[{"digest":"vertex:2","name":"x"}]}
        {"vertexes":[{"digest":"vertex:2","name":"x","started":"2023-11-14T22:13:20.008Z","completed":"2023-11-14T22:13:20.008Z","error":"exit code: 1"}]}
        "##);
    }
}
