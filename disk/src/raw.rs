//! The raw format: the sectors, one after the other, in a file or on a block device.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::open::{LockedFile, open_file, size_of};
use crate::transfer;
use crate::{Access, Buffers, Cache, DiskError, Format, Image, OpenOptions, Place, SECTOR};

/// A raw image.
#[derive(Debug)]
pub(crate) struct Raw {
    file: LockedFile,
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
        transfer::read_at(&self.file, offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check_change(offset, buffers.len())?;
        transfer::write_at(&self.file, offset, buffers)?;
        self.done()
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.check_change(offset, length)?;
        transfer::write_zeroes(&self.file, offset, length, unmap)?;
        self.done()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_change(offset, length)?;
        transfer::punch_hole(&self.file, offset, length)?;
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    fn image(length: u64, cache: Cache) -> (tempfile::TempDir, PathBuf, Result<Raw, DiskError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        File::create(&path).unwrap().set_len(length).unwrap();
        let raw = Raw::open(&path, &options(cache));
        (folder, path, raw)
    }

    fn options(cache: Cache) -> OpenOptions {
        OpenOptions {
            format: Format::Raw,
            read_only: false,
            cache,
            allowed: Vec::new(),
        }
    }

    #[test]
    fn sizes_are_whole_sectors() {
        for length in [0, 1, 511, 513, 1 << 20 | 1] {
            let error = image(length, Cache::Writeback).2.unwrap_err().to_string();
            assert!(
                error.contains(&format!("size is {length} bytes")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_was_cut_short_is_an_error_of_the_read() {
        let (_folder, path, raw) = image(1 << 20, Cache::Writeback);
        let raw = raw.unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(4096).unwrap();
        let mut bytes = [1; 8192];
        let error = raw.read(0, &Buffers::of_slice(&mut bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        raw.read(0, &Buffers::of_slice(&mut bytes[..4096])).unwrap();
        raw.discard(0, 1 << 20).unwrap();
    }

    #[test]
    fn ranges_behind_the_end_are_refused() {
        let (_folder, _, raw) = image(8192, Cache::Writeback);
        let raw = raw.unwrap();
        let mut bytes = [1; 1024];
        let buffers = Buffers::of_slice(&mut bytes);
        for offset in [8192 - 512, 8192, u64::MAX, u64::MAX - 1023, 1 << 63] {
            let refused = io::ErrorKind::InvalidInput;
            assert_eq!(raw.read(offset, &buffers).unwrap_err().kind(), refused);
            assert_eq!(raw.write(offset, &buffers).unwrap_err().kind(), refused);
            let zeroes = raw.write_zeroes(offset, 1024, true);
            assert_eq!(zeroes.unwrap_err().kind(), refused);
            assert_eq!(raw.discard(offset, 1024).unwrap_err().kind(), refused);
        }
        let place = raw.place(8192 - 512, 4096, Access::Write).unwrap();
        assert_eq!((place.offset, place.length), (8192 - 512, 512));
        assert!(raw.place(8192, 1, Access::Read).is_none());
    }

    #[test]
    fn a_writethrough_image_gives_no_place_to_write_past_it() {
        let (_folder, path, raw) = image(8192, Cache::Writethrough);
        let raw = raw.unwrap();
        assert!(raw.place(0, 512, Access::Write).is_none());
        assert!(raw.place(0, 512, Access::Read).is_some());
        raw.write(512, &Buffers::of_slice(&mut [9; 512])).unwrap();
        raw.write_zeroes(600, 100, false).unwrap();
        let bytes = fs::read(path).unwrap();
        assert_eq!(
            (bytes[599], bytes[600], bytes[699], bytes[700]),
            (9, 0, 0, 9)
        );
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let paths = [folder.path(), &pipe, &socket, "/dev/null".as_ref()];
        for path in paths {
            let refused = Raw::open(path, &options(Cache::Writeback)).unwrap_err();
            assert!(matches!(refused, DiskError::Open { .. }), "{refused}");
        }
    }

    #[test]
    fn one_writes_or_many_read() {
        let (_folder, path, raw) = image(8192, Cache::Writeback);
        let read_only = OpenOptions {
            read_only: true,
            ..options(Cache::Writeback)
        };
        let refused = Raw::open(&path, &read_only).unwrap_err();
        assert!(matches!(refused, DiskError::InUse { .. }), "{refused}");
        drop(raw);
        let reader = Raw::open(&path, &read_only).unwrap();
        let _another = Raw::open(&path, &read_only).unwrap();
        let refused = Raw::open(&path, &options(Cache::Writeback)).unwrap_err();
        assert!(matches!(refused, DiskError::InUse { .. }), "{refused}");
        let error = reader.write(0, &Buffers::of_slice(&mut [0; 512]));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(reader.place(0, 512, Access::Write).is_none());
    }
}
