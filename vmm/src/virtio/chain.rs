//! A chain of descriptors that the driver made available (section 2.7).
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemory as _, VolatileMemory, VolatileSlice};

use crate::memory::GuestMemory;

/// Yields the descriptors of a chain, of indirect tables as well. A clone goes on from the same place. The buffers are volatile: copy a
/// header out once, then validate the copy.
///
/// [`DescriptorChain`] does the same, but looks the memory up anew for each descriptor. Of the time that a read of 1 MiB took, which is 258
/// of them, that was a third, so here the table is looked up once.
#[derive(Clone)]
pub struct Chain<'m> {
    memory: &'m GuestMemory,
    untouched: DescriptorChain<&'m GuestMemory>,
    /// Where the descriptors lie. `None` when that is not memory.
    table: Option<VolatileSlice<'m>>,
    next: u16,
    /// How many there may be yet: a chain that is longer than its table leads in a circle.
    left: u16,
    /// Bytes of the buffers so far.
    bytes: u32,
    indirect: bool,
}

impl<'m> Chain<'m> {
    /// Takes the next chain that the driver has made available in `queue`, if there is one.
    ///
    /// # Errors
    /// If the driver broke the ring.
    pub(super) fn next_of(
        queue: &mut Queue,
        memory: &'m GuestMemory,
    ) -> Result<Option<Chain<'m>>, virtio_queue::Error> {
        let Some(chain) = queue.iter(memory)?.next() else {
            return Ok(None);
        };
        let table = GuestAddress(queue.desc_table());
        Ok(Some(Chain::new(memory, chain, table, queue.size())))
    }

    /// `chain` of a queue of `size` descriptors that begin at `table`.
    pub(super) fn new(
        memory: &'m GuestMemory,
        chain: DescriptorChain<&'m GuestMemory>,
        table: GuestAddress,
        size: u16,
    ) -> Chain<'m> {
        Chain {
            memory,
            table: table_at(memory, table, usize::from(size)),
            next: chain.head_index(),
            left: size,
            untouched: chain,
            bytes: 0,
            indirect: false,
        }
    }

    /// Number of its first descriptor.
    pub fn head_index(&self) -> u16 {
        self.untouched.head_index()
    }

    /// The chain from its beginning, for libraries that take such a one.
    pub(super) fn untouched(&self) -> DescriptorChain<&'m GuestMemory> {
        self.untouched.clone()
    }

    /// Goes on in the table that `descriptor` refers to; `None` if the driver may not refer to it (section 2.7.5.3.1).
    fn enter(&mut self, descriptor: Descriptor) -> Option<()> {
        let length = usize::try_from(descriptor.len()).ok()?;
        let size = length.checked_div(size_of::<Descriptor>())?;
        if self.indirect || !length.is_multiple_of(size_of::<Descriptor>()) {
            return None;
        }
        self.left = u16::try_from(size).ok()?;
        self.table = table_at(self.memory, descriptor.addr(), size);
        self.next = 0;
        self.indirect = true;
        Some(())
    }
}

impl Iterator for Chain<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let place = usize::from(self.next).checked_mul(size_of::<Descriptor>())?;
            let descriptor: Descriptor = self.table.as_ref()?.get_ref(place).ok()?.load();
            if descriptor.refers_to_indirect_table() {
                self.left = 0;
                self.enter(descriptor)?;
                continue;
            }
            if descriptor.has_next() {
                self.next = descriptor.next();
            } else {
                self.left = 0;
            }
            // "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total" (section 2.7.5.2).
            let Some(bytes) = self.bytes.checked_add(descriptor.len()) else {
                self.left = 0;
                return None;
            };
            self.bytes = bytes;
            return Some(descriptor);
        }
    }
}

/// A table of `size` descriptors at `address`, if that is memory.
fn table_at(memory: &GuestMemory, address: GuestAddress, size: usize) -> Option<VolatileSlice<'_>> {
    let length = size.checked_mul(size_of::<Descriptor>())?;
    memory.get_slice(address, length).ok()
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use proptest::prelude::*;
    use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT};
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::Bytes;

    use super::*;

    const SIZE: u16 = 8;
    /// Where the second table lies.
    const TABLE: u64 = 0x4000;
    const MEMORY: u64 = 0x8000;

    /// Descriptors of which most lead to another one or to the second table.
    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let length = prop_oneof![
            8 => 0..200_u32,
            1 => Just(u32::MAX),
            4 => (0..2 * u32::from(SIZE)).prop_map(|count| count * 16),
        ];
        let address = prop_oneof![4 => Just(TABLE), 1 => TABLE..MEMORY - 256];
        (address, length, 0..8_u16, 0..SIZE + 2).prop_map(|(address, length, flags, next)| {
            Descriptor::new(address, length, flags, next)
        })
    }

    fn fields(chain: impl Iterator<Item = Descriptor>) -> Vec<(u64, u32, u16, u16)> {
        chain
            .map(|it| (it.addr().0, it.len(), it.flags(), it.next()))
            .collect()
    }

    proptest! {
        /// All that virtio-queue yields, and nothing else, for each table that is memory as a whole.
        #[test]
        fn descriptors_are_those_that_virtio_queue_yields(
            first in prop::collection::vec(descriptor(), usize::from(SIZE)),
            second in prop::collection::vec(descriptor(), 2 * usize::from(SIZE)),
        ) {
            let memory = crate::memory::map(&[(GuestAddress(0), MEMORY)]).unwrap();
            let queue = MockSplitQueue::new(&memory, SIZE);
            let chain = queue.build_desc_chain(&[RawDescriptor::from(first[0])]).unwrap();
            for (place, descriptor) in (0..).zip(&first) {
                queue.desc_table().store(place, RawDescriptor::from(*descriptor)).unwrap();
            }
            for (place, descriptor) in (0..).zip(&second) {
                let address = GuestAddress(TABLE + place * 16);
                memory.write_obj(*descriptor, address).unwrap();
            }
            let ours = Chain::new(&memory, chain.clone(), queue.desc_table_addr(), SIZE);
            prop_assert_eq!(fields(ours.clone()), fields(chain));
            prop_assert_eq!(fields(ours.untouched()), fields(ours));
        }
    }

    /// How many descriptors the chain has that begins with `descriptor`.
    fn count(memory: &GuestMemory, descriptor: Descriptor) -> usize {
        let queue = MockSplitQueue::new(memory, SIZE);
        let chain = queue.build_desc_chain(&[RawDescriptor::from(descriptor)]);
        Chain::new(memory, chain.unwrap(), queue.desc_table_addr(), SIZE).count()
    }

    #[test]
    fn a_table_is_memory_as_a_whole_or_none() {
        let memory = crate::memory::map(&[(GuestAddress(0), MEMORY)]).unwrap();
        let next = Descriptor::new(0, 1, VRING_DESC_F_NEXT as u16, 1);
        let last = Descriptor::new(0, 1, 0, 0);
        memory.write_obj(next, GuestAddress(MEMORY - 32)).unwrap();
        memory.write_obj(last, GuestAddress(MEMORY - 16)).unwrap();
        let flag = VRING_DESC_F_INDIRECT as u16;
        let table = |address, length| Descriptor::new(address, length, flag, 0);
        assert_eq!(count(&memory, table(MEMORY - 32, 32)), 2);
        assert_eq!(count(&memory, table(MEMORY - 32, 16)), 1);
        assert_eq!(count(&memory, table(MEMORY - 32, 48)), 0);
        assert_eq!(count(&memory, table(MEMORY - 32, 31)), 0);
        assert_eq!(count(&memory, table(u64::MAX - 15, 32)), 0);
        assert_eq!(count(&memory, table(0, 16 << 16)), 0);
    }
}
