//! Entries on their way to a log.

use std::time::SystemTime;

use super::entry::LogSource;
use super::format::{ENTRY_HEADER, EntryHeader, MAX_DATA};

/// Entries that are to be written, in the form in which they are on disk: whoever has data copies it here once, without
/// computing anything, and [`LogWriter::write`](super::LogWriter::write) does the rest.
#[derive(Debug, Default)]
pub struct LogBatch {
    pub(super) bytes: Vec<u8>,
    data: u64,
}

impl LogBatch {
    /// No entries.
    pub fn new() -> LogBatch {
        LogBatch::default()
    }

    /// Bytes of memory that its entries take up.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of data in its entries.
    pub fn data_len(&self) -> u64 {
        self.data
    }

    /// Appends `data` of session `session` (0 for none), as several entries when it is more than one holds.
    pub fn push(&mut self, source: LogSource, session: u64, time: SystemTime, data: &[u8]) {
        for piece in data.chunks(MAX_DATA) {
            // It is at most MAX_DATA.
            let length = u32::try_from(piece.len()).unwrap_or_default();
            self.bytes.reserve(ENTRY_HEADER + piece.len());
            let header = EntryHeader::encode(length, time, session, source);
            self.bytes.extend_from_slice(&header);
            self.bytes.extend_from_slice(piece);
        }
        self.data = self.data.saturating_add(data.len() as u64);
    }

    /// Forgets the entries, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.data = 0;
    }
}
