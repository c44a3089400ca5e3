//! The entries of a directory, with the place where reading goes on.
//!
//! A reader that goes down into a subdirectory and up again needs not keep the directories above open, nor what it had
//! read of them: it goes on behind the entry where it went down. readdir(3) does not tell that place of an entry,
//! getdents64(2) does.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Bytes that are read at a time.
const BUFFER: usize = 32 << 10;

/// Offsets in `struct linux_dirent64`, see getdents64(2).
const OFFSET_AT: usize = 8;
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;

/// Reads the entries of one directory after the other.
pub(crate) struct Entries {
    buffer: Vec<u8>,
    /// Where in the buffer the next entry begins, and where the last ends.
    next: usize,
    end: usize,
    /// Whether the kernel knows no such place in the directory any more.
    lost: bool,
}

/// An entry of a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    /// Where reading goes on behind it.
    pub(crate) behind: i64,
}

impl Entries {
    pub(crate) fn new() -> Entries {
        Entries {
            buffer: vec![0; BUFFER],
            next: 0,
            end: 0,
            lost: false,
        }
    }

    /// The next entry of `directory`, which must be the same as at the last call unless
    /// [`resume`](Self::resume) was called in between. Neither `.` nor `..`.
    ///
    /// # Errors
    /// As getdents64(2). A directory that was removed has no entries.
    pub(crate) fn next(&mut self, directory: BorrowedFd<'_>) -> io::Result<Option<Entry>> {
        if self.lost {
            return Ok(None);
        }
        loop {
            if self.next == self.end {
                self.end = self.fill(directory)?;
                self.next = 0;
            }
            if self.end == 0 {
                return Ok(None);
            }
            let entry = self.take().ok_or(io::ErrorKind::InvalidData)?;
            if entry.name.as_c_str() != c"." && entry.name.as_c_str() != c".." {
                return Ok(Some(entry));
            }
        }
    }

    /// Goes on with `directory` at `place`: 0 or that behind an entry of it.
    ///
    /// # Errors
    /// As lseek(2), but a place that is none any more has no entries behind it: ext4 says so of a directory that was
    /// removed after it was opened.
    pub(crate) fn resume(&mut self, directory: BorrowedFd<'_>, place: i64) -> io::Result<()> {
        (self.next, self.end) = (0, 0);
        let sought = lseek(directory, place, Whence::SeekSet);
        self.lost = sought == Err(Errno::EINVAL);
        if self.lost {
            Ok(())
        } else {
            Ok(sought.map(drop)?)
        }
    }

    fn fill(&mut self, directory: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: the buffer is writable and has the length that is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                self.buffer.len(),
            )
        };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
                error => Err(error),
            },
        }
    }

    /// Takes an entry out of the buffer; `None` if the kernel wrote something else than it documents.
    fn take(&mut self) -> Option<Entry> {
        let rest = self.buffer.get(self.next..self.end)?;
        let length = u16::from_ne_bytes(rest.get(LENGTH_AT..)?.first_chunk().copied()?);
        let behind = i64::from_ne_bytes(rest.get(OFFSET_AT..)?.first_chunk().copied()?);
        let name = rest.get(NAME_AT..usize::from(length))?;
        let name = CStr::from_bytes_until_nul(name).ok()?.to_owned();
        self.next += usize::from(length);
        Some(Entry { name, behind })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_directory_that_was_removed_has_no_entries() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("removed");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a"), "").unwrap();
        fs::write(path.join("b"), "").unwrap();
        let directory = File::open(&path).unwrap();
        let mut entries = Entries::new();
        let entry = entries.next(directory.as_fd()).unwrap().unwrap();
        fs::remove_dir_all(&path).unwrap();
        for place in [entry.behind, 0] {
            entries.resume(directory.as_fd(), place).unwrap();
            assert!(entries.next(directory.as_fd()).unwrap().is_none());
        }
    }
}
