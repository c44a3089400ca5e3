//! Chains that no driver builds: loops, overlaps, lengths of nothing and of 4 GiB, tables in tables.

use super::Outcome;
use crate::device::{Device, INDIRECT_DESC};
use crate::memory::{BUFFERS, BUFFERS_SIZE, Fields, Ram, TABLES};
use crate::random::Random;
use crate::ring::{Descriptor, INDIRECT, NEXT, Queue, WRITE};

/// Descriptors at the start of each indirect table that are not empty.
const TABLE_ENTRIES: u16 = 8;
const TABLE_SIZE: u64 = TABLE_ENTRIES as u64 * 16;

/// Where buffers may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Anywhere but over the rings, whose honesty is relied on.
    Buffers,
    /// The rings as well.
    Everything,
}

/// Chains that are wrong in themselves. The rings are right, so every chain has to come back, once.
pub(super) fn malformed(device: &Device, ram: Ram, random: &Random) -> Outcome {
    let index = random.pick(device.kind.served_queues());
    let (queue, heads) = offer(device, index, Reach::Buffers, ram, random)?;
    queue.publish();
    device.kick(index);
    let done = || queue.used() == queue.offered || device.needs_reset();
    if !device.wait(done) {
        return Err("not all malformed chains came back");
    }
    if device.needs_reset() {
        return Ok(true);
    }
    let mut returned = 0_u64;
    for place in 0..queue.offered {
        let (head, _) = queue.used_element(place);
        if head >= 64 || returned & 1 << head != 0 {
            return Err("a chain came back twice");
        }
        returned |= 1 << head;
    }
    if returned != heads {
        return Err("other chains came back than were offered");
    }
    Ok(false)
}

/// Chains whose buffers are the rings, so that the device itself makes them wrong.
pub(super) fn over_the_rings(device: &Device, ram: Ram, random: &Random) -> Outcome {
    let index = random.below(u64::from(device.kind.queues())) as u32;
    let (queue, _) = offer(device, index, Reach::Everything, ram, random)?;
    queue.publish();
    device.kick(index);
    for _ in 0..random.below(20) {
        device.kick(index);
    }
    Ok(false)
}

/// Starts the device and fills a queue with random descriptors; returns the heads that were placed as a set of bits.
fn offer(
    device: &Device,
    index: u32,
    reach: Reach,
    ram: Ram,
    random: &Random,
) -> Result<(Queue, u64), &'static str> {
    let size = random.pick(&[2, 8, 16, 64]);
    let features = random.next() | random.pick(&[0, INDIRECT_DESC]);
    let mut queue = device.start_with(index, features, size)?;
    let mut fields = Fields::at(BUFFERS);
    for _ in 0..8 {
        // Something to be read: small numbers are lengths and operations. As a descriptor's address none of them is that
        // of this program.
        let number = random.next() >> random.below(64);
        fields.u64(if number >> 26 == 0 {
            number % (1 << 20)
        } else {
            number
        });
    }
    for table in 0..4 {
        for entry in 0..TABLE_ENTRIES {
            let descriptor = descriptor(TABLE_ENTRIES, reach, ram, random);
            descriptor.store(TABLES + table * TABLE_SIZE, u64::from(entry));
        }
    }
    for place in 0..queue.size() {
        queue.set(place, descriptor(queue.size(), reach, ram, random));
    }
    let mut heads = 0;
    for _ in 0..1 + random.below(8) {
        let head = random.below_u16(queue.size());
        if heads & 1 << head == 0 {
            heads |= 1 << head;
            queue.place(head);
        }
    }
    Ok((queue, heads))
}

fn descriptor(count: u16, reach: Reach, ram: Ram, random: &Random) -> Descriptor {
    let flags = match random.below(8) {
        0 => random.next() as u16,
        1 => INDIRECT | random.pick(&[0, NEXT, WRITE]),
        2 | 3 => WRITE,
        4 | 5 => WRITE | NEXT,
        _ => NEXT,
    };
    let next = match random.below(8) {
        0 => random.next() as u16,
        _ => random.below_u16(count),
    };
    let address = match (reach, random.below(4)) {
        (_, 0) if flags & INDIRECT == 0 => ram.outside(random),
        (Reach::Everything, _) => ram.any(random),
        (Reach::Buffers, 1) => ram.straddling(64, random),
        (Reach::Buffers, _) => BUFFERS + random.below(BUFFERS_SIZE),
    };
    if flags & INDIRECT != 0 {
        return Descriptor {
            address: match random.below(6) {
                0 => ram.outside(random),
                1 => address & !7,
                _ => TABLES + random.below(4) * TABLE_SIZE,
            },
            length: table_length(random),
            flags,
            next,
        };
    }
    Descriptor {
        address,
        length: length(random),
        flags,
        next,
    }
}

fn length(random: &Random) -> u32 {
    random.pick(&[
        0,
        1,
        16,
        44,
        80,
        104,
        4096,
        1 << 16,
        (1 << 20) + 1,
        1 << 31,
        u32::MAX,
        u32::MAX - 15,
        random.next_u32() >> random.below(32),
    ])
}

/// Lengths of tables: wrong ones, and such that make a loop in it long.
fn table_length(random: &Random) -> u32 {
    match random.below(32) {
        0 => random.pick(&[65_535 * 16, 65_536 * 16, u32::MAX - 15]),
        1..=4 => random.pick(&[0, 1, 15, 17, u32::MAX]),
        _ => 16 * (1 + random.below(u64::from(2 * TABLE_ENTRIES))) as u32,
    }
}
