//! Run untrusted workloads in microVMs.
//!
//! [`Sandbox`] is where to begin. Its calls are asynchronous, on tokio.
//!
//! A sandbox is one process, `msb vm`, that is the machine. This crate starts it ([`launch`]), keeps
//! the place where it can be found ([`run_directory`]), asks it ([`control`]) and talks to the agent in its guest
//! ([`session`]). What outlives sandboxes is kept in [`volumes`], and recorded in the [`database`].

pub mod control;
pub mod database;
#[allow(dead_code, reason = "the calls that return these come one by one")]
mod error;
mod file_replies;
pub mod home;
pub mod launch;
pub mod logs;
pub mod names;
pub mod private_directory;
pub mod run_directory;
#[allow(dead_code, reason = "the calls that use these come one by one")]
pub mod sandbox;
pub mod session;
mod socket;
pub mod volumes;

pub use error::{BootFailure, ErrorKind, MicrosandboxError, NotInstalled};
pub use protocol;
pub use sandbox::{Sandbox, SandboxConfig, SandboxHandle};
