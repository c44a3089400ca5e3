//! Being the process in the guest: from the start of its machine to its exit status.

use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use microsandbox::home::Home;
use microsandbox::images::ResolvedImage;
use microsandbox::launch::MachineProcess;
use microsandbox::protocol::Exec;
use nix::sys::signal::Signal;

use super::ending;
use super::machine::{self, Ended, Progress};
use super::plan::Plan;
use super::timings::{Timings, TimingsFormat};
use crate::commands::process::{Attended, Outcome, conclude, signal_status, wait_for};
use crate::failure;
use crate::output;
use crate::signals::Signals;

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
    /// No record keeps it from being removed until the machine has opened its files.
    image: Option<Rc<ResolvedImage>>,
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
            ..
        } = plan;
        let image = sandbox.held_image();
        let process = machine::start(sandbox, home, console)?;
        Ok(Attendance {
            signals,
            process,
            exec,
            program,
            timeout,
            image,
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
            return Ok(signal_status(signal as i32));
        }
        self.image = None;
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
        if expected && let Some(how) = ending::unclean_end(ended.as_ref(), exit) {
            tracing::warn!("the guest did not shut down cleanly: {how}");
        }
        self.timings.stopped();
        let (status, error) = conclude(outcome, &self.program, self.timeout, || {
            ending::disconnected(ended)
        });
        if let Some(error) = error {
            failure::report(&error);
        }
        if let Some(format) = self.timings_format {
            output::tell(&format!("{}\n", self.timings.display(format)));
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
                Progress::Ended(ended) => return Err(ending::not_ready(ended, &mut self.process)),
                Progress::Waiting => {}
            }
            wait_for(
                [Some(self.signals.as_fd()), Some(self.process.reports())],
                None,
            )?;
            match self.signals.next().context("cannot read signals")? {
                Some(Signal::SIGWINCH) | None => {}
                Some(signal) => return Ok(Some(signal)),
            }
        }
    }

    /// Runs the process until it has ended, or there is no more point in it.
    fn run_process(&mut self) -> anyhow::Result<Outcome> {
        let attended = Attended {
            stream: self.process.connect().context("cannot reach the guest")?,
            exec: self.exec.clone(),
            timeout: self.timeout,
            signals: &self.signals,
        };
        let (outcome, first_output) = attended.run()?;
        self.timings.exited(first_output);
        Ok(outcome)
    }

    /// Waits for the end of the machine. A signal to end `msb` kills it.
    fn wait_for_end(&mut self) -> anyhow::Result<Option<Ended>> {
        let deadline = Instant::now().checked_add(END_LIMIT);
        loop {
            match machine::progress(&mut self.process)? {
                Progress::Ended(ended) => return Ok(ended),
                Progress::Ready(_) | Progress::Waiting => {}
            }
            wait_for(
                [Some(self.signals.as_fd()), Some(self.process.reports())],
                deadline,
            )?;
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
