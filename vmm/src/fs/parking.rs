//! Inodes without a descriptor.
//!
//! A guest with enough memory knows more inodes than this process may have descriptors. An inode that was not used for
//! a while can give its descriptor up where it can be found again: by the path that it has beneath the folder at that
//! moment. The file handle, see name_to_handle_at(2), tells whether what is found is the same file: an inode number
//! alone may have been given to another one meanwhile.
//!
//! If the file was renamed or removed meanwhile, it is not found again by its path. The guest gets `ESTALE`, and its
//! kernel looks the name up again, which leads to the same inode if it still exists.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::attributes::status_of;
use super::beneath::{self, DescriptorDirectory};
use super::errno;
use super::inodes::FileIdentity;

/// Longest file handle of any file system, `MAX_HANDLE_SZ`.
const MAX_HANDLE: usize = 128;

/// A handle is only to be compared, not opened: more file systems can do that. Since Linux 6.5, which is when older
/// libraries do not know it yet.
const AT_HANDLE_FID: libc::c_int = 0x200;

/// What it takes to find an inode again.
pub(super) struct Parked {
    /// Path beneath the folder.
    path: CString,
    handle: FileHandle,
}

impl Parked {
    /// Of what `descriptor` refers to, which has `identity`, beneath the folder `root`.
    ///
    /// # Errors
    /// If it cannot be found again: it has no name, or the file system no file handles.
    pub(super) fn new(
        root: BorrowedFd<'_>,
        descriptors: &DescriptorDirectory,
        descriptor: BorrowedFd<'_>,
        identity: FileIdentity,
    ) -> io::Result<Parked> {
        let handle = FileHandle::of(descriptor)?;
        let folder = descriptors.path_of(root)?;
        let path = descriptors.path_of(descriptor)?;
        let path = Path::new(&path).strip_prefix(&folder);
        let path = path.map_err(|_| errno(libc::ESTALE))?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let parked = Parked { path, handle };
        // The path may be that of something else: it is for people to read, see proc_pid_fd(5).
        parked.open(root, identity)?;
        Ok(parked)
    }

    /// Opens it again.
    ///
    /// # Errors
    /// `ESTALE` if it is not where it was; as openat2(2) otherwise.
    pub(super) fn open(&self, root: BorrowedFd<'_>, identity: FileIdentity) -> io::Result<OwnedFd> {
        let found =
            beneath::open_parked(root, &self.path).map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EXDEV) => {
                    errno(libc::ESTALE)
                }
                _ => error,
            })?;
        let status = status_of(&found)?;
        if FileIdentity::of(&status) == identity && self.is(std::os::fd::AsFd::as_fd(&found)) {
            Ok(found)
        } else {
            Err(errno(libc::ESTALE))
        }
    }

    /// Whether `descriptor`, which refers to an inode with the same number, refers to this one.
    pub(super) fn is(&self, descriptor: BorrowedFd<'_>) -> bool {
        FileHandle::of(descriptor).is_ok_and(|handle| handle == self.handle)
    }
}

/// What tells a file from all others that the file system ever had.
#[derive(PartialEq, Eq)]
struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

/// struct file_handle with the longest handle.
#[repr(C)]
struct RawHandle {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; MAX_HANDLE],
}

impl FileHandle {
    fn of(descriptor: BorrowedFd<'_>) -> io::Result<FileHandle> {
        match FileHandle::with_flags(descriptor, libc::AT_EMPTY_PATH | AT_HANDLE_FID) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                FileHandle::with_flags(descriptor, libc::AT_EMPTY_PATH)
            }
            result => result,
        }
    }

    fn with_flags(descriptor: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<FileHandle> {
        let mut raw = RawHandle {
            length: libc::c_uint::try_from(MAX_HANDLE).map_err(|_| errno(libc::EOVERFLOW))?,
            kind: 0,
            bytes: [0; MAX_HANDLE],
        };
        let mut mount = 0;
        // SAFETY: the path is a string that ends with a NUL; the kernel writes at most as many bytes to the handle as
        // `length` says that it has, and one int to `mount`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                descriptor.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount as *mut libc::c_int,
                flags,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let length = usize::try_from(raw.length).unwrap_or(MAX_HANDLE);
        let bytes = raw.bytes.get(..length).ok_or_else(|| errno(libc::EIO))?;
        Ok(FileHandle {
            kind: raw.kind,
            bytes: bytes.into(),
        })
    }
}
