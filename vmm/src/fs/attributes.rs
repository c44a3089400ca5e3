//! Attributes of files, as the guest sees them.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use fuse_backend_rs::abi::fuse_abi::{stat64, statvfs64};

use super::SharedFolder;

/// Attributes of what `descriptor`, which may be an `O_PATH` one, refers to.
///
/// # Errors
/// As fstat(2).
pub(super) fn status_of(descriptor: impl AsFd) -> io::Result<stat64> {
    let mut status = MaybeUninit::<stat64>::uninit();
    // SAFETY: the descriptor is open while it is borrowed, and fstat writes one stat64 into the place for one.
    let result = unsafe { libc::fstat64(descriptor.as_fd().as_raw_fd(), status.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat succeeded, so it has filled all of it.
    Ok(unsafe { status.assume_init() })
}

/// Attributes of the file system on which `descriptor` lies.
///
/// # Errors
/// As fstatvfs(3).
pub(super) fn space_of(descriptor: impl AsFd) -> io::Result<statvfs64> {
    let mut status = MaybeUninit::<statvfs64>::uninit();
    // SAFETY: the descriptor is open while it is borrowed, and fstatvfs writes one statvfs64 into the place for one.
    let result = unsafe { libc::fstatvfs64(descriptor.as_fd().as_raw_fd(), status.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatvfs succeeded, so it has filled all of it.
    Ok(unsafe { status.assume_init() })
}

/// Inode numbers as the guest sees them. The guest sees one file system; the folder may hold several, so two files
/// with the same number on different devices must not look like hard links of each other.
///
/// On the device of the root the numbers are those of the host. Files of the n-th other device have n in the upper 16
/// bits: unique as long as file systems number their inodes below 2^48, which all that keep them on disk do in
/// practice. A larger number is folded into 48 bits.
pub(super) struct InodeNumbers {
    root_device: u64,
    others: Mutex<HashMap<u64, u64>>,
}

impl InodeNumbers {
    /// Bits of the inode number that come from the host on other devices than the root's.
    const HOST_BITS: u32 = 48;
    const HOST_MASK: u64 = (1 << Self::HOST_BITS) - 1;

    /// For a folder whose root has `status`.
    pub(super) fn of_root(status: &stat64) -> InodeNumbers {
        InodeNumbers {
            root_device: status.st_dev,
            others: Mutex::default(),
        }
    }

    /// The number for inode `number` on `device`; the same every time.
    pub(super) fn shown(&self, device: u64, number: u64) -> u64 {
        if device == self.root_device {
            return number;
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u64::try_from(others.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let index = *others.entry(device).or_insert(next);
        let folded = (number ^ (number >> Self::HOST_BITS)) & Self::HOST_MASK;
        (index << Self::HOST_BITS) | folded
    }
}

impl SharedFolder {
    /// `status` of the host with inode number and owner as the guest sees them.
    pub(super) fn shown(&self, mut status: stat64) -> stat64 {
        let owner = self.identity.shown(&status);
        status.st_uid = owner.user;
        status.st_gid = owner.group;
        status.st_ino = self.numbers.shown(status.st_dev, status.st_ino);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_on_two_devices_is_two_numbers() {
        let numbers = InodeNumbers {
            root_device: 1,
            others: Mutex::default(),
        };
        assert_eq!(numbers.shown(1, 12), 12);
        let second = numbers.shown(2, 12);
        let third = numbers.shown(3, 12);
        assert!(second != 12 && third != 12 && second != third);
        assert_eq!(numbers.shown(2, 12), second);
    }
}
