//! Where this process says what it has to say: with its creator, to the creator's standard error; on its own, to the file
//! `machine.log` of the sandbox. Its log lines go into the sandbox's log, too, and on its own only there, because that is bounded:
//! the file is then for panics.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::dup2_stderr;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use super::log::{LimitedLines, LogLines};
use crate::logging::{self, LogLevel};

/// Name of the file in the sandbox's directory.
const FILE: &str = "machine.log";

/// The way of this process's log lines.
#[derive(Debug, Clone, Default)]
pub(super) struct Diagnostics {
    way: Arc<Way>,
}

#[derive(Debug, Default)]
pub(super) struct Way {
    /// The sandbox's log, if it has one.
    lines: Mutex<Option<LimitedLines>>,
    /// Whether the creator's standard error is not this process's any more.
    left_creator: AtomicBool,
}

impl Diagnostics {
    /// Lets log lines from `level` on come here.
    pub(super) fn start(level: LogLevel) -> Diagnostics {
        let diagnostics = Diagnostics::default();
        // What cannot be logged is nothing to be logged.
        let is_of_log = |metadata: &tracing::Metadata<'_>| {
            metadata
                .target()
                .starts_with(concat!(env!("CARGO_CRATE_NAME"), "::vm::log"))
        };
        let lines = diagnostics
            .clone()
            .with_filter(move |metadata| !is_of_log(metadata));
        let stderr = io::stderr.with_filter(is_of_log);
        logging::start_with(level, lines.and(stderr));
        diagnostics
    }

    /// From now on they go into the sandbox's log, or with `None` no longer.
    pub(super) fn set_log(&self, lines: Option<LogLines>) {
        let lines = lines.map(|lines| LimitedLines::new("machine", lines));
        *self
            .way
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = lines;
    }

    /// Lets go of the creator's standard error, which may be a pipe that somebody reads to its end, or a terminal. `state` is
    /// the sandbox's directory; without one, or if nothing can be written there, nothing is said there any more.
    ///
    /// # Errors
    /// When /dev/null cannot be opened.
    pub(super) fn leave_creator(&self, state: Option<&Path>) -> io::Result<()> {
        let file = state.and_then(|directory| {
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .create(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(directory.join(FILE))
                .ok()
        });
        let file = match file {
            Some(file) => file,
            None => File::options().write(true).open("/dev/null")?,
        };
        dup2_stderr(file)?;
        self.way.left_creator.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Diagnostics {
    type Writer = &'a Way;

    fn make_writer(&'a self) -> &'a Way {
        &self.way
    }
}

impl Write for &Way {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged = lines.is_some();
        if let Some(lines) = &mut *lines {
            lines.write(data);
        }
        drop(lines);
        if is_logged && self.left_creator.load(Ordering::Relaxed) {
            return Ok(data.len());
        }
        io::stderr().write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
