//! New reference counts for an image, behind everything that it has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use super::Examination;
use crate::Buffers;
use crate::qcow2::entry::{COPIED, OFFSET};
use crate::qcow2::header::{Header, REFCOUNT_TABLE_BYTES_MAX, field, incompatible};
use crate::qcow2::opening::{read_words, write_durably};
use crate::qcow2::refcounts::set_in;
use crate::transfer;

/// Clears the marks that an image is dirty or corrupt.
pub(super) fn clear_marks(file: &File, header: &Header) -> io::Result<()> {
    let marks = incompatible::DIRTY | incompatible::CORRUPT;
    let bits = (header.incompatible & !marks).to_be_bytes();
    write_durably(file, field::INCOMPATIBLE, bits)
}

/// Where the new structures are. From the cluster `first` on: the table, then the blocks.
struct Plan {
    first: u64,
    table_clusters: u64,
    /// Which entries of the table have blocks.
    blocks: BTreeSet<u64>,
}

impl Plan {
    fn count(&self) -> u64 {
        self.table_clusters.saturating_add(self.blocks.len() as u64)
    }
}

impl Examination<'_> {
    /// Writes reference counts as they were found, and flags that fit. The header refers to the old counts or to the
    /// new ones at any instant.
    pub(super) fn rebuild(self) -> io::Result<()> {
        self.correct_flags()?;
        let plan = self.plan()?;
        self.write_counts(&plan)?;
        self.file.sync_data()?;
        let start = self.header.geometry.offset(plan.first);
        let mut fields = [0; 12];
        let (offset, count) = fields.split_at_mut(8);
        offset.copy_from_slice(&start.to_be_bytes());
        count.copy_from_slice(&(plan.table_clusters as u32).to_be_bytes());
        let buffers = Buffers::of_slice(&mut fields);
        transfer::write_at(self.file, field::REFCOUNT_TABLE_OFFSET, &buffers)?;
        self.file.sync_data()
    }

    fn plan(&self) -> io::Result<Plan> {
        let geometry = self.header.geometry;
        let block_of = |cluster: u64| cluster.wrapping_shr(geometry.refcount_block_bits());
        let mut plan = Plan {
            first: geometry.clusters(self.length),
            table_clusters: 1,
            blocks: self.counts.clusters().map(block_of).collect(),
        };
        // The structures count themselves: repeated until they have room for that.
        loop {
            let before = plan.count();
            let end = plan.first.saturating_add(before);
            plan.blocks.extend(block_of(plan.first)..=block_of(end));
            let entries = plan.blocks.last().copied().unwrap_or(0).saturating_add(1);
            plan.table_clusters = geometry.clusters(entries.saturating_mul(8));
            if geometry.offset(plan.table_clusters) > REFCOUNT_TABLE_BYTES_MAX {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if plan.count() == before {
                return Ok(plan);
            }
        }
    }

    fn write_counts(&self, plan: &Plan) -> io::Result<()> {
        let geometry = self.header.geometry;
        let own = plan.first..plan.first.saturating_add(plan.count());
        let size = geometry.cluster_size() as usize;
        let mut table = vec![0; geometry.offset(plan.table_clusters) as usize];
        let first_block = plan.first.saturating_add(plan.table_clusters);
        for (at, index) in plan.blocks.iter().enumerate() {
            let offset = geometry.offset(first_block.saturating_add(at as u64));
            set_in(&mut table, 6, *index, offset);
            let mut block = vec![0; size];
            let first = index.saturating_mul(geometry.refcounts_per_block());
            for at in 0..geometry.refcounts_per_block() {
                let cluster = first.saturating_add(at);
                let count = if own.contains(&cluster) {
                    1
                } else {
                    self.counts.get(cluster)
                };
                let count = count.min(geometry.refcount_max());
                set_in(&mut block, geometry.refcount_order, at, count);
            }
            transfer::write_at(self.file, offset, &Buffers::of_slice(&mut block))?;
        }
        let start = geometry.offset(plan.first);
        transfer::write_at(self.file, start, &Buffers::of_slice(&mut table))
    }

    /// Makes COPIED say what the counts that were found say. It is wrong to write in place too often, never too seldom.
    fn correct_flags(&self) -> io::Result<()> {
        let header = self.header;
        let geometry = header.geometry;
        let l1 = read_words(self.file, self.length, header.l1_offset, header.l1_bytes())?;
        for (index, word) in (0_u64..).zip(l1) {
            let table = word & OFFSET;
            if table == 0 || !geometry.is_aligned(table) || !self.is_in_file(table, 1) {
                continue;
            }
            let only = self.counts.get(geometry.cluster(table)) == 1;
            let place = header.l1_offset.saturating_add(index.saturating_mul(8));
            self.correct_flag(place, word, only)?;
            let step = if geometry.extended_l2 { 16_u64 } else { 8 };
            let mappings = self.read_l2(table)?;
            let there = (mappings.len() as u64).saturating_mul(step);
            let words = read_words(self.file, self.length, table, there)?;
            for (index, mapping) in (0_u64..).zip(mappings) {
                let Some(mapping) = mapping.filter(|mapping| self.is_flag_wrong(*mapping)) else {
                    continue;
                };
                let at = index.saturating_mul(step);
                let word = words.get((at / 8) as usize).copied().unwrap_or(0);
                let only = !matches!(mapping, super::Mapping::Normal(host) | super::Mapping::Zero { kept: Some(host) } if host.copied);
                self.correct_flag(table.saturating_add(at), word, only)?;
            }
        }
        Ok(())
    }

    fn correct_flag(&self, place: u64, word: u64, only: bool) -> io::Result<()> {
        let right = if only { word | COPIED } else { word & !COPIED };
        if right == word {
            return Ok(());
        }
        let mut bytes = right.to_be_bytes();
        transfer::write_at(self.file, place, &Buffers::of_slice(&mut bytes))
    }
}
