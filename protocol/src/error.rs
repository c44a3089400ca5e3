use std::io;

use crate::{MAX_MESSAGE, VERSION};

/// Why a frame could not be read or written. After any of these the stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream itself failed.
    #[error("Failed to read or write a frame")]
    Io(#[from] io::Error),
    /// The stream ended before the frame did.
    #[error("The connection ended inside a frame")]
    Truncated,
    /// The length field, or a message to be sent, exceeds [`MAX_MESSAGE`].
    #[error("A frame exceeds {MAX_MESSAGE} bytes")]
    TooLong,
    /// The bytes are no message of this protocol: an unknown variant, a length that leads out of
    /// the frame, or text that is not UTF-8.
    #[error("A frame holds no known message")]
    Malformed(#[source] postcard::Error),
    /// The message ended before the frame did.
    #[error("A frame holds {count} bytes after its message")]
    TrailingBytes {
        /// How many bytes are left over.
        count: usize,
    },
}

/// Why a peer is refused after its `Hello`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The peer does not speak this protocol at all.
    #[error("The peer does not speak the msb protocol")]
    Magic,
    /// The peer speaks another version of it.
    #[error("The peer (build {build}) speaks protocol version {version}, this side {VERSION}")]
    Version {
        /// Version of the peer.
        version: u16,
        /// Build of the peer.
        build: String,
    },
}
