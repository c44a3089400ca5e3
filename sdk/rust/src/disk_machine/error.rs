//! Why a machine for one job cannot do it.

use std::io;

use crate::launch::{BootFileError, Ending, LaunchError, NoProgram, ReportError};
use crate::names::NameError;
use crate::run_directory::RunDirectoryError;

/// A machine that mounts disks for one job failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskMachineError {
    /// Something else has one of the disks.
    #[error("A disk is in use")]
    InUse,
    /// There is no `msb`.
    #[error(transparent)]
    Program(#[from] NoProgram),
    /// There is no kernel or no initramfs.
    #[error(transparent)]
    BootFile(#[from] BootFileError),
    /// The machine cannot have a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The machine cannot have a place in the home directory.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// Its process cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its process cannot be understood.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Its process cannot be waited for.
    #[error("The machine cannot be waited for")]
    Wait(#[from] io::Error),
    /// The guest did not come up.
    #[error("The machine did not start: {reason}")]
    Start {
        /// Why.
        reason: String,
    },
    /// The guest did not end as it should, so what was written may be lost.
    #[error("The machine did not shut down cleanly ({})", how.as_ref().map_or("without a word".to_owned(), |how| format!("{how:?}")))]
    End {
        /// How it ended, if it could tell.
        how: Option<Ending>,
    },
    /// The agent in the guest could not do its work.
    #[error("The agent of the machine failed")]
    Agent(#[source] Box<dyn std::error::Error + Send + Sync>),
}
