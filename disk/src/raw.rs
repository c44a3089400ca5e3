//! The raw format: the sectors, one after the other, in a file or on a block device.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::open::open_file;
use crate::{Access, Buffers, Cache, DiskError, Format, Image, OpenOptions, Place, SECTOR};

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    size: AtomicU64,
    read_only: bool,
    cache: Cache,
}

impl Raw {
    pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Raw, DiskError> {
        let file = open_file(path, options.read_only)?;
        let size = size_of(&file).map_err(|source| DiskError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        })?;
        if size == 0 || size % SECTOR != 0 {
            return Err(DiskError::Invalid {
                path: path.to_owned(),
                format: Format::Raw,
                reason: format!(
                    "its size is {size} bytes, which is not a number of sectors of {SECTOR}"
                ),
            });
        }
        Ok(Raw {
            file,
            size: AtomicU64::new(size),
            read_only: options.read_only,
            cache: options.cache,
        })
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn check_change(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check(offset, length)
    }

    fn done(&self) -> io::Result<()> {
        match self.cache {
            Cache::Writeback => Ok(()),
            Cache::Writethrough => self.file.sync_data(),
        }
    }
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check(offset, buffers.len())?;
        transfer(offset, buffers, |part, at| {
            let (vectors, count) = (part.vectors().as_ptr(), vector_count(part));
            // SAFETY: the vectors are memory that is writable while `part` lives.
            unsafe { libc::preadv(self.file.as_raw_fd(), vectors, count, at) }
        })
    }

    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check_change(offset, buffers.len())?;
        transfer(offset, buffers, |part, at| {
            let (vectors, count) = (part.vectors().as_ptr(), vector_count(part));
            // SAFETY: the vectors are memory that is readable while `part` lives.
            unsafe { libc::pwritev(self.file.as_raw_fd(), vectors, count, at) }
        })?;
        self.done()
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.check_change(offset, length)?;
        let how = if unmap {
            FallocateFlags::FALLOC_FL_PUNCH_HOLE
        } else {
            FallocateFlags::FALLOC_FL_ZERO_RANGE
        };
        self.fallocate(how, offset, length)?;
        self.done()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_change(offset, length)?;
        self.fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length)?;
        self.done()
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn place(&self, offset: u64, length: u64, access: Access) -> Option<Place<'_>> {
        if access == Access::Write && (self.read_only || self.cache == Cache::Writethrough) {
            return None;
        }
        let length = length.min(self.size().checked_sub(offset)?);
        (length > 0).then_some(Place {
            file: self.file.as_fd(),
            offset,
            length,
        })
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.check_change(0, 0)?;
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.set_len(size)?;
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks().saturating_mul(512))
    }
}

impl Raw {
    fn fallocate(&self, how: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        fallocate(
            &self.file,
            how | FallocateFlags::FALLOC_FL_KEEP_SIZE,
            i64::try_from(offset).map_err(invalid)?,
            i64::try_from(length).map_err(invalid)?,
        )?;
        Ok(())
    }
}

/// Bytes in the file or on the block device.
fn size_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        // A device's size is where it ends.
        io::Seek::seek(&mut &*file, io::SeekFrom::End(0))
    } else {
        Ok(metadata.len())
    }
}

/// Repeats `step` until all of `buffers` is transferred.
fn transfer(
    offset: u64,
    buffers: &Buffers<'_>,
    mut step: impl FnMut(&Buffers<'_>, i64) -> isize,
) -> io::Result<()> {
    let mut done = 0_u64;
    while done < buffers.len() {
        let rest = buffers.part(done, u64::MAX);
        let at = offset.saturating_add(done);
        let at = i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
        match step(&rest, at) {
            // The file was cut short.
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if count > 0 => done = done.saturating_add(count as u64),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// At most as many as one system call takes (IOV_MAX).
fn vector_count(buffers: &Buffers<'_>) -> i32 {
    buffers.vectors().len().min(libc::UIO_MAXIOV as usize) as i32
}
