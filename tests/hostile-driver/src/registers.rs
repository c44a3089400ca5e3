//! Registers of a virtio device on the MMIO transport, section 4.2.2 of the virtio specification 1.2.

use core::ptr;

pub(crate) const MAGIC_VALUE: u64 = 0x000;
pub(crate) const DEVICE_ID: u64 = 0x008;
pub(crate) const DEVICE_FEATURES: u64 = 0x010;
pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x014;
pub(crate) const DRIVER_FEATURES: u64 = 0x020;
pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x024;
pub(crate) const QUEUE_SEL: u64 = 0x030;
pub(crate) const QUEUE_NUM_MAX: u64 = 0x034;
pub(crate) const QUEUE_NUM: u64 = 0x038;
pub(crate) const QUEUE_READY: u64 = 0x044;
pub(crate) const QUEUE_NOTIFY: u64 = 0x050;
pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
pub(crate) const INTERRUPT_ACK: u64 = 0x064;
pub(crate) const STATUS: u64 = 0x070;
pub(crate) const QUEUE_DESC: u64 = 0x080;
pub(crate) const QUEUE_DRIVER: u64 = 0x090;
pub(crate) const QUEUE_DEVICE: u64 = 0x0a0;
pub(crate) const CONFIG: u64 = 0x100;

/// Bytes of address space that a device takes.
pub(crate) const SIZE: u64 = 0x1000;

/// The registers of one device.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    base: u64,
}

/// Width of an access in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    One,
    Two,
    Four,
    Eight,
}

impl Registers {
    /// The registers at `base`, which the command line named.
    pub(crate) fn new(base: u64) -> Registers {
        Registers { base }
    }

    pub(crate) fn base(self) -> u64 {
        self.base
    }

    pub(crate) fn read(self, offset: u64) -> u32 {
        self.read_width(offset, Width::Four) as u32
    }

    pub(crate) fn write(self, offset: u64, value: u32) {
        self.write_width(offset, u64::from(value), Width::Four);
    }

    /// Reads with any width, at any offset below [`SIZE`].
    pub(crate) fn read_width(self, offset: u64, width: Width) -> u64 {
        let address = self.base + offset % SIZE;
        // SAFETY: there is no memory of the program at these addresses, and they are mapped; the processor allows any
        // alignment, which `read_volatile` would not, so the access is spelled out.
        unsafe {
            match width {
                Width::One => u64::from(ptr::read_volatile(address as *const u8)),
                Width::Two => {
                    let value: u16;
                    core::arch::asm!("mov {:x}, [{}]", out(reg) value, in(reg) address, options(nostack));
                    u64::from(value)
                }
                Width::Four => {
                    let value: u32;
                    core::arch::asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack));
                    u64::from(value)
                }
                Width::Eight => {
                    let value: u64;
                    core::arch::asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack));
                    value
                }
            }
        }
    }

    /// Writes with any width, at any offset below [`SIZE`].
    pub(crate) fn write_width(self, offset: u64, value: u64, width: Width) {
        let address = self.base + offset % SIZE;
        // SAFETY: as for `read_width`. What the device does to memory because of it stays in `crate::memory`.
        unsafe {
            match width {
                Width::One => ptr::write_volatile(address as *mut u8, value as u8),
                Width::Two => {
                    core::arch::asm!("mov [{}], {:x}", in(reg) address, in(reg) value as u16, options(nostack));
                }
                Width::Four => {
                    core::arch::asm!("mov [{}], {:e}", in(reg) address, in(reg) value as u32, options(nostack));
                }
                Width::Eight => {
                    core::arch::asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack));
                }
            }
        }
    }
}
