//! `rgraph logs`: what a container, or the steps of a build printed, whole.

use std::io::{self, Write};

use rgraph_runtime::builds::StepStatus;
use rgraph_runtime::logs::{BuildLogs, Piece, STEP_MAX};
use rgraph_solver::Stream;

use super::explain::{choose, find};
use super::{Context, container, note};
use crate::args::LogsArgs;
use crate::options::LogsOptions;
use crate::progress::sanitize::{harmless, sanitize};
use crate::report::CliError;
use crate::session;

/// Runs the command: standard output of a step to standard output, standard error to standard error.
pub fn run(cx: &Context, args: LogsArgs) -> Result<(), CliError> {
    let opts = LogsOptions::new(&args, jiff::Timestamp::now().as_millisecond())?;
    let store = session::open_store(cx.root())?;
    if let (Some(word), None) = (&args.build, &args.step)
        && container::logs(&store, word, &opts)?
    {
        return Ok(());
    }
    if !opts.is_plain() {
        let name = args.build.as_deref().unwrap_or_default();
        return Err(CliError::failed(format!("no such container: {}", harmless(name))).help(
            "`--follow`, `--tail`, `--since`, `--until`, `--timestamps` are for containers",
        ));
    }
    let (mut build, step) = choose(&store, args.build, args.step)?;
    let logs = BuildLogs::new(&store, &build.id, STEP_MAX);
    let all: Vec<_> =
        std::mem::take(&mut build.steps).into_iter().enumerate().map(|(i, s)| (i + 1, s)).collect();
    let chosen = match &step {
        Some(wanted) => vec![find(&build, &all, wanted)?.clone()],
        None => all,
    };
    for (n, step_record) in &chosen {
        let Some(vertex) = step_record.log else {
            if step.is_some() {
                note(match step_record.status {
                    StepStatus::Cached => "the step did not run: its result was in the cache",
                    _ => "the step printed nothing",
                });
            }
            continue;
        };
        if step.is_none() {
            note(&format!("==> {n}: {} <==", harmless(&step_record.name)));
        }
        if !logs.has(vertex) {
            note("the log of this step was removed: logs are kept up to a total size");
            continue;
        }
        let mut screens = [Screen::new(cx.terminals.stdout), Screen::new(cx.terminals.stderr)];
        let give = &mut |piece: Piece<'_>| match piece {
            Piece::Output(Stream::Stdout, b) => screens[0].write(&mut io::stdout().lock(), b),
            Piece::Output(Stream::Stderr, b) => screens[1].write(&mut io::stderr().lock(), b),
            Piece::Cut => {
                note("[the log was cut here: it had reached its largest size, logs.max-size]");
                Ok(())
            }
        };
        let done = logs.read(vertex, give).and_then(|()| {
            screens[0].finish(&mut io::stdout().lock())?;
            screens[1].finish(&mut io::stderr().lock())
        });
        match done {
            // `rgraph logs | head`: the reader has what it wanted.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            done => done.map_err(|e| CliError::failed("cannot show the log").because(e))?,
        }
    }
    Ok(())
}

/// Bytes as they are, or made harmless, line by line, where a terminal would act on them.
struct Screen {
    terminal: bool,
    line: Vec<u8>,
}

/// A longer line is shown in pieces.
const PIECE: usize = 64 << 10;

impl Screen {
    fn new(terminal: bool) -> Self {
        Self { terminal, line: Vec::new() }
    }

    fn write(&mut self, out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
        if !self.terminal {
            return out.write_all(bytes);
        }
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() > PIECE {
                self.finish(out)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut text = String::new();
        sanitize(&self.line, true, &mut text);
        self.line.clear();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_nothing_to_act_on() {
        for (terminal, harmful) in [(true, false), (false, true)] {
            let mut out = Vec::new();
            let mut screen = Screen::new(terminal);
            for part in [&b"a\x1b]0;ti"[..], b"tle\x07b\n", b"end"] {
                screen.write(&mut out, part).unwrap();
            }
            screen.finish(&mut out).unwrap();
            assert_eq!(out.contains(&0x1b), harmful);
            assert!(out.starts_with(b"a") && out.ends_with(b"end"));
        }
    }
}
