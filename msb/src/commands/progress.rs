//! How far a long command is, and whether the user wants it to end.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::Signal;

use super::process::wait_for;
use crate::signals::Signals;

/// What takes less shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of a command that goes through a disk or the layer of a snapshot.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    signals: Signals,
    start: Instant,
    ended_by: Option<Signal>,
}

impl Progress {
    /// Of `size` bytes. From now on signals do not end the process.
    ///
    /// # Errors
    /// As signalfd(2).
    pub(super) fn new(size: u64) -> io::Result<Progress> {
        let style = ProgressStyle::with_template(
            "{bar:40} {percent}% {bytes} of {total_bytes}, {eta} left",
        );
        Ok(Progress {
            bar: ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden())
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            signals: Signals::take_over()?,
            start: Instant::now(),
            ended_by: None,
        })
    }

    /// Breaks when a signal asked for the end.
    pub(super) fn go_on(&mut self) -> ControlFlow<()> {
        while let Ok(Some(signal)) = self.signals.next() {
            if signal != Signal::SIGWINCH {
                self.ended_by = Some(signal);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// `done` bytes are done. Breaks when a signal asked for the end.
    pub(super) fn advance(&mut self, done: u64) -> ControlFlow<()> {
        if self.bar.is_hidden() && self.start.elapsed() > PATIENCE && io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done);
        self.go_on()
    }

    /// The same, of so many.
    pub(super) fn advance_of(&mut self, done: u64, total: u64) -> ControlFlow<()> {
        self.bar.set_length(total);
        self.advance(done)
    }

    /// Waits until there is something to read, or the end. Breaks when a signal asked for the end.
    ///
    /// # Errors
    /// As poll(2).
    pub(super) fn wait_for(&mut self, input: BorrowedFd<'_>) -> anyhow::Result<ControlFlow<()>> {
        loop {
            let [readable, _] = wait_for([Some(input), Some(self.signals.as_fd())], None)?;
            let wanted = self.go_on();
            if readable || wanted.is_break() {
                return Ok(wanted);
            }
        }
    }

    /// Whether a signal asked for the end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended_by.is_some()
    }

    /// Removes the bar. Returns the signal that asked for the end.
    pub(super) fn finish(self) -> Option<Signal> {
        self.bar.finish_and_clear();
        self.ended_by
    }
}
