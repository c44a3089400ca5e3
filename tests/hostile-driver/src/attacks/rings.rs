//! Rings whose indices lie.

use super::Outcome;
use crate::device::Device;
use crate::memory::{self, BUFFERS, Ram};
use crate::random::Random;
use crate::ring::{Descriptor, Queue, WRITE};

/// Starts the device with a queue that it serves at once.
fn start(device: &Device, random: &Random) -> Result<(u32, Queue), &'static str> {
    let index = random.pick(device.kind.served_queues());
    let size = random.pick(&[1, 4, 16, 128]);
    let features = random.next();
    Ok((index, device.start_with(index, features, size)?))
}

/// Chains of one buffer that has nothing to ask, at the first descriptors.
fn offer_harmless(queue: &mut Queue, count: u16) {
    for head in 0..count {
        let buffer = Descriptor {
            address: BUFFERS + u64::from(head) * 64,
            length: 64,
            flags: WRITE,
            next: 0,
        };
        queue.set(head, buffer);
        queue.place(head);
    }
    queue.publish();
}

/// More chains available than the queue has descriptors.
pub(super) fn index_out_of_range(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let (index, mut queue) = start(device, random)?;
    if random.once_in(2) {
        let count = 1 + random.below_u16(queue.size());
        offer_harmless(&mut queue, count);
    }
    // From one too many to all but one of the numbers.
    let excess = 1 + random.below_u16(u16::MAX - queue.size() - queue.offered);
    queue.set_available(queue.offered + queue.size() + excess);
    device.kick(index);
    device.expect_needs_reset()?;
    Ok(true)
}

/// Takes chains back that the device has carried out.
pub(super) fn index_backwards(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let (index, mut queue) = start(device, random)?;
    let count = 1 + random.below_u16(queue.size());
    offer_harmless(&mut queue, count);
    device.kick(index);
    if !device.wait(|| queue.used() == count) {
        return Err("not all chains came back");
    }
    if device.needs_reset() {
        return Err("it asks for a reset because of chains without a request");
    }
    queue.set_available(count - 1 - random.below_u16(count));
    device.kick(index);
    device.expect_needs_reset()?;
    Ok(true)
}

/// Heads that are no descriptor of the queue.
pub(super) fn heads_out_of_range(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let (index, mut queue) = start(device, random)?;
    let head = queue.size()
        + random
            .below_u16(u16::MAX - queue.size() + 1)
            .min(u16::MAX - 128);
    queue.place(head.max(queue.size()));
    queue.publish();
    device.kick(index);
    device.expect_needs_reset()?;
    Ok(true)
}

/// Descriptors and rings that change while the device works on them.
pub(super) fn changing_rings(device: &Device, ram: Ram, random: &Random) -> Outcome {
    let (index, mut queue) = start(device, random)?;
    let count = queue.size();
    offer_harmless(&mut queue, count);
    device.kick(index);
    for _ in 0..random.below(400) {
        match random.below(8) {
            0 => {
                let slot = u64::from(random.below_u16(queue.size()));
                memory::store(queue.rings.driver + 4 + 2 * slot, random.next() as u16);
            }
            1 => queue.set_available(random.next() as u16),
            2 => memory::store(queue.rings.driver, random.next() as u16),
            // The device's own side of the rings.
            3 => memory::store(queue.rings.device + 2, random.next() as u16),
            4 => device.kick(index),
            _ => {
                let descriptor = Descriptor {
                    address: ram.any(random),
                    length: random.next_u32() >> random.below(32),
                    flags: random.next() as u16 & 7,
                    next: random.below_u16(queue.size()),
                };
                queue.set(random.below_u16(queue.size()), descriptor);
            }
        }
    }
    // It may ask for a reset or not: that depends on what it saw.
    Ok(false)
}
