//! What every format provides.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::Buffers;

/// Bytes in a sector of the virtio block device, the unit of every size and of discards.
pub const SECTOR: u64 = 512;

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cache {
    /// When the flush after it has returned.
    Writeback,
    /// When it has returned itself.
    Writethrough,
}

/// What is to be done with the bytes of a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They are read.
    Read,
    /// They are overwritten.
    Write,
}

/// A stretch of a disk that lies in one piece in one file.
#[derive(Clone, Copy, Debug)]
pub struct Place<'i> {
    /// The file.
    pub file: BorrowedFd<'i>,
    /// Where the stretch begins in the file, in bytes.
    pub offset: u64,
    /// How much of what was asked for lies there, in bytes: at least 1.
    pub length: u64,
}

/// The sectors of a disk. Several threads may use one image at a time; requests that overlap in time and place leave either's
/// bytes.
///
/// Offsets are in bytes and need not be multiples of anything. A range that ends behind [`size`](Self::size) is refused with
/// `InvalidInput`, a change of an image that is open read-only with `ReadOnlyFilesystem`.
pub trait Image: Send + Sync + Debug {
    /// Size of the disk in bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;

    /// Whether every change is refused.
    fn read_only(&self) -> bool;

    /// Fills `buffers` with the bytes at `offset`.
    ///
    /// # Errors
    /// When the file cannot be read, or what it says about the range makes no sense.
    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()>;

    /// Writes `buffers` to `offset`.
    ///
    /// # Errors
    /// When the file cannot be written; the range then holds old and new bytes in any mixture.
    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()>;

    /// Makes the range read as zeros; `unmap` permits to give its storage back to the host.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;

    /// Gives the storage of the range back to the host as far as the format and the file permit. It reads as zeros
    /// afterwards, or as before.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Returns when every write that has returned before is durable, together with the metadata that finds it.
    ///
    /// # Errors
    /// When the host cannot tell that it is; what is durable then is unknown.
    fn flush(&self) -> io::Result<()>;

    /// Where the beginning of the range lies, if bytes can be transferred there right away: without changing metadata, and
    /// without bytes that lie nowhere or are compressed. The place stays valid for as long as the image.
    fn place(&self, offset: u64, length: u64, access: Access) -> Option<Place<'_>>;

    /// Gives the disk a new size, a multiple of [`SECTOR`]. New bytes read as zeros.
    ///
    /// # Errors
    /// When the format cannot, `Unsupported`; otherwise as [`write`](Self::write).
    fn resize(&self, size: u64) -> io::Result<()>;

    /// Bytes that the image takes up on the host, files that it only reads not counted.
    ///
    /// # Errors
    /// As fstat(2).
    fn allocated(&self) -> io::Result<u64>;
}
