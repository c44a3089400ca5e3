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
mod check;
mod convert;
mod create;
mod error;
mod format;
mod image;
mod info;
mod open;
pub mod qcow2;
mod raw;
mod reference;
mod staging;
mod transfer;
mod vmdk;

pub use buffers::Buffers;
pub use check::{CheckReport, Repair, check};
pub use convert::convert;
pub use create::{CreateOptions, Preallocation, create, create_with};
pub use error::DiskError;
pub use format::{Format, UnknownFormat};
pub use image::{Access, Cache, Image, Place, SECTOR};
pub use info::{Info, info};
pub use open::{OpenOptions, open};
pub use vmdk::Subformat;
