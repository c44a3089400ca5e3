//! Reading directories of the host.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::unistd::{Whence, lseek64};

use super::errno;

/// Bytes of entries taken from the host at once, and kept for the next request where the guest had no room for all.
/// Linux guests ask for one page at a time.
const BUFFER: usize = 4096;

/// A directory that is open on the host, and where reading it stands. Positions are those of the host's file system,
/// see the `d_off` of getdents(2): the reader can come back to any of them, and entries that come and go meanwhile move
/// no other.
pub(super) struct OpenDirectory {
    descriptor: OwnedFd,
    /// Of the first entry that was taken from the host but not by the reader.
    position: u64,
    taken: Vec<u8>,
    /// Where that entry begins in `taken`.
    begin: usize,
}

/// Why a reading of a directory stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The reader declined an entry.
    Declined,
    /// There were no more.
    End,
}

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// An entry as getdents64(2) returns it.
pub(super) struct HostEntry<'b> {
    pub(super) number: u64,
    /// Position of the next one.
    pub(super) next: u64,
    pub(super) kind: u8,
    /// May be "." or "..".
    pub(super) name: &'b CStr,
    length: usize,
}

impl<'b> HostEntry<'b> {
    /// Length of the fields before the name.
    const HEADER: usize = 19;

    /// Takes the entry at the beginning of `bytes`; `None` if there is no whole one.
    fn parse(bytes: &'b [u8]) -> Option<HostEntry<'b>> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let name = bytes.get(Self::HEADER..length)?;
        Some(HostEntry {
            number: u64::from_ne_bytes(*number),
            next: u64::from_ne_bytes(*next),
            kind: *kind,
            name: CStr::from_bytes_until_nul(name).ok()?,
            length,
        })
    }
}

impl OpenDirectory {
    /// The directory behind `descriptor`, which was just opened for reading.
    pub(super) fn new(descriptor: OwnedFd) -> OpenDirectory {
        OpenDirectory {
            descriptor,
            position: 0,
            taken: Vec::new(),
            begin: 0,
        }
    }

    /// Of the entry that is read next.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Hands the entries from position `offset` on to `take`, with the directory's descriptor, until it declines one or
    /// there is no more.
    pub(super) fn read(
        &mut self,
        offset: u64,
        mut take: impl FnMut(BorrowedFd<'_>, &HostEntry<'_>) -> io::Result<bool>,
    ) -> io::Result<Progress> {
        if offset != self.position {
            self.seek(offset)?;
        }
        loop {
            let rest = self.taken.get(self.begin..).unwrap_or_default();
            if rest.is_empty() {
                self.refill()?;
                if self.taken.is_empty() {
                    return Ok(Progress::End);
                }
                continue;
            }
            let entry = HostEntry::parse(rest).ok_or_else(|| errno(libc::EIO))?;
            if !take(self.descriptor.as_fd(), &entry)? {
                return Ok(Progress::Declined);
            }
            self.position = entry.next;
            self.begin = self.begin.saturating_add(entry.length);
        }
    }

    /// Goes on with what the host has then, not with entries that were taken before.
    ///
    /// # Errors
    /// As lseek(2). Then it is of no more use.
    pub(super) fn drop_taken(&mut self) -> io::Result<()> {
        if self.begin < self.taken.len() {
            self.seek(self.position)?;
        }
        Ok(())
    }

    fn seek(&mut self, position: u64) -> io::Result<()> {
        let target = i64::try_from(position).map_err(|_| errno(libc::EINVAL))?;
        (self.taken, self.begin) = (Vec::new(), 0);
        lseek64(&self.descriptor, target, Whence::SeekSet)?;
        self.position = position;
        Ok(())
    }

    /// Takes the next entries from the host; none at the end.
    fn refill(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        // SAFETY: the kernel writes at most as many bytes to the buffer as it is told that it has.
        let result = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                self.descriptor.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let filled = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(filled);
        // At the end nothing is allocated, so that an open directory that nobody reads takes no memory.
        self.taken = if filled == 0 { Vec::new() } else { buffer };
        self.begin = 0;
        Ok(())
    }
}
