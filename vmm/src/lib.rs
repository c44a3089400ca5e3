//! A KVM machine: memory, vCPUs, virtio devices and shared folders.
//!
//! The crate knows nothing of sandboxes, images or command lines: a caller describes a machine as data and gets back a
//! running one, and learns how it ended.

mod cpu;
mod ending;
pub mod fs;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod halt;
mod jail;
mod kernel;
mod layout;
pub mod machine;
mod memory;
mod meter;
mod pause;
mod platform;
pub mod probe;
mod threads;
mod traffic;
mod vcpu;
pub mod virtio;
