//! The two halves of a chain: what the device reads, and what it writes.
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use disk::Buffers;
use vm_memory::GuestMemory as _;

use super::{Chain, GuestMemory};

/// The buffers of a chain, looked up once.
pub(super) struct Halves<'m> {
    /// Where the driver has written.
    pub(super) readable: Buffers<'m>,
    /// Where the device may write; empty where it is unknown.
    pub(super) writable: Buffers<'m>,
    /// The chain keeps the rules of section 2.7: it is whole, lies in memory, writable buffers come last, and there are no more than
    /// was permitted.
    pub(super) sound: bool,
}

impl<'m> Halves<'m> {
    /// Takes apart what is left of `chain`, which may have up to `most` descriptors: an indirect table has up to 65,535.
    pub(super) fn of(memory: &'m GuestMemory, chain: Chain<'_>, most: usize) -> Halves<'m> {
        let mut readable = Vec::with_capacity(4);
        let mut writable = Vec::with_capacity(4);
        let mut sound = true;
        let mut whole = true;
        for (count, descriptor) in chain.enumerate() {
            whole = !descriptor.has_next();
            if count >= most {
                sound = false;
                writable.clear();
                break;
            }
            let half = if descriptor.is_write_only() {
                &mut writable
            } else {
                sound &= writable.is_empty();
                &mut readable
            };
            match memory.get_slice(descriptor.addr(), descriptor.len() as usize) {
                Ok(slice) => half.push(slice),
                Err(_) => {
                    sound = false;
                    half.clear();
                }
            }
        }
        if !whole {
            // A loop, or a next descriptor that does not exist: what would be its last byte is unknown.
            sound = false;
            writable.clear();
        }
        Halves {
            readable: Buffers::of_guest(&readable),
            writable: Buffers::of_guest(&writable),
            sound,
        }
    }
}
