//! Hostile input, bytes to behaviour: what the fuzz targets in `fuzz/` and the property tests beside this run.
//!
//! Each function takes any bytes as the script of a hostile guest (or as a hostile file), plays it against the real code
//! and panics when a promise is broken. None of this is part of a normal build: it exists for tests and with the feature
//! `fuzzing`, which only `fuzz/` turns on.
//!
//! ```text
//! script --choices--> driver --rings--> worker --chains--> witness --> executor (queue, vsock, fs, blk)
//!                        '----------- checks what came back against --------'
//! ```
// A finding is a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blk;
mod choices;
mod driver;
mod echo;
mod fs;
mod kernel;
mod queue;
mod taps;
#[cfg(test)]
mod tests;
mod vsock;
mod witness;

pub use blk::blk;
pub use fs::fs;
pub use kernel::kernel;
pub use queue::queue;
pub use vsock::vsock;
