//! Somebody who is connected to a supervisor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_sys::channel;

use super::super::protocol::{Attach, Word};

/// More messages wait for nobody: it asks and does not listen.
const MOST_WAITING: usize = 4096;

/// The number of a process with streams: the container's first, or a program in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionId(pub u64);

/// A connection.
pub(super) struct Visitor {
    /// `None`: it is gone.
    socket: Option<OwnedFd>,
    /// Whose streams it has, and whose end it is told.
    pub session: SessionId,
    pub attach: Attach,
    /// It is not taken for the end of the input when this goes.
    pub leaves: bool,
    waiting: VecDeque<Vec<u8>>,
    /// A number that no other has.
    pub visit: u64,
}

impl Visitor {
    pub fn new(
        socket: OwnedFd,
        session: SessionId,
        attach: Attach,
        visit: u64,
    ) -> io::Result<Self> {
        channel::set_nonblocking(&socket)?;
        let waiting = VecDeque::new();
        Ok(Self { socket: Some(socket), session, attach, leaves: false, waiting, visit })
    }

    /// Its socket; `None`: it is gone.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// It is gone, or as good as.
    pub fn dismiss(&mut self) {
        self.socket = None;
        self.waiting.clear();
    }

    /// It has not yet taken all that was said to it.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Says it when it can be heard.
    pub fn say(&mut self, message: Vec<u8>) {
        if self.waiting.len() >= MOST_WAITING {
            return self.dismiss();
        }
        self.waiting.push_back(message);
        self.flush();
    }

    pub fn tell(&mut self, word: &Word) {
        self.say(word.encode());
    }

    /// Tells it with a file, at once or not at all: one that listens has taken all before it asks.
    pub fn hand(&mut self, word: &Word, file: BorrowedFd<'_>) {
        let ready = self.socket.as_ref().filter(|_| self.waiting.is_empty());
        if ready.is_none_or(|s| channel::send(s, &word.encode(), &[file]).is_err()) {
            self.dismiss();
        }
    }

    /// Says what there is room for.
    pub fn flush(&mut self) {
        while let (Some(socket), Some(message)) = (&self.socket, self.waiting.front()) {
            match channel::send(socket, message, &[]) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.dismiss(),
            }
        }
    }
}
