//! `struct boot_params`, which a kernel entered by the 64-bit boot protocol finds in RSI.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{KernelError, LoadedInitramfs, LoadedKernel, seed};
use crate::layout;
use crate::memory::ranges;
use crate::virtio::GuestMemory;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const BOOT_FLAG: u16 = 0xaa55;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Any loader without an assigned number.
const LOADER_TYPE: u8 = 0xff;
/// `loadflags`: the kernel may place its own memory areas (direct map, vmalloc, vmemmap) at random. A bzImage's decompressor sets it;
/// a vmlinux that is entered directly has nobody else to do so.
const KASLR_FLAG: u8 = 1 << 1;
/// `loadflags`: loaded high.
const LOADED_HIGH: u8 = 1;

/// `boot_params` is plain data of a fixed layout.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct ZeroPage(boot_params);

// SAFETY: `boot_params` is a packed C structure of integers and arrays of them: any bytes are valid, none are padding.
unsafe impl ByteValued for ZeroPage {}

/// Writes the boot parameters for a machine with `memory_size` bytes of memory.
pub(crate) fn write_boot_params(
    memory: &GuestMemory,
    memory_size: u64,
    kernel: &LoadedKernel,
    initramfs: Option<LoadedInitramfs>,
) -> Result<(), KernelError> {
    let mut params = boot_params::default();
    if let Some(header) = kernel.setup_header {
        params.hdr = header;
    } else {
        params.hdr.boot_flag = BOOT_FLAG;
        params.hdr.header = HEADER_MAGIC;
        params.hdr.kernel_alignment = 0x100_0000;
        params.hdr.loadflags = LOADED_HIGH | KASLR_FLAG;
    }
    params.hdr.type_of_loader = LOADER_TYPE;
    params.hdr.setup_data = layout::RANDOM_SEED;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    params.hdr.cmdline_size = layout::COMMAND_LINE_SIZE as u32;
    if let Some(initramfs) = initramfs {
        // Both below HOLE_START, so they fit into 32 bits.
        params.hdr.ramdisk_image = initramfs.address as u32;
        params.hdr.ramdisk_size = initramfs.size as u32;
    }
    for (slot, (address, size, kind)) in memory_map(memory_size).into_iter().enumerate() {
        params.e820_table[slot] = boot_e820_entry {
            addr: address,
            size,
            type_: kind,
        };
        params.e820_entries = slot as u8 + 1;
    }
    seed::write(memory)?;
    memory
        .write_obj(ZeroPage(params), GuestAddress(layout::BOOT_PARAMS))
        .map_err(KernelError::Write)
}

/// The memory map: address, size, type.
fn memory_map(memory_size: u64) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::MP_TABLE, E820_RAM),
        (
            layout::MP_TABLE,
            layout::HIGH_MEMORY - layout::MP_TABLE,
            E820_RESERVED,
        ),
    ];
    for (start, length) in ranges(memory_size) {
        let usable = start.0.max(layout::HIGH_MEMORY);
        map.push((usable, start.0 + length - usable, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_counts_all_memory_but_the_legacy_areas() {
        for size in [64u64 << 20, 3 << 30, 4 << 30, 64 << 30] {
            let usable: u64 = memory_map(size)
                .iter()
                .filter(|(_, _, kind)| *kind == E820_RAM)
                .map(|(_, length, _)| length)
                .sum();
            assert_eq!(usable, size - (layout::HIGH_MEMORY - layout::MP_TABLE));
        }
    }
}
