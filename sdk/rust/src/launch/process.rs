//! The process that is a machine, as its creator sees it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{pipe2, setsid};
use protocol::FrameError;

use super::config::LaunchConfig;
use super::handover::Handover;
use super::patches::move_texts_out;
use super::program::Program;
use super::report::{Command, Report, ReportError, ReportReader, send_command};
use crate::milliseconds::milliseconds;
use crate::names::Name;
use crate::run_directory::{Claim, RunDirectory, RunDirectoryError};
use crate::volumes::VolumeUse;

/// Why a machine's process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// What is to be in the guest's files could not be written down for it.
    #[error("Failed to write the texts of patches into {path}")]
    Texts {
        /// The run directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Its configuration could not be handed over.
    #[error("Failed to write the launch configuration")]
    Handover(#[from] FrameError),
    /// Pipes could not be made.
    #[error("Failed to make a pipe")]
    Pipe(#[source] io::Error),
    /// It cannot be given what it is to hold.
    #[error("Failed to duplicate a descriptor")]
    Duplicate(#[source] io::Error),
    /// The program could not be started.
    #[error("Failed to start the machine's process")]
    Spawn(#[source] io::Error),
}

/// A machine's process. When the value is dropped, the process is killed and reaped and its run
/// directory removed.
#[derive(Debug)]
pub struct MachineProcess {
    child: Child,
    /// `None` once the process has been reaped.
    running: bool,
    /// When this end closes, the machine ends.
    commands: File,
    reports: ReportReader,
    name: Name,
    directory: RunDirectory,
    /// Until the guest is up: volumes that were made for a start which fails go after the process.
    starting: Vec<VolumeUse>,
}

impl MachineProcess {
    /// Starts `program` for `name`, in a session
    /// of its own, so that neither the terminal's signals nor its end reach it. Of this process's
    /// descriptors it inherits standard error, `console` (where the guest kernel's log goes) and what
    /// `claim` and `volumes`, which it uses until its end, hold.
    ///
    /// # Errors
    /// When the process cannot be started; then the run directory is gone. What happens in it comes as [`Report`].
    pub fn spawn(
        program: &Program,
        name: Name,
        claim: Claim,
        config: LaunchConfig,
        volumes: Vec<VolumeUse>,
        console: Option<File>,
    ) -> Result<MachineProcess, LaunchError> {
        let directory = claim.directory.clone();
        // The lock goes with the claim.
        MachineProcess::start(program, name, claim, config, volumes, console).inspect_err(|_| {
            // What cannot be removed, the next command removes.
            let _ = directory.remove_if_left_over();
        })
    }

    fn start(
        program: &Program,
        name: Name,
        claim: Claim,
        mut config: LaunchConfig,
        volumes: Vec<VolumeUse>,
        console: Option<File>,
    ) -> Result<MachineProcess, LaunchError> {
        let run = claim.directory.path();
        move_texts_out(&mut config.patches, run).map_err(|source| LaunchError::Texts {
            path: run.to_owned(),
            source,
        })?;
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| LaunchError::Pipe(error.into()));
        let (reports, reports_writer) = pipe()?;
        let (commands_reader, commands) = pipe()?;
        let directory = claim.directory.clone();
        let handover = Handover {
            config,
            directory: claim.directory,
            lock: claim.lock,
            listener: claim.listener,
            control: claim.control,
            reports: File::from(reports_writer),
            commands: File::from(commands_reader),
            volumes: inherit(&volumes)?,
            console,
        };
        let contents = handover.write()?;
        let mut inherited = handover.descriptors();
        inherited.push(contents.as_raw_fd());

        let mut command = std::process::Command::new(program.path());
        command
            .arg0("msb")
            .args(["vm", "--launch-fd"])
            .arg(contents.as_raw_fd().to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec, `detach` makes system calls only; it neither allocates nor
        // takes locks.
        unsafe { command.pre_exec(move || detach(&inherited)) };
        let child = command.spawn().map_err(LaunchError::Spawn)?;
        let reports = ReportReader::new(reports).map_err(LaunchError::Pipe)?;
        Ok(MachineProcess {
            child,
            running: true,
            commands: File::from(commands),
            reports,
            name,
            directory,
            starting: volumes,
        })
    }

    /// Readable when there may be a report, and at the end of the process.
    pub fn reports(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }

    /// The next report, if there is one; see [`ReportReader::next_report`].
    ///
    /// # Errors
    /// When the process reports something unknown.
    pub fn next_report(&mut self) -> Result<Option<Report>, ReportError> {
        let report = self.reports.next_report()?;
        if let Some(Report::Ready(_)) = report {
            self.starting.drain(..).for_each(VolumeUse::keep);
        }
        Ok(report)
    }

    /// Whether no more reports will come, because the process is gone or about to be.
    pub fn has_ended(&self) -> bool {
        self.reports.has_ended()
    }

    /// Its process id, which nobody else gets before it is [waited](Self::wait) for.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects to the agent in the guest; the connection waits until the guest is up.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn connect(&self) -> Result<UnixStream, RunDirectoryError> {
        self.directory.connect(&self.name)
    }

    /// Asks for an orderly end: processes get SIGTERM and, after `grace`, SIGKILL.
    pub fn shutdown(&self, grace: Duration) {
        let grace_ms = u32::try_from(milliseconds(grace)).unwrap_or(u32::MAX);
        // If the process is gone, that is what was wanted; its end shows in the reports.
        let _ = send_command(&self.commands, Command::Shutdown { grace_ms });
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        // Fails only for a process that has been reaped.
        let _ = self.child.kill();
    }

    /// Waits for the end of the process and reaps it.
    ///
    /// # Errors
    /// As waitpid(2).
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.running = false;
        Ok(status)
    }
}

impl Drop for MachineProcess {
    fn drop(&mut self) {
        if self.running {
            self.kill();
            // An error means that somebody else has reaped it.
            let _ = self.child.wait();
        }
        // The process removes it itself, unless it was killed. The next command tries again.
        let _ = self.directory.remove_if_left_over();
    }
}

/// The descriptors by which a process goes on using `volumes`.
fn inherit(volumes: &[VolumeUse]) -> Result<Vec<OwnedFd>, LaunchError> {
    let uses = volumes.iter().map(|volume| volume.as_fd());
    uses.map(|volume_use| volume_use.try_clone_to_owned())
        .collect::<io::Result<_>>()
        .map_err(LaunchError::Duplicate)
}

/// Runs in the child before exec.
fn detach(inherited: &[RawFd]) -> io::Result<()> {
    setsid()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // Whatever the creator itself inherited from its own creator stays here.
    // SAFETY: the call only sets flags of descriptors.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for &number in inherited {
        // SAFETY: the call only clears the flag of a descriptor that the creator holds open.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
