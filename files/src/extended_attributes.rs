//! Extended attributes of files, see xattr(7).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use protocol::{Bytes, ExtendedAttribute};

/// The user's attributes.
const USER: &[u8] = b"user.";

/// Capabilities of programs, see capabilities(7).
const CAPABILITY: &[u8] = b"security.capability";

/// Access control lists, see acl(5).
const LISTS: &[u8] = b"system.posix_acl_";

/// Bytes that the names and values of a node may have together, so that it fits into a frame.
const MAX_TOTAL: usize = 256 << 10;

/// Whether an attribute is the file's own, and not something that a file system or a security module notes about it.
pub(crate) fn is_own(name: &[u8]) -> bool {
    [USER, CAPABILITY, LISTS]
        .iter()
        .any(|beginning| name.starts_with(beginning))
}

/// Which attributes a tree that somebody sends may give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Lists name users and groups.
    pub(crate) lists: bool,
    /// A program with capabilities can do what its user cannot.
    pub(crate) capabilities: bool,
}

impl Allowed {
    fn allows(self, name: &[u8]) -> bool {
        name.starts_with(USER)
            || name == CAPABILITY && self.capabilities
            || name.starts_with(LISTS) && self.lists
    }
}

/// A path to what `found`, which may be `O_PATH`, refers to, also if that is a symbolic link: fgetxattr(2) does not take such
/// descriptors.
///
/// # Errors
/// Never: a number has no zero bytes.
pub(crate) fn path_of(found: &OwnedFd) -> io::Result<CString> {
    Ok(CString::new(format!(
        "/proc/self/fd/{}",
        found.as_raw_fd()
    ))?)
}

/// Those of what `found` refers to that are its own, in the order of names.
///
/// # Errors
/// As listxattr(2); `E2BIG` if they are too many for a frame.
pub(crate) fn own(found: &OwnedFd) -> io::Result<Vec<ExtendedAttribute>> {
    let path = path_of(found)?;
    let mut attributes = Vec::new();
    let mut total = 0_usize;
    for name in list(&path)?
        .split(|&byte| byte == 0)
        .filter(|name| is_own(name))
    {
        let value = match get(&path, name) {
            // Removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => continue,
            result => result?,
        };
        total = total.saturating_add(name.len()).saturating_add(value.len());
        if total > MAX_TOTAL {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        attributes.push(ExtendedAttribute {
            name: Bytes(name.to_vec()),
            value: Bytes(value),
        });
    }
    attributes.sort();
    Ok(attributes)
}

/// Gives `made` those of the attributes that are allowed, as far as its file system and the rights of this process go.
///
/// # Errors
/// As fsetxattr(2).
pub(crate) fn give(
    made: impl AsFd,
    attributes: &[ExtendedAttribute],
    allowed: Allowed,
) -> Result<(), Errno> {
    for attribute in attributes {
        if !allowed.allows(&attribute.name.0) {
            continue;
        }
        let name = CString::new(&attribute.name.0[..]).map_err(|_| Errno::EINVAL)?;
        let value = &attribute.value.0;
        // SAFETY: the name ends with a zero byte; the value is as long as is said.
        let result = unsafe {
            libc::fsetxattr(
                made.as_fd().as_raw_fd(),
                name.as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Names, each with a zero behind it. A file system without attributes has none.
///
/// # Errors
/// As listxattr(2).
pub(crate) fn list(entry: &CStr) -> io::Result<Vec<u8>> {
    // SAFETY: the path ends with a zero byte; the buffer has the length that is given, which may be 0.
    let names =
        fill(|buffer, length| unsafe { libc::listxattr(entry.as_ptr(), buffer.cast(), length) });
    match names {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        result => result,
    }
}

/// The value of an attribute.
///
/// # Errors
/// As getxattr(2).
pub(crate) fn get(entry: &CStr, name: &[u8]) -> io::Result<Vec<u8>> {
    let name = CString::new(name)?;
    // SAFETY: path and name end with zero bytes; the buffer has the length that is given, which may be 0.
    fill(|buffer, length| unsafe {
        libc::getxattr(entry.as_ptr(), name.as_ptr(), buffer.cast(), length)
    })
}

/// Asks for a length, and then for so many bytes. The kernel bounds both by 64 KiB (xattr(7)).
fn fill(mut call: impl FnMut(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let length = |result| usize::try_from(result).map_err(|_| io::Error::last_os_error());
    let mut buffer = vec![0; length(call(ptr::null_mut(), 0))?];
    if buffer.is_empty() {
        return Ok(buffer);
    }
    let filled = length(call(buffer.as_mut_ptr(), buffer.len()))?;
    buffer.truncate(filled);
    Ok(buffer)
}
