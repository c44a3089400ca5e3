//! Requests to a disk that no kernel sends, in chains that are right.

use super::Outcome;
use crate::device::Device;
use crate::memory::{self, BUFFERS, Fields, Ram};
use crate::proof::{BLOCK_HEADER, block_header, capacity};
use crate::random::Random;
use crate::ring::{Descriptor, NEXT, Queue, WRITE};

const REPLY: u64 = BUFFERS + 0x1_0000;
const UNTOUCHED: u8 = 0x3c;

/// Types of requests, section 5.2.6, and some that are none.
const TYPES: [u32; 12] = [0, 0, 1, 1, 4, 8, 11, 13, 13, 14, 2, u32::MAX];

/// Requests that are right in part: sectors, lengths and flags of any kind. Each must come back with a status.
pub(super) fn half_right(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let mut queue = device.start_with(0, random.pick(&[0, u64::MAX]), 16)?;
    for _ in 0..1 + random.below(8) {
        let end = capacity(device);
        let sector = random.pick(&[
            0,
            random.below(end),
            end - 1,
            end,
            u64::MAX,
            u64::MAX / 512,
            1 << 55,
            random.next(),
        ]);
        let mut body = block_header(random.pick(&TYPES), sector);
        for _ in 0..random.below(4) {
            // A range: first sector, number of sectors, flags.
            body.u64(random.pick(&[0, sector, end - 1, random.next()]));
            body.u32(random.pick(&[0, 1, 8, 1 << 16, u32::MAX, random.next_u32()]));
            body.u32(random.pick(&[0, 0, 0, 1, 2, random.next_u32()]));
        }
        if random.once_in(3) {
            let length = random.pick(&[512, 511, 4096]);
            memory::fill(body.end(), length, random.next_u32() as u8);
            body = Fields::at(body.end() + length);
        }
        let length = (body.end() - BUFFERS) as u32;
        let room = random.pick(&[1, 1, 20, 21, 513, 512, 4097, 1 << 16]);
        carry_out(device, &mut queue, length, room, random)?;
    }
    Ok(false)
}

/// Has a request carried out whose bytes are cut somewhere, and demands a status behind `room` bytes.
fn carry_out(
    device: &Device,
    queue: &mut Queue,
    length: u32,
    room: u32,
    random: &Random,
) -> Result<(), &'static str> {
    let before = queue.used();
    let cut = random.below(u64::from(length.min(2 * BLOCK_HEADER))) as u32;
    let status = REPLY + u64::from(room) - 1;
    memory::store(status, UNTOUCHED);
    for (place, (address, length, flags)) in (0..).zip([
        (BUFFERS, cut, NEXT),
        (BUFFERS + u64::from(cut), length - cut, NEXT),
        (REPLY, room, WRITE),
    ]) {
        let descriptor = Descriptor {
            address,
            length,
            flags,
            next: place + 1,
        };
        queue.set(place, descriptor);
    }
    queue.offer(0);
    device.kick(0);
    if !device.wait(|| queue.used() != before) {
        return Err("a request to a disk did not come back");
    }
    if queue.used_element(before).1 > room {
        return Err("it claims to have written more than there was room for");
    }
    if !(0..3).contains(&memory::load::<u8>(status)) {
        return Err("a request to a disk came back without a status");
    }
    Ok(())
}
