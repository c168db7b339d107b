//! What a container's supervisor and those who talk to it say to each other.
//!
//! Messages on a `SOCK_SEQPACKET` socket, so each is whole: a byte that says what it is, then bytes of a
//! stream, or JSON. The socket is called [`SOCKET`] and lies in the container's folder, open to its
//! owner alone; whoever starts a container has one without a name from the beginning.
//!
//! Whoever is connected hears of the end of the container; that is what waiting for it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rgraph_sys::channel;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::sandbox::{SandboxSpec, Stream};

/// The name of the socket in the container's folder.
pub(super) const SOCKET: &str = "control";
/// The message that makes a supervisor of a process that could also have been a runner; with it come
/// the container's lock and a [`Charge`].
pub(super) const CHARGE: &[u8] = b"charge";
/// With it comes the socket of a port of the host, in the order of the record; directly after the charge.
pub(super) const PORT: &[u8] = b"port";
/// Most bytes of a stream in one message.
pub(super) const MOST: usize = channel::MAX_MESSAGE - 1;

/// What a supervisor has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Charge {
    /// The container.
    pub record: Record,
    /// Its process. The streams are the supervisor's business.
    pub spec: SandboxSpec,
    /// The container's folder.
    pub folder: PathBuf,
    /// The file of the lock.
    pub lock: PathBuf,
    /// Height and width of its terminal, characters.
    pub size: (u16, u16),
    /// What the one who gives the charge wants to have.
    pub attach: Attach,
}

/// What is wanted of a process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attach {
    /// What is sent is its standard input.
    pub input: bool,
    /// What it prints is to be sent.
    pub output: bool,
}

/// What a supervisor is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The container's streams. No answer.
    Attach(Attach),
    /// Nothing more comes to be its standard input. No answer.
    InputEnd,
    /// The next end of this connection is none of its standard input. No answer.
    Leave,
    /// The terminal has another size. No answer.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// A signal for the first process. [`Word::Done`] or [`Word::Refused`].
    Signal(i32),
    /// All processes stand still until this connection ends. [`Word::Done`] or [`Word::Refused`].
    Pause,
    /// A handle of the root of the first process. It comes with [`Word::Done`]; or [`Word::Refused`].
    Root,
    /// One more program, an [`Exec`] that comes with this as a parcel. From now on the connection is
    /// that program's, not the container's: [`Word::Began`], or [`Word::Ended`].
    Exec,
}

/// One more program in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Its whole environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working folder.
    pub cwd: String,
    /// As that of [`super::Settings`].
    pub user: String,
    /// A terminal is its three streams.
    pub terminal: bool,
    /// Its standard input is not closed at once.
    pub open_input: bool,
    /// Height and width of its terminal, characters.
    pub size: (u16, u16),
    /// What is wanted of its streams.
    pub attach: Attach,
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The program runs.
    Began,
    /// What was asked for is done.
    Done,
    /// What was asked for cannot be done: why.
    Refused(String),
    /// Something that a person should know.
    Warning(String),
    /// It is over. The last word.
    Ended(End),
}

/// How a container, or a program in it, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its exit code; 128 and the signal that killed it; 125 to 127 for one that could not be run.
    pub code: i32,
    /// Why it could not be run, or what went wrong.
    pub reason: Option<String>,
    /// It never had a root: the kernel did not lay its layers over each other.
    #[serde(default)]
    pub no_root: bool,
}

impl End {
    /// Of a program that ran.
    pub fn of(code: i32) -> Self {
        Self { code, reason: None, no_root: false }
    }
}

/// What comes from a supervisor.
#[derive(Debug)]
pub enum Event {
    /// The program printed this.
    Output(Stream, Vec<u8>),
    /// Anything else.
    Word(Word),
}

/// What comes to a supervisor.
#[derive(Debug)]
pub(super) enum Asked {
    Input(Vec<u8>),
    Request(Request),
}

const JSON: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const INPUT: u8 = 3;
/// The longest text of an error that is told, bytes; quoted it still fits into a message.
const MOST_TEXT: usize = 2 << 10;

fn message(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(kind);
    message.extend_from_slice(bytes);
    message
}

fn json(word: &impl Serialize) -> Vec<u8> {
    // Plain data with text for keys: there is nothing that JSON cannot say.
    message(JSON, &serde_json::to_vec(word).unwrap_or_default())
}

/// Text of any length, as far as it fits.
pub(super) fn cut(mut text: String) -> String {
    if text.len() > MOST_TEXT {
        let mut end = MOST_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

impl Word {
    pub(super) fn encode(&self) -> Vec<u8> {
        json(self)
    }
}

pub(super) fn output(stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let kind = match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    };
    message(kind, bytes)
}

pub(super) fn send_input(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(MOST) {
        channel::send(socket, &message(INPUT, part), &[])?;
    }
    Ok(())
}

pub(super) fn send_request(
    socket: &OwnedFd,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    channel::send(socket, &json(request), fds)
}

fn damaged(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// The next thing a supervisor says, with the files that come with it; `None`: it is gone.
pub(super) fn hear(socket: &OwnedFd) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
    let Some((mut bytes, fds)) = channel::receive(socket)? else { return Ok(None) };
    let kind = bytes.remove(0);
    let event = match kind {
        STDOUT => Event::Output(Stream::Stdout, bytes),
        STDERR => Event::Output(Stream::Stderr, bytes),
        JSON => Event::Word(serde_json::from_slice(&bytes).map_err(damaged)?),
        _ => return Err(damaged("a message of an unknown kind")),
    };
    Ok(Some((event, fds)))
}

/// The next thing a supervisor is told, with the files that came with it; `None`: nobody is there.
pub(super) fn hear_asked(socket: impl AsFd) -> io::Result<Option<(Asked, Vec<OwnedFd>)>> {
    let Some((mut bytes, fds)) = channel::receive(socket)? else { return Ok(None) };
    let kind = bytes.remove(0);
    let asked = match kind {
        INPUT => Asked::Input(bytes),
        JSON => Asked::Request(serde_json::from_slice(&bytes).map_err(damaged)?),
        _ => return Err(damaged("a message of an unknown kind")),
    };
    Ok(Some((asked, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let (a, b) = channel::pair().unwrap();
        let end = Word::Ended(End { reason: Some(cut("\u{1}ä".repeat(5000))), ..End::of(7) });
        channel::send(&a, &end.encode(), &[]).unwrap();
        channel::send(&a, &output(Stream::Stderr, &[7; MOST]), &[]).unwrap();
        assert!(matches!(hear(&b).unwrap(), Some((Event::Word(w), _)) if w == end));
        let heard = hear(&b).unwrap();
        assert!(matches!(heard, Some((Event::Output(Stream::Stderr, t), _)) if t == [7; MOST]));
        send_input(&b, &[1; MOST + 1]).unwrap();
        send_request(&b, &Request::Resize { rows: 1, columns: 2 }, &[]).unwrap();
        channel::send(&b, &[9], &[]).unwrap();
        for length in [MOST, 1] {
            let heard = hear_asked(&a).unwrap();
            assert!(matches!(heard, Some((Asked::Input(t), _)) if t.len() == length));
        }
        let heard = hear_asked(&a).unwrap();
        assert!(matches!(heard, Some((Asked::Request(Request::Resize { columns: 2, .. }), _))));
        assert_eq!(hear_asked(&a).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(b);
        assert!(hear_asked(&a).unwrap().is_none());
    }
}
