//! An ssh agent in this process (draft-miller-ssh-agent): it lists its keys and signs with them, and
//! does nothing else. Whoever connects is trusted as with any agent; the folder of the socket is private.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};

use super::key::{SigningKey, string, take};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// Longest message, bytes: OpenSSH's own limit.
const MAX_MESSAGE: u32 = 256 << 10;
/// Connections at once.
const MAX_CONNECTIONS: usize = 64;

/// Serves until dropped.
pub struct KeyAgent {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _dir: OwnedFd,
}

impl KeyAgent {
    /// Makes a socket in the private folder `dir` and serves `keys` there.
    ///
    /// # Errors
    /// There can be no socket or no thread.
    pub fn start(dir: &Path, keys: Arc<[SigningKey]>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())?;
        // A socket's address has 108 bytes and a state root may be long; and whom this process starts
        // must find it too.
        let socket =
            PathBuf::from(format!("/proc/{}/fd/{}/agent", std::process::id(), fd.as_raw_fd()));
        let listener = UnixListener::bind(&socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name("rgraph-keys".to_owned())
            .spawn(move || serve(&listener, &keys, &flag))?;
        Ok(Self { socket, stop, thread: Some(thread), _dir: fd })
    }

    /// Where it is, for as long as it is there.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes `accept`; when this fails the thread has ended already.
        drop(UnixStream::connect(&self.socket));
        if let Some(t) = self.thread.take() {
            drop(t.join());
        }
    }
}

fn serve(listener: &UnixListener, keys: &Arc<[SigningKey]>, stop: &AtomicBool) {
    let open = Arc::new(());
    for client in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut client) = client else { continue };
        if Arc::strong_count(&open) > MAX_CONNECTIONS {
            continue;
        }
        let (held, keys) = (open.clone(), keys.clone());
        let talk = move || {
            // A client that says what no client says, or leaves, is left.
            while let Ok(Some(message)) = receive(&mut client) {
                if client.write_all(&string(&answer(&keys, &message))).is_err() {
                    break;
                }
            }
            drop(held);
        };
        // Without a thread the client sees a closed connection.
        drop(std::thread::Builder::new().name("rgraph-keys".to_owned()).spawn(talk));
    }
}

/// The next message; `None`: the client is gone.
fn receive(client: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match client.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    client.read_exact(&mut message)?;
    Ok(Some(message))
}

fn answer(keys: &[SigningKey], message: &[u8]) -> Vec<u8> {
    let told = match message.split_first() {
        Some((&REQUEST_IDENTITIES, _)) => Some(identities(keys)),
        Some((&SIGN_REQUEST, rest)) => signature(keys, rest),
        _ => None,
    };
    told.unwrap_or_else(|| vec![FAILURE])
}

fn identities(keys: &[SigningKey]) -> Vec<u8> {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let mut out = vec![IDENTITIES_ANSWER];
    out.extend(count.to_be_bytes());
    for key in keys {
        out.extend(string(key.public()));
        out.extend(string(key.comment().as_bytes()));
    }
    out
}

fn signature(keys: &[SigningKey], mut rest: &[u8]) -> Option<Vec<u8>> {
    let (public, data) = (take(&mut rest)?, take(&mut rest)?);
    let flags = rest.first_chunk().map_or(0, |f| u32::from_be_bytes(*f));
    let key = keys.iter().find(|k| k.public() == public)?;
    Some([&[SIGN_RESPONSE], &string(&key.sign(data, flags)?)[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_are_none() {
        for message in [
            &[][..],
            &[1],
            &[SIGN_REQUEST],
            &[SIGN_REQUEST, 0, 0, 0, 9, 1],
            &[SIGN_REQUEST, 0xff, 0xff, 0xff, 0xff],
            &[SIGN_REQUEST, 0, 0, 0, 1, 1, 0, 0, 0, 0],
            &[27, 0, 0, 0, 0],
        ] {
            assert_eq!(answer(&[], message), [FAILURE], "{message:?}");
        }
        assert_eq!(answer(&[], &[REQUEST_IDENTITIES]), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
    }

    #[test]
    fn a_client_that_leaves_or_lies_is_left() {
        let tmp = tempfile::tempdir().unwrap();
        let agent = KeyAgent::start(tmp.path(), Arc::from(Vec::new())).unwrap();
        for (bytes, want) in [
            (
                &[0, 0, 0, 1, REQUEST_IDENTITIES][..],
                &[0, 0, 0, 5, IDENTITIES_ANSWER, 0, 0, 0, 0][..],
            ),
            (&[0xff, 0xff, 0xff, 0xff], &[]),
            (&[0, 0, 0, 0], &[]),
            (&[0, 0, 0, 9, 1], &[]),
        ] {
            let mut client = UnixStream::connect(agent.socket()).unwrap();
            client.write_all(bytes).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut said = Vec::new();
            client.read_to_end(&mut said).unwrap();
            assert_eq!(said, want, "{bytes:?}");
        }
    }
}
