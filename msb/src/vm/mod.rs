//! The process that is a machine: the only part of `msb` that knows the monitor.
//!
//! [`sandbox`] is what `msb run` starts, with an agent in the guest; [`foreground`] boots any kernel on
//! this terminal.

mod agent;
mod attendant;
mod boot_message;
mod clock;
mod console;
mod control;
mod creator;
mod devices;
mod diagnostics;
mod foreground;
mod kept;
mod log;
mod metrics;
mod sandbox;
mod sessions;
mod start;
mod supervisor;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use foreground::{ConsoleTarget, Disk, Foreground, Share, boot_in_foreground};
pub(crate) use sandbox::serve_sandbox;
