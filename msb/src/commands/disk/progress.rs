//! How far a long command is, and whether the user wants it to end.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::Signal;

use crate::signals::Signals;

/// What takes less shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of a command that goes through a disk.
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

    /// Removes the bar. Returns the signal that asked for the end.
    pub(super) fn finish(self) -> Option<Signal> {
        self.bar.finish_and_clear();
        self.ended_by
    }
}
