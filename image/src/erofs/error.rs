//! Why an image cannot be written or read.

use std::io;

/// An EROFS image cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The file system that it is written to does not take it.
    #[error("cannot write the EROFS image")]
    Write(#[source] io::Error),
    /// Its file cannot be read.
    #[error("cannot read the EROFS image")]
    Read(#[source] io::Error),
    /// It would have more blocks than the format can count.
    #[error("the EROFS image would have more than 2^32 blocks of 4096 bytes, holes included")]
    TooLarge,
    /// The extended attributes of one file are more than the format can hold.
    #[error(
        "the extended attributes of one file take {bytes} bytes, and an EROFS image can hold 262144"
    )]
    XattrsTooLarge {
        /// The bytes that they take.
        bytes: usize,
    },
    /// More layers than a device table can have.
    #[error("{layers} layers are too many to be merged; there may be 1000")]
    TooManyLayers {
        /// How many there are.
        layers: usize,
    },
    /// It is not in order, or none that was made here.
    #[error("the EROFS image is damaged: {reason}")]
    Damaged {
        /// What is wrong with it, as a sentence without a full stop.
        reason: &'static str,
    },
}
