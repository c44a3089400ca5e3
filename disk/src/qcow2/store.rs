//! The files that an image consists of.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::damaged;
use super::geometry::Geometry;
use crate::Buffers;
use crate::open::LockedFile;
use crate::transfer;

/// An image grows in steps of this size, so that most writes need not move its end.
pub(super) const GROWTH: u64 = 4 << 20;

/// A file that clusters are in.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) file: LockedFile,
    geometry: Geometry,
    /// Bytes that it has at least.
    length: AtomicU64,
    /// Whether it can get longer: a block device cannot.
    growable: bool,
    /// In steps of so many bytes.
    growth: u64,
}

impl Store {
    pub(super) fn new(
        file: LockedFile,
        geometry: Geometry,
        length: u64,
        growth: u64,
    ) -> io::Result<Store> {
        Ok(Store {
            growable: file.metadata()?.is_file(),
            file,
            geometry,
            length: AtomicU64::new(length),
            growth,
        })
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// From where on nothing has ever been written: there the file reads as zeros when it has grown.
    pub(super) fn never_written_from(&self) -> u64 {
        if self.growable {
            let clusters = self.geometry.clusters(self.length());
            self.geometry.offset(clusters)
        } else {
            u64::MAX
        }
    }

    /// Fills `buffers`. The last cluster may be cut short by the end of the file, and reads as zeros there.
    pub(super) fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        let length = self.length();
        let there = length.saturating_sub(offset).min(buffers.len());
        if there == buffers.len() {
            return transfer::read_at(&self.file, offset, buffers);
        }
        let end = self.geometry.offset(self.geometry.clusters(length));
        if offset.saturating_add(buffers.len()) > end {
            return Err(damaged("a cluster lies behind the end of the file"));
        }
        transfer::read_at(&self.file, offset, &buffers.part(0, there))?;
        buffers.part(there, u64::MAX).fill_with_zeros();
        Ok(())
    }

    /// Whether a cluster of the disk may be changed where an L2 table says that it is.
    ///
    /// # Errors
    /// `InvalidData` if it lies behind the end of the file, which would grow to wherever a damaged table leads.
    pub(super) fn check_place(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = self.geometry.offset(self.geometry.clusters(self.length()));
        if offset.saturating_add(length) > end {
            return Err(damaged("a cluster lies behind the end of the file"));
        }
        Ok(())
    }

    /// The file has at least `end` bytes afterwards. One thread at a time calls this.
    pub(super) fn reach(&self, end: u64) -> io::Result<()> {
        if end <= self.length() {
            return Ok(());
        }
        if !self.growable {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut length = end.next_multiple_of(self.growth);
        if self.file.set_len(length).is_err() {
            length = end;
            self.file.set_len(length)?;
        }
        self.length.store(length, Ordering::Release);
        Ok(())
    }

    /// Cuts off what is behind `end`, where nothing was ever written.
    pub(super) fn cut(&self, end: u64) -> io::Result<()> {
        if self.growable && end < self.length() {
            self.length.store(end, Ordering::Release);
            self.file.set_len(end)?;
        }
        Ok(())
    }
}
