//! Extended attributes, see xattr(7).
//!
//! The guest reaches the `user` and `trusted` attributes and the file capabilities, as far as the host lets this
//! process; the host's other attributes (access control lists, security labels) would mean something on the host
//! that they do not mean in the guest, so for the guest the file system has none.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use fuse_backend_rs::api::filesystem::{GetxattrReply, ListxattrReply};
use nix::fcntl::OFlag;

use super::inode::Inode;
use super::quota::BLOCK;
use super::{SharedFolder, errno};

/// Longest value of an attribute and longest list of names on Linux, `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const MAX_LENGTH: usize = 1 << 16;

impl SharedFolder {
    /// Whether the guest may know of an attribute called `name`.
    fn is_attribute_shared(&self, name: &[u8]) -> bool {
        name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || (name == b"security.capability" && !self.options.no_suid)
    }

    /// Refuses names of attributes that are not shared.
    ///
    /// # Errors
    /// `EOPNOTSUPP`.
    fn check_attribute(&self, name: &CStr) -> io::Result<()> {
        if self.is_attribute_shared(name.to_bytes()) {
            Ok(())
        } else {
            Err(errno(libc::EOPNOTSUPP))
        }
    }

    /// Value of attribute `name`, or only its length if `size` is 0.
    pub(super) fn extended_attribute(
        &self,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.check_attribute(name)?;
        let file = self.attribute_holder(&self.inodes.get(inode)?)?;
        let value = fill(size, |buffer| {
            // SAFETY: `name` ends with a NUL, and the kernel writes at most as many bytes as the buffer has.
            unsafe {
                libc::fgetxattr(
                    file.as_raw_fd(),
                    name.as_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            }
        })?;
        Ok(match value {
            Filled::Bytes(value) => GetxattrReply::Value(value),
            Filled::Length(length) => GetxattrReply::Count(length),
        })
    }

    /// Names of all attributes, each ended by a NUL, or only their length if `size` is 0.
    pub(super) fn extended_attributes(&self, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let names = match self.attribute_holder(&self.inodes.get(inode)?) {
            Ok(file) => self.attribute_names(&file)?,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
            Err(error) => return Err(error),
        };
        let length = u32::try_from(names.len()).map_err(|_| errno(libc::E2BIG))?;
        match size {
            0 => Ok(ListxattrReply::Count(length)),
            room if room < length => Err(errno(libc::ERANGE)),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    /// Names of the attributes of `file` that the guest may know of.
    fn attribute_names(&self, file: &OwnedFd) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0_u8; MAX_LENGTH];
        // SAFETY: the kernel writes at most as many bytes as the buffer has.
        let result =
            unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(length);
        let names = buffer.split_inclusive(|byte| *byte == 0);
        Ok(names
            .filter(|name| self.is_attribute_shared(name.strip_suffix(b"\0").unwrap_or(name)))
            .flatten()
            .copied()
            .collect())
    }

    /// Sets attribute `name` as setxattr(2) with `flags`.
    pub(super) fn set_extended_attribute(
        &self,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.check_writable()?;
        self.check_attribute(name)?;
        let inode = self.inodes.get(inode)?;
        let file = self.attribute_holder(&inode)?;
        let flags = libc::c_int::try_from(flags).map_err(|_| errno(libc::EINVAL))?;
        let blocks = value.len().div_ceil(4096).max(1);
        let needed = u64::try_from(blocks)
            .unwrap_or(u64::MAX)
            .saturating_mul(BLOCK);
        self.change_file(inode.as_fd(), inode.unlinked(), needed, || {
            // SAFETY: `name` ends with a NUL, and the kernel reads as many bytes of the value as it has.
            let result = unsafe {
                libc::fsetxattr(
                    file.as_raw_fd(),
                    name.as_ptr(),
                    value.as_ptr().cast(),
                    value.len(),
                    flags,
                )
            };
            succeeded(result)
        })
    }

    /// Removes attribute `name`.
    pub(super) fn remove_extended_attribute(&self, inode: u64, name: &CStr) -> io::Result<()> {
        self.check_writable()?;
        self.check_attribute(name)?;
        let inode = self.inodes.get(inode)?;
        let file = self.attribute_holder(&inode)?;
        self.change_file(inode.as_fd(), inode.unlinked(), 0, || {
            // SAFETY: `name` ends with a NUL.
            let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
            succeeded(result)
        })
    }

    /// Opens `inode` for access to its attributes. An `O_PATH` descriptor does not do, and only regular files and
    /// directories can be opened safely and have `user` attributes.
    fn attribute_holder(&self, inode: &Inode) -> io::Result<OwnedFd> {
        match inode.kind() {
            libc::S_IFDIR => self.reopen_directory(inode),
            libc::S_IFREG => self.reopen_file(inode, OFlag::O_RDONLY),
            _ => Err(errno(libc::EOPNOTSUPP)),
        }
    }
}

enum Filled {
    Bytes(Vec<u8>),
    Length(u32),
}

/// Lets `call` fill a buffer of `size` bytes, or say how many it takes if that is 0.
fn fill(size: u32, call: impl Fn(&mut [u8]) -> isize) -> io::Result<Filled> {
    let room = usize::try_from(size).unwrap_or(MAX_LENGTH).min(MAX_LENGTH);
    let mut buffer = vec![0; room];
    let length = usize::try_from(call(&mut buffer)).map_err(|_| io::Error::last_os_error())?;
    if room == 0 {
        let length = u32::try_from(length).map_err(|_| errno(libc::E2BIG))?;
        return Ok(Filled::Length(length));
    }
    buffer.truncate(length);
    Ok(Filled::Bytes(buffer))
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
