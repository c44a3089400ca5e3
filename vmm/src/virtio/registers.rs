//! The registers of devices as the guest reads them (section 4.2.2): memory that it may read and not write. So a read takes no exit,
//! and a handler of interrupts reads with each.
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use crate::layout;

/// Offsets of the registers, section 4.2.2.
pub(super) mod offset {
    pub(in crate::virtio) const MAGIC_VALUE: u64 = 0x000;
    pub(in crate::virtio) const VERSION: u64 = 0x004;
    pub(in crate::virtio) const DEVICE_ID: u64 = 0x008;
    pub(in crate::virtio) const VENDOR_ID: u64 = 0x00c;
    pub(in crate::virtio) const DEVICE_FEATURES: u64 = 0x010;
    pub(in crate::virtio) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(in crate::virtio) const DRIVER_FEATURES: u64 = 0x020;
    pub(in crate::virtio) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(in crate::virtio) const QUEUE_SEL: u64 = 0x030;
    pub(in crate::virtio) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(in crate::virtio) const QUEUE_NUM: u64 = 0x038;
    pub(in crate::virtio) const QUEUE_READY: u64 = 0x044;
    pub(in crate::virtio) const QUEUE_NOTIFY: u64 = 0x050;
    pub(in crate::virtio) const INTERRUPT_STATUS: u64 = 0x060;
    pub(in crate::virtio) const INTERRUPT_ACK: u64 = 0x064;
    pub(in crate::virtio) const STATUS: u64 = 0x070;
    pub(in crate::virtio) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(in crate::virtio) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(in crate::virtio) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(in crate::virtio) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(in crate::virtio) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(in crate::virtio) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    // Of the registers of shared memory regions there are none: they read as a length and a base of all ones.
    pub(in crate::virtio) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(in crate::virtio) const CONFIG: u64 = 0x100;
}

/// Words in a page.
const WORDS: usize = layout::VIRTIO_MMIO_SIZE as usize / size_of::<AtomicU32>();

#[derive(Debug)]
#[repr(C, align(4096))]
struct Page([AtomicU32; WORDS]);

const _: () = assert!(size_of::<Page>() == layout::VIRTIO_MMIO_SIZE as usize);

/// A page for each device, one behind the other.
#[derive(Debug)]
pub(crate) struct RegisterPages(Box<[Page]>);

impl RegisterPages {
    /// Pages in which nothing is a register yet: all reads as ones.
    pub(crate) fn new(devices: usize) -> Arc<RegisterPages> {
        let page = || Page([const { AtomicU32::new(u32::MAX) }; WORDS]);
        Arc::new(RegisterPages((0..devices).map(|_| page()).collect()))
    }

    /// Shows the pages to the guest, as memory `slot` of the machine (Linux `Documentation/virt/kvm/api.rst`, KVM_MEM_READONLY). They
    /// must live as long as the machine does.
    ///
    /// # Errors
    /// As KVM_SET_USER_MEMORY_REGION.
    pub(crate) fn show(&self, vm: &VmFd, slot: u32) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: layout::VIRTIO_MMIO,
            memory_size: size_of_val(&*self.0) as u64,
            userspace_addr: self.0.as_ptr() as u64,
        };
        // SAFETY: the pages stay where they are as long as the machine lives, as the caller promises; the guest cannot write to them, and
        // what it reads are atomics.
        unsafe { vm.set_user_memory_region(region) }
    }

    /// The registers of the device with this index, if there is one.
    pub(crate) fn of_device(self: &Arc<Self>, index: usize) -> Option<Registers> {
        self.0.get(index)?;
        Some(Registers {
            pages: Arc::clone(self),
            index,
        })
    }
}

/// The registers of one device. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    pages: Arc<RegisterPages>,
    index: usize,
}

impl Registers {
    /// The register at `offset`, if that is one of a word within the page.
    pub(super) fn word(&self, offset: u64) -> Option<&AtomicU32> {
        let place = usize::try_from(offset).ok()?;
        if !place.is_multiple_of(size_of::<AtomicU32>()) {
            return None;
        }
        let page = self.pages.0.get(self.index)?;
        page.0.get(place.checked_div(size_of::<AtomicU32>())?)
    }

    /// Sets the register at `offset`.
    pub(super) fn set(&self, offset: u64, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Sets bytes from `offset` on, which is that of a word; the rest of the last word reads as ones.
    pub(super) fn set_bytes(&self, offset: u64, bytes: &[u8]) {
        for (place, bytes) in (offset..)
            .step_by(size_of::<AtomicU32>())
            .zip(bytes.chunks(4))
        {
            let mut word = [0xff; 4];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.set(place, u32::from_le_bytes(word));
        }
    }

    /// Copies what stands from `offset` on, as the guest would read it.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        for (place, byte) in (offset..).zip(data) {
            let word = self.word(place & !3);
            let word = word.map_or(u32::MAX, |word| word.load(Ordering::SeqCst));
            *byte = word
                .to_le_bytes()
                .get((place & 3) as usize)
                .copied()
                .unwrap_or(0xff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_a_page_whose_bytes_are_those_of_its_words() {
        let pages = RegisterPages::new(2);
        let [first, second] = [0, 1].map(|index| pages.of_device(index).unwrap());
        assert!(pages.of_device(2).is_none());
        first.set(0x70, 0x0403_0201);
        second.set_bytes(0x100, &[1, 2, 3, 4, 5]);
        let mut bytes = [0; 6];
        first.read(0x6f, &mut bytes);
        assert_eq!(bytes, [0xff, 1, 2, 3, 4, 0xff]);
        second.read(0x101, &mut bytes);
        assert_eq!(bytes, [2, 3, 4, 5, 0xff, 0xff]);
        first.read(0x100, &mut bytes);
        assert_eq!(bytes, [0xff; 6]);
    }

    #[test]
    fn what_lies_beside_or_behind_the_page_is_no_register() {
        let registers = RegisterPages::new(1).of_device(0).unwrap();
        for place in [0x71, 0x1000, u64::MAX - 3] {
            assert!(registers.word(place).is_none(), "{place:#x}");
            registers.set(place, 1);
        }
        registers.set_bytes(0xffc, &[1; 8]);
        let mut bytes = [0; 6];
        registers.read(0xffe, &mut bytes);
        assert_eq!(bytes, [1, 1, 0xff, 0xff, 0xff, 0xff]);
    }
}
