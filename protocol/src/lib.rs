//! The frames that the host and `agentd` exchange, and their codec.
//!
//! A frame is a length (`u32`, little endian) and so many bytes of postcard: one variant of
//! [`HostMessage`] or [`GuestMessage`], by direction; in a session that serves files [`FileRequest`] or
//! [`FileReply`] within them. `docs/protocol.md` describes every frame
//! byte for byte, so that a client in another language needs nothing else.
//!
//! [`FrameReader`] and [`FrameWriter`] are for blocking streams, [`FrameDecoder`] and [`encode`]
//! for event loops. None of them decides when to read, to write or to give up: that is the
//! business of the two ends.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod decoder;
mod encoder;
mod error;
mod files;
mod hello;
mod messages;
mod stream;

pub use decoder::FrameDecoder;
pub use encoder::encode;
pub use error::{FrameError, HelloError};
pub use files::*;
pub use messages::*;
pub use stream::{FrameReader, FrameWriter};

/// Largest value of a frame's length field: bytes of postcard in one frame.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// Bytes of the length field.
pub const FRAME_HEADER: usize = size_of::<u32>();

/// Largest frame, length field included.
pub const MAX_FRAME: usize = FRAME_HEADER + MAX_MESSAGE;
