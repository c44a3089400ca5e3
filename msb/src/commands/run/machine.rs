//! The sandbox of `msb run`, from its name to its end.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::time::Duration;

use anyhow::Context;
use microsandbox::home::Home;
use microsandbox::launch::{Ending, MachineProcess, Program, Report, Startup};
use microsandbox::names::Name;
use microsandbox::run_directory::{Claim, RunDirectory, RunDirectoryError};

use crate::commands::boot_advice;
use crate::commands::sandbox::{self, SandboxPlan};
use crate::failure::{Hint, with_hint};

/// How long processes that the command left behind may take to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(100);

/// Starts the machine's process.
///
/// # Errors
/// When the name is taken, or the process cannot be started.
pub(super) fn start(
    sandbox: SandboxPlan,
    home: &Home,
    console: Option<File>,
) -> anyhow::Result<MachineProcess> {
    let boot_files = sandbox.boot_files(home)?;
    let (name, claim) = claim(sandbox.name.clone(), home)?;
    let launch = || {
        let (config, named) = sandbox.launch(&name, boot_files)?;
        Ok((config, sandbox::acquire(named, &name, home)?))
    };
    let (mut config, (mounts, volumes)) = match launch() {
        Ok(launched) => launched,
        Err(error) => {
            // What cannot be removed, the next command removes.
            let _ = claim.directory.remove(claim.lock);
            return Err(error);
        }
    };
    config.mounts.extend(mounts);
    tracing::debug!(%name, directory = %claim.directory.path().display(), "starting");
    MachineProcess::spawn(&Program::running(), name, claim, config, volumes, console)
        .context("cannot start the machine")
        .hint("`ulimit -a` shows the limits that apply here")
}

/// Takes the name, or finds one that is free.
fn claim(name: Option<Name>, home: &Home) -> anyhow::Result<(Name, Claim)> {
    if let Some(name) = name {
        return match RunDirectory::claim(home, &name) {
            Ok(claim) => Ok((name, claim)),
            Err(error @ RunDirectoryError::NameInUse { .. }) => {
                Err(with_hint(error, "give another --name, or none"))
            }
            Err(error) => Err(home_failed(error)),
        };
    }
    loop {
        let name = Name::generate().context("cannot make up a name")?;
        match RunDirectory::claim(home, &name) {
            Ok(claim) => return Ok((name, claim)),
            // One in four thousand million, for each sandbox that runs.
            Err(RunDirectoryError::NameInUse { .. }) => {}
            Err(error) => return Err(home_failed(error)),
        }
    }
}

fn home_failed(error: RunDirectoryError) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let is_full = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| {
            matches!(
                cause.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            )
        });
    let hint = if is_full {
        "make room there, or set MSB_HOME to a directory on another file system"
    } else {
        "MSB_HOME names a directory that belongs to you alone"
    };
    with_hint(error, hint)
}

/// What became of a machine while somebody waited for it.
pub(super) enum Progress {
    /// Nothing new.
    Waiting,
    /// Its guest is up.
    Ready(Startup),
    /// It ended; in this way, if it could tell.
    Ended(Option<Ended>),
}

/// The last words of a machine.
pub(super) struct Ended {
    /// How it ended.
    pub(super) how: Ending,
    /// Last lines of the guest kernel's log.
    pub(super) console: Vec<u8>,
}

/// Looks for news. To be called whenever [`MachineProcess::reports`] is readable.
///
/// # Errors
/// When the guest did not come up.
pub(super) fn progress(process: &mut MachineProcess) -> anyhow::Result<Progress> {
    match process
        .next_report()
        .context("the machine cannot be understood")?
    {
        Some(Report::Ready(startup)) => Ok(Progress::Ready(startup)),
        Some(Report::Failed(failure)) => Err(boot_advice::start_failed(failure)),
        Some(Report::Ended { how, console }) => Ok(Progress::Ended(Some(Ended { how, console }))),
        None if process.has_ended() => Ok(Progress::Ended(None)),
        None => Ok(Progress::Waiting),
    }
}

/// Asks the machine to come to an orderly end.
pub(super) fn shut_down(process: &MachineProcess) {
    process.shutdown(GRACE);
}
