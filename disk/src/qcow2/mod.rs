//! The qcow2 format, versions 2 and 3 (docs/interop/qcow2.txt of QEMU).
//!
//! The tables that map the disk to the file are changed in memory. A flush writes them in the order of dependence, with
//! fdatasync(2) between: data and reference counts, then L2 tables, then the L1 table, and only then are counts taken
//! away. So whenever the process or the host ends, everything that was flushed is found, and at most clusters are lost
//! that nothing refers to. Lazy reference counts are permitted to an image, not demanded from who writes it; they would
//! save nothing here.
//!
//! A cluster of the file that is the disk's own stays so: zeros and discards work on it in place, and clusters that
//! became free are used again after the next opening only. So a transfer may go on without a lock after it was told its
//! place.

mod busy;
mod check;
mod compressed;
mod create;
mod data;
mod entry;
mod flush;
mod geometry;
mod header;
mod info;
mod metadata;
mod opening;
mod refcounts;
mod resize;
mod snapshots;
mod store;
mod table;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};

pub use check::check;
pub use create::{CreateOptions, Preallocation, create};
pub(crate) use info::info;

use crate::{Access, Buffers, Cache, Image, Place, SECTOR};
use busy::Busy;
use compressed::Decompressor;
use geometry::Geometry;
use metadata::{Metadata, Stretch};
use store::Store;

/// A qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    geometry: Geometry,
    version: u32,
    has_snapshots: bool,
    size: AtomicU64,
    store: Store,
    data_file: Option<Store>,
    backing: Option<Box<dyn Image>>,
    decompressor: Decompressor,
    metadata: RwLock<Metadata>,
    /// Clusters that are being filled.
    busy: Busy,
    /// Who writes metadata to the file has this. It is taken before `metadata`.
    flushing: Mutex<()>,
    read_only: bool,
    cache: Cache,
}

/// Why the metadata cannot be changed right now.
#[derive(Debug)]
enum Obstacle {
    /// Every table in memory is dirty.
    CacheFull,
    /// The refcount table has no entry for the next cluster.
    RefcountTableFull,
    /// Something else was changed that must be written before.
    Dirty,
    /// It cannot be at all.
    Io(io::Error),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Obstacle {
        Obstacle::Io(error)
    }
}

/// The image breaks a rule of its format.
fn damaged<E: From<io::Error>>(what: &'static str) -> E {
    E::from(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the qcow2 image is damaged: {what}"),
    ))
}

impl Qcow2 {
    /// The file that clusters of the disk are in.
    fn data(&self) -> &Store {
        self.data_file.as_ref().unwrap_or(&self.store)
    }

    fn size_now(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn metadata_mut(&self) -> RwLockWriteGuard<'_, Metadata> {
        self.metadata
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes metadata in memory, as often as there is an obstacle.
    fn change<T>(
        &self,
        mut step: impl FnMut(&mut Metadata) -> Result<T, Obstacle>,
    ) -> io::Result<T> {
        loop {
            let result = step(&mut self.metadata_mut());
            if let Some(value) = self.overcome(result)? {
                return Ok(value);
            }
        }
    }

    /// Nothing if the step has to be repeated.
    fn overcome<T>(&self, result: Result<T, Obstacle>) -> io::Result<Option<T>> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(Obstacle::Io(error)) => return Err(error),
            Err(Obstacle::CacheFull | Obstacle::Dirty) => self.write_metadata()?,
            Err(Obstacle::RefcountTableFull) => self.grow_refcount_table()?,
        }
        Ok(None)
    }

    fn check_range(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size_now() => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn check_change(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check_range(offset, length)
    }

    fn done(&self) -> io::Result<()> {
        match self.cache {
            Cache::Writeback => Ok(()),
            Cache::Writethrough => self.flush(),
        }
    }
}

impl Image for Qcow2 {
    fn size(&self) -> u64 {
        self.size_now()
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check_range(offset, buffers.len())?;
        self.read_disk(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check_change(offset, buffers.len())?;
        self.write_disk(offset, buffers)?;
        self.done()
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.check_change(offset, length)?;
        self.zero_disk(offset, length, unmap)?;
        self.done()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_change(offset, length)?;
        self.discard_disk(offset, length)?;
        self.done()
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.write_metadata()?;
        self.sync()
    }

    fn place(&self, offset: u64, length: u64, access: Access) -> Option<Place<'_>> {
        let writes = access == Access::Write;
        if writes && (self.read_only || self.cache == Cache::Writethrough) {
            return None;
        }
        let length = length.min(self.size_now().checked_sub(offset)?);
        if length == 0 {
            return None;
        }
        let Some(Stretch::Normal { host, length }) = self.find_now(offset, length) else {
            return None;
        };
        // A transfer must not end at the end of the file.
        let there = self.data().length().checked_sub(host.offset)?;
        let length = length.min(there);
        (length > 0 && (host.copied || !writes)).then_some(Place {
            file: self.data().file.as_fd(),
            offset: host.offset,
            length,
        })
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.check_change(0, 0)?;
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change_size(size)
    }

    fn allocated(&self) -> io::Result<u64> {
        let blocks =
            |file: &File| Ok::<_, io::Error>(file.metadata()?.blocks().saturating_mul(512));
        let mut bytes = blocks(&self.store.file)?;
        if let Some(data) = &self.data_file {
            bytes = bytes.saturating_add(blocks(&data.file)?);
        }
        Ok(bytes)
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }
        // Twice: the counts of what became free are changed when the rest is durable.
        let written = self.write_metadata().and_then(|()| self.write_metadata());
        let end = self.metadata_mut().used_end;
        if let Err(error) = written.and_then(|()| self.store.cut(end)) {
            tracing::warn!("a qcow2 image could not be closed: {error}");
        }
    }
}
