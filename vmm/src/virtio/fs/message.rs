//! A request of the FUSE protocol and the room for its reply, in the guest's buffers.

use std::io;

use disk::Buffers;
use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode, OutHeader};
use vm_memory::ByteValued;

use super::REQUEST_QUEUE_SIZE;
use crate::virtio::halves::Halves;
use crate::virtio::{Chain, GuestMemory};

/// Bytes before the fields of a request.
pub(super) const REQUEST_HEADER: u64 = size_of::<InHeader>() as u64;

/// Bytes before the contents of a reply.
pub(super) const REPLY_HEADER: u64 = size_of::<OutHeader>() as u64;

/// A request in memory that the guest can change at any time: each part of it is copied out once.
pub(super) struct Message<'m> {
    /// The request.
    pub(super) readable: Buffers<'m>,
    /// Where the reply goes.
    pub(super) writable: Buffers<'m>,
    /// What the request begins with.
    pub(super) header: InHeader,
}

impl<'m> Message<'m> {
    /// What `chain` holds; `None` when it keeps no rules or begins with no header, so that there is nothing to answer.
    pub(super) fn of(memory: &'m GuestMemory, chain: Chain<'_>) -> Option<Message<'m>> {
        let most = usize::from(REQUEST_QUEUE_SIZE);
        let Halves {
            readable,
            writable,
            sound,
        } = Halves::of(memory, chain, most);
        let header = sound.then(|| object(&readable, 0))?.ok()?;
        Some(Message {
            readable,
            writable,
            header,
        })
    }

    /// The request in memory of our own, as long as its header says and beginning with this header, whatever the guest has
    /// made of it since.
    ///
    /// # Errors
    /// If it is longer than the buffers, or shorter than a header.
    pub(super) fn copied(&self) -> io::Result<Vec<u8>> {
        let length = u64::from(self.header.len);
        let part = self.readable.part(0, length);
        if part.len() < length {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut request = part.to_vec();
        let header = request
            .get_mut(..size_of::<InHeader>())
            .ok_or(io::ErrorKind::InvalidInput)?;
        header.copy_from_slice(self.header.as_slice());
        Ok(request)
    }

    /// What follows the header.
    ///
    /// # Errors
    /// If the request ends before.
    pub(super) fn fields<T: ByteValued + Default>(&self) -> io::Result<T> {
        object(&self.readable, REQUEST_HEADER)
    }

    /// Replies with `contents`, or the error that there is no room for them. Returns the length of the reply.
    pub(super) fn reply(&self, contents: &[u8]) -> usize {
        let room = self.writable.part(REPLY_HEADER, contents.len() as u64);
        match room.copy_from(contents) {
            Ok(()) => self.reply_with(contents.len()),
            Err(error) => self.reply_error(&error),
        }
    }

    /// Replies with the `length` bytes that stand in the room behind the reply's header. Returns the length of the reply.
    pub(super) fn reply_with(&self, length: usize) -> usize {
        self.begin_reply(length, 0)
    }

    /// Replies with an error. Returns the length of the reply.
    pub(super) fn reply_error(&self, error: &io::Error) -> usize {
        self.begin_reply(0, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Writes the header of a reply, if the request gets any and there is room for it.
    fn begin_reply(&self, contents: usize, error: i32) -> usize {
        let unanswered = [Opcode::Forget as u32, Opcode::BatchForget as u32];
        if unanswered.contains(&self.header.opcode) {
            return 0;
        }
        let length = contents.saturating_add(size_of::<OutHeader>());
        let header = OutHeader {
            len: u32::try_from(length).unwrap_or(u32::MAX),
            error: error.saturating_neg(),
            unique: self.header.unique,
        };
        let room = self.writable.part(0, REPLY_HEADER);
        match room.copy_from(header.as_slice()) {
            Ok(()) => length,
            Err(_) => 0,
        }
    }
}

/// The bytes of `buffers` from `place` on, as a `T`.
fn object<T: ByteValued + Default>(buffers: &Buffers<'_>, place: u64) -> io::Result<T> {
    let mut object = T::default();
    let bytes = object.as_mut_slice();
    buffers.part(place, bytes.len() as u64).copy_to(bytes)?;
    Ok(object)
}
