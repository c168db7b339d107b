//! A way to a server that holds one request back until it is let through.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Armed,
    Holding,
    Open,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn set(&self, to: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.changed.notify_all();
    }

    fn wait(&self, most: Duration, until: impl Fn(State) -> bool) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, most, |s| !until(*s));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Passes connections on; the first request that begins with the given text waits.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    shared: Arc<Shared>,
}

impl Gate {
    /// A gate before `server`, `HOST:PORT`. Its threads end with the connections and the test.
    pub fn before(server: &str, request: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { state: Mutex::new(State::Armed), changed: Condvar::new() });
        let (server, request, held) = (server.to_owned(), request.to_owned(), shared.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&server) else { return };
                let (request, held) = (request.clone(), held.clone());
                let (from, to) = (client.try_clone(), there.try_clone());
                std::thread::spawn(move || {
                    pass(client, there, |bytes| hold(bytes, &request, &held))
                });
                if let (Ok(client), Ok(there)) = (from, to) {
                    std::thread::spawn(move || pass(there, client, |_| ()));
                }
            }
        });
        Self { port, shared }
    }

    /// `127.0.0.1:PORT/name`.
    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Waits until the request is held.
    pub fn wait(&self) {
        let there = self.shared.wait(Duration::from_secs(60), |s| s == State::Holding);
        assert!(there, "the request never came");
    }

    /// Lets it through.
    pub fn open(&self) {
        self.shared.set(State::Open);
    }
}

fn hold(bytes: &[u8], request: &str, shared: &Shared) {
    let armed = *shared.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Armed;
    if armed && bytes.starts_with(request.as_bytes()) {
        shared.set(State::Holding);
        shared.wait(Duration::from_secs(120), |s| s == State::Open);
    }
}

/// A request begins with the bytes of one read: clients wait for the answer to the one before.
fn pass(mut from: TcpStream, mut to: TcpStream, seen: impl Fn(&[u8])) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        seen(&buf[..n]);
        if to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Write).unwrap_or(());
}
