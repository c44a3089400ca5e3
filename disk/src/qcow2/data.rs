//! Reading, writing and zeroing the disk.

use std::io;
use std::sync::PoisonError;

use super::Qcow2;
use super::entry::{Host, Mapping};
use super::metadata::{Claim, Fill, Stretch};
use crate::Buffers;
use crate::transfer;

impl Qcow2 {
    /// What the range begins with.
    fn find(&self, offset: u64, length: u64) -> io::Result<Stretch> {
        loop {
            let found = self.metadata().find(offset, length)?;
            if let Some(stretch) = found {
                return Ok(stretch);
            }
            let cluster = self.geometry.cluster(offset);
            let index = self.geometry.l1_index(cluster);
            self.change(|metadata| metadata.load(&self.store, index))?;
        }
    }

    /// The same, if it can be told without reading or waiting.
    pub(super) fn find_now(&self, offset: u64, length: u64) -> Option<Stretch> {
        let metadata = match self.metadata.try_read() {
            Ok(metadata) => metadata,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        metadata.find(offset, length).ok()?
    }

    pub(super) fn read_disk(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        let mut done = 0_u64;
        while done < buffers.len() {
            let at = offset.saturating_add(done);
            let left = buffers.len().saturating_sub(done);
            let stretch = self.find(at, left)?;
            let length = stretch.length();
            let whole = done == 0 && length == buffers.len();
            let part = (!whole).then(|| buffers.part(done, length));
            self.read_stretch(at, stretch, part.as_ref().unwrap_or(buffers))?;
            done = done.saturating_add(length);
        }
        Ok(())
    }

    fn read_stretch(&self, at: u64, stretch: Stretch, buffers: &Buffers<'_>) -> io::Result<()> {
        match stretch {
            Stretch::Normal { host, .. } => self.data().read(host.offset, buffers),
            Stretch::Zero { .. } => {
                buffers.fill_with_zeros();
                Ok(())
            }
            Stretch::Unallocated { .. } => self.read_backing(at, buffers),
            Stretch::Compressed { cluster, .. } => {
                let bytes = self.decompressor.read(&self.store, cluster)?;
                let start = self.geometry.within(at) as usize;
                let end = start.saturating_add(buffers.len() as usize);
                match bytes.get(start..end) {
                    Some(bytes) => buffers.copy_from(bytes),
                    None => Err(io::ErrorKind::InvalidInput.into()),
                }
            }
        }
    }

    /// What the backing file has; zeros behind its end, and without one.
    fn read_backing(&self, at: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        let there = self.backed(at).min(buffers.len());
        if let Some(backing) = &self.backing
            && there > 0
        {
            backing.read(at, &buffers.part(0, there))?;
        }
        buffers.part(there, u64::MAX).fill_with_zeros();
        Ok(())
    }

    /// Bytes from `at` on that the backing file has.
    fn backed(&self, at: u64) -> u64 {
        let size = self.backing.as_ref().map_or(0, |backing| backing.size());
        size.saturating_sub(at)
    }

    pub(super) fn write_disk(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        let mut done = 0_u64;
        while done < buffers.len() {
            let at = offset.saturating_add(done);
            let left = buffers.len().saturating_sub(done);
            let stretch = self.find(at, left)?;
            let written = match stretch {
                Stretch::Normal { host, length } if host.copied => {
                    let whole = done == 0 && length == buffers.len();
                    let part = (!whole).then(|| buffers.part(done, length));
                    let part = part.as_ref().unwrap_or(buffers);
                    self.data().check_place(host.offset, length)?;
                    transfer::write_at(&self.data().file, host.offset, part)?;
                    length
                }
                _ => self.fill_and_enter(at, &buffers.part(done, u64::MAX))?,
            };
            done = done.saturating_add(written);
        }
        Ok(())
    }

    /// Writes the beginning of `buffers` into clusters that are not the disk's own yet. Returns how many bytes that were.
    fn fill_and_enter(&self, at: u64, buffers: &Buffers<'_>) -> io::Result<u64> {
        let geometry = self.geometry;
        let first = geometry.cluster(at);
        let last = geometry.cluster(at.saturating_add(buffers.len().saturating_sub(1)));
        let index = geometry.l1_index(first);
        let next_table = index
            .saturating_add(1)
            .saturating_mul(geometry.l2_entries());
        let end = last.saturating_add(1).min(next_table);
        // Whoever else wants to fill one of them waits here, and finds it filled.
        let _busy = self.busy.reserve(first..end);
        let count = end.saturating_sub(first);
        let claim =
            self.change(|metadata| metadata.claim(&self.store, self.data(), first, count))?;
        let fill = match claim {
            Claim::InPlace => return Ok(0),
            Claim::Fill(fill) => fill,
        };
        let filled_end = first.saturating_add(fill.before.len() as u64);
        let length = geometry
            .offset(filled_end)
            .saturating_sub(at)
            .min(buffers.len());
        let result = self
            .fill(at, &buffers.part(0, length), &fill)
            .and_then(|()| self.change(|metadata| metadata.enter(&self.store, first, &fill)));
        if let (Err(_), Some(run)) = (&result, fill.run) {
            let taken_back = self.change(|metadata| {
                let end = run.cluster.saturating_add(run.count);
                // A part may have been written.
                let end = geometry.offset(end);
                metadata.never_written_from = metadata.never_written_from.max(end);
                metadata.refcounts.take_back(&self.store.file, run)
            });
            if let Err(error) = taken_back {
                tracing::warn!("clusters that could not be filled are lost: {error}");
            }
        }
        result.map(|()| length)
    }

    /// Fills clusters as a whole: with `buffers`, and before and behind them with what the clusters were.
    fn fill(&self, at: u64, buffers: &Buffers<'_>, fill: &Fill) -> io::Result<()> {
        let geometry = self.geometry;
        let within = geometry.within(at);
        let end = at.saturating_add(buffers.len());
        let mut head = vec![0; within as usize];
        let behind = if geometry.is_aligned(end) {
            0
        } else {
            geometry.rest(end)
        };
        let mut tail = vec![0; behind as usize];
        let head = self.read_before(geometry.start(at), fill.before.first(), fill, &mut head)?;
        let tail = self.read_before(end, fill.before.last(), fill, &mut tail)?;
        let skipped = if head.is_none() { within } else { 0 };
        let parts = [head, Some(buffers.clone()), tail];
        let joined = Buffers::joined(parts.iter().flatten());
        let start = fill.offset.saturating_add(skipped);
        transfer::write_at(&self.data().file, start, &joined)
    }

    /// What a part of a cluster was before it is filled; nothing if the place has the same already.
    fn read_before<'b>(
        &self,
        at: u64,
        before: Option<&Mapping>,
        fill: &Fill,
        bytes: &'b mut [u8],
    ) -> io::Result<Option<Buffers<'b>>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let length = bytes.len() as u64;
        let buffers = Buffers::of_slice(bytes);
        let stretch = match before {
            Some(Mapping::Zero { .. }) | None => Stretch::Zero { length },
            Some(Mapping::Unallocated) if self.backed(at) == 0 => Stretch::Zero { length },
            Some(Mapping::Unallocated) => Stretch::Unallocated { length },
            Some(Mapping::Normal(host)) => Stretch::Normal {
                host: Host {
                    offset: host.offset.saturating_add(self.geometry.within(at)),
                    ..*host
                },
                length,
            },
            Some(Mapping::Compressed(cluster)) => Stretch::Compressed {
                cluster: *cluster,
                length,
            },
        };
        if fill.zeros && matches!(stretch, Stretch::Zero { .. }) {
            return Ok(None);
        }
        self.read_stretch(at, stretch, &buffers)?;
        Ok(Some(buffers))
    }

    /// Makes the range zeros, wherever it lies.
    pub(super) fn zero_disk(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let stretch = self.find(at, end.saturating_sub(at))?;
            let done = match stretch {
                // In place, so that no cluster is ever given to somebody else while a transfer to it may be under way.
                Stretch::Normal { host, length } if host.copied => {
                    self.data().check_place(host.offset, length)?;
                    transfer::write_zeroes(&self.data().file, host.offset, length, unmap)?;
                    length
                }
                Stretch::Zero { length } => length,
                Stretch::Unallocated { length } if self.backed(at) == 0 => length,
                stretch => self.zero_stretch(at, stretch.length())?,
            };
            at = at.saturating_add(done);
        }
        Ok(())
    }

    /// Makes the beginning of a range zeros that is not the disk's own yet. Returns how many bytes that were.
    fn zero_stretch(&self, at: u64, length: u64) -> io::Result<u64> {
        let geometry = self.geometry;
        let stretch_end = at.saturating_add(length);
        // Behind the end of the disk nothing has to stay.
        let reach = if stretch_end == self.size_now() {
            geometry.offset(geometry.clusters(stretch_end))
        } else {
            stretch_end
        };
        let (first, last) = (geometry.cluster(at), geometry.cluster(reach));
        if self.version >= 3 && geometry.is_aligned(at) && last > first {
            let _busy = self.busy.reserve(first..last);
            let count = last.saturating_sub(first);
            let zeroed = self.change(|metadata| metadata.zero(&self.store, first, count))?;
            return Ok(geometry.offset(zeroed));
        }
        let length = geometry.rest(at).min(length);
        let mut zeros = vec![0; length as usize];
        self.write_disk(at, &Buffers::of_slice(&mut zeros))?;
        Ok(length)
    }

    /// Gives storage of the range back where it is the disk's own; the rest stays as it is.
    pub(super) fn discard_disk(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let stretch = self.find(at, end.saturating_sub(at))?;
            if let Stretch::Normal { host, length } = stretch
                && host.copied
            {
                transfer::punch_hole(&self.data().file, host.offset, length)?;
            }
            at = at.saturating_add(stretch.length());
        }
        Ok(())
    }

    /// Gives every cluster of a disk of `size` bytes a place, where the file has nothing but zeros.
    pub(super) fn preallocate(&self, size: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let clusters = geometry.clusters(size);
        let mut cluster = 0;
        while cluster < clusters {
            let index = geometry.l1_index(cluster);
            let next_table = index
                .saturating_add(1)
                .saturating_mul(geometry.l2_entries());
            let count = clusters.min(next_table).saturating_sub(cluster);
            let taken = self.change(|metadata| {
                match metadata.claim(&self.store, self.data(), cluster, count)? {
                    Claim::InPlace => Ok(1),
                    Claim::Fill(fill) => {
                        metadata.enter(&self.store, cluster, &fill)?;
                        Ok(fill.before.len() as u64)
                    }
                }
            })?;
            cluster = cluster.saturating_add(taken);
        }
        self.write_metadata()
    }

    fn metadata(&self) -> std::sync::RwLockReadGuard<'_, super::metadata::Metadata> {
        self.metadata.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stretch {
    /// Bytes of the disk, at least 1.
    pub(super) fn length(self) -> u64 {
        match self {
            Stretch::Unallocated { length }
            | Stretch::Zero { length }
            | Stretch::Normal { length, .. }
            | Stretch::Compressed { length, .. } => length,
        }
    }
}
