//! L1 and L2 entries (docs/interop/qcow2.txt, "Cluster mapping").

use super::geometry::Geometry;

/// The cluster is referred to by this entry alone, so it may be written where it is.
pub(super) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3).
pub(super) const ZERO: u64 = 1;
/// Bits of an offset in an L1 or L2 entry.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What an L2 entry says about a cluster, or about a subcluster of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// The backing file has it; without one it is zeros.
    Unallocated,
    /// Zeros, with a cluster in the file that they may be overwritten in.
    Zero {
        /// Where the cluster is; COPIED tells whether it is nobody else's.
        kept: Option<Host>,
    },
    /// In the file.
    Normal(Host),
    /// Compressed, in some bytes of the file.
    Compressed(Compressed),
}

/// A cluster of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) offset: u64,
    pub(super) copied: bool,
}

/// A compressed cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compressed {
    pub(super) offset: u64,
    /// An upper bound: it may end earlier.
    pub(super) length: u64,
}

/// The offset in an L2 entry makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misaligned;

impl Mapping {
    /// Reads the entry of a cluster. `bitmap` is the second word of an extended entry, and which subcluster is meant.
    pub(super) fn decode(
        geometry: Geometry,
        version: u32,
        entry: u64,
        bitmap: Option<(u64, u32)>,
    ) -> Result<Mapping, Misaligned> {
        if entry & COMPRESSED != 0 {
            return Ok(Mapping::Compressed(Compressed::decode(geometry, entry)));
        }
        let offset = entry & OFFSET;
        if !geometry.is_aligned(offset) {
            return Err(Misaligned);
        }
        let host = Host {
            offset,
            copied: entry & COPIED != 0,
        };
        // An external data file may have its first cluster at 0, which only COPIED tells from none.
        let allocated = offset != 0 || host.copied;
        if let Some((bitmap, subcluster)) = bitmap {
            let zero = bitmap & 1_u64.wrapping_shl(subcluster.saturating_add(32)) != 0;
            let here = allocated && bitmap & 1_u64.wrapping_shl(subcluster) != 0;
            return Ok(match (zero, here) {
                (true, _) => Mapping::Zero {
                    kept: allocated.then_some(host),
                },
                (false, true) => Mapping::Normal(host),
                (false, false) => Mapping::Unallocated,
            });
        }
        // Version 2 has no zero flag: the bit is reserved.
        Ok(if entry & ZERO != 0 && version >= 3 {
            Mapping::Zero {
                kept: allocated.then_some(host),
            }
        } else if allocated {
            Mapping::Normal(host)
        } else {
            Mapping::Unallocated
        })
    }
}

impl Compressed {
    fn decode(geometry: Geometry, entry: u64) -> Compressed {
        // "Compressed Clusters Descriptor": x = 62 - (cluster_bits - 8).
        let x = 70_u32.saturating_sub(geometry.cluster_bits);
        let offset = entry & 1_u64.wrapping_shl(x).wrapping_sub(1);
        let sectors = (entry & COMPRESSED.wrapping_sub(1)).wrapping_shr(x);
        let length = sectors
            .saturating_add(1)
            .saturating_mul(512)
            .saturating_sub(offset & 511);
        Compressed { offset, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_the_specification_says() {
        let geometry = Geometry {
            cluster_bits: 16,
            refcount_order: 4,
            extended_l2: false,
        };
        let decode = |entry| Mapping::decode(geometry, 3, entry, None);
        let host = Host {
            offset: 0x5_0000,
            copied: true,
        };
        assert_eq!(decode(0), Ok(Mapping::Unallocated));
        assert_eq!(decode(1), Ok(Mapping::Zero { kept: None }));
        assert_eq!(decode(COPIED | 0x5_0000), Ok(Mapping::Normal(host)));
        let kept = Some(host);
        assert_eq!(decode(COPIED | 0x5_0001), Ok(Mapping::Zero { kept }));
        assert_eq!(decode(COPIED | 0x5_0200), Err(Misaligned));
        let version_2 = Mapping::decode(geometry, 2, COPIED | 0x5_0001, None);
        assert_eq!(version_2, Ok(Mapping::Normal(host)));
        // 3 more sectors, from the middle of the first one on.
        let compressed = Compressed {
            offset: 0x5_0010,
            length: 2048 - 16,
        };
        let entry = COMPRESSED | 3 << 54 | 0x5_0010;
        assert_eq!(decode(entry), Ok(Mapping::Compressed(compressed)));
    }
}
