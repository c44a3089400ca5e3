//! Resets while the device works: from then on it must leave the driver's memory alone (section 2.4.1).

use super::Outcome;
use crate::device::{Device, Kind};
use crate::memory::{self, BUFFERS, Fields, Ram};
use crate::proof::{
    HOST_CID, VSOCK_REQUEST, block_header, fuse_header, guest_cid, init_file_system, vsock_header,
};
use crate::random::Random;
use crate::ring::{Descriptor, NEXT, Queue, WRITE};

const PATTERN: u8 = 0x5a;
const REQUEST_SIZE: u32 = 256;
/// Where replies go; large ones, which take the device a while.
const REPLIES: u64 = BUFFERS + 0x2_0000;
/// One byte more than sectors, for the status of a disk's request.
const ROOM: u32 = (16 << 10) + 1;
const REPLIES_AT_ONCE: u64 = 8;

const FUSE_GETATTR: u32 = 3;
const FUSE_GETATTR_LENGTH: u32 = 56;

/// Offers many requests and resets the device somewhere between the first and the last of them.
pub(super) fn in_the_middle(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let index = random.pick(device.kind.served_queues());
    let mut queue = device.start_with(index, random.next(), 64)?;
    if device.kind == Kind::FileSystem && index == 1 && random.once_in(2) {
        init_file_system(device, &mut queue, 0, random.next())?;
    }
    write_request(device, random);
    offer_many(&mut queue);
    device.kick(index);
    for _ in 0..random.below(12) {
        if random.once_in(2) {
            device.kick(index);
        } else {
            device.status();
        }
    }
    device.set_status(0);
    let rings = queue.rings;
    memory::fill(rings.descriptors, rings.extent(), PATTERN);
    let replies = u64::from(ROOM) * REPLIES_AT_ONCE;
    memory::fill(REPLIES, replies, PATTERN);
    for _ in 0..random.below(20) {
        if device.status() != 0 {
            return Err("its status changes after a reset");
        }
    }
    if !memory::is_filled(rings.descriptors, rings.extent(), PATTERN) {
        return Err("it writes to the rings after a reset");
    }
    // Here and there in the buffers: a look at each byte would take most of the time of all rounds.
    let looks = (0..replies / 512).map(|step| REPLIES + step * 512);
    if looks
        .into_iter()
        .any(|place| memory::load::<u8>(place) != PATTERN)
    {
        return Err("it writes to buffers after a reset");
    }
    Ok(false)
}

/// One request for all chains, at the start of the buffers.
fn write_request(device: &Device, random: &Random) {
    memory::fill(BUFFERS, u64::from(REQUEST_SIZE), 0);
    match device.kind {
        Kind::FileSystem => {
            fuse_header(FUSE_GETATTR, FUSE_GETATTR_LENGTH, random.next(), 1);
        }
        Kind::Block => {
            block_header(0, 0);
        }
        Kind::Vsock => {
            let guest = guest_cid(device);
            vsock_header(guest, HOST_CID, random.next_u32(), 1 << 20, VSOCK_REQUEST);
        }
        Kind::Entropy | Kind::Unknown(_) => {
            Fields::at(BUFFERS).u64(random.next());
        }
    }
}

fn offer_many(queue: &mut Queue) {
    for pair in 0..queue.size() / 2 {
        let (head, reply) = (2 * pair, 2 * pair + 1);
        let asked = Descriptor {
            address: BUFFERS,
            length: REQUEST_SIZE,
            flags: NEXT,
            next: reply,
        };
        let room = Descriptor {
            address: REPLIES + u64::from(pair) % REPLIES_AT_ONCE * u64::from(ROOM),
            length: ROOM,
            flags: WRITE,
            next: 0,
        };
        queue.set(head, asked);
        queue.set(reply, room);
        queue.place(head);
    }
    queue.publish();
}
