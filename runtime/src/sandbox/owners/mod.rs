//! Steps where the kernel knows one user and one group alone: who files belong to and who processes
//! are is answered from what was recorded.
//!
//! A process of its own stands beside each such step. It is asked (seccomp_unotify(2)) about the
//! calls that change or show owners and identities (`rgraph_sys::seccomp::asked`). It is in the
//! step's mount namespace, has the step's root as its own, and holds no other file, so whatever
//! a path leads to is the step's. Where its answer would be the kernel's, the kernel answers.
//!
//! Nothing here keeps processes of a step apart: to the kernel all are the same user, with the rights
//! of root. A step could always change what is recorded about its own files and processes. So it
//! does no harm that paths are looked up twice, here and by the kernel.

mod caller;
mod create;
mod people;

use std::os::fd::{AsFd, OwnedFd};

use rgraph_image::layer::owner::{self, Owners};
use rgraph_sys::caps::{self, Cap, CapSet};
use rgraph_sys::seccomp::asked::{At, Call, Change};
use rgraph_sys::seccomp::notify::{self, Heard, Question, Reply};
use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::{ns, other, wait};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;

use caller::View;
use people::{People, Person, errno};

/// Starts answering for the step whose process is `step`.
///
/// # Errors
/// That of copying this process.
pub(super) fn start(listener: OwnedFd, step: &PidFd) -> std::io::Result<PidFd> {
    let step = step.as_fd().try_clone_to_owned()?;
    spawn::copy_with_only([listener, step], |[listener, step]| {
        // What cannot be answered fails in the step, with ENOSYS, as soon as nobody listens.
        i32::from(serve(&listener, PidFd::from_fd(step)).is_err())
    })
}

fn serve(listener: &OwnedFd, step: PidFd) -> std::io::Result<()> {
    ns::die_with_parent()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())?;
    other::enter_mounts(&step)?;
    drop(step);
    // Those of the step, and to look into its processes.
    caps::limit(CapSet::DOCKER.with(Cap::SYS_PTRACE))?;
    notify::answer_quickly(listener);
    let mut desk = Desk { view: View::new(proc)?, people: People::default() };
    loop {
        wait::readable(&[listener.as_fd()], None)?;
        match notify::hear(listener)? {
            Heard::Question(question) => desk.attend(question, listener)?,
            Heard::Nothing => {}
            Heard::Over => return Ok(()),
        }
    }
}

struct Desk {
    view: View,
    people: People,
}

/// Fails when the call waits no more: its thread's number may be another's by now.
type Asked<'a> = &'a dyn Fn() -> Result<(), Errno>;

/// What the kernel says of a file, with another owner, in the form that the caller wants.
type Look<'a> = &'a dyn Fn(&OwnedFd, (u32, u32)) -> Result<Vec<u8>, Errno>;

/// What comes of a call.
enum Answer {
    Reply(Reply),
    /// A descriptor for this file, closed on exec or not.
    File(OwnedFd, bool),
}

const DONE: Answer = Answer::Reply(Reply::Value(0));
const KERNEL: Answer = Answer::Reply(Reply::LetKernel);

impl Desk {
    fn attend(&mut self, question: Question, listener: &OwnedFd) -> std::io::Result<()> {
        let answer = match question.meaning() {
            Some(call) => self.answer(&question, call, listener),
            None => Ok(KERNEL),
        };
        let reply = match answer {
            Ok(Answer::File(file, cloexec)) => match question.give(listener, &file, cloexec) {
                Ok(()) => return Ok(()),
                Err(e) => Reply::Error(errno(e).raw_os_error()),
            },
            Ok(Answer::Reply(reply)) => reply,
            Err(e) => Reply::Error(e.raw_os_error()),
        };
        question.reply(listener, &reply)
    }

    fn answer(&mut self, q: &Question, call: Call, listener: &OwnedFd) -> Result<Answer, Errno> {
        let thread = q.thread;
        let asked = || if q.still_asked(listener.as_fd()) { Ok(()) } else { Err(Errno::SRCH) };
        match call {
            Call::Stat(at, to) => self.stat(thread, at, (to, &asked), &|file, owner| {
                other::stat_bytes(file, owner).map_err(errno)
            }),
            Call::Statx(at, flags, mask, to) => {
                self.stat(thread, at, (to, &asked), &|file, owner| {
                    other::statx_bytes(file.as_fd(), flags, mask, owner).map_err(errno)
                })
            }
            Call::Chown(at, uid, gid) => {
                let who = self.people.of(thread)?;
                self.view.within(thread, |view| {
                    let Ok(file) = view.handle(thread, at) else { return Ok(KERNEL) };
                    asked()?;
                    chown(&who, &file, uid, gid)
                })
            }
            Call::ListAttributes(at, to, room) => self.list(thread, at, (to, room), &asked),
            Call::Open(..)
            | Call::Open2(..)
            | Call::MakeDir(..)
            | Call::MakeLink(..)
            | Call::MakeNode(..) => {
                let who = self.people.of(thread)?;
                create::make(&self.view, thread, &who, call, &asked)
            }
            Call::Exec(at) => self.exec(thread, at, &asked),
            Call::Chroot => {
                self.view.expect_roots();
                Ok(KERNEL)
            }
            Call::Set(kind, change) => {
                let who = self.people.of(thread)?;
                let new = who.changed(kind, change);
                asked()?;
                let before = who.ids(kind).files;
                self.people.become_one(thread, &who, new?, || asked().is_ok())?;
                let files = matches!(change, Change::Files(_));
                Ok(value(if files { before } else { 0 }))
            }
            Call::SetGroups(count, from) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                if count > MAX_GROUPS {
                    return Err(Errno::INVAL);
                }
                let mut bytes = vec![0; count * 4];
                other::read_exact(thread, from, &mut bytes).map_err(errno)?;
                let who = self.people.of(thread)?;
                asked()?;
                let groups =
                    bytes.chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().expect("four")));
                let new = who.with_groups(groups.collect())?;
                self.people.become_one(thread, &who, new, || asked().is_ok())?;
                Ok(DONE)
            }
            Call::Get(kind) => Ok(value(self.people.of(thread)?.ids(kind).real)),
            Call::GetEffective(kind) => Ok(value(self.people.of(thread)?.ids(kind).effective)),
            Call::GetThree(kind, to) => {
                let ids = self.people.of(thread)?.ids(kind);
                let parts = to.into_iter().zip([ids.real, ids.effective, ids.saved]);
                let parts: Vec<_> = parts.map(|(to, id)| (to, id.to_ne_bytes())).collect();
                self.view.tell(thread, parts.iter().map(|(to, id)| (*to, &id[..])), &asked)?;
                Ok(DONE)
            }
            Call::Locks(to) => {
                // Without limits, as it was before this was of use.
                let parts = to.map(|to| (to, &[0xff; 16][..]));
                self.view.tell(thread, parts, &asked)?;
                Ok(DONE)
            }
            Call::GetGroups(room, to) => {
                let who = self.people.of(thread)?;
                let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
                if room > 0 {
                    if room < who.groups.len() {
                        return Err(Errno::INVAL);
                    }
                    let bytes: Vec<u8> = who.groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
                    self.view.tell(thread, [(to, &bytes[..])], &asked)?;
                }
                Ok(value(who.groups.len() as u32))
            }
        }
    }

    /// Answers only for files whose owner is recorded.
    fn stat(
        &self,
        thread: u32,
        at: At,
        (to, asked): (u64, Asked<'_>),
        look: Look<'_>,
    ) -> Result<Answer, Errno> {
        self.view.within(thread, |view| {
            // Errors are the kernel's to tell.
            let Ok(file) = view.handle(thread, at) else { return Ok(KERNEL) };
            let Ok(Some(owner)) = owner_of(&file, &rustix::fs::fstat(&file)?) else {
                return Ok(KERNEL);
            };
            let seen = look(&file, owner)?;
            view.tell(thread, [(to, &seen[..])], asked)?;
            Ok(DONE)
        })
    }

    /// Records are not among the attributes of files.
    fn list(
        &self,
        thread: u32,
        at: At,
        (to, room): (u64, u64),
        asked: Asked<'_>,
    ) -> Result<Answer, Errno> {
        self.view.within(thread, |view| {
            let Ok(file) = view.handle(thread, at) else { return Ok(KERNEL) };
            let stat = rustix::fs::fstat(&file)?;
            let mut list = vec![0; 64 << 10];
            let Ok(n) = rustix::fs::listxattr(View::path(&file), &mut list[..]) else {
                return Ok(KERNEL);
            };
            let is_record = |name: &[u8]| Owners::Recorded.is_record(name, stat.st_mode);
            let names = list[..n].split_inclusive(|b| *b == 0);
            let shown: Vec<u8> =
                names.filter(|n| !is_record(&n[..n.len() - 1])).flatten().copied().collect();
            if shown.len() == n {
                return Ok(KERNEL);
            }
            if room != 0 {
                if (shown.len() as u64) > room {
                    return Err(Errno::RANGE);
                }
                view.tell(thread, [(to, &shown[..])], asked)?;
            }
            Ok(value(shown.len() as u32))
        })
    }

    /// A program may give its user and group to who runs it.
    fn exec(&mut self, thread: u32, at: At, asked: Asked<'_>) -> Result<Answer, Errno> {
        let who = self.people.of(thread)?;
        let given = self.view.within(thread, |view| {
            let file = view.program(thread, at)?;
            let given = file.and_then(|file| given_by(view, thread, &file).ok());
            Ok(given.unwrap_or((None, None)))
        });
        // The kernel runs nothing either, and the process stays who it is.
        let Ok((user, group)) = given else { return Ok(KERNEL) };
        let new = who.after_exec(user, group);
        asked()?;
        self.people.become_one(thread, &who, new, || asked().is_ok())?;
        Ok(KERNEL)
    }
}

/// The user and group that a program gives to who runs it.
fn given_by(view: &View, thread: u32, file: &OwnedFd) -> Result<(Option<u32>, Option<u32>), Errno> {
    let stat = rustix::fs::fstat(file)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let user = mode.contains(Mode::SUID);
    let group = mode.contains(Mode::SGID | Mode::XGRP);
    if !(user || group)
        || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || (stat.st_mode & 0o111) == 0
        || rustix::fs::fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::NOSUID)
        || view.gets_no_rights(thread)?
        || is_script(file)
    {
        return Ok((None, None));
    }
    let owner = owner_of(file, &stat)?.unwrap_or((0, 0));
    Ok((user.then_some(owner.0), group.then_some(owner.1)))
}

/// The kernel's limit on further groups.
const MAX_GROUPS: usize = 65_536;

fn value(id: u32) -> Answer {
    Answer::Reply(Reply::Value(i64::from(id)))
}

/// The recorded owner.
fn owner_of(file: &OwnedFd, stat: &Stat) -> Result<Option<(u32, u32)>, Errno> {
    owner::recorded(View::path(file).as_str(), owner::is_plain(stat.st_mode))
}

/// Gives a file away: to the kernel it stays root's, with all that goes with such a change (the
/// copy of a file of a lower layer, the time of the change, the bits and capabilities that go).
fn chown(
    who: &Person,
    file: &OwnedFd,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<Answer, Errno> {
    let stat = rustix::fs::fstat(file)?;
    let recorded = owner_of(file, &stat)?;
    let before = recorded.unwrap_or((stat.st_uid, stat.st_gid));
    if !who.may_give(before, uid, gid) {
        return Err(Errno::PERM);
    }
    // Files of others than this user, mounted into the step, are the kernel's.
    if (stat.st_uid, stat.st_gid) != (0, 0) {
        return Ok(KERNEL);
    }
    let root = |id: Option<u32>| id.map(|_| 0);
    let (user, group) = (root(uid), root(gid));
    rustix::fs::chownat(
        file,
        c"",
        user.map(rustix::fs::Uid::from_raw),
        group.map(rustix::fs::Gid::from_raw),
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
    )?;
    let after = (uid.unwrap_or(before.0), gid.unwrap_or(before.1));
    let plain = owner::is_plain(stat.st_mode);
    if recorded.unwrap_or((0, 0)) != after || !plain {
        keep(owner::record(View::path(file).as_str(), plain, after))?;
    }
    Ok(DONE)
}

/// What no file system keeps a record of (pipes, terminals, files of the kernel's) is in no layer:
/// there it is enough that the call succeeds.
fn keep(recorded: Result<(), Errno>) -> Result<(), Errno> {
    match recorded {
        Err(Errno::NOTSUP | Errno::PERM | Errno::INVAL | Errno::NODATA) => Ok(()),
        other => other,
    }
}

/// The bits of a script count for nothing.
fn is_script(file: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut head = [0; 2];
    rustix::fs::open(View::path(file), flags, Mode::empty())
        .and_then(|fd| rustix::io::read(fd, &mut head))
        .is_ok_and(|_| head == *b"#!")
}
