//! A split virtqueue in the arena, section 2.7 of the virtio specification 1.2.

use crate::memory::{self, QUEUE_ROOM, QUEUES};

/// The descriptor is followed by another one.
pub(crate) const NEXT: u16 = 1;
/// The device writes to the buffer.
pub(crate) const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_SIZE: u64 = 16;

/// Where the three parts of a queue are, for the registers of the device.
#[derive(Clone, Copy)]
pub(crate) struct Rings {
    pub(crate) size: u32,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
}

impl Rings {
    /// Rings that follow the rules, in the place that the arena has for queue `index`.
    pub(crate) fn proper(index: u32, size: u16) -> Rings {
        let descriptors = QUEUES + u64::from(index) * QUEUE_ROOM;
        let driver = descriptors + u64::from(size) * DESCRIPTOR_SIZE;
        // Flags, index, the ring itself, used_event.
        let device = (driver + 6 + 2 * u64::from(size)).next_multiple_of(4);
        Rings {
            size: u32::from(size),
            descriptors,
            driver,
            device,
        }
    }

    /// Bytes from the first descriptor to the end of proper rings: flags, index, the used ring itself, avail_event.
    pub(crate) fn extent(&self) -> u64 {
        self.device + 6 + 8 * u64::from(self.size) - self.descriptors
    }
}

/// A descriptor as the driver writes it.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    /// Writes it into place `index` of the table at `table`.
    pub(crate) fn store(self, table: u64, index: u64) {
        let place = table + index * DESCRIPTOR_SIZE;
        memory::store(place, self.address);
        memory::store(place + 8, self.length);
        memory::store(place + 12, self.flags);
        memory::store(place + 14, self.next);
    }
}

/// A queue in use.
pub(crate) struct Queue {
    pub(crate) rings: Rings,
    /// Chains that were offered.
    pub(crate) offered: u16,
}

impl Queue {
    pub(crate) fn new(rings: Rings) -> Queue {
        Queue { rings, offered: 0 }
    }

    pub(crate) fn size(&self) -> u16 {
        self.rings.size as u16
    }

    pub(crate) fn set(&self, index: u16, descriptor: Descriptor) {
        descriptor.store(self.rings.descriptors, u64::from(index));
    }

    /// Puts a head into the available ring without telling it by the index.
    pub(crate) fn place(&mut self, head: u16) {
        let slot = u64::from(self.offered % self.size());
        memory::store(self.rings.driver + 4 + 2 * slot, head);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Tells all that was placed.
    pub(crate) fn publish(&self) {
        self.set_available(self.offered);
    }

    /// Puts a chain into the available ring.
    pub(crate) fn offer(&mut self, head: u16) {
        self.place(head);
        self.publish();
    }

    /// Writes the index of the available ring.
    pub(crate) fn set_available(&self, index: u16) {
        // x86 makes stores visible in their order (Intel SDM volume 3, section 10.2).
        memory::store(self.rings.driver + 2, index);
    }

    /// The index of the used ring: how many chains came back.
    pub(crate) fn used(&self) -> u16 {
        memory::load(self.rings.device + 2)
    }

    /// Head and length of the chain that came back as number `index`.
    pub(crate) fn used_element(&self, index: u16) -> (u32, u32) {
        let slot = self.rings.device + 4 + 8 * u64::from(index % self.size());
        (memory::load(slot), memory::load(slot + 4))
    }
}
