//! Where things stand in the guest's physical address space.
//!
//! ```text
//! 0x0000_0500  global descriptor table          0x0010_0000  usable memory, first part
//! 0x0000_7000  boot parameters (zero page)      0x0100_0000  kernel (address in its ELF file)
//! 0x0000_8000  seed of the random generator     0xc000_0000  no memory: device registers
//! 0x0000_9000  page tables of the entry         0xfec0_0000  I/O APIC, local APICs
//! 0x0002_0000  kernel command line              0x1_0000_0000 usable memory, second part
//! 0x0009_fc00  MP table, reserved
//! ```

/// Global descriptor table of the entry state.
pub(crate) const GDT: u64 = 0x500;
/// `struct boot_params`, the "zero page" of the Linux boot protocol.
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
/// `struct setup_data` with the seed of the kernel's random generator.
pub(crate) const RANDOM_SEED: u64 = 0x8000;
/// Page map level 4; the page directory pointer table and the page directory follow.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line, terminating NUL included: COMMAND_LINE_SIZE of Linux on x86.
pub(crate) const COMMAND_LINE_SIZE: usize = 2048;
/// Part of that for the parameters that a kernel was built with: Linux puts them in front and cuts off what is too long
/// without a word (CONFIG_CMDLINE, of which ours has 80 bytes).
pub(crate) const COMMAND_LINE_OF_KERNEL: usize = 128;
/// End of usable low memory; Linux searches the last KiB of the first 640 for the MP table.
pub(crate) const MP_TABLE: u64 = 0x9_fc00;
/// Room for the MP table.
pub(crate) const MP_TABLE_SIZE: usize = 1024;
/// Usable memory goes on here, behind the legacy video and BIOS areas.
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;
/// Memory ends here and goes on at [`HOLE_END`].
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// End of the hole for devices.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;
/// Registers of the first virtio device.
pub(crate) const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Size of one virtio device's registers.
pub(crate) const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Default base of the I/O APIC.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// Default base of the local APICs.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors, below 4 GiB and in no memory.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt line of the first serial port.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// Lines for virtio devices, in the order in which they are given away; beyond that the devices share lines. Low ones first: a
/// kernel spends 14 exits on each input of the I/O APIC, used or not, up to the last. Linux does not take line 0.
pub(crate) const VIRTIO_IRQS: [u32; 22] = [
    1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];
