//! Memory that devices may read and write, and addresses that no honest driver gives them.
//!
//! The guest survives its own devices because everything that they are told to write to lies in the arena, below 1 MiB,
//! at the end of memory or outside of it. A device writes at most [`LONGEST_WRITE`] bytes at a time from where it was told to.

use core::ptr;

use crate::random::Random;

const ARENA: u64 = 32 << 20;
const ARENA_END: u64 = 44 << 20;
/// More than a file system's longest reply.
const LONGEST_WRITE: u64 = 4 << 20;

/// Room for queues, [`QUEUE_ROOM`] each.
pub(crate) const QUEUES: u64 = ARENA;
/// Descriptors, driver area and device area of a queue of 1024.
pub(crate) const QUEUE_ROOM: u64 = 64 << 10;
/// Indirect tables.
pub(crate) const TABLES: u64 = ARENA + (512 << 10);
/// Requests and replies.
pub(crate) const BUFFERS: u64 = ARENA + (2 << 20);
pub(crate) const BUFFERS_SIZE: u64 = 2 << 20;

const _: () = assert!(BUFFERS + BUFFERS_SIZE + LONGEST_WRITE < ARENA_END);

/// This program, and a ring's length before it.
const PROGRAM: core::ops::Range<u32> = 15 << 20..32 << 20;

/// Where the monitor has device registers and KVM its own pages.
const HOLE: u64 = 0xc000_0000;
const FOUR_GIB: u64 = 1 << 32;

/// Where memory ends.
#[derive(Clone, Copy)]
pub(crate) struct Ram {
    /// Of the part below 4 GiB.
    pub(crate) low_end: u64,
    /// Of all.
    pub(crate) end: u64,
}

impl Ram {
    /// An address that is in no memory, nor are the 16 bytes from there.
    pub(crate) fn outside(self, random: &Random) -> u64 {
        let odd = random.below(1 << 20);
        random.pick(&[
            self.low_end,
            HOLE,
            HOLE + odd,
            0xd000_0000 + odd % 0x4000,
            0xfee0_0000,
            0xfffb_d000,
            FOUR_GIB - 16,
            self.end.max(FOUR_GIB) + odd,
            1 << 40,
            u64::MAX - odd,
            u64::MAX - 15,
            random.next() | 1 << 45,
        ])
    }

    /// An address from which some bytes, `most` at most, are in memory, and the next ones are not.
    pub(crate) fn straddling(self, most: u64, random: &Random) -> u64 {
        random.pick(&[self.low_end, self.end]) - 1 - random.below(most)
    }

    /// Any address that a device can be told without harm to this program.
    pub(crate) fn any(self, random: &Random) -> u64 {
        match random.below(8) {
            0 | 1 => self.outside(random),
            2 => self.straddling(64, random),
            3 => random.below(1 << 20),
            4 => QUEUES + random.below(4 * QUEUE_ROOM),
            5 => TABLES + random.below(1 << 16),
            _ => BUFFERS + random.below(BUFFERS_SIZE),
        }
    }
}

/// A number for a register that takes addresses, or their halves, as well.
pub(crate) fn any_word(random: &Random) -> u32 {
    let odd = random.next_u32();
    let word = random.pick(&[
        0,
        1,
        2,
        odd % 16,
        odd % 2048,
        odd,
        u32::MAX,
        1 << (odd % 32),
        BUFFERS as u32 + odd % BUFFERS_SIZE as u32,
        HOLE as u32,
    ]);
    if PROGRAM.contains(&word) {
        word | 1 << 30
    } else {
        word
    }
}

/// Values that may lie in the arena.
pub(crate) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

fn check<T>(address: u64) {
    assert!(
        address >= ARENA && address + size_of::<T>() as u64 <= ARENA_END,
        "{address:#x} is not in the arena"
    );
    assert!(
        address.is_multiple_of(align_of::<T>() as u64),
        "{address:#x} is not aligned"
    );
}

/// Reads from the arena, which a device may be writing to.
pub(crate) fn load<T: Plain>(address: u64) -> T {
    check::<T>(address);
    // SAFETY: the arena is memory that no variable lies in; it is aligned, and any bytes are a value of these types.
    unsafe { ptr::read_volatile(address as *const T) }
}

/// Writes to the arena.
pub(crate) fn store<T: Plain>(address: u64, value: T) {
    check::<T>(address);
    // SAFETY: as for `load`.
    unsafe { ptr::write_volatile(address as *mut T, value) };
}

/// Fills a part of the arena.
pub(crate) fn fill(address: u64, size: u64, byte: u8) {
    check::<u8>(address);
    check::<u8>(address + size.max(1) - 1);
    // SAFETY: as for `load`; no device uses this part now.
    unsafe { ptr::write_bytes(address as *mut u8, byte, size as usize) };
}

/// Whether every byte of a part of the arena is `byte`.
pub(crate) fn is_filled(address: u64, size: u64, byte: u8) -> bool {
    (address..address + size).all(|address| load::<u8>(address) == byte)
}

/// Writes little-endian fields of a request one after the other; they need not be aligned.
pub(crate) struct Fields {
    at: u64,
}

impl Fields {
    pub(crate) fn at(address: u64) -> Fields {
        Fields { at: address }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Fields {
        for byte in bytes {
            store(self.at, *byte);
            self.at += 1;
        }
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Fields {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Fields {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Fields {
        self.bytes(&value.to_le_bytes())
    }

    /// Where the next field would be.
    pub(crate) fn end(&self) -> u64 {
        self.at
    }
}
