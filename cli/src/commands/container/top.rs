//! `rgraph top`: the processes of a container.
//!
//! Numbers of processes and users are the host's, as those that Docker shows.

use std::collections::HashSet;
use std::process::Command;

use nix::unistd::{Uid, User};
use rgraph_runtime::container::{Clock, Containers, Process, processes};

use super::{Context, container_error, print};
use crate::args::TopArgs;
use crate::report::CliError;
use crate::session;
use crate::table::Table;

const HEADINGS: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

/// Runs the command.
pub fn top(cx: &Context, args: &TopArgs) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let record = Containers::new(&store).find(&args.container).map_err(|e| container_error(&e))?;
    let all = processes(&record).map_err(|e| container_error(&e))?;
    let mut out = Vec::new();
    let table = match args.options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["-ef"] => own(&all)?,
        _ => drawn_by_ps(&all, &args.options)?,
    };
    table.write(&mut out).map_err(|e| CliError::failed("cannot write the table").because(e))?;
    print(&out)
}

/// As `ps -ef` has it.
fn own(all: &[Process]) -> Result<Table, CliError> {
    let clock = Clock::read().map_err(|e| container_error(&e))?;
    let now = jiff::Zoned::now();
    let mut table = Table::new(HEADINGS);
    for p in all {
        let name = User::from_uid(Uid::from_raw(p.user)).ok().flatten();
        table.row([
            name.map_or_else(|| p.user.to_string(), |u| u.name),
            p.pid.to_string(),
            p.parent.to_string(),
            share(p, clock, now.timestamp().as_second()).to_string(),
            start(p, clock, &now),
            terminal(p.terminal),
            time(p.used / clock.ticks),
            p.line.clone(),
        ]);
    }
    Ok(table)
}

/// Percent of a processor since it began; there is no room for more than 99.
fn share(p: &Process, clock: Clock, now: i64) -> u64 {
    let alive = now - clock.boot - i64::try_from(p.began / clock.ticks).unwrap_or(i64::MAX);
    let alive = u64::try_from(alive).unwrap_or(0).max(1);
    (p.used.saturating_mul(100) / clock.ticks / alive).min(99)
}

/// Today the time, this year the day, else the year.
fn start(p: &Process, clock: Clock, now: &jiff::Zoned) -> String {
    let at = clock.boot.saturating_add_unsigned(p.began / clock.ticks);
    let Ok(at) = jiff::Timestamp::from_second(at) else { return "?".to_owned() };
    let at = at.to_zoned(now.time_zone().clone());
    let form = match (at.year() == now.year(), at.date() == now.date()) {
        (_, true) => "%H:%M",
        (true, false) => "%b%d",
        (false, false) => "%Y",
    };
    at.strftime(form).to_string()
}

/// The name of a terminal by its device number (proc(5)).
fn terminal(device: u32) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    match major {
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        5 if minor == 1 => "console".to_owned(),
        _ => "?".to_owned(),
    }
}

/// `[days-]hours:minutes:seconds`.
fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86400);
    let days = if days > 0 { format!("{days}-") } else { String::new() };
    format!("{days}{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// What the host's own `ps` says of them, as Docker does it.
fn drawn_by_ps(all: &[Process], options: &[String]) -> Result<Table, CliError> {
    let ps = Command::new("ps").args(options).output().map_err(|e| {
        CliError::failed("cannot run `ps`, which options of `top` are for")
            .help("install it (package `procps`), or leave the options out")
            .because(e)
    })?;
    if !ps.status.success() {
        let said = String::from_utf8_lossy(&ps.stderr).trim().to_owned();
        return Err(CliError::failed(format!("`ps` refuses the options: {said}")));
    }
    let ours: HashSet<i32> = all.iter().map(|p| p.pid).collect();
    ours_among(&String::from_utf8_lossy(&ps.stdout), &ours).ok_or_else(|| {
        CliError::failed("there is no column `PID` in what `ps` prints")
            .help("add it: `-o pid,...`, without a heading of your own")
    })
}

/// The lines of a list that are about these processes; `None`: it has no numbers of processes.
fn ours_among(text: &str, ours: &HashSet<i32>) -> Option<Table> {
    let mut lines = text.lines();
    let headings: Vec<&str> = lines.next()?.split_whitespace().collect();
    let at = headings.iter().position(|h| *h == "PID")?;
    let mut table = Table::new(headings.iter().copied());
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = words.get(at).and_then(|w| w.parse().ok());
        if number.is_some_and(|n| ours.contains(&n)) {
            let (first, last) = words.split_at((headings.len() - 1).min(words.len()));
            table.row(first.iter().map(|w| (*w).to_owned()).chain([last.join(" ")]));
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        for (device, want) in [
            (0, "?"),
            (0x8800, "pts/0"),
            (0x8907, "pts/263"),
            (0x0401, "tty1"),
            (0x0440, "ttyS0"),
            (0x0501, "console"),
            (0x0010_8805, "pts/261"),
        ] {
            assert_eq!(terminal(device), want, "{device:x}");
        }
        for (seconds, want) in [(0, "00:00:00"), (3671, "01:01:11"), (90_061, "1-01:01:01")] {
            assert_eq!(time(seconds), want);
        }
        let clock = Clock { ticks: 100, boot: 1_700_000_000 };
        let p = |began, used| Process {
            pid: 1,
            parent: 0,
            user: 0,
            threads: 1,
            terminal: 0,
            began,
            used,
            used_by_ended: 0,
            line: String::new(),
        };
        let now: jiff::Zoned = "2023-11-16T12:00:00[UTC]".parse().unwrap();
        // The machine began on the 14th, at 22:13:20.
        for (began, want) in [(0, "Nov14"), (13_000_000, "10:20")] {
            assert_eq!(start(&p(began, 0), clock, &now), want);
        }
        let later: jiff::Zoned = "2024-01-01T12:00:00[UTC]".parse().unwrap();
        assert_eq!(start(&p(0, 0), clock, &later), "2023");
        for (used, want) in [(0, 0), (500, 50), (5000, 99)] {
            assert_eq!(share(&p(0, used), clock, clock.boot + 10), want);
        }
        assert_eq!(share(&p(0, 10), clock, clock.boot - 5), 10);
    }

    #[test]
    fn lines_of_ps() {
        let ours = HashSet::from([7, 12]);
        let text = "USER  PID CMD\nroot   7 sleep   1\nroot   8 sh\nme    12 sh -c x y\nroot -\n";
        let mut out = Vec::new();
        ours_among(text, &ours).unwrap().write(&mut out).unwrap();
        let want =
            "USER      PID       CMD\nroot      7         sleep 1\nme        12        sh -c x y\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
        assert!(ours_among("USER CMD\nroot sh\n", &ours).is_none());
        assert!(ours_among("", &ours).is_none());
    }
}
