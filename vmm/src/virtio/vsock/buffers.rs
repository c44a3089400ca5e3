//! The buffers of a chain as one run of bytes, however the driver divided it.

use vm_memory::bitmap::{Bitmap, MS};
use vm_memory::{GuestMemory as _, VolatileSlice};

use crate::virtio::{Chain, GuestMemory};

/// Part of a buffer of the guest. The guest may change it at any time.
pub(super) type Slice<'m> = VolatileSlice<'m, MS<'m, GuestMemory>>;

/// A chain that no driver may make available: outside memory, or longer than the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChain;

/// A run of bytes in guest memory.
#[derive(Debug)]
pub(super) struct Buffers<'m> {
    slices: Vec<Slice<'m>>,
}

impl<'m> Buffers<'m> {
    /// The part of `chain` that the device reads.
    pub(super) fn readable(memory: &'m GuestMemory, chain: Chain<'_>) -> Result<Self, BadChain> {
        Buffers::collect(memory, chain, false)
    }

    /// The part of `chain` that the device writes.
    pub(super) fn writable(memory: &'m GuestMemory, chain: Chain<'_>) -> Result<Self, BadChain> {
        Buffers::collect(memory, chain, true)
    }

    /// An indirect table can be longer than the queue, a chain must not be (section 2.7.5.3.1): the bound keeps a guest
    /// from making the monitor gather 65,535 slices for one packet.
    fn collect(
        memory: &'m GuestMemory,
        chain: Chain<'_>,
        writable: bool,
    ) -> Result<Self, BadChain> {
        let mut slices = Vec::with_capacity(4);
        for (count, descriptor) in chain.enumerate() {
            if count >= usize::from(super::QUEUE_SIZE) {
                return Err(BadChain);
            }
            if descriptor.is_write_only() == writable && descriptor.len() > 0 {
                let len = usize::try_from(descriptor.len()).map_err(|_| BadChain)?;
                slices.push(
                    memory
                        .get_slice(descriptor.addr(), len)
                        .map_err(|_| BadChain)?,
                );
            }
        }
        Ok(Buffers { slices })
    }

    /// Bytes in the run.
    pub(super) fn len(&self) -> usize {
        self.slices
            .iter()
            .fold(0, |total, slice| total.saturating_add(slice.len()))
    }

    /// Whether there are no bytes in the run.
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Takes the first `count` bytes off the run, or all that there are.
    pub(super) fn take_front(&mut self, count: usize) -> Buffers<'m> {
        let mut rest = count;
        let whole = self.slices.iter().take_while(|slice| {
            let fits = slice.len() <= rest;
            if fits {
                rest = rest.saturating_sub(slice.len());
            }
            fits
        });
        let whole = whole.count();
        let mut back = self.slices.split_off(whole);
        if let Some(cut) = back.first_mut()
            && rest > 0
            && let Ok((head, tail)) = cut.split_at(rest)
        {
            self.slices.push(head);
            *cut = tail;
        }
        Buffers {
            slices: std::mem::replace(&mut self.slices, back),
        }
    }

    /// Copies the start of the run into `bytes` and returns how many bytes there were.
    pub(super) fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut copied = 0_usize;
        for slice in &self.slices {
            let Some(rest) = bytes.get_mut(copied..) else {
                break;
            };
            copied = copied.saturating_add(slice.copy_to(rest));
        }
        copied
    }

    /// Copies `bytes` to the start of the run, as far as they fit.
    pub(super) fn copy_from(&self, mut bytes: &[u8]) {
        for slice in &self.slices {
            slice.copy_from(bytes);
            bytes = bytes.get(slice.len()..).unwrap_or_default();
        }
    }

    /// The pieces of the run in order, none of them empty.
    pub(super) fn slices(&self) -> &[Slice<'m>] {
        &self.slices
    }

    /// The first `count` bytes were written behind the back of the memory's dirty bitmap.
    pub(super) fn mark_dirty(&self, count: usize) {
        let mut rest = count;
        for slice in &self.slices {
            let part = rest.min(slice.len());
            slice.bitmap().mark_dirty(0, part);
            rest = rest.saturating_sub(part);
        }
    }
}
