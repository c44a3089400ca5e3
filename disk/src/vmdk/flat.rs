//! Extents that lie in one piece, or nowhere.

use std::io;
use std::path::Path;

use super::refusal::Refusal;
use crate::raw::Raw;
use crate::{Access, Buffers, DiskError, Image, Place, SECTOR};

/// A stretch of a file.
#[derive(Debug)]
pub(super) struct Flat {
    file: Raw,
    /// In bytes.
    start: u64,
    /// In bytes.
    size: u64,
}

impl Flat {
    /// `sectors` sectors from the sector `offset` of the file on.
    pub(super) fn new(
        path: &Path,
        file: Raw,
        offset: u64,
        sectors: u64,
    ) -> Result<Flat, DiskError> {
        let has = file.size() / SECTOR;
        match offset.checked_add(sectors) {
            Some(end) if end <= has => Ok(Flat {
                file,
                start: offset.saturating_mul(SECTOR),
                size: sectors.saturating_mul(SECTOR),
            }),
            _ => Err(Refusal::invalid(format!(
                "the descriptor wants {sectors} sectors from sector {offset} on, the file has {has}"
            ))
            .of(path)),
        }
    }

    fn at(&self, offset: u64, length: u64) -> io::Result<u64> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(self.start.saturating_add(offset)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Image for Flat {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.file.read_only()
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.file.read(self.at(offset, buffers.len())?, buffers)
    }

    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.file.write(self.at(offset, buffers.len())?, buffers)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.file
            .write_zeroes(self.at(offset, length)?, length, unmap)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.discard(self.at(offset, length)?, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn place(&self, offset: u64, length: u64, access: Access) -> Option<Place<'_>> {
        self.file
            .place(self.at(offset, length).ok()?, length, access)
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}

/// A stretch that lies nowhere.
#[derive(Debug)]
pub(super) struct Zeros {
    /// In bytes.
    pub(super) size: u64,
}

impl Image for Zeros {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        match offset.checked_add(buffers.len()) {
            Some(end) if end <= self.size => {
                buffers.fill_with_zeros();
                Ok(())
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn write(&self, _offset: u64, _buffers: &Buffers<'_>) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn place(&self, _offset: u64, _length: u64, _access: Access) -> Option<Place<'_>> {
        None
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(0)
    }
}
