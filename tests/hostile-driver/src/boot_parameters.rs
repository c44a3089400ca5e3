//! What the monitor tells a kernel: its command line and the memory map, in `struct boot_params`.
//!
//! Offsets: Linux, Documentation/arch/x86/zero-page.rst and boot.rst.

use core::ptr;

use crate::device::Device;
use crate::memory::Ram;

const E820_ENTRIES: u64 = 0x1e8;
const COMMAND_LINE_POINTER: u64 = 0x228;
const E820_TABLE: u64 = 0x2d0;
const E820_ENTRY_SIZE: u64 = 20;
const E820_RAM: u32 = 1;
const COMMAND_LINE_SIZE: usize = 2048;
const FOUR_GIB: u64 = 1 << 32;

const MAX_DEVICES: usize = 16;

/// What this guest wants to know.
pub(crate) struct BootParameters {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    pub(crate) ram: Ram,
    devices: [Option<Device>; MAX_DEVICES],
}

impl BootParameters {
    /// Reads them at `address`, and what they point to.
    pub(crate) fn read(address: u64) -> BootParameters {
        let pointer = load::<u32>(address + COMMAND_LINE_POINTER);
        let mut line = [0; COMMAND_LINE_SIZE];
        for (to, from) in line.iter_mut().zip(u64::from(pointer)..) {
            *to = load::<u8>(from);
        }
        let mut parameters = BootParameters {
            seed: 1,
            rounds: 100,
            ram: ram(address),
            devices: [None; MAX_DEVICES],
        };
        let end = line.iter().position(|byte| *byte == 0).unwrap_or(0);
        let mut count = 0;
        for word in line[..end].split(|byte| *byte == b' ') {
            if let Some(number) = word.strip_prefix(b"hostile.seed=") {
                parameters.seed = parse(number);
            } else if let Some(number) = word.strip_prefix(b"hostile.rounds=") {
                parameters.rounds = parse(number);
            } else if let Some(place) = word.strip_prefix(b"virtio_mmio.device=4K@0x") {
                // What follows the address is the interrupt, which this driver does without.
                let digits = place.split(|byte| *byte == b':').next().unwrap_or_default();
                parameters.devices[count] = Some(Device::find(parse_hexadecimal(digits)));
                count += 1;
            }
        }
        parameters
    }

    /// The devices in the order of the command line.
    pub(crate) fn devices(&self) -> impl Iterator<Item = Device> + '_ {
        self.devices.iter().copied().flatten()
    }
}

/// Where memory ends, from the e820 table.
fn ram(boot_parameters: u64) -> Ram {
    let mut ram = Ram { low_end: 0, end: 0 };
    let count = u64::from(load::<u8>(boot_parameters + E820_ENTRIES));
    for entry in (0..count).map(|index| boot_parameters + E820_TABLE + index * E820_ENTRY_SIZE) {
        if load::<u32>(entry + 16) != E820_RAM {
            continue;
        }
        let end = load::<u64>(entry) + load::<u64>(entry + 8);
        ram.end = ram.end.max(end);
        if end <= FOUR_GIB {
            ram.low_end = ram.low_end.max(end);
        }
    }
    ram
}

fn load<T: Copy>(address: u64) -> T {
    // SAFETY: the monitor put the structures where it says; they are plain data of any alignment.
    unsafe { ptr::read_unaligned(address as *const T) }
}

fn parse(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number: u64, digit| {
        number
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

fn parse_hexadecimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, digit| {
        number << 4 | u64::from((*digit as char).to_digit(16).unwrap_or(0))
    })
}
