//! Initialisation against section 3.1.1: steps out of order, features that were not offered, queues that cannot be.

use super::Outcome;
use crate::device::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, Device, FAILED, FEATURES_OK, NEEDS_RESET, VERSION_1,
};
use crate::memory::{Ram, any_word};
use crate::random::Random;
use crate::registers::*;
use crate::ring::Rings;

const AGREED: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

/// Writes status bits, features and queue registers in any order. The device must never be seen to run without having
/// agreed on features.
pub(super) fn steps_out_of_order(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    for _ in 0..8 + random.below(16) {
        match random.below(4) {
            0 => device
                .registers
                .write(DRIVER_FEATURES_SEL, any_word(random)),
            1 => device.registers.write(DRIVER_FEATURES, any_word(random)),
            2 => {
                let register = random.pick(&[QUEUE_SEL, QUEUE_NUM, QUEUE_READY, QUEUE_DESC]);
                device.registers.write(register, any_word(random));
            }
            _ => {
                let status = random.pick(&[
                    ACKNOWLEDGE,
                    DRIVER,
                    ACKNOWLEDGE | DRIVER,
                    FEATURES_OK,
                    AGREED,
                    DRIVER_OK,
                    ACKNOWLEDGE | DRIVER | DRIVER_OK,
                    AGREED | DRIVER_OK,
                    NEEDS_RESET,
                    FAILED,
                    random.next_u32(),
                ]);
                device.set_status(status);
                let now = device.status();
                if now & DRIVER_OK != 0 && now & AGREED != AGREED {
                    return Err("it runs without having agreed on features");
                }
            }
        }
    }
    Ok(false)
}

/// Takes features that the device does not offer, or not the one without which there is only the legacy interface.
pub(super) fn features_not_offered(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    device.set_status(ACKNOWLEDGE);
    device.set_status(ACKNOWLEDGE | DRIVER);
    let offered = device.offered;
    let features = if random.once_in(2) {
        offered & !VERSION_1
    } else {
        let wanted = 1 << random.below(64);
        if offered & wanted != 0 {
            return Ok(false);
        }
        offered | wanted
    };
    device.accept(features);
    device.set_status(AGREED);
    if device.status() & FEATURES_OK != 0 {
        return Err("it agrees on features that it does not offer");
    }
    device.set_status(AGREED | DRIVER_OK);
    if device.status() & DRIVER_OK != 0 {
        return Err("it runs with features that it does not offer");
    }
    Ok(false)
}

/// Starts the device with one queue of impossible size or place.
pub(super) fn bad_queue(device: &Device, ram: Ram, random: &Random) -> Outcome {
    let features = random.next();
    device.negotiate(features)?;
    let bad = random.below(u64::from(device.kind.queues())) as u32;
    for index in 0..device.kind.queues() {
        device.add_queue(index, 16);
    }
    let mut rings = Rings::proper(bad, 16);
    match random.below(5) {
        0 => {
            let largest = u32::from(device.largest_queue(bad));
            let odd = random.next_u32() | 1;
            rings.size = random.pick(&[0, 3, 12, 2 * largest, 1 << 16, 1 << 31, odd.max(3)]);
        }
        1 => rings.descriptors = misplaced(rings.descriptors, 16, ram, random),
        2 => rings.driver = misplaced(rings.driver, 2, ram, random),
        3 => rings.device = misplaced(rings.device, 4, ram, random),
        _ => {
            rings.descriptors = ram.outside(random) & !0xf;
            rings.driver = ram.outside(random) & !0xf;
            rings.device = ram.outside(random) & !0xf;
        }
    }
    // A queue in use has to be taken out of use first.
    device.registers.write(QUEUE_SEL, bad);
    device.registers.write(QUEUE_READY, 0);
    device.set_rings(bad, &rings);
    device.start();
    device.expect_needs_reset()?;
    // It stays so, whatever it is told but a reset.
    device.kick(bad);
    device.set_status(random.next_u32() | 1);
    device.expect_needs_reset()?;
    Ok(true)
}

/// An address near `proper` without the alignment that the ring needs, or one that is not in memory with all of the ring.
fn misplaced(proper: u64, alignment: u64, ram: Ram, random: &Random) -> u64 {
    match random.below(3) {
        0 => proper + 1 + random.below(alignment - 1),
        // The shortest of the rings has 38 bytes.
        1 => ram.straddling(16, random) & !(alignment - 1),
        _ => ram.outside(random) & !(alignment - 1),
    }
}

/// Kicks queues before there are any, ones that do not exist, and ones that are not in use; acknowledges interrupts that
/// never were.
pub(super) fn kicks_out_of_place(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let kick = |random: &Random| {
        for _ in 0..2 + random.below(6) {
            let queue = random.pick(&[0, 1, 2, 3, 7, 1 << 16, u32::MAX, any_word(random)]);
            let width = random.pick(&[Width::One, Width::Two, Width::Four, Width::Eight]);
            device
                .registers
                .write_width(QUEUE_NOTIFY, u64::from(queue), width);
            device.registers.write(INTERRUPT_ACK, any_word(random));
        }
    };
    kick(random);
    device.negotiate(0)?;
    kick(random);
    // Some queues stay unused.
    for index in 0..device.kind.queues() {
        if random.once_in(2) {
            device.add_queue(index, 16);
        }
    }
    kick(random);
    device.start();
    kick(random);
    if device.needs_reset() {
        return Err("it asks for a reset because of a kick");
    }
    Ok(false)
}
