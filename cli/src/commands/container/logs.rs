//! `rgraph logs` of a container.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use rgraph_runtime::container::log::{Frame, Reader};
use rgraph_runtime::container::{ContainerError, Containers, Event, Word};
use rgraph_runtime::sandbox::Stream;
use rgraph_store::Store;
use rgraph_sys::wait::{self, Changes};

use super::container_error;
use crate::options::LogsOptions;
use crate::report::CliError;

/// Shows what a container printed, each stream where it went; false: nothing is called so.
pub fn logs(store: &Store, name: &str, opts: &LogsOptions) -> Result<bool, CliError> {
    let containers = Containers::new(store);
    let failed = |e: ContainerError| container_error(&e);
    let record = match containers.find(name) {
        Err(ContainerError::NotFound(_)) => return Ok(false),
        found => found.map_err(failed)?,
    };
    let folder = containers.folder(&record);
    let shown = |e: io::Error| CliError::failed("cannot show the log").because(e);
    // Before the first look: what happens in between is seen then, or told now.
    let changes = Changes::of(&folder).map_err(shown)?;
    let supervisor = if opts.follow { containers.connect(&record).map_err(failed)? } else { None };
    let mut reader = Reader::new(&folder);
    let mut view = View::new(opts);
    let drain = |reader: &mut Reader, view: &mut View| -> io::Result<()> {
        while let Some(frame) = reader.take()? {
            view.take(&frame)?;
        }
        Ok(())
    };
    let done = (|| {
        drain(&mut reader, &mut view)?;
        view.show_tail()?;
        while let Some(supervisor) = &supervisor {
            changes.seen();
            drain(&mut reader, &mut view)?;
            let ready = wait::readable(&[changes.as_fd(), supervisor.as_fd()], None)?;
            // It says that it has ended, or has been killed.
            if ready[1]
                && matches!(
                    supervisor.next(),
                    Ok(None | Some(Event::Word(Word::Ended(_)))) | Err(_)
                )
            {
                drain(&mut reader, &mut view)?;
                break;
            }
        }
        view.finish()
    })();
    match done {
        // `rgraph logs | head`: the reader has what it wanted.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        r => r.map(|()| true).map_err(shown),
    }
}

/// What of the log is shown, and how.
struct View<'a> {
    opts: &'a LogsOptions,
    /// The last lines, while only the end is to be shown.
    tail: Option<VecDeque<Line>>,
    /// Of each stream, what has no end of line yet.
    open: [Option<Line>; 2],
}

#[derive(Debug)]
struct Line {
    stream: Stream,
    time: i64,
    text: Vec<u8>,
}

/// A longer line is several.
const MOST_LINE: usize = 1 << 20;

impl<'a> View<'a> {
    fn new(opts: &'a LogsOptions) -> Self {
        let tail = opts.tail.map(|_| VecDeque::new());
        Self { opts, tail, open: [None, None] }
    }

    fn take(&mut self, frame: &Frame) -> io::Result<()> {
        if self.opts.since.is_some_and(|t| frame.time < t)
            || self.opts.until.is_some_and(|t| frame.time > t)
        {
            return Ok(());
        }
        if self.tail.is_none() && !self.opts.timestamps {
            return write(frame.stream, &frame.text);
        }
        for part in frame.text.split_inclusive(|b| *b == b'\n') {
            let slot = &mut self.open[usize::from(frame.stream == Stream::Stderr)];
            let new = || Line { stream: frame.stream, time: frame.time, text: Vec::new() };
            let line = slot.get_or_insert_with(new);
            line.text.extend_from_slice(part);
            if (part.ends_with(b"\n") || line.text.len() > MOST_LINE)
                && let Some(line) = slot.take()
            {
                self.line(line)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: Line) -> io::Result<()> {
        match (&mut self.tail, self.opts.tail) {
            (Some(lines), Some(most)) => {
                lines.push_back(line);
                if lines.len() > most {
                    lines.pop_front();
                }
                Ok(())
            }
            _ => self.show(&line),
        }
    }

    fn show(&self, line: &Line) -> io::Result<()> {
        if self.opts.timestamps {
            let time = jiff::Timestamp::from_millisecond(line.time).unwrap_or_default();
            write(line.stream, format!("{time:.9} ").as_bytes())?;
        }
        write(line.stream, &line.text)
    }

    /// From now on lines are shown as they come.
    fn show_tail(&mut self) -> io::Result<()> {
        let Some(mut lines) = self.tail.take() else { return Ok(()) };
        let most = self.opts.tail.unwrap_or(usize::MAX);
        // A line that is not complete is one of those that were asked for.
        let open = self.open.iter().flatten().count();
        while lines.len() + open > most && !lines.is_empty() {
            lines.pop_front();
        }
        if most == 0 {
            self.open = [None, None];
        }
        lines.iter().try_for_each(|line| self.show(line))
    }

    /// What is left without an end of line.
    fn finish(&mut self) -> io::Result<()> {
        for line in std::mem::take(&mut self.open).into_iter().flatten() {
            self.show(&line)?;
        }
        Ok(())
    }
}

fn write(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        Stream::Stderr => io::stderr().lock().write_all(bytes),
    }
}
