//! virtio devices over MMIO, after the Virtual I/O Device specification, version 1.2.

mod executor;
pub mod vsock;

pub use executor::{
    Chain, DeviceDescription, DeviceFailure, Events, Executor, GuestMemory, WorkerDescription,
};
