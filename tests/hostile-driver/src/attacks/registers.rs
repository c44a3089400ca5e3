//! Accesses that no driver makes.

use super::Outcome;
use crate::device::Device;
use crate::memory::{Ram, any_word};
use crate::random::Random;
use crate::registers::{CONFIG, SIZE, Width};

/// Reads and writes registers and what lies between and behind them, with every width.
pub(super) fn any_access(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    for _ in 0..16 + random.below(16) {
        let offset = match random.below(8) {
            0 => random.below(SIZE),
            1 => random.below(CONFIG),
            2 => CONFIG + random.below(64),
            // The last ones reach into the next device's registers.
            3 => SIZE - 1 - random.below(8),
            _ => random.below(CONFIG / 4) * 4,
        };
        let width = random.pick(&[
            Width::One,
            Width::Two,
            Width::Four,
            Width::Four,
            Width::Four,
            Width::Eight,
        ]);
        if random.once_in(3) {
            device.registers.read_width(offset, width);
        } else {
            let value = u64::from(any_word(random)) << 32 | u64::from(any_word(random));
            device.registers.write_width(offset, value, width);
        }
    }
    Ok(false)
}
