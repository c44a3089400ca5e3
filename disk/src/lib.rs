//! Disk images: files (or block devices) that hold the sectors of a disk, in the formats raw, qcow2 and vmdk.
//!
//! [`open`] is the one way in; what it returns is an [`Image`], behind which no caller sees a format. Everything in an
//! image file is hostile input: it may have been written by a guest.
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod buffers;
mod error;
mod format;
mod image;
mod open;
pub mod qcow2;
mod raw;
mod reference;
mod transfer;

pub use buffers::Buffers;
pub use error::DiskError;
pub use format::{Format, UnknownFormat};
pub use image::{Access, Cache, Image, Place, SECTOR};
pub use open::{OpenOptions, open};
