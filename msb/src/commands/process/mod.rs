//! Being a process in a guest: its standard streams are those of `msb`, and so are its signals and its end.

mod detach;
mod outcome;
mod wait;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::Context;
use microsandbox::control::ControlSession;
use microsandbox::launch::Moment;
use microsandbox::protocol::Exec;
use microsandbox::session::{Session, Streams};
use nix::sys::signal::Signal;

use crate::options::DetachKeys;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use detach::KeyWatch;

pub(super) use outcome::{Outcome, conclude, errno_text, refused, signal_status, with_causes};
pub(super) use wait::wait_for;

/// How much longer than the guest's agent `msb` waits for the end of a process whose time is over.
const TIMEOUT_SLACK: Duration = Duration::from_secs(5);

/// A process that is about to run.
pub(super) struct Attended<'a> {
    /// A fresh connection to the agent.
    pub(super) stream: UnixStream,
    /// The process.
    pub(super) exec: Exec,
    /// When it is ended by force.
    pub(super) timeout: Option<Duration>,
    /// What the user does to it.
    pub(super) signals: &'a Signals,
}

impl Attended<'_> {
    /// Runs the process until it has ended, or there is no more point in it. Also tells when the first output came.
    ///
    /// # Errors
    /// When the session fails.
    pub(super) fn run(self) -> anyhow::Result<(Outcome, Option<Moment>)> {
        let terminal = self.exec.terminal.is_some();
        let mut streams = standard_streams()?;
        if !self.exec.stdin {
            streams.input = None;
        }
        let raw = raw_mode(terminal)?;
        let session =
            Session::attach(self.stream, self.exec, streams).context("cannot run the command")?;
        let following = Following {
            session,
            raw,
            terminal,
            deadline: self.timeout.and_then(|timeout| {
                Instant::now().checked_add(timeout.checked_add(TIMEOUT_SLACK)?)
            }),
            keys: None,
        };
        following.follow(self.signals)
    }
}

/// A process that goes on by itself, and that somebody comes back to.
pub(super) struct Returning<'a> {
    /// The way to it.
    pub(super) session: ControlSession,
    /// By which it is left alone again, if it has a terminal.
    pub(super) keys: &'a DetachKeys,
    /// What the user does to it.
    pub(super) signals: &'a Signals,
}

impl Returning<'_> {
    /// Is the process until it ends or is left alone.
    ///
    /// # Errors
    /// When the session fails.
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        let terminal = self.session.opened.terminal;
        let mut streams = standard_streams()?;
        let keys = match streams.input.take() {
            Some(input) if terminal && io::stdin().is_terminal() => {
                let (keys, rest) = KeyWatch::start(input, self.keys)
                    .context("cannot watch for the keys that leave the process alone")?;
                streams.input = Some(rest);
                Some(keys)
            }
            input => {
                streams.input = input;
                None
            }
        };
        let raw = raw_mode(terminal)?;
        let session =
            Session::resume(self.session, streams).context("cannot come back to the process")?;
        let following = Following {
            session,
            raw,
            terminal,
            deadline: None,
            keys,
        };
        Ok(following.follow(self.signals)?.0)
    }
}

/// A session whose signals and terminal are those of `msb`.
struct Following {
    session: Session,
    /// The terminal is as it was before when this is dropped, before anything else is said.
    raw: Option<RawMode>,
    terminal: bool,
    deadline: Option<Instant>,
    keys: Option<KeyWatch>,
}

impl Following {
    fn follow(self, signals: &Signals) -> anyhow::Result<(Outcome, Option<Moment>)> {
        if self.terminal {
            // It may have changed since the arguments were read.
            self.session.remote().resize(terminal::size());
        }
        let over = self.pass_signals(signals)?;
        let first_output = self.session.first_output();
        let outcome = match over {
            Some(outcome) => outcome,
            None => self.session.end().map_err(outcome::session_failed)?.into(),
        };
        drop(self.raw);
        Ok((outcome, first_output))
    }

    /// Passes signals on until the session has ended (`None`), or the user or the time ended it.
    fn pass_signals(&self, signals: &Signals) -> anyhow::Result<Option<Outcome>> {
        let mut interrupted = false;
        loop {
            let keys = self.keys.as_ref().map(KeyWatch::pressed);
            let [signalled, finished, detached] = wait_for(
                [Some(signals.as_fd()), Some(self.session.finished()), keys],
                self.deadline,
            )?;
            if finished {
                return Ok(None);
            }
            if detached {
                return Ok(Some(Outcome::Detached));
            }
            if self
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(Some(Outcome::TimedOut));
            }
            if !signalled {
                continue;
            }
            match signals.next().context("cannot read signals")? {
                None => {}
                Some(Signal::SIGWINCH) if self.terminal => {
                    self.session.remote().resize(terminal::size());
                }
                Some(Signal::SIGWINCH) => {}
                // The process had its chance.
                Some(Signal::SIGINT) if interrupted && !self.terminal => {
                    return Ok(Some(Outcome::Killed(Signal::SIGINT)));
                }
                Some(signal) => {
                    interrupted |= signal == Signal::SIGINT;
                    self.session.remote().signal(signal as i32);
                }
            }
        }
    }
}

/// Puts the terminal into raw mode, before the first output comes: what a terminal in the guest has prepared must not be
/// prepared again.
fn raw_mode(terminal: bool) -> anyhow::Result<Option<RawMode>> {
    (terminal && io::stdin().is_terminal())
        .then(RawMode::enter)
        .transpose()
        .context("cannot put the terminal into raw mode")
}

/// Descriptors of their own for the standard streams: the session closes them when it ends.
fn standard_streams() -> anyhow::Result<Streams> {
    let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
    let streams = || -> io::Result<Streams> {
        Ok(Streams {
            input: Some(own(io::stdin().as_fd())?),
            output: own(io::stdout().as_fd())?,
            error: own(io::stderr().as_fd())?,
        })
    };
    streams().context("cannot duplicate the standard streams")
}
