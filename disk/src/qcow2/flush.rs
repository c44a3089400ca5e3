//! Writing the metadata, in an order that a crash at any instant leaves an image in order.

use std::collections::BTreeSet;
use std::io;
use std::sync::{MutexGuard, PoisonError};

use super::metadata::Metadata;
use super::refcounts::Run;
use super::table::Piece;
use super::{Obstacle, Qcow2, header};
use crate::Buffers;
use crate::transfer;

/// What was dirty at one instant.
#[derive(Debug)]
struct Batch {
    blocks: Vec<Piece>,
    refcount_entries: BTreeSet<u64>,
    refcount_table: Vec<(u64, Vec<u8>)>,
    l2: Vec<Piece>,
    l1_entries: BTreeSet<u64>,
    l1: Vec<(u64, Vec<u8>)>,
    freed: Vec<Run>,
}

impl Batch {
    fn take(metadata: &mut Metadata) -> Batch {
        let refcounts = &mut metadata.refcounts;
        let refcount_entries = std::mem::take(&mut refcounts.dirty_entries);
        let l1_entries = std::mem::take(&mut metadata.dirty_l1);
        Batch {
            blocks: refcounts.blocks.take_dirty(),
            refcount_table: pieces(refcounts.table_offset, &refcounts.table, &refcount_entries),
            refcount_entries,
            l2: metadata.l2.take_dirty(),
            l1: pieces(metadata.l1_offset, &metadata.l1, &l1_entries),
            l1_entries,
            freed: std::mem::take(&mut metadata.freed),
        }
    }

    /// What could not be written stays dirty.
    fn give_back(self, metadata: &mut Metadata) {
        let refcounts = &mut metadata.refcounts;
        refcounts.blocks.written(&self.blocks, false);
        refcounts.dirty_entries.extend(self.refcount_entries);
        metadata.l2.written(&self.l2, false);
        metadata.dirty_l1.extend(self.l1_entries);
        metadata.freed.extend(self.freed);
    }
}

/// Entries of a table as bytes, those in a row together, with where they are in the file.
fn pieces(offset: u64, table: &[u64], entries: &BTreeSet<u64>) -> Vec<(u64, Vec<u8>)> {
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    for index in entries {
        let at = offset.saturating_add(index.saturating_mul(8));
        let entry = table.get(*index as usize).copied().unwrap_or(0);
        match pieces.last_mut() {
            Some((start, bytes)) if start.saturating_add(bytes.len() as u64) == at => {
                bytes.extend_from_slice(&entry.to_be_bytes());
            }
            _ => pieces.push((at, entry.to_be_bytes().to_vec())),
        }
    }
    pieces
}

impl Qcow2 {
    /// Writes what is dirty. It is durable after the next [`sync`](Self::sync), and in order before.
    pub(super) fn write_metadata(&self) -> io::Result<()> {
        let flushing = self.flushing();
        self.write_batch(&flushing)
    }

    pub(super) fn flushing(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_batch(&self, _flushing: &MutexGuard<'_, ()>) -> io::Result<()> {
        let mut batch = Batch::take(&mut self.metadata_mut());
        let result = self.write_in_order(&mut batch);
        let mut metadata = self.metadata_mut();
        if let Err(error) = result {
            batch.give_back(&mut metadata);
            return Err(error);
        }
        metadata.refcounts.blocks.written(&batch.blocks, true);
        metadata.l2.written(&batch.l2, true);
        for run in batch.freed {
            for cluster in run.cluster..run.cluster.saturating_add(run.count) {
                // A count that cannot be changed is too high at most.
                if let Err(Obstacle::Io(error)) =
                    metadata.refcounts.release(&self.store.file, cluster)
                {
                    tracing::debug!("cluster {cluster} stays allocated: {error}");
                }
            }
        }
        Ok(())
    }

    fn write_in_order(&self, batch: &mut Batch) -> io::Result<()> {
        let (l2, l1) = (!batch.l2.is_empty(), !batch.l1.is_empty());
        self.write_tables(&mut batch.blocks)?;
        if l2 || l1 || !batch.refcount_table.is_empty() {
            self.sync()?;
        }
        if !batch.refcount_table.is_empty() {
            self.write_entries(&mut batch.refcount_table)?;
            self.sync()?;
        }
        self.write_tables(&mut batch.l2)?;
        if l2 && l1 {
            self.sync()?;
        }
        self.write_entries(&mut batch.l1)?;
        if !batch.freed.is_empty() {
            self.sync()?;
        }
        Ok(())
    }

    fn write_tables(&self, pieces: &mut [Piece]) -> io::Result<()> {
        for piece in pieces {
            let buffers = Buffers::of_slice(&mut piece.bytes);
            transfer::write_at(&self.store.file, piece.offset, &buffers)?;
        }
        Ok(())
    }

    fn write_entries(&self, pieces: &mut [(u64, Vec<u8>)]) -> io::Result<()> {
        for (offset, bytes) in pieces {
            transfer::write_at(&self.store.file, *offset, &Buffers::of_slice(bytes))?;
        }
        Ok(())
    }

    /// Makes everything durable that was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some(data) = &self.data_file {
            data.file.sync_data()?;
        }
        self.store.file.sync_data()
    }

    /// Changes metadata in memory and file at once, when all of it has been written before.
    pub(super) fn change_file<T>(
        &self,
        mut step: impl FnMut(&mut Metadata) -> Result<T, Obstacle>,
    ) -> io::Result<T> {
        loop {
            let flushing = self.flushing();
            self.write_batch(&flushing)?;
            let result = step(&mut self.metadata_mut());
            drop(flushing);
            if let Some(value) = self.overcome(result)? {
                return Ok(value);
            }
        }
    }

    /// Gives the refcount table room for more clusters.
    pub(super) fn grow_refcount_table(&self) -> io::Result<()> {
        let length = self.metadata_mut().refcounts.table.len();
        self.change_file(|metadata| {
            if metadata.refcounts.table.len() > length {
                // Somebody else was faster.
                return Ok(());
            }
            if !metadata.refcounts.dirty_entries.is_empty() {
                return Err(Obstacle::Dirty);
            }
            self.move_refcount_table(metadata)
        })
    }

    fn move_refcount_table(&self, metadata: &mut Metadata) -> Result<(), Obstacle> {
        let geometry = self.geometry;
        let growth = metadata.refcounts.plan_growth();
        if growth.entry_count.saturating_mul(8) > header::REFCOUNT_TABLE_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        let clusters = growth.clusters();
        let start = geometry.offset(clusters.start);
        self.store.reach(geometry.offset(clusters.end))?;
        let first_block = start.saturating_add(geometry.offset(growth.table_clusters));
        let mut table = metadata.refcounts.table.clone();
        for at in 0..growth.blocks {
            let offset = first_block.saturating_add(geometry.offset(at));
            table.push(offset);
            let mut bytes = vec![0; geometry.cluster_size() as usize];
            let counted = at.saturating_mul(geometry.refcounts_per_block());
            let left = clusters
                .end
                .saturating_sub(clusters.start)
                .saturating_sub(counted);
            for index in 0..left.min(geometry.refcounts_per_block()) {
                super::refcounts::set_in(&mut bytes, geometry.refcount_order, index, 1);
            }
            transfer::write_at(&self.store.file, offset, &Buffers::of_slice(&mut bytes))?;
        }
        table.resize(growth.entry_count as usize, 0);
        let mut bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        transfer::write_at(&self.store.file, start, &Buffers::of_slice(&mut bytes))?;
        self.sync()?;
        let mut fields = [0; 12];
        let (offset, count) = fields.split_at_mut(8);
        offset.copy_from_slice(&start.to_be_bytes());
        count.copy_from_slice(&(growth.table_clusters as u32).to_be_bytes());
        self.write_header(header::field::REFCOUNT_TABLE_OFFSET, &mut fields)?;
        let old = Run {
            cluster: geometry.cluster(metadata.refcounts.table_offset),
            count: geometry.clusters((metadata.refcounts.table.len() as u64).saturating_mul(8)),
        };
        metadata.refcounts.table_offset = start;
        metadata.refcounts.table = table;
        metadata.used_end = metadata.used_end.max(geometry.offset(clusters.end));
        metadata.freed.push(old);
        Ok(())
    }

    /// Changes fields of the header, durably. They lie in one sector.
    pub(super) fn write_header(&self, offset: u64, fields: &mut [u8]) -> io::Result<()> {
        transfer::write_at(&self.store.file, offset, &Buffers::of_slice(fields))?;
        self.sync()
    }
}
