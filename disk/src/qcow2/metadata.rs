//! The tables that map the disk to clusters of the file.

use std::collections::BTreeSet;
use std::ops::Range;

use super::entry::{COPIED, Compressed, Host, Mapping, OFFSET, ZERO};
use super::geometry::Geometry;
use super::refcounts::{Refcounts, Run};
use super::store::Store;
use super::table::{Cache, Room, Table};
use super::{Obstacle, damaged};
use crate::Buffers;
use crate::transfer;

/// Bytes of L2 tables in memory: with clusters of 64 KiB those of 256 GiB.
const CACHE_BYTES: u64 = 32 << 20;

/// References that may wait to be taken away.
const FREED_MAX: usize = 65536;

/// L1 and L2 tables and reference counts. What changed is dirty, until a flush writes it in the order that a crash at
/// any instant leaves an image in order.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) geometry: Geometry,
    pub(super) version: u32,
    pub(super) l1_offset: u64,
    pub(super) l1: Vec<u64>,
    /// Entries of the L1 table that differ from the file.
    pub(super) dirty_l1: BTreeSet<u64>,
    /// By their index in the L1 table.
    pub(super) l2: Cache,
    pub(super) refcounts: Refcounts,
    /// References that changes took away; the counts follow when the changes are durable.
    pub(super) freed: Vec<Run>,
    /// Nothing was ever written from here on.
    pub(super) never_written_from: u64,
    /// Where the last cluster that was allocated ends.
    pub(super) used_end: u64,
    /// Clusters of the disk are in another file, at the same place as on the disk.
    pub(super) data_file: bool,
}

/// The beginning of a range of the disk, as far as it is alike. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    Unallocated { length: u64 },
    Zero { length: u64 },
    Normal { host: Host, length: u64 },
    Compressed { cluster: Compressed, length: u64 },
}

/// Clusters that a write may fill.
#[derive(Debug)]
pub(super) enum Claim {
    /// They can be written where they are.
    InPlace,
    /// These are to be filled as a whole, and entered into the L2 table then.
    Fill(Fill),
}

/// Clusters of the file that are not yet seen on the disk.
#[derive(Debug)]
pub(super) struct Fill {
    /// Where the first of them is in the file.
    pub(super) offset: u64,
    /// What the clusters of the disk were.
    pub(super) before: Vec<Mapping>,
    /// Newly allocated.
    pub(super) run: Option<Run>,
    /// They read as zeros.
    pub(super) zeros: bool,
}

/// Ranges of the file that are neither clusters of the disk nor L2 tables nor refcount blocks, whatever an image says:
/// the header, the L1 table and the refcount table.
#[derive(Debug)]
pub(super) struct Reserved(pub(super) [Range<u64>; 3]);

impl Reserved {
    pub(super) fn overlaps(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        let Reserved(ranges) = self;
        ranges
            .iter()
            .any(|range| offset < range.end && range.start < end)
    }
}

impl Metadata {
    pub(super) fn l2_capacity(geometry: Geometry) -> usize {
        geometry.cluster(CACHE_BYTES).max(8) as usize
    }

    /// What the range begins with. Nothing if its L2 table is not in memory.
    pub(super) fn find(&self, offset: u64, length: u64) -> Result<Option<Stretch>, std::io::Error> {
        let cluster = self.geometry.cluster(offset);
        let index = self.geometry.l1_index(cluster);
        let tables_end = self.start_of_table(index.saturating_add(1));
        let length = length.min(tables_end.saturating_sub(offset));
        if self.l1_entry(index) == 0 {
            return Ok(Some(Stretch::Unallocated { length }));
        }
        let Some(table) = self.l2.get(index) else {
            return Ok(None);
        };
        self.stretch(table, offset, length).map(Some)
    }

    /// Joins units that are alike. The range lies within what the table maps.
    fn stretch(&self, table: &Table, offset: u64, length: u64) -> std::io::Result<Stretch> {
        let unit = self.geometry.unit_size();
        let within = offset & unit.wrapping_sub(1);
        let first = self.mapping(table, offset)?;
        let mut joined = unit.saturating_sub(within);
        if let Mapping::Compressed(cluster) = first {
            let length = self.geometry.rest(offset).min(length);
            return Ok(Stretch::Compressed { cluster, length });
        }
        while joined < length {
            let next = self.mapping(table, offset.saturating_add(joined))?;
            let alike = match (first, next) {
                (Mapping::Unallocated, Mapping::Unallocated)
                | (Mapping::Zero { .. }, Mapping::Zero { .. }) => true,
                (Mapping::Normal(first), Mapping::Normal(next)) => {
                    let expected = first.offset.saturating_add(within).saturating_add(joined);
                    next.offset == expected && next.copied == first.copied
                }
                _ => false,
            };
            if !alike {
                break;
            }
            joined = joined.saturating_add(unit);
        }
        let length = length.min(joined);
        Ok(match first {
            Mapping::Normal(host) => Stretch::Normal {
                host: Host {
                    offset: host.offset.saturating_add(within),
                    ..host
                },
                length,
            },
            Mapping::Zero { .. } => Stretch::Zero { length },
            _ => Stretch::Unallocated { length },
        })
    }

    /// What the table says about the unit that holds the byte, with the place of the unit itself.
    fn mapping(&self, table: &Table, offset: u64) -> std::io::Result<Mapping> {
        let index = self.geometry.l2_index(self.geometry.cluster(offset));
        let mapping = if self.geometry.extended_l2 {
            let word = index.saturating_mul(2);
            let unit = self.geometry.unit_size();
            let start = self.geometry.within(offset) & !unit.wrapping_sub(1);
            let subcluster = start.checked_div(unit).unwrap_or(0) as u32;
            let bitmap = Some((table.word(word.saturating_add(1)), subcluster));
            match self.decode(table.word(word), bitmap)? {
                Mapping::Normal(host) => Mapping::Normal(Host {
                    offset: host.offset.saturating_add(start),
                    ..host
                }),
                mapping => mapping,
            }
        } else {
            self.decode(table.word(index), None)?
        };
        Ok(mapping)
    }

    fn decode(&self, entry: u64, bitmap: Option<(u64, u32)>) -> std::io::Result<Mapping> {
        let mapping = Mapping::decode(self.geometry, self.version, entry, bitmap)
            .map_err(|_| damaged::<std::io::Error>("a cluster is not aligned"))?;
        let host = match mapping {
            Mapping::Normal(host) | Mapping::Zero { kept: Some(host) } => host,
            _ => return Ok(mapping),
        };
        if !self.data_file
            && self
                .reserved()
                .overlaps(host.offset, self.geometry.cluster_size())
        {
            return Err(damaged("a cluster of the disk is one of the metadata"));
        }
        Ok(mapping)
    }

    fn reserved(&self) -> Reserved {
        let bytes = |entries: usize| (entries as u64).saturating_mul(8);
        let table = |start: u64, entries| start..start.saturating_add(bytes(entries));
        Reserved([
            0..self.geometry.cluster_size(),
            table(self.l1_offset, self.l1.len()),
            table(self.refcounts.table_offset, self.refcounts.table.len()),
        ])
    }

    fn l1_entry(&self, index: u64) -> u64 {
        self.l1.get(index as usize).copied().unwrap_or(0) & (OFFSET | COPIED)
    }

    /// First byte of the disk that the L2 table maps.
    pub(super) fn start_of_table(&self, index: u64) -> u64 {
        let clusters = index.saturating_mul(self.geometry.l2_entries());
        self.geometry.offset(clusters)
    }

    /// Has the L2 table in memory, if there is one.
    pub(super) fn load(&mut self, store: &Store, index: u64) -> Result<(), Obstacle> {
        let entry = self.l1_entry(index);
        if entry == 0 || self.l2.get(index).is_some() {
            return Ok(());
        }
        let offset = entry & OFFSET;
        let size = self.geometry.cluster_size();
        if !self.geometry.is_aligned(offset) {
            return Err(damaged("an L2 table does not begin with a cluster"));
        }
        if self.reserved().overlaps(offset, size) {
            return Err(damaged("an L2 table overlaps other metadata"));
        }
        let mut bytes = vec![0; size as usize];
        transfer::read_at(&store.file, offset, &Buffers::of_slice(&mut bytes))?;
        self.make_room()?;
        self.l2.insert(index, Table::new(offset, bytes.into()));
        Ok(())
    }

    /// A dirty L2 table must not be written before the reference counts of what it refers to.
    fn make_room(&mut self) -> Result<(), Obstacle> {
        match self.l2.make_room(false) {
            Room::Made => Ok(()),
            Room::AfterWriting(_) | Room::None => Err(Obstacle::CacheFull),
        }
    }

    /// Has an L2 table in memory that may be changed.
    pub(super) fn own(&mut self, store: &Store, index: u64) -> Result<(), Obstacle> {
        self.load(store, index)?;
        let entry = self.l1_entry(index);
        if entry & COPIED != 0 {
            return Ok(());
        }
        let size = self.geometry.cluster_size() as usize;
        let bytes = if entry == 0 {
            self.make_room()?;
            vec![0; size].into()
        } else {
            // A snapshot has it, too.
            match self.l2.get(index) {
                Some(table) => table.bytes().into(),
                None => return Err(Obstacle::CacheFull),
            }
        };
        let run = self.allocate(store, 1)?;
        let offset = self.geometry.offset(run.cluster);
        self.l2.insert(index, Table::fresh(offset, bytes));
        if let Some(place) = self.l1.get_mut(index as usize) {
            *place = offset | COPIED;
            self.dirty_l1.insert(index);
        }
        if entry != 0 {
            self.free(entry & OFFSET, 1);
        }
        Ok(())
    }

    fn free(&mut self, offset: u64, count: u64) {
        self.freed.push(Run {
            cluster: self.geometry.cluster(offset),
            count,
        });
    }

    /// Finds up to `wanted` clusters in a row, which are in the file.
    pub(super) fn allocate(&mut self, store: &Store, wanted: u64) -> Result<Run, Obstacle> {
        let reserved = self.reserved();
        let run = self.refcounts.allocate(store, wanted, &reserved)?;
        let offset = self.geometry.offset(run.cluster);
        let length = self.geometry.offset(run.count);
        let end = offset.saturating_add(length);
        if let Err(error) = store.reach(end) {
            self.refcounts.take_back(&store.file, run)?;
            return Err(error.into());
        }
        self.used_end = self.used_end.max(end);
        Ok(run)
    }

    /// Gets a write of `count` clusters of the disk a place for the first of them, or for more. They all belong to one L2
    /// table.
    pub(super) fn claim(
        &mut self,
        store: &Store,
        data: &Store,
        cluster: u64,
        count: u64,
    ) -> Result<Claim, Obstacle> {
        if self.freed.len() > FREED_MAX {
            return Err(Obstacle::Dirty);
        }
        let index = self.geometry.l1_index(cluster);
        self.own(store, index)?;
        let Some(table) = self.l2.get(index) else {
            return Err(Obstacle::CacheFull);
        };
        let mut before = Vec::new();
        let mut kept = None;
        for cluster in cluster..cluster.saturating_add(count) {
            let entry = table.word(self.geometry.l2_index(cluster));
            let mapping = self.decode(entry, None)?;
            let taken = self.geometry.offset(before.len() as u64);
            match (mapping, kept) {
                (Mapping::Normal(Host { copied: true, .. }), _) => break,
                // Zeros with a cluster of their own go on with one that follows in the file.
                (Mapping::Zero { kept: Some(host) }, None) if before.is_empty() && host.copied => {
                    kept = Some(host.offset);
                }
                (Mapping::Zero { kept: Some(host) }, Some(first)) if host.copied => {
                    if first.saturating_add(taken) != host.offset {
                        break;
                    }
                }
                (Mapping::Zero { kept: Some(host) }, None) if host.copied => break,
                (_, Some(_)) => break,
                (_, None) => {}
            }
            before.push(mapping);
        }
        if before.is_empty() {
            return Ok(Claim::InPlace);
        }
        if let Some(offset) = kept {
            return Ok(Claim::Fill(Fill {
                offset,
                before,
                run: None,
                zeros: false,
            }));
        }
        if self.data_file {
            let offset = self.geometry.offset(cluster);
            let length = self.geometry.offset(before.len() as u64);
            data.reach(offset.saturating_add(length))?;
            return Ok(Claim::Fill(Fill {
                offset,
                before,
                run: None,
                zeros: false,
            }));
        }
        let run = self.allocate(store, before.len() as u64)?;
        before.truncate(run.count as usize);
        let offset = self.geometry.offset(run.cluster);
        Ok(Claim::Fill(Fill {
            offset,
            before,
            run: Some(run),
            zeros: offset >= self.never_written_from,
        }))
    }

    /// Shows clusters on the disk that were filled.
    pub(super) fn enter(
        &mut self,
        store: &Store,
        cluster: u64,
        fill: &Fill,
    ) -> Result<(), Obstacle> {
        let count = fill.before.len() as u64;
        let entries = (0..count).map(|at| {
            let offset = fill.offset.saturating_add(self.geometry.offset(at));
            offset | COPIED
        });
        let entries: Vec<_> = entries.collect();
        self.replace(store, cluster, &fill.before, &entries)
    }

    /// Makes clusters zeros that are not the disk's own. Returns how many that were.
    pub(super) fn zero(
        &mut self,
        store: &Store,
        cluster: u64,
        count: u64,
    ) -> Result<u64, Obstacle> {
        let index = self.geometry.l1_index(cluster);
        self.own(store, index)?;
        let Some(table) = self.l2.get(index) else {
            return Err(Obstacle::CacheFull);
        };
        let mut before = Vec::new();
        for cluster in cluster..cluster.saturating_add(count) {
            let entry = table.word(self.geometry.l2_index(cluster));
            let mapping = self.decode(entry, None)?;
            // What became the disk's own in the meantime is zeroed where it is.
            if matches!(
                mapping,
                Mapping::Normal(Host { copied: true, .. }) | Mapping::Zero { .. }
            ) {
                break;
            }
            before.push(mapping);
        }
        let entries = vec![ZERO; before.len()];
        self.replace(store, cluster, &before, &entries)?;
        Ok(before.len() as u64)
    }

    fn replace(
        &mut self,
        store: &Store,
        cluster: u64,
        before: &[Mapping],
        entries: &[u64],
    ) -> Result<(), Obstacle> {
        let index = self.geometry.l1_index(cluster);
        self.load(store, index)?;
        let Some(table) = self.l2.get_mut(index) else {
            return Err(Obstacle::CacheFull);
        };
        let first = self.geometry.l2_index(cluster);
        for (at, entry) in entries.iter().enumerate() {
            table.set_word(first.saturating_add(at as u64), *entry);
        }
        for (mapping, entry) in before.iter().zip(entries) {
            match mapping {
                Mapping::Normal(host) | Mapping::Zero { kept: Some(host) }
                    if !self.data_file && host.offset != entry & OFFSET =>
                {
                    self.free(host.offset, 1);
                }
                Mapping::Compressed(cluster) => {
                    let (first, count) = cluster.host_clusters(self.geometry);
                    self.free(self.geometry.offset(first), count);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Compressed {
    /// First cluster of the file that it is in, and how many it touches.
    pub(super) fn host_clusters(self, geometry: Geometry) -> (u64, u64) {
        let first = geometry.cluster(self.offset);
        let last = geometry.cluster(self.offset.saturating_add(self.length.saturating_sub(1)));
        (first, last.saturating_sub(first).saturating_add(1))
    }
}
