//! Reference counts of the file's clusters, and the search for free ones (docs/interop/qcow2.txt, "Host cluster
//! management").

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;

use super::geometry::Geometry;
use super::metadata::Reserved;
use super::store::Store;
use super::table::{Cache, Room, Table};
use super::{Obstacle, damaged};
use crate::Buffers;
use crate::transfer;

/// Bytes of refcount blocks in memory.
const CACHE_BYTES: u64 = 4 << 20;

/// Bits of an offset in the refcount table.
pub(super) const OFFSET: u64 = !511;

/// The refcount table and its blocks.
#[derive(Debug)]
pub(super) struct Refcounts {
    geometry: Geometry,
    /// Where the table is in the file.
    pub(super) table_offset: u64,
    /// Offset of each refcount block, 0 if all its counts are.
    pub(super) table: Vec<u64>,
    /// Entries of the table that differ from the file.
    pub(super) dirty_entries: BTreeSet<u64>,
    pub(super) blocks: Cache,
    /// The search for free clusters goes on here.
    next: u64,
    /// Clusters that became free since the image was opened, 64 in a word. They are not used again before the next
    /// opening, because somebody may still be reading them.
    released: HashMap<u64, u64>,
}

/// Clusters that were free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) cluster: u64,
    pub(super) count: u64,
}

impl Refcounts {
    pub(super) fn new(geometry: Geometry, table_offset: u64, table: Vec<u64>) -> Refcounts {
        let capacity = geometry.cluster(CACHE_BYTES).max(8);
        Refcounts {
            geometry,
            table_offset,
            table,
            dirty_entries: BTreeSet::new(),
            blocks: Cache::new(capacity as usize),
            next: 0,
            released: HashMap::new(),
        }
    }

    /// Clusters that the table can have counts for.
    fn covered(&self) -> u64 {
        (self.table.len() as u64).saturating_mul(self.geometry.refcounts_per_block())
    }

    /// Finds up to `wanted` free clusters in a row, at least one, and counts one reference to each. Nothing has changed
    /// if there is an obstacle.
    pub(super) fn allocate(
        &mut self,
        store: &Store,
        wanted: u64,
        reserved: &Reserved,
    ) -> Result<Run, Obstacle> {
        loop {
            let index = self.block_of(self.next);
            if index >= self.table.len() as u64 {
                return Err(Obstacle::RefcountTableFull);
            }
            if !self.load(&store.file, index)? {
                self.add_block(store, index, reserved)?;
                continue;
            }
            let end = self.start_of_block(index.saturating_add(1));
            let order = self.geometry.refcount_order;
            let first = self.start_of_block(index);
            let Some(block) = self.blocks.get_mut(index) else {
                continue;
            };
            if reserved.overlaps(block.offset, self.geometry.cluster_size()) {
                return Err(damaged("a refcount block overlaps other metadata"));
            }
            let released = &self.released;
            let is_free = |cluster: &u64| {
                let count = get(block, order, cluster.saturating_sub(first));
                count == 0 && !is_in(released, *cluster)
            };
            let Some(cluster) = (self.next..end).find(is_free) else {
                self.next = end;
                continue;
            };
            let last = cluster.saturating_add(wanted).min(end);
            let taken = (cluster..last).take_while(is_free).count() as u64;
            let offset = self.geometry.offset(cluster);
            if reserved.overlaps(offset, self.geometry.offset(taken)) {
                return Err(damaged("a table has the reference count 0"));
            }
            for cluster in cluster..cluster.saturating_add(taken) {
                set(block, order, cluster.saturating_sub(first), 1);
            }
            self.next = cluster.saturating_add(taken);
            return Ok(Run {
                cluster,
                count: taken,
            });
        }
    }

    /// Takes back an allocation that nothing refers to, and that nothing was told about.
    pub(super) fn take_back(&mut self, file: &File, run: Run) -> Result<(), Obstacle> {
        let end = run.cluster.saturating_add(run.count);
        for cluster in run.cluster..end {
            self.decrement(file, cluster)?;
        }
        if self.next == end {
            self.next = run.cluster;
        }
        Ok(())
    }

    /// Counts one reference less, to a cluster that somebody may still be reading.
    pub(super) fn release(&mut self, file: &File, cluster: u64) -> Result<(), Obstacle> {
        if self.decrement(file, cluster)? == 0 {
            let bits = self.released.entry(cluster / 64).or_default();
            *bits |= 1_u64.wrapping_shl((cluster % 64) as u32);
        }
        Ok(())
    }

    /// Counts one reference less. Returns how many are left.
    fn decrement(&mut self, file: &File, cluster: u64) -> Result<u64, Obstacle> {
        let index = self.block_of(cluster);
        if index >= self.table.len() as u64 || !self.load(file, index)? {
            return Err(damaged("a cluster in use has no reference count"));
        }
        let at = cluster.saturating_sub(self.start_of_block(index));
        let order = self.geometry.refcount_order;
        let Some(block) = self.blocks.get_mut(index) else {
            return Err(Obstacle::CacheFull);
        };
        match get(block, order, at).checked_sub(1) {
            Some(count) => {
                set(block, order, at, count);
                Ok(count)
            }
            None => Err(damaged("a cluster in use has the reference count 0")),
        }
    }

    fn block_of(&self, cluster: u64) -> u64 {
        cluster.wrapping_shr(self.geometry.refcount_block_bits())
    }

    fn start_of_block(&self, index: u64) -> u64 {
        index.saturating_mul(self.geometry.refcounts_per_block())
    }

    /// Has the block in memory; whether there is one.
    fn load(&mut self, file: &File, index: u64) -> Result<bool, Obstacle> {
        let entry = self.table.get(index as usize).copied().unwrap_or(0) & OFFSET;
        if entry == 0 {
            return Ok(false);
        }
        if self.blocks.get(index).is_some() {
            return Ok(true);
        }
        if !self.geometry.is_aligned(entry) {
            return Err(damaged("a refcount block does not begin with a cluster"));
        }
        let mut bytes = vec![0; self.geometry.cluster_size() as usize];
        transfer::read_at(file, entry, &Buffers::of_slice(&mut bytes))?;
        self.make_room(file)?;
        self.blocks.insert(index, Table::new(entry, bytes.into()));
        Ok(true)
    }

    /// A block may be written before anything else: what it counts too much is a leak at most, because references are
    /// taken away only when the entries that were them have been written.
    fn make_room(&mut self, file: &File) -> Result<(), Obstacle> {
        loop {
            match self.blocks.make_room(true) {
                Room::Made => return Ok(()),
                Room::AfterWriting(mut piece) => {
                    let buffers = Buffers::of_slice(&mut piece.bytes);
                    let result = transfer::write_at(file, piece.offset, &buffers);
                    self.blocks.written(&[piece], result.is_ok());
                    result?;
                }
                Room::None => return Err(Obstacle::CacheFull),
            }
        }
    }

    /// Clusters that have no block yet are all free. The first of them becomes their block, and counts itself.
    fn add_block(
        &mut self,
        store: &Store,
        index: u64,
        reserved: &Reserved,
    ) -> Result<(), Obstacle> {
        if !matches!(self.blocks.make_room(false), Room::Made) {
            return Err(Obstacle::CacheFull);
        }
        let first = self.start_of_block(index);
        let offset = self.geometry.offset(first);
        if offset > i64::MAX as u64 {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        if reserved.overlaps(offset, self.geometry.cluster_size()) {
            return Err(damaged("a table has no reference count"));
        }
        // A block that has no room in the file could never be written.
        store.reach(offset.saturating_add(self.geometry.cluster_size()))?;
        let bytes = vec![0; self.geometry.cluster_size() as usize];
        let mut block = Table::fresh(offset, bytes.into());
        set(&mut block, self.geometry.refcount_order, 0, 1);
        self.blocks.insert(index, block);
        if let Some(entry) = self.table.get_mut(index as usize) {
            *entry = offset;
            self.dirty_entries.insert(index);
        }
        Ok(())
    }

    /// What a larger table would be: its clusters and blocks for them, behind everything that has counts.
    pub(super) fn plan_growth(&self) -> Growth {
        let per_block = self.geometry.refcounts_per_block();
        let entry_count = (self.table.len() as u64).saturating_mul(2).max(1);
        let table_clusters = self.geometry.clusters(entry_count.saturating_mul(8));
        // Whole clusters: the header counts them.
        let entry_count = self.geometry.offset(table_clusters) / 8;
        let mut blocks = 0_u64;
        while blocks.saturating_mul(per_block) < table_clusters.saturating_add(blocks) {
            blocks = blocks.saturating_add(1);
        }
        Growth {
            first: self.covered(),
            entry_count,
            table_clusters,
            blocks,
        }
    }
}

/// A larger refcount table. From the cluster `first` on: the table, then refcount blocks for it and for themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    pub(super) first: u64,
    pub(super) entry_count: u64,
    pub(super) table_clusters: u64,
    pub(super) blocks: u64,
}

impl Growth {
    /// The clusters that it takes up.
    pub(super) fn clusters(&self) -> Range<u64> {
        let count = self.table_clusters.saturating_add(self.blocks);
        self.first..self.first.saturating_add(count)
    }
}

fn is_in(released: &HashMap<u64, u64>, cluster: u64) -> bool {
    let bits = released.get(&(cluster / 64)).copied().unwrap_or(0);
    bits & 1_u64.wrapping_shl((cluster % 64) as u32) != 0
}

/// A count of a refcount block. Narrow ones begin with the least significant bits of a byte.
pub(super) fn get(block: &Table, order: u32, index: u64) -> u64 {
    get_in(block.bytes(), order, index)
}

pub(super) fn get_in(bytes: &[u8], order: u32, index: u64) -> u64 {
    let (at, width) = place_of(order, index);
    if order < 3 {
        let byte = bytes.get(at).copied().unwrap_or(0);
        return u64::from(byte.wrapping_shr(shift_of(order, index)) & mask_of(order));
    }
    let count = bytes.get(at..at.saturating_add(width)).unwrap_or_default();
    count
        .iter()
        .fold(0, |sum, byte| sum.wrapping_shl(8) | u64::from(*byte))
}

fn set(block: &mut Table, order: u32, index: u64, value: u64) {
    let (at, width) = place_of(order, index);
    if order < 3 {
        let shift = shift_of(order, index);
        let others =
            block.bytes().get(at).copied().unwrap_or(0) & !mask_of(order).wrapping_shl(shift);
        block.set(at, &[others | (value as u8).wrapping_shl(shift)]);
    } else {
        let bytes = value.to_be_bytes();
        block.set(
            at,
            bytes
                .get(8_usize.saturating_sub(width)..)
                .unwrap_or_default(),
        );
    }
}

/// The same in bytes that are no table yet.
pub(super) fn set_in(bytes: &mut [u8], order: u32, index: u64, value: u64) {
    let (at, width) = place_of(order, index);
    if order < 3 {
        let shift = shift_of(order, index);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = *byte & !mask_of(order).wrapping_shl(shift) | (value as u8).wrapping_shl(shift);
        }
    } else if let (Some(place), Some(value)) = (
        bytes.get_mut(at..at.saturating_add(width)),
        value.to_be_bytes().get(8_usize.saturating_sub(width)..),
    ) {
        place.copy_from_slice(value);
    }
}

/// First byte of a count and how many it has, at least 1.
fn place_of(order: u32, index: u64) -> (usize, usize) {
    let at = index.wrapping_shl(order).wrapping_shr(3);
    (at as usize, 1_usize.wrapping_shl(order.saturating_sub(3)))
}

fn shift_of(order: u32, index: u64) -> u32 {
    (index.wrapping_shl(order) & 7) as u32
}

fn mask_of(order: u32) -> u8 {
    0xff_u8.wrapping_shr(8_u32.saturating_sub(1_u32.wrapping_shl(order)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_are_kept_apart() {
        for order in 0..=6 {
            let geometry = Geometry {
                cluster_bits: 9,
                refcount_order: order,
                extended_l2: false,
            };
            let max = geometry.refcount_max();
            let mut block = Table::new(0, vec![0; 512].into());
            let count = geometry.refcounts_per_block();
            let value = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) & max;
            for index in 0..count {
                set(&mut block, order, index, max);
                set(&mut block, order, index, value(index));
            }
            let mut copy = vec![0xff; 512];
            for index in 0..count {
                assert_eq!(get(&block, order, index), value(index), "{order} {index}");
                set_in(&mut copy, order, index, value(index));
            }
            assert_eq!(copy, block.bytes());
            assert_eq!(get(&block, order, count), 0);
        }
    }

    const GEOMETRY: Geometry = Geometry {
        cluster_bits: 9,
        refcount_order: 4,
        extended_l2: false,
    };

    /// A file of 8 clusters: a header, a refcount block, the refcount table, the L1 table, and from there on what is in use or not.
    fn file_with(in_use: &[u64]) -> (tempfile::NamedTempFile, Store) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 4096];
        for cluster in [0, 1, 2, 3].iter().chain(in_use) {
            set_in(&mut bytes[512..1024], 4, *cluster, 1);
        }
        std::fs::write(&file, bytes).unwrap();
        let opened = crate::open::open_file(file.path(), false).unwrap();
        let store = Store::new(opened, GEOMETRY, 4096, 1).unwrap();
        (file, store)
    }

    fn allocate(refcounts: &mut Refcounts, store: &Store, wanted: u64) -> (u64, u64) {
        let reserved = Reserved([0..512, 1024..1536, 1536..2048]);
        let run = refcounts.allocate(store, wanted, &reserved).unwrap();
        (run.cluster, run.count)
    }

    /// Somebody may have been told before that the bytes are there, and be reading them.
    #[test]
    fn a_cluster_that_became_free_is_not_given_away() {
        let (_file, store) = file_with(&[6]);
        let mut refcounts = Refcounts::new(GEOMETRY, 1024, vec![512]);
        assert_eq!(allocate(&mut refcounts, &store, 1), (4, 1));
        refcounts.release(&store.file, 6).unwrap();
        assert_eq!(allocate(&mut refcounts, &store, 9), (5, 1));
        assert_eq!(allocate(&mut refcounts, &store, 9), (7, 9));
        // What nobody was told of may be.
        let run = Run {
            cluster: 7,
            count: 9,
        };
        refcounts.take_back(&store.file, run).unwrap();
        assert_eq!(allocate(&mut refcounts, &store, 2), (7, 2));
    }

    /// What the file has instead would give clusters away a second time.
    #[test]
    fn a_block_that_cannot_be_written_stays_in_memory() {
        let (file, store) = file_with(&[4]);
        // The second block is cluster 4.
        let blocks = vec![512, 2048];
        let mut refcounts = Refcounts::new(GEOMETRY, 1024, blocks.clone());
        refcounts.blocks = Cache::new(1);
        assert_eq!(allocate(&mut refcounts, &store, 2), (5, 2));
        let not_writable = File::open(&file).unwrap();
        for _ in 0..2 {
            let result = refcounts.load(&not_writable, 1);
            assert!(matches!(result, Err(Obstacle::Io(_))), "{result:?}");
        }
        assert_eq!(allocate(&mut refcounts, &store, 1), (7, 1));
        refcounts.load(&store.file, 1).unwrap();
        let mut reopened = Refcounts::new(GEOMETRY, 1024, blocks);
        assert_eq!(allocate(&mut reopened, &store, 1), (8, 1));
    }
}
