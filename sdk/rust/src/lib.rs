//! Run untrusted workloads in microVMs.
//!
//! [`Sandbox`] is where to begin. Its calls are asynchronous, on tokio.
//!
//! A sandbox is one process, `msb vm`, that is the machine. This crate starts it ([`launch`]), keeps
//! the place where it can be found ([`run_directory`]), asks it ([`control`]) and talks to the agent in its guest
//! ([`session`]). What outlives sandboxes is kept in [`volumes`],
//! what they are made of in [`images`] and [`snapshots`], and all of it is recorded in the [`database`].

pub mod control;
pub mod database;
mod disk_machine;
mod error;
mod file_replies;
pub mod home;
mod identity;
pub mod images;
pub mod launch;
mod microsandbox;
mod milliseconds;
pub mod names;
pub mod private_directory;
mod registry;
pub mod run_directory;
pub mod sandbox;
pub mod session;
pub mod snapshots;
mod socket;
mod sparse;
mod staged;
pub mod utc;
pub mod volumes;

pub use ::logs;
pub use disk_machine::DiskMachineError;
pub use error::{BootFailure, CommitObstacle, ErrorKind, MicrosandboxError, NotInstalled};
pub use microsandbox::{
    Microsandbox, all_sandbox_metrics, ensure_installed, is_installed, runtime_version, sdk_version,
};
pub use protocol;
pub use registry::conclude;
pub use sandbox::{Sandbox, SandboxConfig, SandboxHandle};
