//! The VMDK format, with qemu-img as the second opinion.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checking;
mod hostile;
mod reading;
mod streams;
mod tools;
mod writing;
