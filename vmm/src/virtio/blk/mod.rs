//! Block device, section 5.2: the sectors of a disk image.
//!
//! ```text
//! driver --chain--> request (checked once) --> executor --> ring, helper or image
//!        <--answer--- pending (under way) <-----------------'
//!        <--capacity-- config space <-- handle (attach, detach, resize) --> slot (the image)
//! ```
//!
//! A device without an image is a slot: its capacity is 0 until it gets one.
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod bad_luck_tests;
mod config;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod driver;
mod executor;
mod helper;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod notification_tests;
mod pending;
mod request;
mod ring;
mod slot;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod waiting_tests;

use std::io;
use std::sync::Arc;

use disk::Image;

use self::executor::{BlkExecutor, Disk};
use self::helper::Helper;
use self::request::SERIAL_LENGTH;
use self::ring::Ring;
use self::slot::Slot;
pub use self::slot::{BlkHandle, HandleError};
use super::{ConfigSpace, DeviceDescription, HelperDescription, Traffic, WorkerDescription};

/// Device type, section 5.2.1.
const DEVICE_TYPE: u32 = 2;

/// What the images' files take, and the ring.
const SYSTEM_CALLS: &[i64] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_io_uring_enter,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_statx,
];

/// What a block device is made of.
#[derive(Debug)]
pub struct BlkConfig {
    /// The disk; `None` is a slot for one that comes later.
    pub image: Option<Arc<dyn Image>>,
    /// Refuse changes, also those that the image would permit. What a driver is told about it stays for as long as the
    /// machine runs: a slot for images that are read-only says so here.
    pub read_only: bool,
    /// By which the guest finds the disk: `/sys/block/vda/serial`. At most 20 bytes, without a NUL.
    pub serial: String,
    /// Queues, each with a thread: 1 to [`BlkConfig::MAX_QUEUES`], best as many as processors.
    pub queues: u16,
}

impl BlkConfig {
    /// Most queues of a device.
    pub const MAX_QUEUES: u16 = 32;
}

/// A block device cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum BlkDeviceError {
    /// The serial number does not fit.
    #[error("the serial number of a disk is at most 20 bytes without a NUL, not {serial:?}")]
    Serial {
        /// As the caller gave it.
        serial: String,
    },
    /// The number of queues is out of range.
    #[error(
        "a block device cannot have {queues} queues: give 1 to {}",
        BlkConfig::MAX_QUEUES
    )]
    Queues {
        /// As the caller gave it.
        queues: u16,
    },
    /// The host has no descriptors left.
    #[error("cannot create the events of a block device")]
    Events(#[source] io::Error),
}

/// Describes a block device, and returns the handle that changes its image.
///
/// # Errors
/// If the serial number does not fit, or the number of queues is out of range.
pub fn blk_device(config: BlkConfig) -> Result<(DeviceDescription, BlkHandle), BlkDeviceError> {
    device_with(config, Engine::IoUring)
}

/// How transfers are carried out whose bytes lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// By io_uring, or as below where that is not to be had.
    IoUring,
    /// By the thread of the queue, one after the other.
    #[cfg(test)]
    Thread,
}

fn device_with(
    config: BlkConfig,
    engine: Engine,
) -> Result<(DeviceDescription, BlkHandle), BlkDeviceError> {
    let BlkConfig {
        image,
        read_only,
        serial,
        queues,
    } = config;
    let padded = pad(&serial).ok_or(BlkDeviceError::Serial { serial })?;
    if queues == 0 || queues > BlkConfig::MAX_QUEUES {
        return Err(BlkDeviceError::Queues { queues });
    }
    let read_only = read_only || image.as_ref().is_some_and(|image| image.read_only());
    let slot = Arc::new(Slot::default());
    let space = ConfigSpace::new(config::space(0, queues));
    let handle = BlkHandle::new(Arc::clone(&slot), space.clone());
    if let Some(image) = image {
        // A new handle is empty.
        let _ = handle.attach(image);
    }
    let traffic = Traffic::default();
    let disk = Disk {
        slot,
        traffic: traffic.clone(),
        serial: padded,
        read_only,
    };
    let workers = (0..queues)
        .map(|index| worker(index, &disk, engine))
        .collect::<io::Result<Vec<_>>>()
        .map_err(BlkDeviceError::Events)?;
    let description = DeviceDescription {
        device_type: DEVICE_TYPE,
        features: config::features(read_only, queues),
        config: space,
        workers,
        traffic,
    };
    Ok((description, handle))
}

/// One queue and its threads.
fn worker(index: u16, disk: &Disk, engine: Engine) -> io::Result<WorkerDescription> {
    let ring = match engine {
        // Here, because the worker's thread must not.
        Engine::IoUring => Ring::new(disk.traffic.clone())
            .inspect_err(|error| tracing::debug!(%error, "a disk has no io_uring"))
            .ok(),
        #[cfg(test)]
        Engine::Thread => None,
    };
    let (helper, body) = Helper::new()?;
    Ok(WorkerDescription {
        name: format!("blk-queue{index}"),
        queue_sizes: vec![config::QUEUE_SIZE],
        system_calls: SYSTEM_CALLS,
        executor: Box::new(BlkExecutor::new(disk.clone(), ring, helper)),
        gathers: true,
        helpers: vec![HelperDescription {
            name: format!("blk-helper{index}"),
            system_calls: SYSTEM_CALLS,
            body: Box::new(body),
        }],
    })
}

/// The serial number as the driver reads it: NUL-padded, not terminated when it fills the field.
fn pad(serial: &str) -> Option<[u8; SERIAL_LENGTH]> {
    let mut padded = [0; SERIAL_LENGTH];
    let place = padded.get_mut(..serial.len())?;
    place.copy_from_slice(serial.as_bytes());
    (!serial.contains('\0')).then_some(padded)
}
