//! Talking to a container's supervisor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rgraph_sys::{channel, wait};

use super::protocol::{self, Attach, End, Event, Exec, Request, Word};
use super::{ContainerError, at};

/// A connection to a supervisor. Several threads may send; one should receive.
#[derive(Debug)]
pub struct Connection(OwnedFd);

fn talk(e: io::Error) -> ContainerError {
    ContainerError::Talk(e)
}

/// Nobody there to be told is no error: what is waited for next says so.
fn told(sent: io::Result<()>) -> Result<(), ContainerError> {
    match sent {
        // The second: gone with an earlier message unread.
        Err(e)
            if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            Ok(())
        }
        sent => sent.map_err(talk),
    }
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// To the supervisor of the container in this folder; `None`: it has none, so it does not run.
    ///
    /// # Errors
    /// The folder or the socket cannot be opened.
    pub fn open(folder: &Path) -> Result<Option<Self>, ContainerError> {
        let dir = match File::open(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            dir => dir.map_err(at("open", folder))?,
        };
        match channel::connect(&dir, protocol::SOCKET) {
            Ok(socket) => Ok(Some(Self(socket))),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(talk(e)),
        }
    }

    /// Asks for the container's streams.
    ///
    /// # Errors
    /// [`ContainerError::Talk`]; a supervisor that is gone is seen by [`Self::next`].
    pub fn attach(&self, attach: Attach) -> Result<(), ContainerError> {
        self.ask(&Request::Attach(attach))
    }

    /// Sends bytes for standard input.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn input(&self, bytes: &[u8]) -> Result<(), ContainerError> {
        told(protocol::send_input(&self.0, bytes))
    }

    /// No more input comes.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn end_input(&self) -> Result<(), ContainerError> {
        self.ask(&Request::InputEnd)
    }

    /// This side goes, and the program shall not take that for the end of its input.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn leave(&self) -> Result<(), ContainerError> {
        self.ask(&Request::Leave)
    }

    /// The terminal has this size now, characters.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), ContainerError> {
        self.ask(&Request::Resize { rows, columns })
    }

    /// Sends a signal to the first process. The answer comes from [`Self::answer`].
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn signal(&self, number: i32) -> Result<(), ContainerError> {
        self.ask(&Request::Signal(number))
    }

    /// All processes of the container stand still as long as this connection lasts.
    ///
    /// # Errors
    /// [`ContainerError::Refused`], [`ContainerError::Talk`].
    pub fn pause(&self) -> Result<(), ContainerError> {
        self.ask(&Request::Pause)?;
        self.answer()
    }

    /// The root of the container with all that is mounted in it, as its first process sees it; `None`: it
    /// has ended.
    ///
    /// # Errors
    /// [`ContainerError::Refused`], [`ContainerError::Talk`].
    pub fn root(&self) -> Result<Option<OwnedFd>, ContainerError> {
        self.ask(&Request::Root)?;
        loop {
            match protocol::hear(&self.0).map_err(talk)? {
                Some((Event::Word(Word::Done), fds)) => return Ok(fds.into_iter().next()),
                Some((Event::Word(Word::Refused(why)), _)) => {
                    return Err(ContainerError::Refused(why));
                }
                None | Some((Event::Word(Word::Ended(_)), _)) => return Ok(None),
                Some(_) => {}
            }
        }
    }

    /// Starts one more program. From now on all that comes and goes here is that program's.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn exec(&self, exec: &Exec) -> Result<(), ContainerError> {
        let bytes = serde_json::to_vec(exec).map_err(|e| talk(e.into()))?;
        let parcel = channel::parcel(&bytes).map_err(talk)?;
        told(protocol::send_request(&self.0, &Request::Exec, &[parcel.as_fd()]))
    }

    fn ask(&self, request: &Request) -> Result<(), ContainerError> {
        told(protocol::send_request(&self.0, request, &[]))
    }

    /// Ends the connection for whoever waits on it, here and there.
    pub fn hang_up(&self) {
        // One that has ended already cannot be ended.
        rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both).unwrap_or(());
    }

    /// Waits for what comes next; `None`: the supervisor is gone.
    ///
    /// # Errors
    /// [`ContainerError::Talk`].
    pub fn next(&self) -> Result<Option<Event>, ContainerError> {
        Ok(protocol::hear(&self.0).map_err(talk)?.map(|(event, _)| event))
    }

    /// Waits for the answer to a question. A container that has ended is no error.
    ///
    /// # Errors
    /// [`ContainerError::Refused`], [`ContainerError::Talk`].
    pub fn answer(&self) -> Result<(), ContainerError> {
        loop {
            match self.next()? {
                Some(Event::Word(Word::Refused(why))) => return Err(ContainerError::Refused(why)),
                None | Some(Event::Word(Word::Done | Word::Ended(_))) => return Ok(()),
                Some(_) => {}
            }
        }
    }

    /// Waits for the container to end, but not longer than `most`.
    ///
    /// # Errors
    /// [`ContainerError::Talk`].
    pub fn end(&self, most: Option<Duration>) -> Result<Waited, ContainerError> {
        let until = most.and_then(|most| Instant::now().checked_add(most));
        loop {
            if let Some(until) = until {
                let left = until.saturating_duration_since(Instant::now());
                if !wait::readable(&[self.0.as_fd()], Some(left)).map_err(talk)?[0] {
                    if left.is_zero() {
                        return Ok(Waited::Running);
                    }
                    continue;
                }
            }
            match self.next()? {
                Some(Event::Word(Word::Ended(end))) => return Ok(Waited::Ended(end)),
                None => return Ok(Waited::Gone),
                Some(_) => {}
            }
        }
    }
}

impl AsFd for Connection {
    /// To be waited for with `poll`: something is said.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What waiting for a container came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// It has ended.
    Ended(End),
    /// Nobody said so, but its supervisor is gone: the record knows, or it was killed.
    Gone,
    /// The time is over.
    Running,
}
