//! From the profile's table to classic BPF.
//!
//! The call's number is found by binary search over ranges with the same answer, so a call costs
//! about nine comparisons. The program is written backwards, because BPF jumps only forwards and
//! by at most 255: what is jumped to then exists already, and a far target gets a long jump.

use std::collections::BTreeMap;

use libc::sock_filter;

use super::asked::{ASKED, Rule};
use super::profile::{BY_CAP, PLAIN, RULED, Row};
use crate::caps::CapSet;

/// A filter ready to be loaded.
#[derive(Clone)]
pub struct Program(pub(super) Vec<sock_filter>);

/// A machine whose calls the profile knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86-64, with i386 as second set of calls; x32 is refused.
    X86_64,
    /// aarch64; 32-bit programs are refused.
    Aarch64,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Answer {
    Allow,
    Errno(u16),
    /// A socket of any family but `AF_ALG` and `AF_VSOCK`.
    Socket,
    /// An execution domain that changes nothing dangerous.
    Personality,
    /// No new namespaces.
    Clone,
    /// Whoever listens is asked.
    Ask,
    /// Asked about when the argument of this number has one of these bits.
    AskIf(u8, u32),
    /// Asked about when the argument of this number is this.
    AskIfIs(u8, u32),
}

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
/// Low half of the first argument, little-endian. The kernel looks at 32 bits of each argument
/// that has a rule (they are `int` or `unsigned int`, and `clone` drops the upper half), so the
/// upper half must not count here either: it would let `1 << 32 | AF_ALG` through.
const ARG0: u32 = 16;
const ARG1: u32 = 24;
const ARG2: u32 = 32;

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
/// Numbers from here on are x32's.
const X32_BIT: u32 = 0x4000_0000;

/// The namespace flags of `clone`, all but `CLONE_NEWTIME`, which it has not.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;

/// `mknod` and `mknodat`, in the columns of the profile.
pub(super) const MKNOD: [Option<u32>; 3] = [Some(133), Some(14), None];
pub(super) const MKNODAT: [Option<u32>; 3] = [Some(259), Some(297), Some(33)];
/// In the mode of a file: set for `S_IFCHR`, `S_IFBLK` and `S_IFLNK`.
const DEVICE_BIT: u32 = 0o020_000;
/// In the mode of a file: none of these is set for a device.
const NO_DEVICE_BITS: u32 = 0o110_000;

impl Arch {
    /// The machine this was compiled for.
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    /// The column of the table for an audit number of this machine.
    pub(super) fn column(audit: u32) -> Option<usize> {
        Self::native()?.sets().iter().find(|(a, _)| *a == audit).map(|(_, column)| *column)
    }

    /// Its audit numbers, each with the column of the table.
    const fn sets(self) -> &'static [(u32, usize)] {
        match self {
            Self::X86_64 => &[(AUDIT_X86_64, 0), (AUDIT_I386, 1)],
            Self::Aarch64 => &[(AUDIT_AARCH64, 2)],
        }
    }
}

impl Program {
    /// moby's default profile for a process with the capabilities `caps`.
    pub fn docker_default(arch: Arch, caps: CapSet) -> Self {
        let mut w = Writer(Vec::new());
        // A call made through any other architecture's door: nobody honest does that.
        let mut otherwise = w.ret(libc::SECCOMP_RET_KILL_PROCESS);
        for &(audit, column) in arch.sets().iter().rev() {
            // What the profile does not name is refused with EPERM, but calls newer than all it
            // names with ENOSYS: a libc that tries a new call then falls back to an older one,
            // instead of failing.
            let (unknown, newer) = (Answer::Errno(EPERM), Answer::Errno(ENOSYS));
            let search = w.search(&ranges(&answers(column, caps), unknown, newer));
            let mut entry = search;
            if audit == AUDIT_X86_64 {
                let refuse = w.answer(Answer::Errno(ENOSYS));
                entry = w.jump(libc::BPF_JGE, X32_BIT, refuse, search);
            }
            let numbered = w.load(NR, entry);
            otherwise = w.jump(libc::BPF_JEQ, audit, numbered, otherwise);
        }
        w.load(ARCH, otherwise);
        w.0.reverse();
        Self(w.0)
    }

    /// Asks whoever listens about calls that would make device nodes, and allows all others. To be
    /// loaded beside another filter: an answer of that one other than "allowed" wins.
    pub fn device_nodes(arch: Arch) -> Self {
        let mut w = Writer(Vec::new());
        let mut otherwise = w.ret(libc::SECCOMP_RET_ALLOW);
        let allow = otherwise;
        let ask = w.ret(libc::SECCOMP_RET_USER_NOTIF);
        for &(audit, column) in arch.sets().iter().rev() {
            let mut next = allow;
            for (number, mode) in [(MKNOD[column], ARG1), (MKNODAT[column], ARG2)].into_iter().rev()
            {
                let Some(number) = number else { continue };
                // By single bits: both kinds of device have the first, of the others only links do.
                let no_link = w.jump(libc::BPF_JSET, NO_DEVICE_BITS, allow, ask);
                let device = w.jump(libc::BPF_JSET, DEVICE_BIT, no_link, allow);
                let by_mode = w.load(mode, device);
                next = w.jump(libc::BPF_JEQ, number, by_mode, next);
            }
            let numbered = w.load(NR, next);
            otherwise = w.jump(libc::BPF_JEQ, audit, numbered, otherwise);
        }
        w.load(ARCH, otherwise);
        w.0.reverse();
        Self(w.0)
    }

    /// Asks whoever listens about the calls by which owners of files, and users and groups of
    /// processes, are changed and looked at ([`super::asked`]), and allows all others. To be loaded
    /// beside another filter, as [`Self::device_nodes`]. Programs for the machine's second set of
    /// calls (i386) are not asked about.
    pub fn owners(arch: Arch) -> Self {
        let mut w = Writer(Vec::new());
        let mut otherwise = w.ret(libc::SECCOMP_RET_ALLOW);
        if let Some(&(audit, column)) = arch.sets().first() {
            let table: BTreeMap<u32, Answer> = ASKED
                .iter()
                .filter_map(|(name, rule)| Some((number(name, column)?, Answer::from(*rule))))
                .collect();
            let search = w.search(&ranges(&table, Answer::Allow, Answer::Allow));
            let numbered = w.load(NR, search);
            otherwise = w.jump(libc::BPF_JEQ, audit, numbered, otherwise);
        }
        w.load(ARCH, otherwise);
        w.0.reverse();
        Self(w.0)
    }

    /// Number of instructions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// False: there is always an instruction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A call's number in a column of the profile; `None`: there it has none.
pub(super) fn number(name: &str, column: usize) -> Option<u32> {
    let by_cap = BY_CAP.iter().flat_map(|(_, rows)| *rows);
    let row = PLAIN.iter().chain(by_cap).find(|row| row.0 == name)?;
    u32::try_from(row.1[column]).ok()
}

impl From<Rule> for Answer {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Always => Self::Ask,
            Rule::IfBits(argument, bits) => Self::AskIf(argument, bits),
            Rule::IfIs(argument, value) => Self::AskIfIs(argument, value),
        }
    }
}

/// The answer for every call that the profile names, by number.
fn answers(column: usize, caps: CapSet) -> BTreeMap<u32, Answer> {
    let mut out = BTreeMap::new();
    let mut put = |row: &Row, answer| {
        if let Ok(nr) = u32::try_from(row.1[column]) {
            out.insert(nr, answer);
        }
    };
    for row in PLAIN {
        put(row, Answer::Allow);
    }
    for row in RULED {
        let answer = match row.0 {
            "socket" => Answer::Socket,
            "personality" => Answer::Personality,
            "clone" => Answer::Clone,
            // Its flags are behind a pointer; libc falls back to `clone`.
            _ => Answer::Errno(ENOSYS),
        };
        put(row, answer);
    }
    for (cap, rows) in BY_CAP {
        for row in *rows {
            if caps.has(*cap) {
                put(row, Answer::Allow);
            }
        }
    }
    out
}

/// Start of each range and its answer; the first starts at 0. Calls that are not named have the
/// answer `unknown`, and `newer` after the last that is.
fn ranges(answers: &BTreeMap<u32, Answer>, unknown: Answer, newer: Answer) -> Vec<(u32, Answer)> {
    let mut out: Vec<(u32, Answer)> = Vec::new();
    let mut put = |start: u32, answer: Answer| match out.last_mut() {
        Some(last) if last.0 == start => last.1 = answer,
        Some(last) if last.1 == answer => {}
        _ => out.push((start, answer)),
    };
    put(0, unknown);
    for (&nr, &answer) in answers {
        put(nr, answer);
        put(nr + 1, unknown);
    }
    let newest = answers.keys().next_back().map_or(0, |n| n + 1);
    put(newest, newer);
    // Replacing a start may have made two neighbours equal.
    out.dedup_by(|b, a| a.1 == b.1);
    out
}

/// Writes backwards; a position is an index into the reversed program.
struct Writer(Vec<sock_filter>);

impl Writer {
    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> usize {
        self.0.push(sock_filter { code: code as u16, jt, jf, k });
        self.0.len() - 1
    }

    fn ret(&mut self, k: u32) -> usize {
        self.push(libc::BPF_RET | libc::BPF_K, 0, 0, k)
    }

    /// Instructions to skip from the one written next to the one at `to`.
    fn distance(&self, to: usize) -> usize {
        self.0.len() - to - 1
    }

    /// Something near that leads to `to`: itself, or a long jump.
    fn near(&mut self, to: usize, room: usize) -> usize {
        if self.distance(to) + room <= 255 {
            return to;
        }
        let far = self.distance(to) as u32;
        self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, far)
    }

    fn jump(&mut self, test: u32, k: u32, yes: usize, no: usize) -> usize {
        // One more instruction may come between, the long jump for `no`.
        let yes = self.near(yes, 1);
        let no = self.near(no, 0);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(libc::BPF_JMP | test | libc::BPF_K, jt, jf, k)
    }

    /// Loads a word; control must go on to `next`.
    fn load(&mut self, offset: u32, next: usize) -> usize {
        if self.distance(next) != 0 {
            let far = self.distance(next) as u32;
            self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, far);
        }
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
    }

    /// Takes a return that is near enough, or writes one.
    fn answer(&mut self, answer: Answer) -> usize {
        let k = match answer {
            Answer::Allow => libc::SECCOMP_RET_ALLOW,
            Answer::Errno(e) => libc::SECCOMP_RET_ERRNO | u32::from(e),
            Answer::Socket => return self.socket(),
            Answer::Personality => return self.personality(),
            Answer::Clone => return self.clone_flags(),
            Answer::Ask => libc::SECCOMP_RET_USER_NOTIF,
            Answer::AskIf(argument, bits) => return self.ask_if(libc::BPF_JSET, argument, bits),
            Answer::AskIfIs(argument, is) => return self.ask_if(libc::BPF_JEQ, argument, is),
        };
        let ret = (libc::BPF_RET | libc::BPF_K) as u16;
        let end = self.0.len();
        // Leave room, or the search above would need a long jump to it, which saves nothing.
        let first = end.saturating_sub(200);
        let found = self.0[first..].iter().rposition(|i| i.code == ret && i.k == k);
        found.map_or_else(|| self.ret(k), |i| first + i)
    }

    fn ask_if(&mut self, test: u32, argument: u8, value: u32) -> usize {
        let allow = self.answer(Answer::Allow);
        let ask = self.answer(Answer::Ask);
        let test = self.jump(test, value, ask, allow);
        self.load(ARG0 + 8 * u32::from(argument), test)
    }

    fn socket(&mut self) -> usize {
        let allow = self.answer(Answer::Allow);
        let refuse = self.answer(Answer::Errno(EPERM));
        let second = self.jump(libc::BPF_JEQ, AF_VSOCK, refuse, allow);
        let first = self.jump(libc::BPF_JEQ, AF_ALG, refuse, second);
        self.load(ARG0, first)
    }

    fn personality(&mut self) -> usize {
        let allow = self.answer(Answer::Allow);
        let mut next = self.answer(Answer::Errno(EPERM));
        for &value in PERSONALITIES.iter().rev() {
            next = self.jump(libc::BPF_JEQ, value, allow, next);
        }
        self.load(ARG0, next)
    }

    fn clone_flags(&mut self) -> usize {
        let allow = self.answer(Answer::Allow);
        let refuse = self.answer(Answer::Errno(EPERM));
        let test = self.jump(libc::BPF_JSET, CLONE_NAMESPACES, refuse, allow);
        self.load(ARG0, test)
    }

    fn search(&mut self, ranges: &[(u32, Answer)]) -> usize {
        if let [(_, only)] = ranges {
            return self.answer(*only);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let below = self.search(low);
        let from = self.search(high);
        self.jump(libc::BPF_JGE, high[0].0, from, below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::Cap;

    /// Runs a program as the kernel would; every instruction must be one that is written here.
    fn run(p: &Program, arch: u32, nr: u32, arg0: u64) -> u32 {
        let (mut pc, mut acc) = (0usize, 0u32);
        for _ in 0..p.0.len() {
            let i = p.0[pc];
            let code = u32::from(i.code);
            pc += 1;
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                acc = match i.k {
                    NR => nr,
                    ARCH => arch,
                    ARG0 | ARG1 | ARG2 => arg0 as u32,
                    other => panic!("load of {other}"),
                };
            } else if code == libc::BPF_RET | libc::BPF_K {
                return i.k;
            } else if code == libc::BPF_JMP | libc::BPF_JA {
                pc += i.k as usize;
            } else {
                let hit = match code & !libc::BPF_JMP {
                    c if c == libc::BPF_JEQ => acc == i.k,
                    c if c == libc::BPF_JGE => acc >= i.k,
                    c if c == libc::BPF_JSET => acc & i.k != 0,
                    other => panic!("instruction {other:#x}"),
                };
                pc += usize::from(if hit { i.jt } else { i.jf });
            }
        }
        panic!("no answer");
    }

    fn errno(e: u16) -> u32 {
        libc::SECCOMP_RET_ERRNO | u32::from(e)
    }

    #[test]
    fn every_number_gets_the_answer_of_the_table() {
        let admin = CapSet::of(&[Cap::SYS_ADMIN]);
        for (arch, caps) in [
            (Arch::X86_64, CapSet::DOCKER),
            (Arch::X86_64, admin),
            (Arch::Aarch64, CapSet::DOCKER),
            (Arch::X86_64, CapSet::EMPTY),
        ] {
            let p = Program::docker_default(arch, caps);
            assert!(p.len() < 4096);
            for &(audit, column) in arch.sets() {
                let table = answers(column, caps);
                let newest = *table.keys().next_back().unwrap();
                for nr in 0..newest + 50 {
                    let want = match table.get(&nr) {
                        // With a zero argument every rule says yes.
                        Some(
                            Answer::Allow | Answer::Socket | Answer::Personality | Answer::Clone,
                        ) => libc::SECCOMP_RET_ALLOW,
                        Some(Answer::Errno(e)) => errno(*e),
                        Some(Answer::Ask | Answer::AskIf(..) | Answer::AskIfIs(..)) => {
                            panic!("asks nobody")
                        }
                        None if nr > newest => errno(ENOSYS),
                        None => errno(EPERM),
                    };
                    assert_eq!(run(&p, audit, nr, 0), want, "{arch:?} {audit:#x} {nr}");
                }
            }
        }
    }

    #[test]
    fn named_calls() {
        let p = Program::docker_default(Arch::X86_64, CapSet::DOCKER);
        let allow = libc::SECCOMP_RET_ALLOW;
        let x = AUDIT_X86_64;
        for (what, arch, nr, arg, want) in [
            ("read", x, 0, 0, allow),
            ("execve", x, 59, 0, allow),
            ("ptrace", x, 101, 0, allow),
            ("chroot, by capability", x, 161, 0, allow),
            ("mount", x, 165, 0, errno(EPERM)),
            ("unshare", x, 272, 0, errno(EPERM)),
            ("keyctl", x, 250, 0, errno(EPERM)),
            ("bpf", x, 321, 0, errno(EPERM)),
            ("io_uring_setup", x, 425, 0, errno(EPERM)),
            ("open_tree", x, 428, 0, errno(EPERM)),
            ("clone3", x, 435, 0, errno(ENOSYS)),
            ("clone, thread", x, 56, 0x3d0f00, allow),
            ("clone, new user namespace", x, 56, 0x1000_0000, errno(EPERM)),
            ("clone, new cgroup namespace", x, 56, 0x0200_0000, errno(EPERM)),
            ("socket, inet", x, 41, 2, allow),
            ("socket, alg", x, 41, 38, errno(EPERM)),
            ("socket, family 39", x, 41, 39, allow),
            ("socket, vsock", x, 41, 40, errno(EPERM)),
            ("socket, vsock with upper bits", x, 41, 1 << 32 | 40, errno(EPERM)),
            ("socket, xdp", x, 41, 44, allow),
            ("personality, query", x, 135, 0xffff_ffff, allow),
            ("personality, no randomisation", x, 135, 0x4_0000, errno(EPERM)),
            ("x32 read", x, X32_BIT, 0, errno(ENOSYS)),
            ("i386 exit", AUDIT_I386, 1, 0, allow),
            ("i386 mount", AUDIT_I386, 21, 0, errno(EPERM)),
            ("aarch64", AUDIT_AARCH64, 63, 0, libc::SECCOMP_RET_KILL_PROCESS),
        ] {
            assert_eq!(run(&p, arch, nr, arg), want, "{what}");
        }
    }

    #[test]
    fn device_nodes_are_asked_about() {
        let (ask, allow) = (libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW);
        let (x, i, a) = (AUDIT_X86_64, AUDIT_I386, AUDIT_AARCH64);
        for (arch, audit, calls, other) in [
            (Arch::X86_64, x, [133, 259], 0),
            (Arch::X86_64, i, [14, 297], 133),
            (Arch::Aarch64, a, [33, 33], 259),
        ] {
            let p = Program::device_nodes(arch);
            for nr in calls {
                for (mode, want) in [
                    (0o020_644, ask),
                    (0o060_600, ask),
                    (0o010_644, allow),
                    (0o100_644, allow),
                    (0o140_644, allow),
                    (0o120_777, allow),
                    (0o040_755, allow),
                    (0o644, allow),
                ] {
                    assert_eq!(run(&p, audit, nr, mode), want, "{arch:?} {nr} {mode:o}");
                }
            }
            assert_eq!(run(&p, audit, other, 0o020_644), allow);
        }
    }

    #[test]
    fn calls_about_owners_are_asked_about() {
        let (ask, allow) = (libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW);
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let (audit, column) = arch.sets()[0];
            let p = Program::owners(arch);
            for nr in 0..500 {
                let asked = ASKED.iter().find(|(name, _)| number(name, column) == Some(nr));
                let want = match asked {
                    Some((_, Rule::Always)) => [ask, ask, ask],
                    Some((_, Rule::IfBits(..))) => [allow, ask, allow],
                    Some((_, Rule::IfIs(..))) => [allow, allow, ask],
                    None => [allow, allow, allow],
                };
                for (argument, want) in [0o2, 0o102, 10].into_iter().zip(want) {
                    assert_eq!(run(&p, audit, nr, argument), want, "{arch:?} {nr} {argument}");
                }
            }
        }
        let other = Program::owners(Arch::X86_64);
        assert_eq!(run(&other, AUDIT_I386, 182, 0), allow);
    }

    #[test]
    fn the_table_is_sorted_and_names_no_call_twice() {
        let all = BY_CAP.iter().map(|(_, rows)| *rows).chain([PLAIN, RULED]);
        for rows in all {
            assert!(rows.windows(2).all(|w| w[0].0 < w[1].0));
            for (name, numbers) in rows {
                assert!(numbers.iter().any(|n| *n >= 0), "{name}");
            }
        }
    }
}
