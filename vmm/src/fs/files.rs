//! Regular files: open, read, write.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuse_backend_rs::abi::fuse_abi::{FOPEN_IN_KILL_SUIDGID, OpenOptions, stat64};
use fuse_backend_rs::api::filesystem::{ZeroCopyReader, ZeroCopyWriter};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Whence, lseek64};

use super::attributes::status_of;
use super::descriptors::Permit;
use super::inode::{Inode, Opened};
use super::quota::UnlinkedBytes;
use super::transfer::Transfer;
use super::{CachePolicy, SharedFolder, errno};

/// Most bytes that one request reads or writes; what the guest is told at FUSE_INIT.
pub(super) const MAX_TRANSFER: usize = 1 << 20;

/// A regular file, open on the host.
pub(super) struct OpenFile {
    descriptor: OwnedFd,
    /// Whether it was opened for writing.
    pub(super) writable: bool,
    _permit: Option<Permit>,
    opened: Option<Opened>,
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl OpenFile {
    /// As [`Inode::unlinked`]; of a file that the guest has open.
    pub(super) fn unlinked(&self) -> Option<&UnlinkedBytes> {
        self.opened.as_ref().map(Opened::unlinked)
    }

    /// Refuses to write what was not opened for it.
    ///
    /// # Errors
    /// `EBADF`.
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(errno(libc::EBADF))
        }
    }
}

impl SharedFolder {
    /// Opens the file with ID `inode` as the guest's open(2) flags ask for and gives out a handle, or tells the guest by
    /// `ENOSYS` that it need not open files.
    pub(super) fn open_file(
        &self,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(u64, OpenOptions)> {
        let inode = self.inodes.get(inode)?;
        let flags = host_flags(flags);
        if writes(flags) {
            self.check_writable()?;
        }
        if self.openless.files.load(Ordering::Relaxed) {
            return Err(errno(libc::ENOSYS));
        }
        let permit = self.inodes.permit()?;
        let descriptor = if flags.contains(OFlag::O_TRUNC) {
            let open = || self.reopen_file(&inode, flags);
            self.change_file(inode.as_fd(), inode.unlinked(), 0, open)?
        } else {
            self.reopen_file(&inode, flags)?
        };
        if flags.contains(OFlag::O_TRUNC) && fuse_flags & FOPEN_IN_KILL_SUIDGID != 0 {
            self.strip_privileges(descriptor.as_fd())?;
        }
        let mut options = match self.options.cache {
            CachePolicy::Always { .. } => OpenOptions::KEEP_CACHE,
            CachePolicy::None => OpenOptions::empty(),
            CachePolicy::Auto { .. } => options_of_shared(&inode, &status_of(&descriptor)?),
        };
        options |= self.closing.options(inode.device(), is_writable(flags));
        let handle = self.give_handle(&inode, descriptor, flags, permit)?;
        Ok((handle, options))
    }

    /// Gives out a handle for `inode`, of which `descriptor` was opened with `flags`.
    pub(super) fn give_handle(
        &self,
        inode: &Inode,
        descriptor: OwnedFd,
        flags: OFlag,
        permit: Permit,
    ) -> io::Result<u64> {
        let file = OpenFile {
            descriptor,
            writable: is_writable(flags),
            _permit: Some(permit),
            opened: Some(inode.opened(self.meter.as_ref())?),
        };
        self.files.insert(inode.id(), file)
    }

    /// Opens `inode` for I/O, if it is a regular file.
    pub(super) fn reopen_file(&self, inode: &Inode, flags: OFlag) -> io::Result<OwnedFd> {
        match inode.kind() {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(errno(libc::EISDIR)),
            libc::S_IFLNK => return Err(errno(libc::ELOOP)),
            _ => return Err(errno(libc::EOPNOTSUPP)),
        }
        inode.check_contents()?;
        self.reopen(inode, flags)
    }

    /// Opens `inode`; in a read-only folder without a trace where that is permitted: to the owner and to root.
    pub(super) fn reopen(&self, inode: &Inode, flags: OFlag) -> io::Result<OwnedFd> {
        let reopen = |flags| self.descriptors.reopen(inode.as_fd(), flags);
        if !self.options.read_only {
            return reopen(flags);
        }
        match reopen(flags | OFlag::O_NOATIME) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => reopen(flags),
            result => result,
        }
    }

    /// The open file that `handle` of the inode with ID `inode` stands for. Handle 0 is the file that was never opened,
    /// if the guest was told that it need not open.
    pub(super) fn file(&self, inode: u64, handle: u64) -> io::Result<Arc<OpenFile>> {
        if handle != 0 || !self.openless.files.load(Ordering::Relaxed) {
            return self.files.get(inode, handle);
        }
        let inode = self.inodes.get(inode)?;
        if let Some(file) = inode.pin().file.get() {
            return Ok(Arc::clone(file));
        }
        // Without a descriptor to spare it is opened for this request only.
        let permit = self.inodes.spare_permit();
        let keep = permit.is_some();
        let descriptor = self.reopen_file(&inode, OFlag::O_RDONLY)?;
        let file = Arc::new(OpenFile {
            descriptor,
            writable: false,
            _permit: permit,
            opened: None,
        });
        if keep {
            return Ok(Arc::clone(inode.pin().file.get_or_init(|| file)));
        }
        Ok(file)
    }

    /// Reads from `file` straight into the guest's buffers.
    pub(super) fn read_file(
        &self,
        file: &OpenFile,
        buffers: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
    ) -> io::Result<usize> {
        let size = usize::try_from(size).unwrap_or(MAX_TRANSFER);
        let size = size.min(MAX_TRANSFER).min(buffers.available_bytes());
        let read = buffers.write_from(&mut Transfer::new(file.as_fd()), size, offset)?;
        self.traffic.count_read(count(read));
        Ok(read)
    }

    /// Writes straight from the guest's buffers to `file`.
    pub(super) fn write_file(
        &self,
        file: &OpenFile,
        buffers: &mut dyn ZeroCopyReader,
        write: Write,
    ) -> io::Result<usize> {
        file.check_writable()?;
        if write.strips_privileges {
            self.strip_privileges(file.as_fd())?;
        }
        let size = usize::try_from(write.size).unwrap_or(MAX_TRANSFER);
        let mut transfer = if write.appends {
            Transfer::appending(file.as_fd())
        } else {
            Transfer::new(file.as_fd())
        };
        let size = size.min(MAX_TRANSFER);
        let written = match &self.meter {
            None => buffers.read_to(&mut transfer, size, write.offset),
            Some(meter) => {
                let range = (size, write.offset);
                SharedFolder::write_within(meter, file, &mut transfer, buffers, range)
            }
        }?;
        self.traffic.count_written(count(written));
        Ok(written)
    }

    /// Takes the set-user-ID and set-group-ID bits from the file behind `descriptor`, as the host does when a process
    /// without privileges changes it; this process may have some. File capabilities the host takes away in any case.
    pub(super) fn strip_privileges(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mode = status_of(descriptor)?.st_mode;
        let mut kept = mode & !libc::S_ISUID;
        // Without the permission to execute it the bit means something else, see inode(7).
        if mode & libc::S_IXGRP != 0 {
            kept &= !libc::S_ISGID;
        }
        if kept == mode {
            return Ok(());
        }
        match fchmod(descriptor, Mode::from_bits_truncate(kept)) {
            // Someone else's file: then the host takes the bits away by itself.
            Ok(()) | Err(Errno::EPERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The guest closes a descriptor of the file: reports what the host has to say only then, such as that a write to a
    /// network file system failed after all.
    pub(super) fn flush_file(&self, file: &OpenFile) -> io::Result<()> {
        if !file.writable {
            return Ok(());
        }
        let duplicate = file.descriptor.try_clone()?;
        Ok(nix::unistd::close(duplicate)?)
    }

    /// Reserves or releases space, as fallocate(2).
    pub(super) fn allocate(
        &self,
        file: &OpenFile,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        file.check_writable()?;
        let known = FallocateFlags::FALLOC_FL_KEEP_SIZE
            | FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | FallocateFlags::FALLOC_FL_ZERO_RANGE;
        let mode = FallocateFlags::from_bits_retain(mode.cast_signed());
        if !known.contains(mode) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let signed = |value| i64::try_from(value).map_err(|_| errno(libc::EFBIG));
        let needed = self.allocation_cost(file, mode, (offset, length))?;
        let unlinked = file.unlinked().ok_or_else(|| errno(libc::EBADF))?;
        self.change_file(file.as_fd(), unlinked, needed, || {
            Ok(fallocate(file, mode, signed(offset)?, signed(length)?)?)
        })
    }

    /// Finds data or a hole, as lseek(2).
    pub(super) fn seek(&self, file: &OpenFile, offset: u64, whence: u32) -> io::Result<u64> {
        let whence = match whence.cast_signed() {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(errno(libc::EINVAL)),
        };
        let offset = i64::try_from(offset).map_err(|_| errno(libc::ENXIO))?;
        let found = lseek64(file, offset, whence)?;
        u64::try_from(found).map_err(|_| errno(libc::EIO))
    }
}

/// What a write request says besides the data.
pub(super) struct Write {
    /// Bytes to write.
    pub(super) size: u32,
    /// Where to write them.
    pub(super) offset: u64,
    /// Write them to the end of the file instead.
    pub(super) appends: bool,
    /// The writing process lacks the privilege to leave the set-user-ID and set-group-ID bits as they are.
    pub(super) strips_privileges: bool,
}

/// Options of an open of `inode`, which has `status` and may be changed by the host.
fn options_of_shared(inode: &Inode, status: &stat64) -> OpenOptions {
    if inode.last_open().is_unchanged(status, SystemTime::now()) {
        OpenOptions::KEEP_CACHE
    } else {
        OpenOptions::empty()
    }
}

/// Bytes as they are counted.
fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Flags for the host of a guest's open(2) flags. Access mode, truncation and synchronous writing are the host's
/// business. `O_APPEND` is not: each write says for itself whether it appends, see `write_file`. `O_DIRECT` would
/// demand an alignment of the guest's buffers that nobody promised.
pub(super) fn host_flags(flags: u32) -> OFlag {
    let kept = OFlag::O_ACCMODE | OFlag::O_TRUNC | OFlag::O_SYNC | OFlag::O_DSYNC;
    OFlag::from_bits_retain(flags.cast_signed()) & kept
}

/// Whether opening with `flags` is for writing or changes the file at once.
fn writes(flags: OFlag) -> bool {
    is_writable(flags) || flags.contains(OFlag::O_TRUNC)
}

/// Whether a file opened with `flags` can be written.
pub(super) fn is_writable(flags: OFlag) -> bool {
    flags & OFlag::O_ACCMODE != OFlag::O_RDONLY
}
