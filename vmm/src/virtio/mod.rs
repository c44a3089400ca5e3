//! virtio devices over MMIO, after the Virtual I/O Device specification, version 1.2.
//!
//! ```text
//! driver --registers--> transport --queues--> worker --chains--> executor (one for each kind of device)
//!        <--interrupt--------------------------'
//! ```
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod blk;
mod chain;
mod config_space;
#[cfg(test)]
mod driver_tests;
mod executor;
mod features;
mod fs;
mod halves;
mod interrupt;
mod queue;
mod registers;
mod rng;
mod status;
mod transport;
pub mod vsock;
mod worker;

pub use crate::memory::{GuestMemory, MemoryRegion};
pub use crate::traffic::Traffic;
pub use blk::{BlkConfig, BlkDeviceError, BlkHandle, HandleError, blk_device};
pub use chain::Chain;
pub use config_space::ConfigSpace;
pub use executor::{
    Completion, DeviceDescription, DeviceFailure, Events, Executor, Finished, HelperDescription,
    WorkerDescription,
};
pub use fs::{FsDeviceError, exports_device, fs_device};
pub(crate) use interrupt::Interrupt;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use queue::QueueConfig;
pub(crate) use registers::{RegisterPages, Registers};
pub use rng::rng_device;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use status::Status;
pub(crate) use transport::{INTERRUPT_ACK, MmioTransport, Parts, QUEUE_NOTIFY};
pub(crate) use worker::Worker;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use worker::{WorkerQueue, WorkerState};
