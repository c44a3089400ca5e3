//! FUSE requests that no kernel sends, in chains that are right.

use super::Outcome;
use crate::device::Device;
use crate::memory::{self, BUFFERS, Fields, Ram};
use crate::proof::{fuse_header, init_file_system};
use crate::random::Random;
use crate::ring::{Descriptor, NEXT, Queue, WRITE};

const REQUESTS: u32 = 1;
const ROOT: u64 = 1;
const OUT_HEADER: u32 = 16;
/// The next place for a reply; requests are shorter.
const REPLY: u64 = BUFFERS + 0x1_0000;
const LONGEST: u64 = 4096;

/// Opcodes (Linux, include/uapi/linux/fuse.h) and the length of what precedes the names in their requests.
const FORMS: [(u32, u64); 41] = [
    (1, 0),   // LOOKUP
    (2, 8),   // FORGET
    (3, 16),  // GETATTR
    (4, 88),  // SETATTR
    (5, 0),   // READLINK
    (6, 0),   // SYMLINK
    (8, 16),  // MKNOD
    (9, 8),   // MKDIR
    (10, 0),  // UNLINK
    (11, 0),  // RMDIR
    (12, 8),  // RENAME
    (13, 8),  // LINK
    (14, 8),  // OPEN
    (15, 40), // READ
    (16, 40), // WRITE
    (17, 0),  // STATFS
    (18, 24), // RELEASE
    (20, 16), // FSYNC
    (21, 8),  // SETXATTR
    (22, 8),  // GETXATTR
    (23, 8),  // LISTXATTR
    (24, 0),  // REMOVEXATTR
    (25, 24), // FLUSH
    (26, 16), // INIT
    (27, 8),  // OPENDIR
    (28, 40), // READDIR
    (29, 24), // RELEASEDIR
    (30, 16), // FSYNCDIR
    (31, 48), // GETLK
    (32, 48), // SETLK
    (33, 48), // SETLKW
    (34, 8),  // ACCESS
    (35, 16), // CREATE
    (36, 8),  // INTERRUPT
    (38, 0),  // DESTROY
    (39, 32), // IOCTL
    (40, 24), // POLL
    (42, 8),  // BATCH_FORGET
    (43, 32), // FALLOCATE
    (44, 40), // READDIRPLUS
    (45, 16), // RENAME2
];

const NAMES: [&[u8]; 12] = [
    b"\0",
    b".\0",
    b"..\0",
    b"f\0",
    b"d\0",
    b"link\0",
    b"fifo\0",
    b"f\0g\0",
    b"../outside\0",
    b"/etc/passwd\0",
    b"user.a\0value",
    b"no end",
];

/// Requests that are right in part, in a session that has begun or not. Each must be answered, and by a reply as long as
/// it says.
pub(super) fn half_right(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let mut queue = device.start_with(REQUESTS, 0, 16)?;
    if !random.once_in(8) {
        init_file_system(device, &mut queue, 0, random.next())?;
    }
    for _ in 0..1 + random.below(8) {
        let (opcode, fields) = random.pick(&FORMS);
        let unique = random.next();
        let node = random.pick(&[ROOT, ROOT, ROOT, 0, 2, 3, 4, random.next()]);
        let mut body = fuse_header(opcode, 0, unique, node);
        for _ in 0..fields / 8 {
            body.u64(field(random));
        }
        body.bytes(random.pick(&NAMES));
        let length = (body.end() - BUFFERS) as u32;
        let claimed = match random.below(10) {
            0 => random.next_u32() >> random.below(32),
            _ => length,
        };
        Fields::at(BUFFERS).u32(claimed);
        let room = random.pick(&[0, OUT_HEADER, 104, 1000, 1 << 16]);
        let written = carry_out(device, &mut queue, length, room)?;
        if written > room {
            return Err("it claims to have written more than there was room for");
        }
        if written >= OUT_HEADER && memory::load::<u32>(REPLY) != written {
            return Err("a FUSE reply has another length than it says");
        }
        if written >= OUT_HEADER && memory::load::<u64>(REPLY + 8) != unique {
            return Err("a FUSE reply belongs to another request");
        }
    }
    Ok(false)
}

/// Random bytes.
pub(super) fn garbage(device: &Device, _ram: Ram, random: &Random) -> Outcome {
    let mut queue = device.start_with(REQUESTS, 0, 16)?;
    for _ in 0..1 + random.below(4) {
        let mut fields = Fields::at(BUFFERS);
        for _ in 0..LONGEST / 64 {
            fields.u64(random.next() & random.next());
        }
        let length = 1 + random.below(LONGEST / 8) as u32;
        if random.once_in(2) {
            Fields::at(BUFFERS).u32(length);
        }
        if carry_out(device, &mut queue, length, 256)? > 256 {
            return Err("it claims to have written more than there was room for");
        }
    }
    Ok(false)
}

/// A small number, a mode, a size or anything; most often something that gets further than the first check.
fn field(random: &Random) -> u64 {
    let odd = random.next();
    random.pick(&[
        0,
        0,
        1,
        2,
        3,
        0o100_644,
        0o010_644,
        4096,
        0o100_644 << 32,
        u64::from(u32::MAX),
        1 << 40,
        u64::MAX,
        odd,
    ])
}

/// Has the request at the start of the buffers carried out; returns the length of the reply.
fn carry_out(
    device: &Device,
    queue: &mut Queue,
    length: u32,
    room: u32,
) -> Result<u32, &'static str> {
    let before = queue.used();
    let asked = Descriptor {
        address: BUFFERS,
        length,
        flags: if room > 0 { NEXT } else { 0 },
        next: 1,
    };
    let reply = Descriptor {
        address: REPLY,
        length: room,
        flags: WRITE,
        next: 0,
    };
    queue.set(0, asked);
    queue.set(1, reply);
    queue.offer(0);
    device.kick(REQUESTS);
    if !device.wait(|| queue.used() != before || device.needs_reset()) {
        return Err("a FUSE request did not come back");
    }
    if device.needs_reset() {
        return Err("it asks for a reset because of a FUSE request");
    }
    Ok(queue.used_element(before).1)
}
