//! vsock packets against section 5.10, in chains that are right.

use super::Outcome;
use crate::device::Device;
use crate::memory::{self, BUFFERS, Fields, Ram};
use crate::proof::{
    HOST_CID, VSOCK_HEADER, VSOCK_REQUEST, VSOCK_RESET, VSOCK_STREAM, guest_cid, vsock_header,
};
use crate::random::Random;
use crate::ring::{Descriptor, NEXT, Queue, Rings, WRITE};

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const SIZE: u16 = 64;

const RESPONSE: u16 = 2;
const SHUTDOWN: u16 = 4;
const READ_WRITE: u16 = 5;

/// Payloads and packets of the device.
const PAYLOAD: u64 = BUFFERS + 0x1_0000;
const RECEIVED: u64 = BUFFERS + 0x8_0000;
const RECEIVED_SIZE: u32 = 4096;

/// Both queues of a device that is started; the receive queue is full of buffers.
struct Queues {
    receive: Queue,
    transmit: Queue,
}

fn start(device: &Device) -> Result<Queues, &'static str> {
    let mut receive = device.start_with(RECEIVE, 0, SIZE)?;
    let transmit = Queue::new(Rings::proper(TRANSMIT, SIZE));
    for slot in 0..SIZE {
        let buffer = Descriptor {
            address: RECEIVED + u64::from(slot) * u64::from(RECEIVED_SIZE),
            length: RECEIVED_SIZE,
            flags: WRITE,
            next: 0,
        };
        receive.set(slot, buffer);
        receive.place(slot);
    }
    receive.publish();
    device.kick(RECEIVE);
    Ok(Queues { receive, transmit })
}

/// Packets from and to anybody, with any operation. Every one must come back.
pub(super) fn half_right(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let mut queues = start(device)?;
    let guest = guest_cid(device);
    for _ in 0..1 + random.below(12) {
        let from = random.pick(&[guest, guest, guest, 0, HOST_CID, random.next()]);
        let to = random.pick(&[HOST_CID, HOST_CID, HOST_CID, 0, guest, random.next()]);
        // Not the agent's port, which is 1: such a connection is the one that the machine's boot waits for, and would end it.
        let port = random.next_u32() | 1 << 10;
        send_any(
            device,
            &mut queues.transmit,
            (from, to),
            (port % 4096, port),
            random,
        )?;
    }
    Ok(false)
}

/// Takes a connection that a program of the host opens, if there is one, and breaks it in every way.
pub(super) fn conversation(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let mut queues = start(device)?;
    let guest = guest_cid(device);
    for _ in 0..50 {
        if queues.receive.used() != 0 {
            break;
        }
        device.status();
    }
    if queues.receive.used() == 0 || memory::load::<u16>(RECEIVED + 30) != VSOCK_REQUEST {
        return Ok(false);
    }
    let host_port: u32 = memory::load(RECEIVED + 16);
    let guest_port: u32 = memory::load(RECEIVED + 20);
    if !random.once_in(4) {
        let mut header = vsock_header(guest, HOST_CID, guest_port, host_port, RESPONSE);
        lie_about_credit(&mut header, random);
        send(device, &mut queues.transmit, 0)?;
    }
    for _ in 0..1 + random.below(12) {
        send_any(
            device,
            &mut queues.transmit,
            (guest, HOST_CID),
            (guest_port, host_port),
            random,
        )?;
    }
    Ok(false)
}

/// Sends a packet with any operation, type, length, flags and credit.
fn send_any(
    device: &Device,
    queue: &mut Queue,
    (from, to): (u64, u64),
    (from_port, to_port): (u32, u32),
    random: &Random,
) -> Result<(), &'static str> {
    let any = random.next() as u16;
    let operation = random.pick(&[
        VSOCK_REQUEST,
        RESPONSE,
        VSOCK_RESET,
        SHUTDOWN,
        READ_WRITE,
        READ_WRITE,
        READ_WRITE,
        6,
        7,
        any,
    ]);
    let payload = random.pick(&[0, 1, 100, 4096, 1 << 16]);
    let claimed = match random.below(4) {
        0 => random.next_u32() >> random.below(32),
        _ => payload,
    };
    let mut fields = Fields::at(BUFFERS);
    fields.u64(from).u64(to).u32(from_port).u32(to_port);
    fields.u32(claimed);
    fields.u16(if random.once_in(8) { any } else { VSOCK_STREAM });
    fields.u16(operation);
    fields.u32(random.next_u32() >> random.below(32));
    lie_about_credit(&mut Fields::at(BUFFERS + 36), random);
    send(device, queue, payload)
}

/// The last two fields of a header: buffer space, and bytes taken from it.
fn lie_about_credit(fields: &mut Fields, random: &Random) {
    let space = random.pick(&[0, 1, 1 << 16, u32::MAX, random.next_u32()]);
    let taken = random.pick(&[0, 1, u32::MAX, random.next_u32()]);
    *fields = Fields::at(BUFFERS + 36);
    fields.u32(space).u32(taken);
}

/// Sends the header at the start of the buffers with a payload of so many bytes, and waits until it is taken.
fn send(device: &Device, queue: &mut Queue, payload: u32) -> Result<(), &'static str> {
    let before = queue.used();
    let header = Descriptor {
        address: BUFFERS,
        length: VSOCK_HEADER,
        flags: if payload > 0 { NEXT } else { 0 },
        next: 1,
    };
    let rest = Descriptor {
        address: PAYLOAD,
        length: payload,
        flags: 0,
        next: 0,
    };
    queue.set(0, header);
    queue.set(1, rest);
    queue.offer(0);
    device.kick(TRANSMIT);
    if !device.wait(|| queue.used() != before || device.needs_reset()) {
        return Err("a packet did not come back");
    }
    if device.needs_reset() {
        return Err("it asks for a reset because of a packet");
    }
    Ok(())
}
