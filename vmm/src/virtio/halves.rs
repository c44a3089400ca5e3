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

#[cfg(test)]
mod tests {
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::GuestAddress;

    use super::*;

    #[test]
    fn chains_outside_memory_are_refused() {
        let memory = crate::memory::map(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let queue = MockSplitQueue::new(&memory, 16);
        for (address, len) in [
            (0xf_f000, 0x1001),
            (u64::MAX, 1),
            (1 << 40, 10),
            (0, u32::MAX),
        ] {
            let descriptor = RawDescriptor::from(Descriptor::new(address, len, 0, 0));
            let chain = queue.build_desc_chain(&[descriptor]).unwrap();
            let chain = Chain::new(&memory, chain, queue.desc_table_addr(), 16);
            assert!(!Halves::of(&memory, chain, 16).sound);
        }
    }
}
