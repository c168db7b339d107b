//! A container's streams and signals, while rgraph stands in front of it.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rgraph_runtime::container::{
    Connection, ContainerError, End, Event, Start, Word, without_overlayfs,
};
use rgraph_runtime::sandbox::Stream;
use rgraph_solver::CancelToken;
use rgraph_sys::terminal;
use rgraph_sys::wait::{self, For};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::container_error;
use super::keys::{Typed, Watch};
use crate::commands::note;
use crate::report::{CliError, ErrorKind};

/// The signals that are for the program, not for us.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// How long a program has to end by itself once its window is closed.
const GRACE: Duration = Duration::from_secs(2);

/// How one stands in front of a program.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Standard input is its.
    pub input: bool,
    /// It has a terminal.
    pub terminal: bool,
    /// Signals are passed on.
    pub signals: bool,
    /// What leaves it, typed at a terminal.
    pub keys: Vec<u8>,
}

/// Why one stands in front of it no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It has ended.
    Ended(End),
    /// By the keys.
    Keys,
    /// A signal to this process.
    Signal(i32),
}

/// Where signals go.
enum Target {
    /// It does not run yet: they stop its start.
    Start(CancelToken),
    /// To the first process of the container in this folder. A new size is told to its terminal, when
    /// it has one: the program hears of it from there.
    Program(PathBuf, Option<Arc<Connection>>),
    /// They end this side alone; only a new size is told.
    Us(Arc<Connection>, Leaving),
    /// To nobody.
    Nobody,
}

/// Why this side goes, once it does.
type Leaving = Arc<Mutex<Option<Left>>>;

/// Takes the signals of this process: at first where it waits for the container anyway, and from
/// [`Self::listen`] on in a thread of its own. A program that says nothing and ends at once needs no
/// thread, which costs more than all that is said about it.
pub struct Forward {
    target: Arc<Mutex<Target>>,
    /// `None`: they cannot be taken, and do what they do by default.
    signals: Option<(SigSet, SignalFd)>,
    thread: Once,
}

impl Forward {
    /// From now on. Call before any other thread exists.
    pub fn watch(cancel: &CancelToken) -> Self {
        let target = Arc::new(Mutex::new(Target::Start(cancel.clone())));
        let mut set = SigSet::empty();
        PASSED_ON.iter().for_each(|s| set.add(*s));
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).ok();
        let signals = signals.filter(|_| set.thread_block().is_ok()).map(|fd| (set, fd));
        Self { target, signals, thread: Once::new() }
    }

    /// Takes them in a thread: call before anything that may take long or wait for others.
    pub fn listen(&self) {
        let Some((set, _)) = self.signals else { return };
        self.thread.call_once(|| {
            let target = self.target.clone();
            std::thread::spawn(move || {
                while let Ok(signal) = set.wait() {
                    pass(signal, &target.lock().unwrap_or_else(PoisonError::into_inner));
                }
            });
        });
    }

    /// Waits until the connection says something.
    fn wait(&self, connection: &Connection) -> Result<(), CliError> {
        while let (Some((_, signals)), false) = (&self.signals, self.thread.is_completed()) {
            let ready = wait::readable(&[connection.as_fd(), signals.as_fd()], None);
            let ready = ready.map_err(|e| container_error(&ContainerError::Talk(e)))?;
            if ready[1] {
                self.take();
            }
            if ready[0] {
                break;
            }
        }
        Ok(())
    }

    /// A signal is there. What it does may take long once the program runs.
    fn take(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Target::Start(_) = *target else { return self.listen() };
        let Some(Ok(Some(info))) = self.signals.as_ref().map(|(_, fd)| fd.read_signal()) else {
            return;
        };
        let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
        if let Some(signal) = signal {
            pass(signal, &target);
        }
    }

    fn to(&self, target: Target) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Shows what the program printed. Whoever is to see it may not take it at once.
    fn show(&self, stream: Stream, bytes: &[u8]) {
        let at_once = match stream {
            Stream::Stdout => is_taken(io::stdout().as_fd(), bytes.len()),
            Stream::Stderr => is_taken(io::stderr().as_fd(), bytes.len()),
        };
        if !at_once {
            self.listen();
        }
        show(stream, bytes);
    }
}

/// As many bytes as a pipe takes at once when it takes any.
const AT_ONCE: usize = 4096;

/// Whether so much can be written without having to wait.
fn is_taken(fd: BorrowedFd<'_>, length: usize) -> bool {
    let now = Some(Duration::ZERO);
    length <= AT_ONCE
        && !fd.is_terminal()
        && wait::poll([(fd, For::Writing)], now).is_ok_and(|ready| ready[0])
}

fn pass(signal: Signal, target: &Target) {
    // What cannot be told to a program that has just ended need not be.
    match (signal, target) {
        (Signal::SIGWINCH, Target::Us(connection, _) | Target::Program(_, Some(connection))) => {
            tell_size(connection)
        }
        (Signal::SIGINT | Signal::SIGTERM, Target::Start(cancel)) => cancel.cancel(),
        (_, Target::Program(folder, _)) => {
            // A way of its own: the other one may be full of input.
            if let Ok(Some(supervisor)) = Connection::open(folder) {
                supervisor.signal(signal as i32).and_then(|()| supervisor.answer()).unwrap_or(());
            }
        }
        // It goes on already.
        (Signal::SIGCONT, Target::Us(..)) => {}
        (_, Target::Us(connection, leaving)) => {
            go(connection, leaving, Left::Signal(signal as i32));
        }
        _ => {}
    }
}

fn go(connection: &Connection, leaving: &Leaving, why: Left) {
    leaving.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    connection.leave().unwrap_or(());
    connection.hang_up();
}

fn tell_size(connection: &Connection) {
    if let Some((rows, columns)) = terminal::size(io::stdin()) {
        connection.resize(rows, columns).unwrap_or(());
    }
}

/// The terminal passes on every key while this lives.
struct Raw(Option<Termios>);

impl Raw {
    /// Of standard input, if that is a terminal.
    fn enter() -> Self {
        let stdin = io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        // What was typed ahead is for the program.
        let set = tcsetattr(&stdin, OptionalActions::Now, &raw);
        Self(set.is_ok().then_some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs nothing.
            tcsetattr(io::stdin(), OptionalActions::Now, before).unwrap_or(());
        }
    }
}

/// Sends standard input until either side ends. Its thread is not waited for: it may be asleep in a
/// read. `raw`: it is a terminal that passes on every key. It ends only with its window, and the program
/// may not care.
fn feed(connection: Arc<Connection>, raw: bool, keys: Vec<u8>, leaving: Leaving) {
    std::thread::spawn(move || {
        let (mut stdin, mut buf) = (io::stdin().lock(), vec![0; 16 << 10]);
        let mut watch = Watch::new(keys);
        loop {
            let typed = match stdin.read(&mut buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read if raw && is_hung_up(&read) => {
                    // A program that hears of it may still say how it ended.
                    std::thread::sleep(GRACE);
                    return go(&connection, &leaving, Left::Signal(Signal::SIGHUP as i32));
                }
                // One that cannot be read is one that is over.
                Ok(0) | Err(_) => return connection.end_input().unwrap_or(()),
                Ok(n) => watch.take(&buf[..n]),
            };
            let (text, left) = match typed {
                Typed::Text(text) => (text, false),
                Typed::Left(text) => (text, true),
            };
            if !text.is_empty() && connection.input(&text).is_err() {
                return;
            }
            if left {
                return go(&connection, &leaving, Left::Keys);
            }
        }
    });
}

/// What reading gives of a terminal whose window is closed.
fn is_hung_up(read: &io::Result<usize>) -> bool {
    match read {
        Ok(n) => *n == 0,
        Err(e) => e.raw_os_error() == Some(Errno::IO.raw_os_error()),
    }
}

/// Shows what the program printed. Nobody there to see it is nobody's loss.
fn show(stream: Stream, bytes: &[u8]) {
    let shown = match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    };
    shown.unwrap_or(());
}

/// Waits until the program of a container that was just started runs, or could not be run. Signals that
/// come meanwhile, or came before, are taken.
pub fn until_begun(
    connection: &Connection,
    forward: Option<&Forward>,
) -> Result<Option<End>, CliError> {
    loop {
        forward.map_or(Ok(()), |forward| forward.wait(connection))?;
        match connection.next().map_err(|e| container_error(&e))? {
            Some(Event::Word(Word::Began)) => return Ok(None),
            Some(Event::Word(Word::Ended(end))) => return Ok(Some(end)),
            Some(Event::Word(Word::Warning(text) | Word::Refused(text))) => note(&text),
            Some(Event::Output(stream, bytes)) => match forward {
                Some(forward) => forward.show(stream, &bytes),
                None => show(stream, &bytes),
            },
            Some(Event::Word(Word::Done)) => {}
            None => return Err(container_error(&ContainerError::SupervisorDied)),
        }
    }
}

/// Passes streams and signals on until the program ends, or one side goes. `folder`: that of the
/// container whose first process it is.
pub fn follow(
    connection: Connection,
    folder: Option<&Path>,
    manner: Manner,
    forward: &Forward,
) -> Result<Left, CliError> {
    let connection = Arc::new(connection);
    let leaving = Leaving::default();
    let raw = (manner.terminal && manner.input).then(Raw::enter);
    forward.to(match folder {
        Some(folder) if manner.signals => {
            let terminal = manner.terminal.then(|| connection.clone());
            Target::Program(folder.to_owned(), terminal)
        }
        _ => Target::Us(connection.clone(), leaving.clone()),
    });
    if manner.terminal {
        tell_size(&connection);
    }
    if manner.input {
        forward.listen();
        let is_raw = raw.as_ref().is_some_and(|Raw(before)| before.is_some());
        let keys = if raw.is_some() { manner.keys } else { Vec::new() };
        feed(connection.clone(), is_raw, keys, leaving.clone());
    }
    let left = loop {
        forward.wait(&connection)?;
        match connection.next() {
            Ok(Some(Event::Output(stream, bytes))) => forward.show(stream, &bytes),
            Ok(Some(Event::Word(Word::Ended(end)))) => break Ok(Left::Ended(end)),
            Ok(Some(Event::Word(Word::Warning(text) | Word::Refused(text)))) => note(&text),
            Ok(Some(Event::Word(Word::Began | Word::Done))) => {}
            end => {
                let why = leaving.lock().unwrap_or_else(PoisonError::into_inner).take();
                break match (why, end) {
                    (Some(left), _) => Ok(left),
                    (None, Err(e)) => Err(container_error(&e)),
                    (None, Ok(_)) => Err(container_error(&ContainerError::SupervisorDied)),
                };
            }
        }
    };
    forward.to(Target::Nobody);
    drop(raw);
    if matches!(left, Ok(Left::Keys)) {
        note("read escape sequence");
    }
    left
}

/// What a command comes to that stood in front of a program.
pub fn outcome(left: Left) -> Result<(), CliError> {
    match left {
        Left::Ended(end) => ended(end),
        Left::Keys => Ok(()),
        Left::Signal(n) => Err(CliError::reported(ErrorKind::Process(code(128 + n)))),
    }
}

/// What a command comes to that waited for a program.
pub fn ended(end: End) -> Result<(), CliError> {
    let kind = ErrorKind::Process(code(end.code));
    match end.reason {
        Some(reason) => Err(CliError { kind, ..CliError::failed(reason) }),
        None if end.code == 0 => Ok(()),
        None => Err(CliError::reported(kind)),
    }
}

/// As [`ended`], for one that ended before it began.
pub fn not_begun(start: &Start<'_>, end: End) -> Result<(), CliError> {
    match without_overlayfs(start, &end) {
        Some(e) => Err(container_error(&e)),
        None => ended(end),
    }
}

fn code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(125)
}
