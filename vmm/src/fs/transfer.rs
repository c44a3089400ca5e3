//! File data on its way between a file and guest memory: moved by the kernel, without a copy in between and without the
//! file's position.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;

use super::errno;

/// Most buffers that one readv(2) or writev(2) takes, `UIO_MAXIOV`.
const MAX_BUFFERS: usize = 1024;

/// A file as source and destination of the guest's buffers.
pub(super) struct Transfer<'f> {
    file: BorrowedFd<'f>,
    flags: libc::c_int,
}

impl<'f> Transfer<'f> {
    /// Reads and writes at the offset that is asked for.
    pub(super) fn new(file: BorrowedFd<'f>) -> Transfer<'f> {
        Transfer { file, flags: 0 }
    }

    /// Writes to the end of the file, wherever that is.
    pub(super) fn appending(file: BorrowedFd<'f>) -> Transfer<'f> {
        Transfer {
            file,
            flags: libc::RWF_APPEND,
        }
    }

    /// Whether it writes to the end of the file.
    pub(super) fn appends(&self) -> bool {
        self.flags & libc::RWF_APPEND != 0
    }

    fn run(
        &self,
        buffers: &[FileVolatileSlice<'_>],
        offset: u64,
        call: impl Fn(&[libc::iovec], libc::c_int, i64) -> isize,
    ) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| errno(libc::EINVAL))?;
        let vectors: Vec<libc::iovec> = buffers
            .iter()
            .take(MAX_BUFFERS)
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let count = libc::c_int::try_from(vectors.len()).map_err(|_| errno(libc::EINVAL))?;
        loop {
            match usize::try_from(call(&vectors, count, offset)) {
                Ok(moved) => return Ok(moved),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}

impl FileReadWriteVolatile for Transfer<'_> {
    fn read_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(errno(libc::ESPIPE))
    }

    fn write_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(errno(libc::ESPIPE))
    }

    fn read_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        self.read_vectored_at_volatile(&[slice], offset)
    }

    fn write_at_volatile(
        &mut self,
        slice: FileVolatileSlice<'_>,
        offset: u64,
    ) -> io::Result<usize> {
        self.write_vectored_at_volatile(&[slice], offset)
    }

    fn read_vectored_at_volatile(
        &mut self,
        buffers: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let file = self.file.as_raw_fd();
        self.run(buffers, offset, |vectors, count, offset| {
            // SAFETY: the vectors describe volatile slices, which stand for mapped guest memory while they live; the
            // kernel writes to no other memory.
            unsafe { libc::preadv64(file, vectors.as_ptr(), count, offset) }
        })
    }

    fn write_vectored_at_volatile(
        &mut self,
        buffers: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let (file, flags) = (self.file.as_raw_fd(), self.flags);
        self.run(buffers, offset, |vectors, count, offset| {
            // SAFETY: the vectors describe volatile slices, which stand for mapped guest memory while they live; the
            // kernel only reads it.
            unsafe { libc::pwritev64v2(file, vectors.as_ptr(), count, offset, flags) }
        })
    }
}
