//! A web server on loopback whose answers a test writes down.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET /path?query`.
    pub line: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header, empty without one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Further header lines.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes of it.
    pub cut: Option<usize>,
    /// How long nothing more comes before the connection is closed.
    pub silence: Duration,
    /// The end of the body is the end of the connection: no length is said.
    pub unmeasured: bool,
}

impl Answer {
    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// Another status.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// With a header line.
    pub fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }
}

/// See the module. It ends with the test program.
pub struct Web {
    port: u16,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Web {
    /// Answers every request with what `answer` says.
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (log.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { port, log }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What was asked since the last time.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().expect("not poisoned"))
    }

    /// `GET /path` of what was asked since the last time.
    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|r| r.line).collect()
    }
}

/// One request a connection.
fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request) -> Answer + Send + Sync),
) {
    let mut reader = BufReader::new(&stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.trim().is_empty() => break,
            Ok(_) => head.push(line.trim().to_owned()),
        }
    }
    let Some(first) = head.first() else { return };
    let line = first.trim_end_matches(" HTTP/1.1").to_owned();
    let headers = head[1..].iter().filter_map(|l| l.split_once(':'));
    let headers = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let mut request = Request { line, headers, body: Vec::new() };
    let length = request.header("content-length").parse().unwrap_or(0);
    if reader.take(length).read_to_end(&mut request.body).is_err() {
        return;
    }
    log.lock().expect("not poisoned").push(request.clone());
    let a = answer(&request);
    let mut out = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", a.status);
    for h in &a.headers {
        out.push_str(h);
        out.push_str("\r\n");
    }
    if a.status != 304 && !a.unmeasured {
        out.push_str(&format!("Content-Length: {}\r\n", a.body.len()));
    }
    out.push_str("\r\n");
    let sent = a.cut.unwrap_or(a.body.len());
    let mut stream = &stream;
    // A client that went away has what it wanted.
    let _ = stream.write_all(out.as_bytes()).and_then(|()| stream.write_all(&a.body[..sent]));
    std::thread::sleep(a.silence);
}
