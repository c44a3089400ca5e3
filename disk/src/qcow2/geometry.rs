//! How a disk is divided into clusters, and clusters into tables.

/// The units of an image. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// log2 of the bytes in a cluster: 9 to 21.
    pub(super) cluster_bits: u32,
    /// log2 of the bits of a reference count: 0 to 6.
    pub(super) refcount_order: u32,
    /// Whether an L2 entry has two words, the second of which describes 32 subclusters.
    pub(super) extended_l2: bool,
}

impl Geometry {
    pub(super) fn cluster_size(self) -> u64 {
        1_u64.wrapping_shl(self.cluster_bits)
    }

    /// Bytes that an L2 entry maps by themselves: a subcluster, or else a cluster.
    pub(super) fn unit_size(self) -> u64 {
        if self.extended_l2 {
            self.cluster_size() / 32
        } else {
            self.cluster_size()
        }
    }

    /// The cluster that holds the byte.
    pub(super) fn cluster(self, offset: u64) -> u64 {
        offset.wrapping_shr(self.cluster_bits)
    }

    /// Where the cluster begins. Clusters beyond 64 bits of bytes end there.
    pub(super) fn offset(self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.cluster_size())
    }

    /// Where in its cluster the byte is.
    pub(super) fn within(self, offset: u64) -> u64 {
        offset & self.mask()
    }

    /// Where the byte's cluster begins.
    pub(super) fn start(self, offset: u64) -> u64 {
        offset & !self.mask()
    }

    /// Clusters that so many bytes take up.
    pub(super) fn clusters(self, length: u64) -> u64 {
        length.div_ceil(self.cluster_size())
    }

    /// Bytes up to the end of the byte's cluster.
    pub(super) fn rest(self, offset: u64) -> u64 {
        self.cluster_size().saturating_sub(self.within(offset))
    }

    pub(super) fn is_aligned(self, offset: u64) -> bool {
        self.within(offset) == 0
    }

    fn mask(self) -> u64 {
        self.cluster_size().wrapping_sub(1)
    }

    /// log2 of the entries in an L2 table.
    fn l2_bits(self) -> u32 {
        let entry_bits = if self.extended_l2 { 4 } else { 3 };
        self.cluster_bits.saturating_sub(entry_bits)
    }

    pub(super) fn l2_entries(self) -> u64 {
        1_u64.wrapping_shl(self.l2_bits())
    }

    /// Which L2 table maps the cluster of the disk.
    pub(super) fn l1_index(self, cluster: u64) -> u64 {
        cluster.wrapping_shr(self.l2_bits())
    }

    /// Which entry of its L2 table maps the cluster of the disk.
    pub(super) fn l2_index(self, cluster: u64) -> u64 {
        cluster & self.l2_entries().wrapping_sub(1)
    }

    /// L2 tables that a disk of this size needs.
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        self.clusters(size).div_ceil(self.l2_entries())
    }

    /// log2 of the reference counts in a refcount block.
    pub(super) fn refcount_block_bits(self) -> u32 {
        self.cluster_bits
            .saturating_add(3)
            .saturating_sub(self.refcount_order)
    }

    pub(super) fn refcounts_per_block(self) -> u64 {
        1_u64.wrapping_shl(self.refcount_block_bits())
    }

    /// The highest reference count.
    pub(super) fn refcount_max(self) -> u64 {
        let bits = 1_u32.wrapping_shl(self.refcount_order);
        u64::MAX.wrapping_shr(64_u32.saturating_sub(bits))
    }
}
