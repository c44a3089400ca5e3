//! A KVM machine: memory, vCPUs, virtio devices and shared folders.
//!
//! The crate knows nothing of sandboxes, images or command lines: a caller describes a machine as data and gets back a
//! running one, and learns how it ended.

pub mod fs;
pub mod virtio;
