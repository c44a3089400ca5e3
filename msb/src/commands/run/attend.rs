//! Being the process in the guest: from the start of its machine to its exit status.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use microsandbox::home::Home;
use microsandbox::launch::MachineProcess;
use microsandbox::protocol::Exec;
use microsandbox::session::{Session, SessionEnd, Streams};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::machine::{self, Ended, Progress};
use super::outcome::{self, Outcome};
use super::plan::Plan;
use super::timings::{Timings, TimingsFormat};
use crate::failure;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};

/// How much longer than the guest's agent `msb` waits for the end of a process whose time is over.
const TIMEOUT_SLACK: Duration = Duration::from_secs(5);

/// How long a machine may take to end when it has been asked to. Its process stops a guest that does
/// not obey long before; this is for a process that does not obey either.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A machine and everything that is waited for meanwhile. Dropping it ends the machine.
pub(super) struct Attendance {
    signals: Signals,
    process: MachineProcess,
    exec: Exec,
    program: String,
    timeout: Option<Duration>,
    timings: Timings,
    timings_format: Option<TimingsFormat>,
}

impl Attendance {
    /// Starts the machine.
    ///
    /// # Errors
    /// As [`machine::start`].
    pub(super) fn start(
        plan: Plan,
        home: &Home,
        console: Option<File>,
        signals: Signals,
        timings: Timings,
    ) -> anyhow::Result<Attendance> {
        let Plan {
            sandbox,
            exec,
            timeout,
            program,
            timings_format,
        } = plan;
        let process = machine::start(sandbox, home, console)?;
        Ok(Attendance {
            signals,
            process,
            exec,
            program,
            timeout,
            timings,
            timings_format,
        })
    }

    /// Runs the process and ends the machine. Returns the exit status.
    ///
    /// # Errors
    /// Whatever came between; the machine is ended then, too.
    pub(super) fn attend(mut self) -> anyhow::Result<u8> {
        if let Some(signal) = self.wait_until_ready()? {
            return Ok(outcome::signal_status(signal as i32));
        }
        let outcome = self.run_process()?;
        let orderly = !matches!(outcome, Outcome::Killed(_) | Outcome::TimedOut);
        if orderly {
            machine::shut_down(&self.process);
        } else {
            self.process.kill();
        }
        let ended = self.wait_for_end()?;
        let exit = self
            .process
            .wait()
            .context("cannot wait for the machine's process")?;
        // How the guest went away before its process did is the error itself.
        let expected = orderly && !matches!(outcome, Outcome::Disconnected);
        if expected && let Some(how) = outcome::unclean_end(ended.as_ref(), exit) {
            tracing::warn!("the guest did not shut down cleanly: {how}");
        }
        self.timings.stopped();
        let (status, error) = outcome::conclude(outcome, ended, &self.program, self.timeout);
        if let Some(error) = error {
            failure::report(&error);
        }
        if let Some(format) = self.timings_format {
            eprintln!("{}", self.timings.display(format));
        }
        Ok(status)
    }

    /// Returns the signal that ended the waiting, if one did.
    fn wait_until_ready(&mut self) -> anyhow::Result<Option<Signal>> {
        loop {
            match machine::progress(&mut self.process)? {
                Progress::Ready(startup) => {
                    self.timings.started(&startup);
                    return Ok(None);
                }
                Progress::Ended(ended) => return Err(outcome::not_ready(ended, &mut self.process)),
                Progress::Waiting => {}
            }
            wait_for([self.signals.as_fd(), self.process.reports()], None)?;
            match self.signals.next().context("cannot read signals")? {
                Some(Signal::SIGWINCH) | None => {}
                Some(signal) => return Ok(Some(signal)),
            }
        }
    }

    /// Runs the process until it has ended, or there is no more point in it.
    fn run_process(&mut self) -> anyhow::Result<Outcome> {
        let stream = self.process.connect().context("cannot reach the guest")?;
        let terminal = self.exec.terminal.is_some();
        let session = Session::attach(stream, self.exec.clone(), standard_streams()?)
            .context("cannot run the command")?;
        // Only now: an error before this is printed to a terminal that is as it was.
        let _raw = (terminal && io::IsTerminal::is_terminal(&io::stdin()))
            .then(RawMode::enter)
            .transpose()
            .context("cannot put the terminal into raw mode")?;
        if terminal {
            // It may have changed since the arguments were read.
            session.remote().resize(terminal::size());
        }
        let over = self.follow(&session, terminal)?;
        self.timings.exited(session.first_output());
        match over {
            Some(outcome) => Ok(outcome),
            None => match session.end().map_err(outcome::session_failed)? {
                SessionEnd::Exited(exit) => Ok(Outcome::Exited(exit)),
                SessionEnd::Refused(failure) => Ok(Outcome::Refused(failure)),
                SessionEnd::OutputClosed => Ok(Outcome::OutputClosed),
                SessionEnd::Disconnected => Ok(Outcome::Disconnected),
            },
        }
    }

    /// Passes signals on until the session has ended (`None`), or the user or the time ended it.
    fn follow(&self, session: &Session, terminal: bool) -> anyhow::Result<Option<Outcome>> {
        let deadline = self
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout.checked_add(TIMEOUT_SLACK)?));
        let mut interrupted = false;
        loop {
            let [signalled, finished] =
                wait_for([self.signals.as_fd(), session.finished()], deadline)?;
            if finished {
                return Ok(None);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Some(Outcome::TimedOut));
            }
            if !signalled {
                continue;
            }
            match self.signals.next().context("cannot read signals")? {
                None => {}
                Some(Signal::SIGWINCH) if terminal => session.remote().resize(terminal::size()),
                Some(Signal::SIGWINCH) => {}
                // The process had its chance.
                Some(Signal::SIGINT) if interrupted && !terminal => {
                    return Ok(Some(Outcome::Killed(Signal::SIGINT)));
                }
                Some(signal) => {
                    interrupted |= signal == Signal::SIGINT;
                    session.remote().signal(signal as i32);
                }
            }
        }
    }

    /// Waits for the end of the machine. A signal to end `msb` kills it.
    fn wait_for_end(&mut self) -> anyhow::Result<Option<Ended>> {
        let deadline = Instant::now().checked_add(END_LIMIT);
        loop {
            match machine::progress(&mut self.process)? {
                Progress::Ended(ended) => return Ok(ended),
                Progress::Ready(_) | Progress::Waiting => {}
            }
            wait_for([self.signals.as_fd(), self.process.reports()], deadline)?;
            let impatient = match self.signals.next().context("cannot read signals")? {
                Some(Signal::SIGWINCH) | None => false,
                Some(_) => true,
            };
            if impatient || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.process.kill();
                return Ok(None);
            }
        }
    }
}

/// Waits until one of two descriptors is ready or the time is over. Says which are ready.
fn wait_for(
    descriptors: [BorrowedFd<'_>; 2],
    deadline: Option<Instant>,
) -> anyhow::Result<[bool; 2]> {
    let mut entries = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    let timeout = match deadline {
        None => PollTimeout::NONE,
        // poll(2) counts whole milliseconds: one more, so as not to wait for none again and again. The
        // longest wait that it knows is some weeks; the caller waits again after it.
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left.saturating_add(Duration::from_millis(1)))
                .unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut entries, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("cannot wait for events"),
    }
    Ok(entries.map(|entry| entry.revents().is_some_and(|events| !events.is_empty())))
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
