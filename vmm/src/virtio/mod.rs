//! virtio devices over MMIO, after the Virtual I/O Device specification, version 1.2.

mod executor;
mod fs;

pub use executor::{
    Chain, DeviceDescription, DeviceFailure, Events, Executor, GuestMemory, WorkerDescription,
};
pub use fs::{FsDeviceError, fs_device};
