//! Arbitrary FUSE requests on a real folder.

use std::os::unix::fs::symlink;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{InHeader, InitIn, Opcode, OutHeader};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::choices::Choices;
use super::driver::{BUFFERS, Driver, Promises};
use super::witness::Executed;
use crate::fs::{CachePolicy, Exports, FolderOptions, Quota, SharedFolder};
use crate::virtio::{exports_device, fs_device};

const REQUEST: u64 = BUFFERS;
const REPLY: u64 = BUFFERS + 0x1_0000;
const REPLY_SPACE: u16 = 0x4000;
const QUEUE_SIZE: u16 = 16;
const HEADER: usize = size_of::<OutHeader>();

/// Plays a script of FUSE requests and arbitrary chains against the file system device, which shares `folder`: an empty
/// folder that can be changed at will.
pub fn fs(folder: &Path, script: &[u8]) {
    furnish(folder);
    let mut choices = Choices::new(script);
    let shape = choices.byte();
    let options = FolderOptions {
        read_only: shape & 1 != 0,
        ..FolderOptions::DEFAULT
    };
    let open = |options| {
        let folder = SharedFolder::open(folder, options).unwrap();
        let folder = folder.with_descriptor_limit(40);
        if shape & 0x20 != 0 {
            folder.of_ordinary_user()
        } else {
            folder
        }
    };
    let exports = (shape & 0x40 != 0).then(|| {
        let exports = Exports::new();
        let restricted = FolderOptions {
            no_exec: true,
            no_suid: true,
            no_dev: true,
            cache: CachePolicy::ALWAYS,
            ..options
        };
        let file = SharedFolder::open_single_file(&folder.join("f"), options).unwrap();
        let quota = Quota {
            limit: 64 << 10,
            ledger: None,
        };
        let limited = open(options).with_quota(&quota).unwrap();
        exports.attach("d", limited).unwrap();
        exports.attach("g", open(restricted)).unwrap();
        exports.attach("f", file).unwrap();
        exports
    });
    let mut device = match &exports {
        Some(exports) => exports_device("tag", exports.clone()).unwrap(),
        None => fs_device("tag", open(options)).unwrap(),
    };
    let worker = device.workers.remove(1);
    let promises = Promises {
        always_ready: true,
        exact: false,
    };
    let mut guest = Guest {
        driver: Driver::new(1, worker.executor, promises),
        unique: 0,
    };
    guest.driver.start(QUEUE_SIZE, shape & 2 != 0);
    if shape & 0x1c != 0 {
        guest.init();
    }
    while !choices.is_over() {
        let step = choices.byte();
        if let Some(exports) = exports.as_ref().filter(|_| choices.rarely(32)) {
            let _ = exports.detach("g");
            exports.attach("g", open(options)).unwrap();
        }
        match step & 15 {
            0..12 => guest.request(step, &mut choices),
            12 => guest.driver.offer_any(0, &mut choices),
            13 => guest.init(),
            14 => guest.driver.scribble(0, &mut choices),
            _ => guest.driver.start(QUEUE_SIZE, step & 16 != 0),
        }
        guest.driver.settle();
        if guest.driver.needs_reset() {
            guest.driver.start(QUEUE_SIZE, step & 16 != 0);
        }
    }
    // Whatever happened, the folder is there after a reset.
    guest.driver.start(QUEUE_SIZE, false);
    guest.init();
    let reply = guest.send(Opcode::Getattr as u32, 1, &[0; 16], 256, None);
    let reply = reply.expect("the root has attributes");
    assert_eq!(reply.header.error, 0, "the root has attributes");
}

/// A file, a directory with one in it, and a symbolic link that leads out.
fn furnish(folder: &Path) {
    std::fs::create_dir(folder.join("d")).unwrap();
    std::fs::write(folder.join("d/g"), b"deeper").unwrap();
    std::fs::write(folder.join("f"), b"contents").unwrap();
    symlink("../../../../etc", folder.join("s")).unwrap();
}

/// The guest's kernel, or what pretends to be it.
struct Guest {
    driver: Driver,
    unique: u64,
}

/// A reply that was checked.
struct Reply {
    header: OutHeader,
}

impl Guest {
    /// Begins a session as Linux does.
    fn init(&mut self) {
        let fields = InitIn {
            major: 7,
            minor: 40,
            max_readahead: 1 << 17,
            flags: u32::MAX,
        };
        let mut body = fields.as_slice().to_vec();
        body.resize(64, 0);
        self.send(Opcode::Init as u32, 0, &body, 256, None);
    }

    /// A request that is right in part: such get further than random bytes.
    fn request(&mut self, step: u8, choices: &mut Choices<'_>) {
        let opcode = match step >> 4 {
            0..14 => u32::from(choices.byte() % 56),
            14 => Opcode::Write as u32,
            _ => choices.word(),
        };
        let node = match choices.byte() {
            node @ 0..32 => u64::from(node % 12),
            32 => choices.long(),
            node @ 33..128 => u64::from(node / 4 % 5) << 48 | u64::from(node % 4 + 1),
            node => u64::from(node % 4) + 1,
        };
        let mut body = Vec::new();
        let fields = choices.below(24);
        for _ in 0..fields {
            let field = match choices.byte() {
                255 => choices.word(),
                254 => 0o100_755,
                small => u32::from(small % 8),
            };
            body.extend(field.to_le_bytes());
        }
        for _ in 0..choices.below(3) {
            let known: &[u8] = choices.one_of(&[
                &b"f\0"[..],
                b"d\0",
                b"g\0",
                b"s\0",
                b"..\0",
                b".\0",
                b"a\0",
                b"b\0",
                b"user.a\0",
                b"x/y\0",
                b"\0",
                b"endless",
            ]);
            body.extend(known);
        }
        let raw = choices.below(40);
        body.extend(choices.bytes(raw));
        let room = match choices.byte() {
            0 => 0,
            1 => HEADER,
            2 => usize::from(choices.short() % REPLY_SPACE),
            _ => 4096,
        };
        let claimed = choices.rarely(16).then(|| choices.word());
        self.send(opcode, node, &body, room, claimed);
    }

    /// Sends a request and checks the reply, if there is one.
    fn send(
        &mut self,
        opcode: u32,
        node: u64,
        body: &[u8],
        room: usize,
        claimed: Option<u32>,
    ) -> Option<Reply> {
        // What is in the queue already comes first.
        self.driver.settle();
        self.unique += 2;
        let length = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader {
            len: claimed.unwrap_or(length),
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: 0,
            gid: 0,
            pid: 1,
            padding: 0,
        };
        let request = [header.as_slice(), body].concat();
        let memory = &self.driver.memory;
        memory.write_slice(&request, GuestAddress(REQUEST)).unwrap();
        let mut pieces = vec![(REQUEST, length, false)];
        if room > 0 {
            pieces.push((REPLY, room as u32, true));
        }
        if !self.driver.offer(0, &pieces) {
            return None;
        }
        let executed = self.driver.settle();
        let [executed] = executed.as_slice() else {
            return None;
        };
        check_reply(executed, opcode, self.unique)
    }
}

/// A reply has its length and the number of its request in it, and an error is a header with an error number.
fn check_reply(executed: &Executed, opcode: u32, unique: u64) -> Option<Reply> {
    let length = executed.length.expect("no request stops the device") as usize;
    if length == 0 {
        return None;
    }
    let unanswered = [Opcode::Forget as u32, Opcode::BatchForget as u32];
    assert!(!unanswered.contains(&opcode), "{opcode} has no reply");
    assert!(length >= HEADER, "half a header answers {opcode}");
    let mut header = OutHeader::default();
    header
        .as_mut_slice()
        .copy_from_slice(&executed.contents[..HEADER]);
    assert_eq!(header.len as usize, length, "the reply to {opcode}");
    assert_eq!(header.unique, unique, "the reply to {opcode}");
    assert!(
        (-4095..=0).contains(&header.error),
        "{} answers {opcode}",
        header.error
    );
    assert!(header.error == 0 || length == HEADER, "an error with data");
    Some(Reply { header })
}
