//! FUSE_READ and FUSE_WRITE: data between a file and the guest's buffers.
//!
//! The server of fuse-backend-rs could answer them, too. But it looks the memory up for each descriptor three times, and a request of
//! 1 MiB has 258 of them: that took a third of the time of such a read.

use std::io;

use disk::Buffers;
use fuse_backend_rs::abi::fuse_abi::{ReadIn, WRITE_CACHE, WriteIn, WriteOut};
use fuse_backend_rs::api::filesystem::{Context, ZeroCopyReader, ZeroCopyWriter};
use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;
use vm_memory::ByteValued;

use super::message::{Message, REPLY_HEADER, REQUEST_HEADER};
use crate::fs::Served;

/// Answers FUSE_READ; returns the length of the reply.
pub(super) fn read(served: &impl Served, message: &Message<'_>) -> usize {
    let read = || {
        let request: ReadIn = message.fields()?;
        let mut into = Data::new(message.writable.part(REPLY_HEADER, u64::MAX));
        served.read(
            &Context::from(&message.header),
            message.header.nodeid,
            request.fh,
            &mut into,
            request.size,
            request.offset,
            None,
            request.flags,
        )
    };
    match read() {
        Ok(length) => message.reply_with(length),
        Err(error) => message.reply_error(&error),
    }
}

/// Answers FUSE_WRITE; returns the length of the reply.
pub(super) fn write(served: &impl Served, message: &Message<'_>) -> usize {
    let write = || {
        let request: WriteIn = message.fields()?;
        let begin = REQUEST_HEADER.saturating_add(size_of::<WriteIn>() as u64);
        let mut from = Data::new(message.readable.part(begin, u64::MAX));
        served.write(
            &Context::from(&message.header),
            message.header.nodeid,
            request.fh,
            &mut from,
            request.size,
            request.offset,
            None,
            request.fuse_flags & WRITE_CACHE != 0,
            request.flags,
            request.fuse_flags,
        )
    };
    match write() {
        Ok(written) => {
            let out = WriteOut {
                size: u32::try_from(written).unwrap_or(u32::MAX),
                ..WriteOut::default()
            };
            message.reply(out.as_slice())
        }
        Err(error) => message.reply_error(&error),
    }
}

/// Buffers of the guest as source or destination of a file's data.
struct Data<'m> {
    buffers: Buffers<'m>,
    /// Bytes that were moved.
    done: u64,
}

impl<'m> Data<'m> {
    fn new(buffers: Buffers<'m>) -> Data<'m> {
        Data { buffers, done: 0 }
    }

    /// The next `count` bytes, as far as there are so many.
    fn next(&self, count: usize) -> Buffers<'m> {
        self.buffers.part(self.done, count as u64)
    }

    fn moved(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        let count = result?;
        self.done = self.done.saturating_add(count as u64);
        Ok(count)
    }
}

/// As fuse-backend-rs names them.
fn slices<'b>(buffers: &'b Buffers<'_>) -> Vec<FileVolatileSlice<'b>> {
    let vectors = buffers.vectors().iter();
    vectors
        .map(|vector| {
            // SAFETY: the memory stays mapped as long as the buffers live, see there, and nobody holds a reference to it.
            unsafe { FileVolatileSlice::from_raw_ptr(vector.iov_base.cast(), vector.iov_len) }
        })
        .collect()
}

impl ZeroCopyWriter for Data<'_> {
    fn write_from(
        &mut self,
        file: &mut dyn FileReadWriteVolatile,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let next = self.next(count);
        self.moved(file.read_vectored_at_volatile(&slices(&next), offset))
    }

    fn available_bytes(&self) -> usize {
        usize::try_from(self.buffers.len().saturating_sub(self.done)).unwrap_or(usize::MAX)
    }
}

impl ZeroCopyReader for Data<'_> {
    fn read_to(
        &mut self,
        file: &mut dyn FileReadWriteVolatile,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let next = self.next(count);
        self.moved(file.write_vectored_at_volatile(&slices(&next), offset))
    }
}

// What the traits above ask for and nobody uses: data goes between file and buffers by itself.
impl io::Write for Data<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Data<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
