//! The bytes of a log, version 2.
//!
//! ```text
//! segment:  magic "msblog" 00 02 | identity of the log, 8 bytes | entries | what is no entry of this segment
//! entry:    checksum, 8 bytes | length of the data, 4 bytes | nanoseconds since 1970, 8 bytes | session, 8 bytes |
//!           source, 1 byte | data
//! ```
//! Numbers are little endian. The checksum is XXH64 over the entry without the checksum itself, and its seed is the number of the
//! segment: a file that was a segment before is written over from its beginning, and what is left of its old entries
//! must be none of the new segment. The last byte of the magic is the version of the format.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use twox_hash::XxHash64;

use super::entry::LogSource;

/// Begins every segment.
pub(super) const MAGIC: [u8; 8] = *b"msblog\0\x02";

/// Bytes of a segment before its first entry.
pub(super) const SEGMENT_HEADER: usize = 16;

/// Bytes of an entry before its data.
pub(super) const ENTRY_HEADER: usize = 29;

/// Most bytes of data in an entry.
pub(super) const MAX_DATA: usize = 64 * 1024;

/// Bytes of the checksum at the beginning of an entry.
const CHECKSUM: usize = 8;

/// The first bytes of a segment.
pub(super) fn segment_header(identity: u64) -> [u8; SEGMENT_HEADER] {
    let mut header = [0; SEGMENT_HEADER];
    let (magic, log) = header.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    log.copy_from_slice(&identity.to_le_bytes());
    header
}

/// Identity of the log that a segment belongs to, if its first bytes are those of a segment.
pub(super) fn parse_segment_header(bytes: &[u8; SEGMENT_HEADER]) -> Option<u64> {
    let (magic, log) = bytes.split_first_chunk::<8>()?;
    let log = u64::from_le_bytes(*log.first_chunk()?);
    (*magic == MAGIC).then_some(log)
}

/// What an entry says before its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHeader {
    /// Bytes of data.
    pub(super) length: usize,
    /// XXH64.
    checksum: u64,
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    time: u64,
    /// The session; 0 for none.
    pub(super) session: u64,
    /// The source.
    pub(super) source: LogSource,
}

impl EntryHeader {
    /// The bytes of an entry's header, without its checksum.
    pub(super) fn encode(
        length: u32,
        time: SystemTime,
        session: u64,
        source: LogSource,
    ) -> [u8; ENTRY_HEADER] {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; ENTRY_HEADER];
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..20].copy_from_slice(&time.to_le_bytes());
        bytes[20..28].copy_from_slice(&session.to_le_bytes());
        bytes[28] = source.number();
        bytes
    }

    /// Reads a header. `None` when no writer has written it.
    pub(super) fn parse(bytes: &[u8; ENTRY_HEADER]) -> Option<EntryHeader> {
        let number = |from: usize| Some(u64::from_le_bytes(*bytes.get(from..)?.first_chunk()?));
        let length = bytes.get(CHECKSUM..)?.first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        (length <= MAX_DATA).then_some(EntryHeader {
            length,
            checksum: number(0)?,
            time: number(12)?,
            session: number(20)?,
            source: LogSource::from_number(bytes[28])?,
        })
    }

    /// Bytes of the entry.
    pub(super) fn entry_length(&self) -> usize {
        ENTRY_HEADER + self.length
    }

    /// When the entry was made.
    pub(super) fn timestamp(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.time)
    }

    /// Whether `entry`, which begins with this header, is as it was written to the segment with this number.
    pub(super) fn matches(&self, entry: &[u8], segment: u64) -> bool {
        self.checksum == checksum(entry, segment)
    }
}

/// Enters the checksum into a whole entry of the segment with this number.
pub(super) fn seal(entry: &mut [u8], segment: u64) {
    let checksum = checksum(entry, segment);
    if let Some(place) = entry.first_chunk_mut() {
        *place = checksum.to_le_bytes();
    }
}

fn checksum(entry: &[u8], segment: u64) -> u64 {
    XxHash64::oneshot(segment, entry.get(CHECKSUM..).unwrap_or_default())
}
