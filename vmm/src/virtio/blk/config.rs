//! What the driver is told: features, and the configuration space (sections 5.2.3 and 5.2.4).

use disk::SECTOR;

use super::request::RangeLimits;

const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_RO: u64 = 1 << 5;
const FEATURE_BLK_SIZE: u64 = 1 << 6;
pub(super) const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_TOPOLOGY: u64 = 1 << 10;
const FEATURE_MQ: u64 = 1 << 12;
pub(super) const FEATURE_DISCARD: u64 = 1 << 13;
pub(super) const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

/// Size of a queue, and so the number of requests that one can have under way.
pub(super) const QUEUE_SIZE: u16 = 256;

/// What bounds one request. The driver is told all of it, so a decent one is never refused.
pub(super) struct Limits;

impl Limits {
    /// Segments of data; a chain has one descriptor for the header and one for the status besides.
    const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
    /// Bytes in a segment: large enough that nothing is gained by more, small enough that a request of all segments, which
    /// a reset has to wait for, is over soon.
    const SEGMENT_LENGTH: u32 = 256 * 1024;
    /// Descriptors in a chain.
    pub(super) const DESCRIPTORS: usize = QUEUE_SIZE as usize;
    /// Bytes in a chain, those of header and status included.
    pub(super) const REQUEST_LENGTH: u64 =
        Limits::SEGMENTS as u64 * Limits::SEGMENT_LENGTH as u64 + 17;
    /// Punching a hole costs the host the same whatever its length is.
    pub(super) const DISCARD: RangeLimits = RangeLimits {
        count: 32,
        sectors: 1 << 22,
    };
    /// Where a host cannot make zeros cheaply, they are written.
    pub(super) const WRITE_ZEROES: RangeLimits = RangeLimits {
        count: 1,
        sectors: 1 << 16,
    };
}

/// Logical blocks are sectors; physical ones are the 4 KiB (2^3 sectors) in which hosts keep files.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
const SECTORS_OF_PHYSICAL_BLOCK: u16 = 1 << PHYSICAL_BLOCK_EXPONENT;

/// Features of a disk.
pub(super) fn features(read_only: bool, queues: u16) -> u64 {
    let mut features =
        FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_BLK_SIZE | FEATURE_FLUSH | FEATURE_TOPOLOGY;
    features |= if read_only {
        FEATURE_RO
    } else {
        FEATURE_DISCARD | FEATURE_WRITE_ZEROES
    };
    if queues > 1 {
        features |= FEATURE_MQ;
    }
    features
}

/// `struct virtio_blk_config` up to write_zeroes_may_unmap, for a disk of `size` bytes.
pub(super) fn space(size: u64, queues: u16) -> Vec<u8> {
    let mut space = capacity(size).to_vec();
    space.extend(Limits::SEGMENT_LENGTH.to_le_bytes());
    space.extend(Limits::SEGMENTS.to_le_bytes());
    // Geometry, which is not offered.
    space.extend([0; 4]);
    space.extend((SECTOR as u32).to_le_bytes());
    // The first physical block is aligned; the smallest good transfer is one of them, the best one is unknown.
    space.extend([PHYSICAL_BLOCK_EXPONENT, 0]);
    space.extend(SECTORS_OF_PHYSICAL_BLOCK.to_le_bytes());
    space.extend(0_u32.to_le_bytes());
    // The switch of the cache, which is not offered, and a hole.
    space.extend([0; 2]);
    space.extend(queues.to_le_bytes());
    space.extend(Limits::DISCARD.sectors.to_le_bytes());
    space.extend(Limits::DISCARD.count.to_le_bytes());
    space.extend(u32::from(SECTORS_OF_PHYSICAL_BLOCK).to_le_bytes());
    space.extend(Limits::WRITE_ZEROES.sectors.to_le_bytes());
    space.extend(Limits::WRITE_ZEROES.count.to_le_bytes());
    // Zeroes may unmap, and a hole.
    space.extend([1, 0, 0, 0]);
    space
}

/// Offset of the capacity in the configuration space.
pub(super) const CAPACITY: usize = 0;

/// The capacity field of a disk of `size` bytes.
pub(super) fn capacity(size: u64) -> [u8; 8] {
    (size / SECTOR).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_driver_looks_for_them() {
        let space = space(1 << 20, 3);
        let field = |at: usize, width: usize| {
            let bytes = space[at..at + width].iter().rev();
            bytes.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        assert_eq!(space.len(), 60);
        for (at, width, value, name) in [
            (0, 8, 2048, "capacity"),
            (8, 4, 256 << 10, "size_max"),
            (12, 4, 254, "seg_max"),
            (16, 4, 0, "geometry"),
            (20, 4, 512, "blk_size"),
            (24, 1, 3, "physical_block_exp"),
            (25, 1, 0, "alignment_offset"),
            (26, 2, 8, "min_io_size"),
            (28, 4, 0, "opt_io_size"),
            (32, 1, 0, "writeback"),
            (34, 2, 3, "num_queues"),
            (36, 4, 1 << 22, "max_discard_sectors"),
            (40, 4, 32, "max_discard_seg"),
            (44, 4, 8, "discard_sector_alignment"),
            (48, 4, 1 << 16, "max_write_zeroes_sectors"),
            (52, 4, 1, "max_write_zeroes_seg"),
            (56, 1, 1, "write_zeroes_may_unmap"),
        ] {
            assert_eq!(field(at, width), value, "{name}");
        }
    }

    /// Bits of section 5.2.3 by their numbers there.
    #[test]
    fn features_are_those_of_the_disk() {
        const SIZE_MAX_SEG_MAX_BLK_SIZE_FLUSH_TOPOLOGY: [u32; 5] = [1, 2, 6, 9, 10];
        const RO: u32 = 5;
        const MQ: u32 = 12;
        const DISCARD_WRITE_ZEROES: [u32; 2] = [13, 14];
        for (read_only, queues, more) in [
            (false, 1, &DISCARD_WRITE_ZEROES[..]),
            (false, 4, &[MQ, 13, 14]),
            (true, 1, &[RO]),
            (true, 2, &[RO, MQ]),
        ] {
            let bits = SIZE_MAX_SEG_MAX_BLK_SIZE_FLUSH_TOPOLOGY.iter().chain(more);
            let expected = bits.fold(0, |features, bit| features | 1 << bit);
            assert_eq!(
                features(read_only, queues),
                expected,
                "{read_only} {queues}"
            );
        }
    }
}
