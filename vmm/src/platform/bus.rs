//! The virtio devices' registers in the guest's address space.

use std::sync::{Mutex, PoisonError};

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
        let index = u64::try_from(index).ok()?;
        let address = index
            .checked_mul(layout::VIRTIO_MMIO_SIZE)?
            .checked_add(layout::VIRTIO_MMIO)
            .filter(|address| *address < u64::from(layout::IO_APIC))?;
        let lines = u64::from(layout::VIRTIO_IRQS.end() - layout::VIRTIO_IRQS.start() + 1);
        let irq = layout::VIRTIO_IRQS.start() + (index % lines) as u32;
        Some(VirtioSlot { address, irq })
    }

    /// How the kernel's command line names the device (Linux: drivers/virtio/virtio_mmio.c).
    pub(crate) fn parameter(&self) -> String {
        let kib = layout::VIRTIO_MMIO_SIZE / 1024;
        format!("virtio_mmio.device={kib}K@{:#x}:{}", self.address, self.irq)
    }
}

/// Every virtio device of the machine, by slot.
pub(crate) struct MmioBus {
    devices: Vec<Mutex<MmioTransport>>,
}

impl MmioBus {
    pub(crate) fn new(devices: Vec<MmioTransport>) -> MmioBus {
        MmioBus {
            devices: devices.into_iter().map(Mutex::new).collect(),
        }
    }

    /// The guest reads. An address without a device reads as all ones.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((device, offset)) => {
                device
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// The guest writes. An address without a device swallows it.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let offset = address.checked_sub(layout::VIRTIO_MMIO)?;
        let index = usize::try_from(offset / layout::VIRTIO_MMIO_SIZE).ok()?;
        Some((self.devices.get(index)?, offset % layout::VIRTIO_MMIO_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_apart_and_lines_are_shared_only_when_they_run_out() {
        let slots: Vec<_> = (0..64).map_while(VirtioSlot::new).collect();
        assert_eq!(slots.len(), 64);
        assert_eq!(slots[0].parameter(), "virtio_mmio.device=4K@0xd0000000:5");
        assert_eq!(slots[18].irq, 23);
        assert_eq!(slots[19].irq, 5);
        assert!(VirtioSlot::new(1 << 40).is_none());
    }
}
