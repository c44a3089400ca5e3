//! What a guest tells when it closes a file.
//!
//! FLUSH is a request that the closing process waits for, so that it gets errors which the host's file system reports only
//! then: that a write to a server failed after all. Where that file system has nothing to say, the guest need not ask.

use std::io;
use std::os::fd::AsFd;

use fuse_backend_rs::abi::fuse_abi::{OpenOptions, stat64};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

/// File systems to which Linux gives no `flush` operation (Documentation/filesystems/vfs.rst), and which are not on top of
/// others that may have one. The number of ext4 is also that of ext2 and ext3.
const SILENT: [FsType; 4] = [
    EXT4_SUPER_MAGIC,
    XFS_SUPER_MAGIC,
    BTRFS_SUPER_MAGIC,
    TMPFS_MAGIC,
];

/// `FOPEN_NOFLUSH` of Linux's uapi/linux/fuse.h, which guests before Linux 5.16 ignore.
const NO_FLUSH: OpenOptions = {
    // SAFETY: Bits are all that the type is made of, and all that anybody does with them is send them to the guest.
    unsafe { OpenOptions::from_bits_unchecked(1 << 5) }
};

/// Which files of a folder are closed silently.
pub(super) struct Closing {
    /// The device of the folder's root, if its file system is one of those. What is mounted beneath it may be another.
    silent: Option<u64>,
}

impl Closing {
    /// For a folder whose root has `status`.
    ///
    /// # Errors
    /// As fstatfs(2).
    pub(super) fn of_root(root: impl AsFd, status: &stat64) -> io::Result<Closing> {
        let kind = fstatfs(root)?.filesystem_type();
        Ok(Closing {
            silent: SILENT.contains(&kind).then_some(status.st_dev),
        })
    }

    /// Options of an open of a file on `device`.
    pub(super) fn options(&self, device: u64, writable: bool) -> OpenOptions {
        if !writable || self.silent == Some(device) {
            NO_FLUSH
        } else {
            OpenOptions::empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_asks_when_it_has_written_and_the_host_may_have_something_to_say() {
        let asks = |silent, device, writable| {
            let options = Closing { silent }.options(device, writable);
            !options.contains(NO_FLUSH)
        };
        assert!(asks(None, 1, true));
        assert!(!asks(None, 1, false));
        assert!(!asks(Some(1), 1, true));
        // A file system that is mounted in the folder.
        assert!(asks(Some(1), 2, true));
        assert!(!asks(Some(1), 2, false));
    }

    #[test]
    fn interfaces_of_the_kernel_are_none_of_those_that_are_silent() {
        let root = std::fs::File::open("/proc").unwrap();
        let status = super::super::attributes::status_of(&root).unwrap();
        assert_eq!(Closing::of_root(&root, &status).unwrap().silent, None);
    }
}
