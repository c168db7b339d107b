//! The near ends of a process's streams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rgraph_sys::{channel, terminal};

use super::super::protocol::MOST;
use crate::sandbox::{Input, Stream};

/// What is given to the process.
pub(super) struct Far {
    pub input: Input,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// What `input` refers to.
    pub fds: Vec<OwnedFd>,
}

/// A terminal's way to us.
enum Screen {
    /// There is none, or it is silent for good.
    None,
    /// It will be sent here.
    Awaited(OwnedFd),
    /// It is here.
    Here(OwnedFd),
}

/// The streams of a process.
pub(super) struct Streams {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    screen: Screen,
    /// Without a terminal: its standard input.
    input: Option<OwnedFd>,
    /// What it has yet to read.
    pending: Vec<u8>,
    /// Its standard input ends after that.
    ends: bool,
    size: (u16, u16),
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Stdout,
    Stderr,
    Screen,
    Input,
}

impl Streams {
    /// New ones. With a terminal, that is all three of them.
    pub fn new(with_terminal: bool, open_input: bool, size: (u16, u16)) -> io::Result<(Self, Far)> {
        let (stdout, their_stdout) = channel::pipe()?;
        let (stderr, their_stderr) = channel::pipe()?;
        let (mut screen, mut input) = (Screen::None, None);
        let mut far =
            Far { input: Input::Null, stdout: their_stdout, stderr: their_stderr, fds: Vec::new() };
        if with_terminal {
            let (ours, theirs) = channel::pair()?;
            far.fds.push(theirs);
            far.input = Input::Terminal { socket: 0, rows: size.0, columns: size.1 };
            screen = Screen::Awaited(ours);
        } else if open_input {
            let (theirs, ours) = channel::pipe()?;
            channel::set_nonblocking(&ours)?;
            far.fds.push(theirs);
            far.input = Input::Pipe(0);
            input = Some(ours);
        }
        for end in [&stdout, &stderr] {
            channel::set_nonblocking(end)?;
        }
        let (stdout, stderr) = (Some(stdout), Some(stderr));
        let near = Self { stdout, stderr, screen, input, pending: Vec::new(), ends: false, size };
        Ok((near, far))
    }

    /// What can be waited for: what it prints when `listening`, and room for what it has to read.
    pub fn sides(
        &self,
        listening: bool,
    ) -> impl Iterator<Item = (Side, std::os::fd::BorrowedFd<'_>)> {
        let out = [
            (Side::Stdout, self.stdout.as_ref()),
            (Side::Stderr, self.stderr.as_ref()),
            (
                Side::Screen,
                match &self.screen {
                    Screen::None => None,
                    Screen::Awaited(fd) | Screen::Here(fd) => Some(fd),
                },
            ),
        ];
        let awaited = matches!(self.screen, Screen::Awaited(_));
        let out = out
            .into_iter()
            .filter(move |(side, _)| listening || (awaited && *side == Side::Screen));
        let to = (!self.pending.is_empty()).then(|| (Side::Input, self.entry()));
        out.chain(to).filter_map(|(side, fd)| Some((side, fd?.as_fd())))
    }

    /// Where input goes; `None`: nowhere, or not yet.
    fn entry(&self) -> Option<&OwnedFd> {
        match &self.screen {
            Screen::Here(fd) => Some(fd),
            Screen::None => self.input.as_ref(),
            Screen::Awaited(_) => None,
        }
    }

    /// Reads once what it printed, at most [`MOST`] bytes; `None`: nothing is there now.
    pub fn read(&mut self, side: Side) -> Option<(Stream, Vec<u8>)> {
        let mut buf = vec![0; MOST];
        let (stream, slot) = match side {
            Side::Stdout => (Stream::Stdout, &mut self.stdout),
            Side::Stderr => (Stream::Stderr, &mut self.stderr),
            Side::Screen => return self.read_screen(buf),
            Side::Input => return None,
        };
        match channel::read(slot.as_ref()?, &mut buf) {
            Ok(n @ 1..) => {
                buf.truncate(n);
                Some((stream, buf))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            // The end; polling it again would return at once for ever.
            Ok(_) | Err(_) => {
                *slot = None;
                None
            }
        }
    }

    fn read_screen(&mut self, mut buf: Vec<u8>) -> Option<(Stream, Vec<u8>)> {
        match &self.screen {
            Screen::None => None,
            Screen::Awaited(socket) => {
                // Nothing comes when it could not be made; its end says why.
                let sent = channel::receive(socket).ok().flatten();
                let terminal = sent.and_then(|(_, fds)| fds.into_iter().next());
                let ready = terminal.filter(|t| channel::set_nonblocking(t).is_ok());
                self.screen = ready.map_or(Screen::None, Screen::Here);
                self.resize(self.size);
                None
            }
            Screen::Here(fd) => match channel::read(fd, &mut buf) {
                Ok(n @ 1..) => {
                    buf.truncate(n);
                    Some((Stream::Stdout, buf))
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
                // Nobody has the other side open any more.
                Ok(_) | Err(_) => {
                    self.screen = Screen::None;
                    None
                }
            },
        }
    }

    /// Takes input. Not to be called while [`Self::is_full`].
    pub fn give(&mut self, bytes: &[u8]) {
        if self.ends || (self.entry().is_none() && !matches!(self.screen, Screen::Awaited(_))) {
            return;
        }
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    /// There is input that it has not read yet.
    pub fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Passes on what there is room for.
    pub fn flush(&mut self) {
        if let Some(fd) = self.entry() {
            match rustix::io::retry_on_intr(|| rustix::io::write(fd, &self.pending)) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(rustix::io::Errno::AGAIN) => {}
                // It reads no more.
                Err(_) => {
                    self.pending.clear();
                    self.input = None;
                }
            }
        }
        if self.ends && self.pending.is_empty() {
            self.input = None;
        }
    }

    /// No more input comes. To a terminal that says nothing.
    pub fn end_input(&mut self) {
        if self.input.is_some() {
            self.ends = true;
            self.flush();
        }
    }

    /// The terminal has another size.
    pub fn resize(&mut self, size: (u16, u16)) {
        self.size = size;
        if let Screen::Here(fd) = &self.screen {
            // One that is just going needs no size.
            terminal::resize(fd, size.0, size.1).unwrap_or(());
        }
    }
}
