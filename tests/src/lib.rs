//! What the end-to-end tests are written with: `msb` as a user has it, in a home directory of its own, and the
//! certainty that it leaves nothing behind.
//!
//! A test makes a [`Home`], starts guests in it and looks at what comes out. Everything that waits gives up after
//! [`LIMIT`], so that nothing hangs; no test is about how long something takes.

// In a test, what fails here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod archives;
pub mod client;
pub mod cpio;
pub mod disk_images;
pub mod guest;
pub mod home;
pub mod kernels;
pub mod namespace;
pub mod processes;
pub mod product;
pub mod running;
pub mod sandboxes;
pub mod terminal;
pub mod transcript;
pub mod tree;

use std::time::Duration;

pub use client::Client;
pub use guest::Guest;
pub use home::Home;
pub use running::{Finished, Running};
pub use terminal::Terminal;
pub use transcript::Transcript;

/// How long anything may take. A hundred times what it takes: the machine may be emulated, and busy with other things.
pub const LIMIT: Duration = Duration::from_secs(180);
