//! From a name to an inode.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::Entry;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::attributes::{status_beneath, status_of};
use super::beneath::{self, Component};
use super::inode::{FileIdentity, Inode};
use super::kernel_interfaces::is_kernel_interface;
use super::{SharedFolder, errno};

impl SharedFolder {
    /// Looks up `name` in the directory with ID `parent`. On success the guest was told of the inode once more.
    pub(super) fn look_up(&self, parent: u64, name: &CStr) -> io::Result<Entry> {
        let parent = self.inodes.get(parent)?;
        match self.entry_beneath(&parent, Component::new(name)?) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.no_entry(error),
            result => result,
        }
    }

    /// Opens entry `name` of `parent` and tells the guest of it.
    pub(super) fn entry_beneath(&self, parent: &Inode, name: Component<'_>) -> io::Result<Entry> {
        check_directory(parent)?;
        parent.check_contents()?;
        // Of a file that the guest knows the status is enough, which is two system calls less. One that is new takes one
        // more then, so the last entry of the directory decides.
        if parent.expects_known_entries() {
            let status = status_beneath(parent.as_fd(), name)?;
            if let Some(inode) = self.inodes.remember_pinned(FileIdentity::of(&status)) {
                return Ok(self.entry(inode, status));
            }
        }
        let descriptor = open_path(parent, name)?;
        let status = status_of(&descriptor)?;
        let known = self.inodes.pinned(FileIdentity::of(&status)).is_some();
        parent.expect_known_entries(known);
        self.entry_of(descriptor, status)
    }

    /// Tells the guest of the file behind the `O_PATH` descriptor, which has `status`.
    pub(super) fn entry_of(&self, descriptor: OwnedFd, status: stat64) -> io::Result<Entry> {
        let withheld = |descriptor: &OwnedFd| {
            let elsewhere = !self.numbers.is_of_root(status.st_dev);
            Ok(elsewhere && is_kernel_interface(descriptor)?)
        };
        let inode = self.inodes.remember(descriptor, &status, withheld)?;
        Ok(self.entry(inode, status))
    }

    /// Tells the guest once more of an inode that it knows.
    pub(super) fn known_entry(&self, inode: &Inode) -> io::Result<Entry> {
        let status = status_of(inode)?;
        self.inodes.remember_again(inode.id())?;
        Ok(self.entry(inode.id(), status))
    }

    /// Tells the guest of the root, whose name it has to ask for each time.
    pub(super) fn root_entry(&self) -> io::Result<Entry> {
        let root = self.inodes.root();
        let status = status_of(root)?;
        Ok(Entry {
            entry_timeout: Duration::ZERO,
            ..self.entry(root.id(), status)
        })
    }

    fn entry(&self, inode: u64, status: stat64) -> Entry {
        let lifetime = self.options.cache.lifetime();
        Entry {
            inode,
            generation: 0,
            attr: self.shown(status),
            attr_flags: 0,
            attr_timeout: lifetime,
            entry_timeout: lifetime,
        }
    }

    /// Answer for a name that does not exist. Inode 0 lets the guest keep that in mind; `ENOENT` does not.
    fn no_entry(&self, error: io::Error) -> io::Result<Entry> {
        if !self.options.cache.is_always() {
            return Err(error);
        }
        Ok(Entry {
            entry_timeout: self.options.cache.lifetime(),
            ..Entry::default()
        })
    }
}

/// Opens entry `name` of `parent` without any access to it but to its attributes.
pub(super) fn open_path(parent: &Inode, name: Component<'_>) -> io::Result<OwnedFd> {
    beneath::open(parent.as_fd(), name, OFlag::O_PATH, Mode::empty())
}

/// Refuses an inode that has no entries.
///
/// # Errors
/// `ENOTDIR`.
pub(super) fn check_directory(inode: &Inode) -> io::Result<()> {
    if inode.is_directory() {
        Ok(())
    } else {
        Err(errno(libc::ENOTDIR))
    }
}
