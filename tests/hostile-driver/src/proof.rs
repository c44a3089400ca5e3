//! That a device works: after a reset, a driver that follows the rules gets what it asks for.

use crate::device::{Device, EVENT_IDX, INDIRECT_DESC, Kind, NEEDS_RESET, USED_BUFFER};
use crate::memory::{self, BUFFERS, Fields, TABLES};
use crate::random::Random;
use crate::registers::{CONFIG, INTERRUPT_ACK, INTERRUPT_STATUS};
use crate::ring::{Descriptor, INDIRECT, NEXT, Queue, WRITE};

/// Queue of requests of a file system device, section 5.11.2.
const FS_REQUESTS: u32 = 1;
const VSOCK_RECEIVE: u32 = 0;
const VSOCK_TRANSMIT: u32 = 1;

const FUSE_GETATTR: u32 = 3;
const FUSE_INIT: u32 = 26;
const FUSE_ROOT: u64 = 1;
/// `struct fuse_in_header`, `fuse_out_header`, `fuse_init_in`, `fuse_init_out`, `fuse_getattr_in`, `fuse_attr_out`
/// (Linux, include/uapi/linux/fuse.h).
const IN_HEADER: u32 = 40;
const OUT_HEADER: u32 = 16;
const INIT_IN: u32 = 64;
const INIT_OUT: u32 = 64;
const GETATTR_IN: u32 = 16;
const ATTR_OUT: u32 = 104;
/// Offset of the mode in `struct fuse_attr_out`.
const ATTR_MODE: u64 = 16 + 60;
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;

/// Length of a block request's header, section 5.2.6.
pub(crate) const BLOCK_HEADER: u32 = 16;
const BLOCK_READ: u32 = 0;
const BLOCK_WRITE: u32 = 1;
const SECTOR: u32 = 512;
/// `VIRTIO_BLK_F_RO`.
const BLOCK_READ_ONLY: u64 = 1 << 5;
/// What every byte of a disk that is read-only must be.
const READ_ONLY_CONTENTS: u8 = 0x77;

/// Length of a vsock packet's header, section 5.10.6.
pub(crate) const VSOCK_HEADER: u32 = 44;
pub(crate) const VSOCK_REQUEST: u16 = 1;
pub(crate) const VSOCK_RESET: u16 = 3;
pub(crate) const VSOCK_STREAM: u16 = 1;
pub(crate) const HOST_CID: u64 = 2;
/// A port that nothing in the host serves.
const SILENT_PORT: u32 = 0x6d73_6200;

const REPLY: u64 = BUFFERS + 0x1_0000;
const PATTERN: u8 = 0xa5;

/// Initialises the device, which was reset, and has one request carried out.
pub(crate) fn works(device: &Device, random: &Random) -> Result<(), &'static str> {
    let features = random.pick(&[0, EVENT_IDX, INDIRECT_DESC, EVENT_IDX | INDIRECT_DESC]);
    match device.kind {
        Kind::Block => keeps_sectors(device, features, random),
        Kind::Entropy => gives_random_bytes(device, features),
        Kind::FileSystem => answers_requests(device, features, random.next()),
        Kind::Vsock => refuses_connection(device, features, random.next_u32()),
        Kind::Unknown(_) => Err("nobody knows how to prove that it works"),
    }?;
    if device.status() & NEEDS_RESET != 0 {
        return Err("it asks for a reset though nothing was wrong");
    }
    Ok(())
}

fn gives_random_bytes(device: &Device, features: u64) -> Result<(), &'static str> {
    const LENGTH: u32 = 64;
    memory::fill(REPLY, u64::from(LENGTH) + 16, PATTERN);
    let mut queue = device.start_with(0, features, 8)?;
    let length = request(device, &mut queue, 0, features, None, LENGTH)?;
    if length != LENGTH {
        return Err("an entropy request was not filled");
    }
    if memory::is_filled(REPLY, u64::from(LENGTH), PATTERN) {
        return Err("no random bytes were written");
    }
    if !memory::is_filled(REPLY + u64::from(LENGTH), 16, PATTERN) {
        return Err("random bytes were written beyond their buffer");
    }
    Ok(())
}

/// Writes a sector, which a read-only disk refuses, and reads it.
fn keeps_sectors(device: &Device, features: u64, random: &Random) -> Result<(), &'static str> {
    let mut queue = device.start_with(0, features, 16)?;
    let read_only = device.offered & BLOCK_READ_ONLY != 0;
    let sector = random.below(capacity(device));
    let byte = if read_only {
        READ_ONLY_CONTENTS
    } else {
        random.next_u32() as u8
    };
    let data = block_header(BLOCK_WRITE, sector).end();
    memory::fill(data, u64::from(SECTOR), byte);
    memory::fill(REPLY, u64::from(SECTOR) + 1, !byte);
    let asked = Some(BLOCK_HEADER + SECTOR);
    let length = request(device, &mut queue, 0, features, asked, 1)?;
    if length != 1 || memory::load::<u8>(REPLY) != u8::from(read_only) {
        return Err("a write to a disk did not end as it should");
    }
    block_header(BLOCK_READ, sector);
    memory::store(REPLY, !byte);
    let asked = Some(BLOCK_HEADER);
    let length = request(device, &mut queue, 0, features, asked, SECTOR + 1)?;
    if length != SECTOR + 1 || memory::load::<u8>(REPLY + u64::from(SECTOR)) != 0 {
        return Err("a sector was not read");
    }
    if !memory::is_filled(REPLY, u64::from(SECTOR), byte) {
        return Err("a sector is not what was written");
    }
    Ok(())
}

/// Sectors of a disk, from its configuration space.
pub(crate) fn capacity(device: &Device) -> u64 {
    let high = device.registers.read(CONFIG + 4);
    u64::from(high) << 32 | u64::from(device.registers.read(CONFIG))
}

/// Writes the header of a block request to the start of the buffers.
pub(crate) fn block_header(kind: u32, sector: u64) -> Fields {
    let mut fields = Fields::at(BUFFERS);
    fields.u32(kind).u32(0).u64(sector);
    fields
}

fn answers_requests(device: &Device, features: u64, unique: u64) -> Result<(), &'static str> {
    let mut queue = device.start_with(FS_REQUESTS, features, 16)?;
    init_file_system(device, &mut queue, features, unique)?;
    fuse_header(FUSE_GETATTR, IN_HEADER + GETATTR_IN, unique, FUSE_ROOT);
    memory::fill(BUFFERS + u64::from(IN_HEADER), u64::from(GETATTR_IN), 0);
    let asked = Some(IN_HEADER + GETATTR_IN);
    let room = OUT_HEADER + ATTR_OUT;
    let length = request(device, &mut queue, FS_REQUESTS, features, asked, room)?;
    check_reply(length, room, unique)?;
    let mode: u32 = memory::load(REPLY + u64::from(OUT_HEADER) + ATTR_MODE);
    if mode & S_IFMT != S_IFDIR {
        return Err("the root of the file system is no directory");
    }
    Ok(())
}

/// Begins a FUSE session on a started device.
pub(crate) fn init_file_system(
    device: &Device,
    queue: &mut Queue,
    features: u64,
    unique: u64,
) -> Result<(), &'static str> {
    let mut body = fuse_header(FUSE_INIT, IN_HEADER + INIT_IN, unique, 0);
    // Version 7.38, read-ahead, no flags.
    body.u32(7).u32(38).u32(1 << 20).u32(0);
    memory::fill(body.end(), u64::from(INIT_IN) - 16, 0);
    let asked = Some(IN_HEADER + INIT_IN);
    let room = OUT_HEADER + INIT_OUT;
    let length = request(device, queue, FS_REQUESTS, features, asked, room)?;
    check_reply(length, room, unique)?;
    if memory::load::<u32>(REPLY + u64::from(OUT_HEADER)) != 7 {
        return Err("FUSE_INIT was answered with another version");
    }
    Ok(())
}

/// Writes the header of a FUSE request to the start of the buffers.
pub(crate) fn fuse_header(opcode: u32, length: u32, unique: u64, node: u64) -> Fields {
    let mut fields = Fields::at(BUFFERS);
    fields.u32(length).u32(opcode).u64(unique).u64(node);
    // User, group, process, padding.
    fields.u32(0).u32(0).u32(1).u32(0);
    fields
}

fn check_reply(length: u32, expected: u32, unique: u64) -> Result<(), &'static str> {
    let claimed: u32 = memory::load(REPLY);
    let error: u32 = memory::load(REPLY + 4);
    let answers: u64 = memory::load(REPLY + 8);
    if error != 0 {
        return Err("a FUSE request failed");
    }
    if length != expected || claimed != expected {
        return Err("a FUSE reply has the wrong length");
    }
    if answers != unique {
        return Err("a FUSE reply belongs to another request");
    }
    Ok(())
}

fn refuses_connection(device: &Device, features: u64, port: u32) -> Result<(), &'static str> {
    let mut receive = device.start_with(VSOCK_RECEIVE, features, 16)?;
    let mut transmit = Queue::new(crate::ring::Rings::proper(VSOCK_TRANSMIT, 16));
    memory::fill(REPLY, 4096, 0);
    let guest = guest_cid(device);
    // Connections of the host may be told of first.
    for slot in 0..receive.size() {
        let buffer = Descriptor {
            address: REPLY + u64::from(slot) * 256,
            length: 256,
            flags: WRITE,
            next: 0,
        };
        receive.set(slot, buffer);
        receive.place(slot);
    }
    receive.publish();
    device.kick(VSOCK_RECEIVE);
    vsock_header(guest, HOST_CID, port, SILENT_PORT, VSOCK_REQUEST);
    let packet = Some(VSOCK_HEADER);
    request(device, &mut transmit, VSOCK_TRANSMIT, features, packet, 0)?;

    let mut seen = 0;
    let mut refused = false;
    device.wait(|| {
        while seen != receive.used() && !refused {
            let (head, length) = receive.used_element(seen);
            let packet = REPLY + u64::from(head % 16) * 256;
            refused = length == VSOCK_HEADER
                && memory::load::<u64>(packet) == HOST_CID
                && memory::load::<u64>(packet + 8) == guest
                && memory::load::<u32>(packet + 16) == SILENT_PORT
                && memory::load::<u32>(packet + 20) == port
                && memory::load::<u16>(packet + 30) == VSOCK_RESET;
            seen = seen.wrapping_add(1);
        }
        refused || seen == receive.size()
    });
    if refused {
        Ok(())
    } else {
        Err("a connection to a port without a listener was not refused")
    }
}

/// The guest's address, from the configuration space of a vsock device.
pub(crate) fn guest_cid(device: &Device) -> u64 {
    let high = device.registers.read(CONFIG + 4);
    u64::from(high) << 32 | u64::from(device.registers.read(CONFIG))
}

/// Writes the header of a vsock packet without payload to the start of the buffers.
pub(crate) fn vsock_header(
    from: u64,
    to: u64,
    from_port: u32,
    to_port: u32,
    operation: u16,
) -> Fields {
    let mut fields = Fields::at(BUFFERS);
    fields.u64(from).u64(to).u32(from_port).u32(to_port).u32(0);
    fields.u16(VSOCK_STREAM).u16(operation);
    // Flags, buffer space, bytes taken.
    fields.u32(0).u32(1 << 16).u32(0);
    fields
}

/// Has one chain carried out: `asked` bytes at the start of the buffers, `room` bytes for the reply. Returns how many
/// bytes the device says that it wrote.
fn request(
    device: &Device,
    queue: &mut Queue,
    index: u32,
    features: u64,
    asked: Option<u32>,
    room: u32,
) -> Result<u32, &'static str> {
    let before = queue.used();
    let buffers = [
        asked.map(|length| (BUFFERS, length, 0)),
        (room > 0).then_some((REPLY, room, WRITE)),
    ];
    let indirect = features & INDIRECT_DESC != 0;
    let table = if indirect {
        TABLES
    } else {
        queue.rings.descriptors
    };
    let count = buffers.iter().flatten().count() as u16;
    for (place, (address, length, flags)) in (0..).zip(buffers.into_iter().flatten()) {
        let last = place + 1 == count;
        let descriptor = Descriptor {
            address,
            length,
            flags: if last { flags } else { flags | NEXT },
            next: if last { 0 } else { place + 1 },
        };
        descriptor.store(table, u64::from(place));
    }
    if indirect {
        let all = Descriptor {
            address: TABLES,
            length: u32::from(count) * 16,
            flags: INDIRECT,
            next: 0,
        };
        queue.set(0, all);
    }
    device.registers.write(INTERRUPT_ACK, USED_BUFFER);
    queue.offer(0);
    device.kick(index);
    if !device.wait(|| queue.used() != before) {
        return Err("a request did not come back");
    }
    let (head, length) = queue.used_element(before);
    if head != 0 {
        return Err("another chain came back than was offered");
    }
    let told = || device.registers.read(INTERRUPT_STATUS) & USED_BUFFER != 0;
    if features & EVENT_IDX == 0 && !device.wait(told) {
        return Err("no interrupt told of a request that came back");
    }
    Ok(length)
}
