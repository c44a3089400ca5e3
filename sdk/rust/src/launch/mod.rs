//! Starting the process that is a machine, and what it says about itself.
//!
//! One process per sandbox: `msb vm`, made by [`MachineProcess::spawn`]. Everything it has to know
//! comes through an inherited descriptor ([`LaunchConfig`] in [`Handover`]), so nothing of it stands
//! in `ps`. It tells how it fares in [`Report`]s on one pipe and takes [`Command`]s from another,
//! whose end means that its creator is gone.

mod boot_files;
mod config;
mod handover;
mod moment;
mod mounts;
mod patches;
mod process;
mod program;
mod report;

pub use boot_files::{BootFile, BootFileError, INITRAMFS, KERNEL};
pub use config::{BOOT_TIMEOUT_MS, HostPath, LaunchConfig, Lifetime, LogTarget};
pub use handover::{Handover, HandoverError};
pub use moment::{Moment, Startup};
pub use mounts::{
    DiskImage, Mount, MountSource, Quota, Root, RootAccess, RootSource, SharedCache, Sharing,
    last_of_each_target,
};
pub use patches::Patch;
pub use process::{LaunchError, MachineProcess};
pub use program::{NoProgram, Program};
pub use report::{
    Command, DiskProblem, Ending, Report, ReportError, ReportReader, StartFailure, StartStage,
    send_command, send_report,
};
