//! Entries of a directory as the guest's kernel wants to be told of them: `fuse_dirent` and `fuse_direntplus` of
//! linux/fuse.h, one behind the other, each padded to a multiple of 8 bytes.

use fuse_backend_rs::abi::fuse_abi::{Dirent, EntryOut};
use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use vm_memory::ByteValued;

/// Most bytes of a reply, whatever room the guest offers: a request is not to take long.
const MAX_REPLY: usize = 1 << 20;

/// Less than the fields of any entry.
const SHORT_END: [u8; 8] = [0; 8];

/// What a request for entries is answered with.
pub(crate) struct Entries {
    bytes: Vec<u8>,
    room: usize,
    with_attributes: bool,
}

impl Entries {
    /// None yet, with room for `room` bytes of them; for FUSE_READDIRPLUS each comes `with_attributes`.
    pub(crate) fn new(room: usize, with_attributes: bool) -> Entries {
        Entries {
            bytes: Vec::new(),
            room: room.min(MAX_REPLY),
            with_attributes,
        }
    }

    /// What the reply holds after its header.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds `entry`, with what a lookup of it says where that is wanted: `found` is then called. Returns whether there was
    /// room for it.
    pub(super) fn add(&mut self, entry: &DirEntry<'_>, found: impl FnOnce() -> Entry) -> bool {
        let attributes = if self.with_attributes {
            size_of::<EntryOut>()
        } else {
            0
        };
        let length = size_of::<Dirent>()
            .saturating_add(entry.name.len())
            .next_multiple_of(8)
            .saturating_add(attributes);
        if length > self.room.saturating_sub(self.bytes.len()) {
            return false;
        }
        if self.with_attributes {
            let found = EntryOut::from(found());
            self.bytes.extend_from_slice(found.as_slice());
        }
        let fields = Dirent {
            ino: entry.ino,
            off: entry.offset,
            namelen: u32::try_from(entry.name.len()).unwrap_or(u32::MAX),
            type_: entry.type_,
        };
        self.bytes.extend_from_slice(fields.as_slice());
        self.bytes.extend_from_slice(entry.name);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        true
    }

    /// Says that there are no more, in a way that keeps Linux from serving the directory from its cache later on.
    ///
    /// It makes a listing one to be served again only when a reply comes to it that holds nothing at all
    /// (`fuse_readdir_uncached` in fs/fuse/readdir.c, since Linux 4.20). Out of fewer bytes than an entry has it reads no
    /// entry either, which is the end for programs.
    pub(super) fn end_for_now(&mut self) {
        if self.is_empty() && self.room >= SHORT_END.len() {
            self.bytes.extend_from_slice(&SHORT_END);
        }
    }
}
