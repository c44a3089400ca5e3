//! What a sandbox's processes wrote, and what happened to it: kept on disk, bounded, readable while it is written and after.
//!
//! A log is a directory of segments, of which the oldest goes when the log would exceed its bound ([`format`]). One process
//! writes it, the sandbox's machine ([`LogWriter`]); any number read it. A writer that is killed at any moment leaves all that it
//! has written, and perhaps a torn entry at the end, which readers take for one that is not complete yet and the next writer
//! cuts off.
//!
//! Output is logged as it arrives, in pieces that need not be lines, nor text.

mod batch;
mod entry;
mod error;
mod follower;
mod format;
mod options;
mod query;
mod reader;
mod segment;
mod stream;
#[cfg(test)]
mod tests;
mod writer;

pub use batch::LogBatch;
pub use entry::{LogCursor, LogEntry, LogSource};
pub use error::LogError;
pub use options::{LogOptions, LogStreamOptions};
pub use query::read_logs;
pub use stream::LogStream;
pub use writer::{LogWriter, Unwritten};

/// Most bytes that a sandbox's log takes up, unless it is asked for another bound.
pub const DEFAULT_LIMIT: u64 = 32 << 20;
