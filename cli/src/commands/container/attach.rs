//! A container's streams and signals, while rgraph stands in front of it.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use rgraph_runtime::container::log;
use rgraph_runtime::sandbox::Stream;
use rgraph_solver::CancelToken;
use rgraph_sys::spawn::PidFd;
use rgraph_sys::terminal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Where signals go, once there is a process.
#[derive(Default)]
struct Target {
    process: Option<PidFd>,
    terminal: Option<OwnedFd>,
}

/// Passes signals on to a container; before it has a process they stop its start.
pub struct Forward(Arc<Mutex<Target>>);

impl Forward {
    /// Takes the signals of this process from now on. Call before any other thread exists.
    pub fn watch(cancel: &CancelToken) -> Self {
        let target = Arc::new(Mutex::new(Target::default()));
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGWINCH,
        ] {
            set.add(signal);
        }
        if set.thread_block().is_ok() {
            let (target, cancel) = (target.clone(), cancel.clone());
            std::thread::spawn(move || {
                while let Ok(signal) = set.wait() {
                    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
                    pass(signal, &target, &cancel);
                }
            });
        }
        Self(target)
    }

    /// From now on they go there.
    pub fn to(&self, process: PidFd, terminal: Option<OwnedFd>) {
        let mut target = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *target = Target { process: Some(process), terminal };
    }
}

fn pass(signal: Signal, target: &Target, cancel: &CancelToken) {
    // What cannot be told to a process that has just ended need not be.
    match (signal, &target.terminal, &target.process) {
        (Signal::SIGWINCH, Some(near), _) => {
            if let Some((rows, columns)) = terminal::size(io::stdin()) {
                terminal::resize(near, rows, columns).unwrap_or(());
            }
        }
        (Signal::SIGWINCH, None, _) => {}
        (_, _, Some(process)) => process.send(signal as i32).unwrap_or(()),
        (Signal::SIGINT | Signal::SIGTERM, _, None) => cancel.cancel(),
        _ => {}
    }
}

/// The terminal passes on every key while this lives.
pub struct Raw(Option<Termios>);

impl Raw {
    /// Of standard input, if that is a terminal.
    pub fn enter() -> Self {
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

/// Copies standard input to the container until either ends. Its thread is not waited for: it may
/// be asleep in a read.
pub fn feed(to: OwnedFd) {
    std::thread::spawn(move || {
        let mut to = std::fs::File::from(to);
        // A container that does not read any more is no error of its caller.
        io::copy(&mut io::stdin().lock(), &mut to).unwrap_or(0);
    });
}

/// Standard output and error, and the log.
pub struct Screen {
    log: log::Writer,
    broken: Option<io::Error>,
}

impl Screen {
    /// Writes to the log as well.
    pub fn new(log: log::Writer) -> Self {
        Self { log, broken: None }
    }

    /// Shows what the container printed. Nobody there to see it: the log has it.
    pub fn show(&mut self, stream: Stream, bytes: &[u8]) {
        if let Err(e) = self.log.write(stream, bytes) {
            self.broken.get_or_insert(e);
        }
        let shown = match stream {
            Stream::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Stream::Stderr => io::stderr().lock().write_all(bytes),
        };
        shown.unwrap_or(());
    }

    /// Shows all that comes from a terminal, until its last program is gone.
    pub fn follow(&mut self, terminal: &OwnedFd) {
        let mut buf = vec![0; 64 << 10];
        loop {
            match rustix::io::read(terminal.as_fd(), &mut buf) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(n @ 1..) => self.show(Stream::Stdout, &buf[..n]),
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Why the log is not whole.
    pub fn broken(&self) -> Option<&io::Error> {
        self.broken.as_ref()
    }
}
