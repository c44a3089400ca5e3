//! Making the disk larger or smaller.

use std::io;
use std::sync::atomic::Ordering;

use super::refcounts::Run;
use super::{Obstacle, Qcow2, header};
use crate::Buffers;
use crate::transfer;

impl Qcow2 {
    /// Gives the disk another size. At any instant the header has the old one or the new one.
    pub(super) fn change_size(&self, size: u64) -> io::Result<()> {
        let old = self.size_now();
        // Only version 3 has each snapshot say how large the disk was (docs/interop/qcow2.txt, "Snapshots").
        if self.version < 3 && self.has_snapshots {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "an image of version 2 that has snapshots keeps its size",
            ));
        }
        let entries = self.geometry.l1_entries(size);
        if entries.saturating_mul(8) > header::L1_BYTES_MAX || size > i64::MAX as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if entries > self.metadata_mut().l1.len() as u64 {
            self.move_l1(entries)?;
        }
        // Of a larger disk, where the backing file is longer than the disk was, and behind the end in its last cluster. Of a
        // smaller one all that goes, so that nothing of it comes back with whoever makes it larger again.
        let (start, end) = (size.min(old), size.max(old));
        self.zero_disk(start, end.saturating_sub(start), true)?;
        self.write_metadata()?;
        self.sync()?;
        self.write_header(header::field::SIZE, &mut size.to_be_bytes())?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn move_l1(&self, entries: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let run = self.allocate_in_a_row(geometry.clusters(entries.saturating_mul(8)))?;
        let start = geometry.offset(run.cluster);
        self.change_file(|metadata| {
            // Entries that are dirty refer to what may not be durable yet.
            if !metadata.dirty_l1.is_empty() {
                return Err(Obstacle::Dirty);
            }
            let mut l1 = metadata.l1.clone();
            l1.resize(entries as usize, 0);
            let mut bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            bytes.resize(geometry.offset(run.count) as usize, 0);
            transfer::write_at(&self.store.file, start, &Buffers::of_slice(&mut bytes))?;
            self.sync()?;
            let mut fields = [0; 12];
            let (count, offset) = fields.split_at_mut(4);
            count.copy_from_slice(&(entries as u32).to_be_bytes());
            offset.copy_from_slice(&start.to_be_bytes());
            self.write_header(header::field::L1_SIZE, &mut fields)?;
            let old = Run {
                cluster: geometry.cluster(metadata.l1_offset),
                count: geometry.clusters((metadata.l1.len() as u64).saturating_mul(8)),
            };
            metadata.freed.push(old);
            metadata.l1_offset = start;
            metadata.l1 = l1;
            Ok(())
        })
    }

    /// Allocates so many clusters in one piece.
    fn allocate_in_a_row(&self, count: u64) -> io::Result<Run> {
        // The first cluster of those that a refcount block counts may be the block itself.
        if count >= self.geometry.refcounts_per_block() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        loop {
            let run = self.change(|metadata| metadata.allocate(&self.store, count))?;
            if run.count == count {
                return Ok(run);
            }
            // The search goes on behind them.
            self.metadata_mut().freed.push(run);
        }
    }
}
