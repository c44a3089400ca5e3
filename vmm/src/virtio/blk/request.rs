//! A request of the driver: taken from its chain once, checked, and never looked up again (section 5.2.6).

use disk::{Buffers, SECTOR};

use super::config::{FEATURE_DISCARD, FEATURE_WRITE_ZEROES, Limits};
use crate::virtio::halves::Halves;
use crate::virtio::{Chain, GuestMemory};

/// Type, a reserved word and the first sector.
const HEADER_LENGTH: usize = 16;
/// First sector, number of sectors and flags of one range that is discarded or zeroed.
const SEGMENT_LENGTH: usize = 16;
/// Length of the answer to VIRTIO_BLK_T_GET_ID.
pub(super) const SERIAL_LENGTH: usize = 20;

// Types of requests.
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// The one flag of a segment: the storage of zeroed sectors may be given back.
const UNMAP: u32 = 1;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// VIRTIO_BLK_S_OK
    Done = 0,
    /// VIRTIO_BLK_S_IOERR
    Failed = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported = 2,
}

/// What the driver wants. Offsets and lengths are in bytes.
#[derive(Debug)]
pub(super) enum Operation<'m> {
    Read { offset: u64, into: Buffers<'m> },
    Write { offset: u64, from: Buffers<'m> },
    Flush,
    Identify { into: Buffers<'m> },
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
}

/// Sectors that are discarded or zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) unmap: bool,
}

/// Where the answer goes.
#[derive(Debug)]
pub(super) struct Answer<'m> {
    /// The last byte that the device may write.
    status: Buffers<'m>,
    /// Bytes that the device may write before it.
    room: u64,
}

impl Answer<'_> {
    /// Writes the status behind `data` bytes that were written from the beginning of the writable part; returns the used
    /// length, which must not count a byte that was left as it was (section 2.7.8.2).
    pub(super) fn give(self, status: Status, data: u64) -> u32 {
        // One byte into one byte.
        let _ = self.status.copy_from(&[status as u8]);
        let used = if data == self.room {
            data.saturating_add(1)
        } else {
            data
        };
        u32::try_from(used).unwrap_or(u32::MAX)
    }
}

/// A request and where its answer goes.
#[derive(Debug)]
pub(super) struct Request<'m> {
    /// What is to be done, or how the request ends without anything done.
    pub(super) operation: Result<Operation<'m>, Status>,
    pub(super) answer: Answer<'m>,
}

impl<'m> Request<'m> {
    /// Takes a chain apart; `None` when it has no place for an answer.
    pub(super) fn parse(
        memory: &'m GuestMemory,
        chain: Chain<'_>,
        rules: &Rules,
    ) -> Option<Request<'m>> {
        let Halves {
            readable,
            writable,
            sound,
        } = Halves::of(memory, chain, Limits::DESCRIPTORS);
        let length = readable.len().saturating_add(writable.len());
        let sound = sound && length <= Limits::REQUEST_LENGTH;
        let room = writable.len().checked_sub(1)?;
        let answer = Answer {
            status: writable.part(room, 1),
            room: if sound { room } else { u64::MAX },
        };
        let operation = if sound {
            rules.check(readable, writable.part(0, room))
        } else {
            Err(Status::Failed)
        };
        Some(Request { operation, answer })
    }
}

/// What a request is measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Size of the disk in bytes; `None` when there is none.
    pub(super) size: Option<u64>,
    /// Every change is refused.
    pub(super) read_only: bool,
    /// Features that the driver accepted.
    pub(super) features: u64,
}

impl Rules {
    fn check<'m>(&self, readable: Buffers<'m>, into: Buffers<'m>) -> Result<Operation<'m>, Status> {
        let mut header = [0; HEADER_LENGTH];
        readable
            .part(0, HEADER_LENGTH as u64)
            .copy_to(&mut header)
            .map_err(|_| Status::Failed)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let from = readable.part(HEADER_LENGTH as u64, u64::MAX);
        match u32::from_le_bytes([a, b, c, d]) {
            READ => {
                let offset = self.place(sector, into.len())?;
                Ok(Operation::Read { offset, into })
            }
            WRITE => {
                self.check_writable()?;
                let offset = self.place(sector, from.len())?;
                Ok(Operation::Write { offset, from })
            }
            FLUSH => {
                self.size.ok_or(Status::Failed)?;
                Ok(Operation::Flush)
            }
            GET_ID if into.len() < SERIAL_LENGTH as u64 => Err(Status::Failed),
            GET_ID => Ok(Operation::Identify { into }),
            DISCARD => {
                self.check_writable()?;
                self.check_feature(FEATURE_DISCARD)?;
                let ranges = self.ranges(&from, Limits::DISCARD)?;
                // "The unmap flag MUST be zero" for a discard.
                if ranges.iter().any(|range| range.unmap) {
                    return Err(Status::Unsupported);
                }
                Ok(Operation::Discard(ranges))
            }
            WRITE_ZEROES => {
                self.check_writable()?;
                self.check_feature(FEATURE_WRITE_ZEROES)?;
                let ranges = self.ranges(&from, Limits::WRITE_ZEROES)?;
                Ok(Operation::WriteZeroes(ranges))
            }
            _ => Err(Status::Unsupported),
        }
    }

    fn check_writable(&self) -> Result<(), Status> {
        if self.read_only {
            return Err(Status::Failed);
        }
        Ok(())
    }

    fn check_feature(&self, feature: u64) -> Result<(), Status> {
        if self.features & feature == 0 {
            return Err(Status::Unsupported);
        }
        Ok(())
    }

    /// Offset of a transfer of whole sectors that lies on the disk.
    fn place(&self, sector: u64, length: u64) -> Result<u64, Status> {
        let offset = sector.checked_mul(SECTOR).ok_or(Status::Failed)?;
        let end = offset.checked_add(length).ok_or(Status::Failed)?;
        let size = self.size.ok_or(Status::Failed)?;
        if end > size || !length.is_multiple_of(SECTOR) {
            return Err(Status::Failed);
        }
        Ok(offset)
    }

    /// The ranges of a discard or of zeroes, all of them in order before the first is touched.
    fn ranges(&self, data: &Buffers<'_>, limits: RangeLimits) -> Result<Vec<Range>, Status> {
        let length = usize::try_from(data.len()).map_err(|_| Status::Failed)?;
        let longest = SEGMENT_LENGTH.saturating_mul(limits.count as usize);
        if length == 0 || !length.is_multiple_of(SEGMENT_LENGTH) || length > longest {
            return Err(Status::Failed);
        }
        let bytes = data.to_vec();
        let (segments, _) = bytes.as_chunks::<SEGMENT_LENGTH>();
        segments
            .iter()
            .map(|segment| self.range(*segment, limits))
            .collect()
    }

    fn range(&self, segment: [u8; SEGMENT_LENGTH], limits: RangeLimits) -> Result<Range, Status> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = segment;
        let flags = u32::from_le_bytes(flags);
        if flags & !UNMAP != 0 {
            return Err(Status::Unsupported);
        }
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        if sectors > limits.sectors {
            return Err(Status::Failed);
        }
        let length = u64::from(sectors).saturating_mul(SECTOR);
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        Ok(Range {
            offset: self.place(sector, length)?,
            length,
            unmap: flags & UNMAP != 0,
        })
    }
}

/// How much one request may discard or zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangeLimits {
    /// Ranges in a request.
    pub(super) count: u32,
    /// Sectors in a range.
    pub(super) sectors: u32,
}
