//! Run untrusted workloads in microVMs.
//!
//! A sandbox is one process, `msb vm`, that is the machine. This crate starts it ([`launch`]), keeps
//! the place where it can be found ([`run_directory`]) and talks to the agent in its guest
//! ([`session`]). What outlives sandboxes is kept in [`volumes`], and recorded in the [`database`].

pub mod control;
pub mod database;
pub mod home;
pub mod launch;
pub mod names;
pub mod private_directory;
pub mod run_directory;
pub mod session;
mod socket;
pub mod volumes;

pub use protocol;
