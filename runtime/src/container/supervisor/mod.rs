//! The process that looks after one container: this program run again, with one thread as long as there
//! is a container.
//!
//! ```text
//! rgraph run ── charge, lock ──→ supervisor ── clone3 ──→ first process of the container
//!     ↕ streams, signals             │  keeps the lock, the log, the record, the terminal
//! rgraph attach, stop, ... ── socket ┘
//! ```
//! It begins like a runner, and what it makes is made as a step is. It has a session of its own and no
//! terminal, so it outlives whoever started it. Its death is the container's: the first process dies
//! with it, and the lock is free then whatever the record says. Nothing is read but the charge: neither
//! the store's index nor a config file, so it stays small.
//!
//! When the container ends, in this order: what it printed is in the log, nothing of its sandbox is left,
//! the record says how it ended (or the folder is gone from its place), the lock is free, and then those
//! who are connected hear of it.

mod pause;
mod streams;
mod visitor;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rgraph_store::KeyLock;
use rgraph_sys::wait::{self, For};
use rgraph_sys::{channel, ns, spawn};

use self::pause::Paused;
use self::streams::{Far, Side, Streams};
use self::visitor::{SessionId, Visitor};
use super::ports::Proxy;
use super::protocol::{self, Asked, Attach, CHARGE, Charge, End, Exec, PORT, Request, Word, cut};
use super::{Record, State, discard, log, now, remove_tree, write_record};
use crate::sandbox::bench::{self, Bench, Step};
use crate::sandbox::runner::{self, CONNECT, ISOLATE};
use crate::sandbox::{Hit, InitError, SandboxSpec};

/// The program name by which the own binary knows that it shall be a supervisor.
pub(super) const ARGV0: &std::ffi::CStr = c"rgraph-supervisor";
/// The container's own process.
const FIRST: SessionId = SessionId(0);
/// The exit code of what was killed.
const KILLED: i32 = 128 + 9;
/// The largest pipe that a process may make of its own, bytes (`/proc/sys/fs/pipe-max-size`).
const MOST_IN_PIPE: usize = 1 << 20;
/// What a container comes to that could not be started.
const NOT_STARTED: i32 = 125;

/// Is a supervisor when this process was started as one, and then does not return.
///
/// To be called in `main` before there is a second thread and before anything is opened.
pub fn supervisor_main_if_asked() {
    let asked =
        std::env::args_os().next().is_some_and(|a| a.as_encoded_bytes() == ARGV0.to_bytes());
    if asked {
        let code = spawn::take_inherited_alone().map_or(2, serve);
        spawn::exit_now(code);
    }
}

/// Until the charge comes it is like a runner: whoever started it may still give up.
fn serve(control: OwnedFd) -> i32 {
    let Some(mut bench) = runner::greet(&control) else { return 1 };
    loop {
        match channel::receive(&control) {
            Ok(Some((bytes, fds))) if bytes == CONNECT => runner::connect(&mut bench, &fds),
            // Where that fails it is made with the container, and fails again.
            Ok(Some((bytes, _))) if bytes == ISOLATE => bench.isolate().unwrap_or(()),
            Ok(Some((bytes, fds))) if bytes == CHARGE => {
                return match take_charge(bench, control, fds) {
                    Ok(supervisor) => supervisor.run(),
                    // The one who gave it sees that nobody is there.
                    Err(_) => 1,
                };
            }
            _ => return 0,
        }
    }
}

fn take_charge(bench: Bench, control: OwnedFd, fds: Vec<OwnedFd>) -> io::Result<Supervisor> {
    let mut fds = fds.into_iter();
    let (Some(lock), Some(charge)) = (fds.next(), fds.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let charge: Charge = serde_json::from_slice(&channel::unpack(charge, runner::MAX_SPEC)?)?;
    let lock = KeyLock::taken_over(File::from(lock), charge.lock);
    let mut sockets = Vec::new();
    while sockets.len() < charge.record.bound.len() {
        match channel::receive(&control)? {
            Some((bytes, fds)) if bytes == PORT => sockets.extend(fds),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    // Nobody's folder is kept busy, and nobody's screen is written to.
    ns::change_dir(File::open("/")?)?;
    spawn::set_stdio(2, File::options().write(true).open("/dev/null")?)?;
    let starter = Visitor::new(control, FIRST, charge.attach, 0)?;
    Ok(Supervisor {
        bench,
        log: None,
        log_is_whole: true,
        record: charge.record,
        folder: charge.folder,
        lock: Some(lock),
        listener: None,
        sessions: Vec::new(),
        visitors: vec![starter],
        paused: None,
        next: FIRST.0 + 1,
        spec: charge.spec,
        size: charge.size,
        sockets,
        proxy: None,
        rubbish: None,
    })
}

/// A process with its streams.
struct Session {
    id: SessionId,
    step: Step,
    streams: Streams,
    /// Its own program runs.
    began: bool,
}

struct Supervisor {
    bench: Bench,
    record: Record,
    folder: PathBuf,
    /// `None`: it has not begun.
    log: Option<log::Writer>,
    log_is_whole: bool,
    /// `None`: the container has ended.
    lock: Option<KeyLock>,
    /// `None`: it has not begun, or has ended.
    listener: Option<OwnedFd>,
    sessions: Vec<Session>,
    visitors: Vec<Visitor>,
    /// While somebody wants it to stand still: whoever that is, by the number of the visit.
    paused: Option<(u64, Paused)>,
    /// The number of the next session or visit.
    next: u64,
    /// What the container's processes have in common.
    spec: SandboxSpec,
    /// The first size of its terminal.
    size: (u16, u16),
    /// Of the ports, until somebody serves them.
    sockets: Vec<OwnedFd>,
    proxy: Option<Proxy>,
    /// What is left of the container's folder.
    rubbish: Option<PathBuf>,
}

/// What has something to do.
#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    /// It says something.
    Visitor(usize),
    /// It can be told something.
    Behind(usize),
    Report(SessionId),
    Desk(SessionId),
    Stream(SessionId, Side),
    Process(SessionId),
}

impl Supervisor {
    fn run(mut self) -> i32 {
        self.begin();
        while self.lock.is_some() {
            if self.turn().is_err() {
                return 1;
            }
        }
        // A folder that is removed may wait for the disk, and a visitor may never take its last words:
        // neither waits for the other. What stays is rubbish.
        let removal = self
            .rubbish
            .take()
            .and_then(|dir| std::thread::Builder::new().spawn(move || remove_tree(&dir)).ok());
        while self.visitors.iter().any(Visitor::is_behind) && self.turn().is_ok() {}
        self.visitors.clear();
        let _ = removal.map(std::thread::JoinHandle::join);
        0
    }

    /// Waits until there is something to do, and does it.
    fn turn(&mut self) -> io::Result<()> {
        let all: Vec<(Source, BorrowedFd<'_>, For)> = self.sources().collect();
        let asked = all.iter().map(|(_, fd, what)| (*fd, *what));
        let ready = wait::poll(asked, None)?;
        let ready: Vec<Source> =
            all.iter().zip(ready).filter_map(|((s, ..), ready)| ready.then_some(*s)).collect();
        ready.into_iter().for_each(|source| self.handle(source));
        self.visitors.retain(|v| v.socket().is_some());
        // Whoever made it stand still is gone: it goes on.
        self.paused.take_if(|(visit, _)| !self.visitors.iter().any(|v| v.visit == *visit));
        Ok(())
    }

    /// What is waited for. A process whose visitors are behind is not listened to, and a visitor whose
    /// process does not read is not either: so nothing piles up here.
    fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, For)> {
        let listener = self.listener.iter().map(|fd| (Source::Listener, fd.as_fd(), For::Reading));
        let sessions = self.sessions.iter().flat_map(|s| {
            let own = [
                Some((Source::Process(s.id), s.step.pid().as_fd())),
                (!s.began).then(|| (Source::Report(s.id), s.step.report())),
                s.step.desk().map(|fd| (Source::Desk(s.id), fd)),
            ];
            let own = own.into_iter().flatten().map(|(s, fd)| (s, fd, For::Reading));
            // Who hears something of it finds it in `ps`: first it is noted that it runs.
            let streams = s.streams.sides(!self.holds_up(s.id)).filter(|_| s.began);
            let streams = streams.map(|(side, fd)| {
                let what = if side == Side::Input { For::Writing } else { For::Reading };
                (Source::Stream(s.id, side), fd, what)
            });
            // What it printed before its end.
            streams.chain(own)
        });
        let visitors = self.visitors.iter().enumerate().flat_map(|(i, v)| {
            let full = |s: &&Session| s.id == v.session && s.streams.is_full();
            let listens = !(v.attach.input && self.sessions.iter().any(|s| full(&s)));
            let reading = listens.then_some((Source::Visitor(i), For::Reading));
            let writing = v.is_behind().then_some((Source::Behind(i), For::Writing));
            let fd = v.socket();
            reading.into_iter().chain(writing).filter_map(move |(s, what)| Some((s, fd?, what)))
        });
        listener.chain(sessions).chain(visitors)
    }

    /// Somebody has to take first what this process has printed.
    fn holds_up(&self, id: SessionId) -> bool {
        self.visitors.iter().any(|v| v.session == id && v.attach.output && v.is_behind())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.admit(),
            Source::Visitor(i) => self.hear(i),
            Source::Behind(i) => self.visitors[i].flush(),
            Source::Report(id) => self.look_at_start(id),
            Source::Desk(id) => {
                if let Some(s) = self.session(id) {
                    s.step.attend();
                }
            }
            Source::Stream(id, Side::Input) => {
                if let Some(s) = self.session(id) {
                    s.streams.flush();
                }
            }
            Source::Stream(id, side) => {
                self.pass_on(id, side);
            }
            Source::Process(FIRST) => self.end(),
            Source::Process(id) => self.end_exec(id),
        }
    }

    fn session(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|s| s.id == id)
    }

    /// Starts the container's process.
    fn begin(&mut self) {
        match self.make() {
            Ok(session) => self.sessions.push(session),
            Err(e) => return self.close(end_of(&e)),
        }
        // The process is on its way meanwhile; nothing is heard of it yet.
        let open = self.open();
        if let Err(e) = open.map_err(InitError::at("write in the folder of the container")) {
            self.kill_first();
            self.finish(FIRST);
            self.close(end_of(&e));
        }
        self.bench.no_more_networks();
    }

    /// Opens the log, and the way in for others.
    fn open(&mut self) -> io::Result<()> {
        self.log = Some(log::Writer::open(&self.folder)?);
        let listener = channel::listen(File::open(&self.folder)?, protocol::SOCKET)?;
        channel::set_nonblocking(&listener)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Serves the ports, when there are any. The process has to be in its network by now; who came
    /// before that has waited.
    fn publish(&mut self, pid: i32) {
        let sockets = std::mem::take(&mut self.sockets);
        if sockets.is_empty() {
            return;
        }
        match Proxy::start(pid, &self.record.bound, sockets) {
            Ok(proxy) => self.proxy = Some(proxy),
            // It has ended already, and its network with it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.record.bound = Vec::new(),
            Err(e) => {
                self.record.bound = Vec::new();
                self.tell_all(FIRST, &Word::Warning(cut(format!("ports are not published: {e}"))));
            }
        }
    }

    fn make(&mut self) -> Result<Session, InitError> {
        let settings = &self.record.settings;
        let (streams, far) = Streams::new(settings.terminal, settings.open_input, self.size)
            .map_err(InitError::at("prepare the streams of the container"))?;
        let Far { input, stdout, stderr, fds } = far;
        let spec = SandboxSpec { input, ..self.spec.clone() };
        let step = self.bench.begin(&spec, stdout, stderr, fds)?;
        Ok(Session { id: FIRST, step, streams, began: false })
    }

    /// Starts one more program, which is the visitor's from now on.
    fn exec(&mut self, i: usize, fds: Vec<OwnedFd>) {
        let id = SessionId(self.next);
        self.next += 1;
        self.visitors[i].session = id;
        match self.make_exec(id, fds) {
            Ok((session, attach)) => {
                self.sessions.push(session);
                self.visitors[i].attach = attach;
            }
            Err(e) => self.visitors[i].tell(&Word::Ended(end_of(&e))),
        }
    }

    fn make_exec(
        &mut self,
        id: SessionId,
        fds: Vec<OwnedFd>,
    ) -> Result<(Session, Attach), InitError> {
        let missing = || InitError::Setup {
            step: "start the program".into(),
            reason: "a file is missing in the message".into(),
        };
        let parcel = fds.into_iter().next().ok_or_else(missing)?;
        let exec = channel::unpack(parcel, runner::MAX_SPEC)
            .map_err(InitError::at("read what is to be run"))?;
        let exec: Exec =
            serde_json::from_slice(&exec).map_err(InitError::at("read what is to be run"))?;
        let (streams, far) = Streams::new(exec.terminal, exec.open_input, exec.size)
            .map_err(InitError::at("prepare the streams of the program"))?;
        let Far { input, stdout, stderr, fds } = far;
        let Exec { args, env, cwd, user, attach, .. } = exec;
        let spec = SandboxSpec { input, args, env, cwd, user, init: false, ..self.spec.clone() };
        let first = self.sessions.iter().find(|s| s.id == FIRST && s.began);
        let first = first.ok_or_else(|| InitError::Setup {
            step: "join the container".into(),
            reason: "it does not run yet".into(),
        })?;
        let step = self.bench.join(&first.step, &spec, stdout, stderr, fds)?;
        Ok((Session { id, step, streams, began: false }, attach))
    }

    /// The report says whether the program could be run; its end that it runs.
    fn look_at_start(&mut self, id: SessionId) {
        let Some(session) = self.session(id) else { return };
        if session.began || !session.step.has_begun() {
            return;
        }
        session.began = true;
        if session.step.has_failed() {
            // Its end comes next, and is told with the reason.
            return;
        }
        if id == FIRST {
            let pid = session.step.pid().number().unwrap_or(0);
            let born = spawn::began(pid).unwrap_or(0);
            self.publish(pid);
            self.record.state = State::Running { pid, born, since: now() };
            if let Err(e) = write_record(&self.folder, &self.record) {
                self.kill_first();
                let text = crate::report(&e);
                self.tell_all(id, &Word::Warning(cut(text)));
            }
        }
        self.tell_all(id, &Word::Began);
    }

    fn tell_all(&mut self, id: SessionId, word: &Word) {
        self.visitors.iter_mut().filter(|v| v.session == id).for_each(|v| v.tell(word));
    }

    fn kill_first(&mut self) {
        if let Some(first) = self.session(FIRST) {
            // It cannot fail for a child that was not waited for.
            first.step.pid().kill().unwrap_or(());
        }
    }

    /// Takes what a process printed, and says how many bytes that were; `None`: nothing was there.
    fn pass_on(&mut self, id: SessionId, side: Side) -> Option<usize> {
        let (stream, bytes) = self.session(id)?.streams.read(side)?;
        if id == FIRST
            && let Some(Err(e)) = self.log.as_mut().map(|log| log.write(stream, &bytes))
            && std::mem::replace(&mut self.log_is_whole, false)
        {
            self.tell_all(id, &Word::Warning(format!("the log is not whole: {e}")));
        }
        let message = protocol::output(stream, &bytes);
        for v in self.visitors.iter_mut().filter(|v| v.session == id && v.attach.output) {
            v.say(message.clone());
        }
        Some(bytes.len())
    }

    /// Somebody connects.
    fn admit(&mut self) {
        let Some(listener) = &self.listener else { return };
        self.next += 1;
        let visitor = channel::accept(listener)
            .and_then(|socket| Visitor::new(socket, FIRST, Attach::default(), self.next));
        // Gone again already.
        self.visitors.extend(visitor);
    }

    /// A visitor says something, or goes.
    fn hear(&mut self, i: usize) {
        let Some(heard) = self.visitors[i].socket().map(protocol::hear_asked) else { return };
        match heard {
            Ok(Some((Asked::Input(bytes), _))) => {
                let visitor = &self.visitors[i];
                if visitor.attach.input {
                    let id = visitor.session;
                    if let Some(s) = self.session(id) {
                        s.streams.give(&bytes);
                    }
                }
            }
            Ok(Some((Asked::Request(Request::Exec), fds))) => self.exec(i, fds),
            Ok(Some((Asked::Request(request), _))) => self.serve_request(i, request),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                if !self.visitors[i].leaves {
                    self.end_input(i);
                }
                self.visitors[i].dismiss();
            }
        }
    }

    /// A visitor's input is over, and that of its process too when it had no other.
    fn end_input(&mut self, i: usize) {
        let (id, attach) = (self.visitors[i].session, self.visitors[i].attach);
        let once = id != FIRST || self.record.settings.input_once;
        if attach.input
            && once
            && let Some(s) = self.session(id)
        {
            s.streams.end_input();
        }
    }

    fn serve_request(&mut self, i: usize, request: Request) {
        let id = self.visitors[i].session;
        match request {
            Request::Attach(attach) => self.visitors[i].attach = attach,
            Request::InputEnd => self.end_input(i),
            Request::Leave => self.visitors[i].leaves = true,
            Request::Resize { rows, columns } => {
                if let Some(s) = self.session(id) {
                    s.streams.resize((rows, columns));
                }
            }
            Request::Signal(number) => {
                let sent = match self.session(FIRST) {
                    Some(first) => first.step.pid().send(number),
                    None => Ok(()),
                };
                let answer = match sent {
                    Ok(()) => Word::Done,
                    Err(e) => Word::Refused(format!("signal {number}: {e}")),
                };
                self.visitors[i].tell(&answer);
            }
            Request::Pause => {
                let already = self.paused.is_some();
                let paused = match self.session(FIRST) {
                    Some(first) if !already => Paused::new(first.step.pid()),
                    Some(_) => Err(io::Error::other("it is paused already")),
                    None => Err(io::Error::other("it has ended")),
                };
                let visit = self.visitors[i].visit;
                let answer = match paused {
                    Ok(paused) => {
                        self.paused = Some((visit, paused));
                        Word::Done
                    }
                    Err(e) => Word::Refused(cut(format!("pause: {e}"))),
                };
                self.visitors[i].tell(&answer);
            }
            Request::Root => match self.root() {
                Ok(root) => self.visitors[i].hand(&Word::Done, root.as_fd()),
                Err(e) => self.visitors[i].tell(&Word::Refused(cut(format!("its files: {e}")))),
            },
            // It comes with a file.
            Request::Exec => {}
        }
    }

    /// The root of the container with all that is mounted in it. Whoever asks may be in another user
    /// namespace, and could not open it.
    fn root(&self) -> io::Result<OwnedFd> {
        let first = self.sessions.iter().find(|s| s.id == FIRST && s.began);
        // Its number is nobody else's as long as it was not waited for.
        let pid = first.and_then(|s| s.step.pid().number()).ok_or(io::ErrorKind::NotFound)?;
        File::open(format!("/proc/{pid}/root")).map(OwnedFd::from)
    }

    /// Takes the last words of a process that has ended; `None`: there is none.
    fn finish(&mut self, id: SessionId) -> Option<End> {
        // One that ended at once had begun.
        self.look_at_start(id);
        for side in [Side::Screen, Side::Stdout, Side::Stderr] {
            // What it printed is in there; others that it left may print for ever.
            let mut left = MOST_IN_PIPE;
            while left > 0
                && let Some(n @ 1..) = self.pass_on(id, side)
            {
                left = left.saturating_sub(n);
            }
        }
        let i = self.sessions.iter().position(|s| s.id == id)?;
        let done = self.sessions.remove(i).step.finish(&mut self.bench);
        let mut end = match done.end {
            bench::End::Exited(code) => End::of(code),
            bench::End::Signalled(signal) => End::of(128 + signal),
            bench::End::NotStarted(e) => end_of(&e),
        };
        if end.code == KILLED && done.hit == Some(Hit::Memory) {
            end.reason = Some("the container ran out of memory: see its --memory".to_owned());
        }
        Some(end)
    }

    /// One more program has ended. What it started and left may still print, to nobody.
    fn end_exec(&mut self, id: SessionId) {
        if let Some(end) = self.finish(id) {
            self.tell_all(id, &Word::Ended(end));
        }
    }

    /// The container's process has ended, and all others in it have: the kernel kills them first, so
    /// what is in the pipes now is all there will be.
    fn end(&mut self) {
        let others: Vec<SessionId> =
            self.sessions.iter().map(|s| s.id).filter(|id| *id != FIRST).collect();
        others.into_iter().for_each(|id| self.end_exec(id));
        if let Some(end) = self.finish(FIRST) {
            self.close(end);
        }
    }

    /// Notes the end and tells it.
    fn close(&mut self, mut end: End) {
        self.record.state = State::Exited { code: end.code, at: now() };
        // Before the lock: who starts it again wants them.
        (self.proxy, self.record.bound) = (None, Vec::new());
        // Nobody can come any more: with the lock a new supervisor may take over the name.
        self.listener = None;
        let note = || write_record(&self.folder, &self.record);
        let noted = match self.record.remove {
            true => match discard(&self.folder, &self.record) {
                Ok(rubbish) => {
                    self.rubbish = Some(rubbish);
                    Ok(())
                }
                Err(e) => {
                    // What cannot go is noted as ended; unless it is gone but for its volumes.
                    note().unwrap_or(());
                    Err(e)
                }
            },
            false => note(),
        };
        if let Err(e) = noted {
            end.reason.get_or_insert_with(|| cut(crate::report(&e)));
        }
        self.lock = None;
        for v in &mut self.visitors {
            v.tell(&Word::Ended(end.clone()));
        }
    }
}

fn end_of(e: &InitError) -> End {
    End {
        code: e.exit_code().unwrap_or(NOT_STARTED),
        reason: Some(cut(e.to_string())),
        no_root: matches!(e, InitError::NoRoot { .. }),
    }
}
