//! The registers of virtio devices and I/O APIC in the guest's address space.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::io_apic::{self, IoApic};
use crate::layout;
use crate::virtio::MmioTransport;

/// Where the device in a slot is: its registers and its interrupt line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtioSlot {
    pub(crate) address: u64,
    pub(crate) irq: u32,
}

impl VirtioSlot {
    /// Slot `index`; `None` when the hole has no room for it. Lines are shared when they run out.
    pub(crate) fn new(index: usize) -> Option<VirtioSlot> {
        let lines = layout::VIRTIO_IRQS;
        let irq = lines[index % lines.len()];
        let address = u64::try_from(index)
            .ok()?
            .checked_mul(layout::VIRTIO_MMIO_SIZE)?
            .checked_add(layout::VIRTIO_MMIO)
            .filter(|address| *address < u64::from(layout::IO_APIC))?;
        Some(VirtioSlot { address, irq })
    }

    /// The kernel parameter that names a device, once for each (Linux: drivers/virtio/virtio_mmio.c).
    pub(crate) const PARAMETER: &str = "virtio_mmio.device";

    /// What it says of this one.
    pub(crate) fn name(&self) -> String {
        let kib = layout::VIRTIO_MMIO_SIZE / 1024;
        format!("{kib}K@{:#x}:{}", self.address, self.irq)
    }
}

/// Every device of the machine that has registers in memory.
pub(crate) struct MmioBus {
    io_apic: IoApic,
    /// By slot.
    devices: Vec<Mutex<MmioTransport>>,
}

impl MmioBus {
    pub(crate) fn new(io_apic: IoApic, devices: Vec<MmioTransport>) -> MmioBus {
        MmioBus {
            io_apic,
            devices: devices.into_iter().map(Mutex::new).collect(),
        }
    }

    /// The guest reads. An address without a device reads as all ones.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some(Place::Virtio(device, offset)) => lock(device).read(offset, data),
            Some(Place::IoApic(offset)) => self.io_apic.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes. An address without a device swallows it.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        match self.find(address) {
            Some(Place::Virtio(device, offset)) => lock(device).write(offset, data),
            Some(Place::IoApic(offset)) => self.io_apic.write(offset, data),
            None => {}
        }
    }

    fn find(&self, address: u64) -> Option<Place<'_>> {
        if let Some(offset) = address.checked_sub(u64::from(layout::IO_APIC)) {
            return (offset < io_apic::SIZE).then_some(Place::IoApic(offset));
        }
        let offset = address.checked_sub(layout::VIRTIO_MMIO)?;
        let index = usize::try_from(offset / layout::VIRTIO_MMIO_SIZE).ok()?;
        let device = self.devices.get(index)?;
        Some(Place::Virtio(device, offset % layout::VIRTIO_MMIO_SIZE))
    }
}

/// A device and the offset of one of its registers.
enum Place<'b> {
    Virtio(&'b Mutex<MmioTransport>, u64),
    IoApic(u64),
}

fn lock(device: &Mutex<MmioTransport>) -> MutexGuard<'_, MmioTransport> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_lines_are_shared_only_when_they_run_out() {
        let slots: Vec<_> = (0..64).map_while(VirtioSlot::new).collect();
        assert_eq!(slots.len(), 64);
        assert_eq!(slots[0].name(), "4K@0xd0000000:1");
        assert_eq!(slots[21].irq, 23);
        assert_eq!(slots[22].irq, 1);
        assert!(slots.iter().all(|slot| slot.irq != layout::SERIAL_IRQ));
        assert!(VirtioSlot::new(1 << 40).is_none());
    }
}
