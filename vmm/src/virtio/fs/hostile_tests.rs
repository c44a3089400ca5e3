//! Requests that no kernel sends.

use std::cell::RefCell;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::abi::fuse_abi::{
    BatchForgetIn, EntryOut, FsOptions, GetxattrIn, InHeader, IoctlIn, Opcode, OutHeader, ReadIn,
    WriteIn,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::driver::{Driver, HIGH_PRIORITY, REQUESTS, ROOT, decode, dirents};
use super::{Chain, Message, Session};
use crate::fs::{FolderOptions, SharedFolder};

const SHARED: FolderOptions = FolderOptions::DEFAULT;

const HEADER: usize = size_of::<OutHeader>();

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("f"), b"contents").unwrap();
    folder
}

#[test]
fn nothing_but_init_is_answered_before_init_or_after_destroy() {
    let folder = folder();
    let mut driver = Driver::silent(SharedFolder::open(folder.path(), SHARED).unwrap());
    assert_eq!(driver.getattr(ROOT).unwrap_err(), libc::EIO);
    driver.init(FsOptions::all());
    let node = driver.walk("f");
    assert_eq!(driver.call(Opcode::Destroy, 0, &[], 0).unwrap(), []);
    assert_eq!(driver.getattr(ROOT).unwrap_err(), libc::EIO);
    driver.init(FsOptions::all());
    driver.getattr(ROOT).unwrap();
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
    let node = driver.walk("f");
    driver.init(FsOptions::empty());
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
}

#[test]
fn every_request_may_end_anywhere() {
    let folder = folder();
    let mut driver = Driver::new(folder.path(), SHARED);
    for opcode in 0..64 {
        let whole = driver.request(opcode, ROOT, &[0; 120]);
        for length in 1..whole.len() {
            // With the length that it claims, and with the one that it has.
            for honest in [false, true] {
                let mut bytes = whole[..length].to_vec();
                if honest && length >= 4 {
                    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
                }
                for room in [0, HEADER, 4096] {
                    driver.send(REQUESTS, &bytes, room);
                }
            }
        }
        driver.init(FsOptions::all());
    }
    driver.getattr(ROOT).unwrap();
}

#[test]
fn a_request_is_what_it_was_when_it_was_admitted() {
    let folder = folder();
    let session = Session::new(SharedFolder::open(folder.path(), SHARED).unwrap());
    session.begun.store(true, Ordering::Relaxed);
    let memory = crate::memory::map(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let (request, reply) = (GuestAddress(1 << 16), GuestAddress(1 << 17));
    let lookup = InHeader {
        len: 42,
        opcode: Opcode::Lookup as u32,
        nodeid: ROOT,
        ..InHeader::default()
    };
    let bytes = [lookup.as_slice(), b"f\0"].concat();
    memory.write_slice(&bytes, request).unwrap();
    let writable = VRING_DESC_F_WRITE as u16;
    let descriptors = [
        Descriptor::new(request.0, 42, 0, 0),
        Descriptor::new(reply.0, 4096, writable, 0),
    ];
    let queue = MockSplitQueue::new(&memory, 16);
    let chain = queue
        .build_desc_chain(&descriptors.map(RawDescriptor::from))
        .unwrap();
    let chain = Chain::new(&memory, chain, queue.desc_table_addr(), 16);
    let untouched = chain.untouched();

    let message = Message::of(&memory, chain).unwrap();
    let unlink = InHeader {
        len: u32::MAX,
        opcode: Opcode::Unlink as u32,
        ..lookup
    };
    memory.write_obj(unlink, request).unwrap();
    let written = session.answer(&memory, &message, &untouched);

    assert_eq!(written, HEADER + size_of::<EntryOut>());
    assert!(folder.path().join("f").exists());
}

#[test]
fn a_length_that_lies_is_an_error() {
    let folder = folder();
    let mut driver = Driver::new(folder.path(), SHARED);
    for claimed in [0, 1, 39, 4096, 1 << 20, u32::MAX] {
        let mut request = driver.request(Opcode::Lookup as u32, ROOT, b"f\0");
        request[..4].copy_from_slice(&claimed.to_le_bytes());
        let reply = driver.send(REQUESTS, &request, 256);
        let header: OutHeader = decode(&reply);
        assert_eq!((header.len, header.error), (16, -libc::EIO), "{claimed}");
    }
    let endless = driver.call(Opcode::Lookup, ROOT, b"no end", 256);
    assert_eq!(endless.unwrap_err(), libc::EIO);
}

#[test]
fn sizes_are_bounded_by_what_there_is() {
    let folder = folder();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let handle = driver.open(node, libc::O_RDWR).unwrap();
    let read = ReadIn {
        fh: handle,
        size: u32::MAX,
        ..ReadIn::default()
    };
    let reply = driver.call(Opcode::Read, node, read.as_slice(), 4);
    assert_eq!(reply.unwrap(), b"cont", "as much as there is room for");
    let beyond = ReadIn {
        offset: u64::MAX,
        ..read
    };
    let reply = driver.call(Opcode::Read, node, beyond.as_slice(), 64);
    assert_eq!(reply.unwrap_err(), libc::EINVAL);
    let write = WriteIn {
        fh: handle,
        size: u32::MAX,
        ..WriteIn::default()
    };
    let body = [write.as_slice(), b"CON"].concat();
    driver.call(Opcode::Write, node, &body, 64).unwrap();
    assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"CONtents");

    for opcode in [Opcode::Readdir, Opcode::Readdirplus] {
        for (size, room) in [0, 7, 8, 23, 24, 200, u32::MAX]
            .into_iter()
            .flat_map(|size| [0, 7, 8, 300, 4096].map(|room| (size, room)))
        {
            let fields = ReadIn {
                fh: u64::MAX,
                size,
                ..ReadIn::default()
            };
            let reply = driver.call(opcode, ROOT, fields.as_slice(), room).unwrap();
            assert!(reply.len() <= room.min(size as usize), "{size} {room}");
        }
        let elsewhere = driver.readdir(opcode, ROOT, u64::MAX, 4096);
        assert_eq!(elsewhere.unwrap_err(), libc::EINVAL);
        let beyond = driver.readdir(opcode, ROOT, i64::MAX as u64, 4096);
        assert_eq!(dirents(&beyond.unwrap(), 0).len(), 0);
    }
    let fields = GetxattrIn {
        size: u32::MAX,
        padding: 0,
    };
    let list = driver.call(Opcode::Listxattr, node, fields.as_slice(), 4096);
    assert!(list.is_ok());
    let ioctl = IoctlIn {
        in_size: u32::MAX,
        out_size: u32::MAX,
        ..IoctlIn::default()
    };
    let reply = driver.call(Opcode::Ioctl, node, ioctl.as_slice(), 4096);
    assert_eq!(reply.unwrap_err(), libc::ENOTTY);
    let forget = BatchForgetIn {
        count: u32::MAX,
        dummy: 0,
    };
    let request = driver.request(Opcode::BatchForget as u32, 0, forget.as_slice());
    assert_eq!(driver.send(HIGH_PRIORITY, &request, 0), []);
    driver.getattr(node).unwrap();
}

#[test]
fn buffers_that_are_not_memory_or_overlap_are_survived() {
    let folder = folder();
    let mut driver = Driver::new(folder.path(), SHARED);
    let request = driver.request(Opcode::Getattr as u32, ROOT, &[0; 16]);
    let writable = VRING_DESC_F_WRITE as u16;
    let length = request.len() as u32;
    let good = Descriptor::new(1 << 20, length, 0, 0);
    let chains = [
        vec![Descriptor::new(1 << 40, length, 0, 0)],
        vec![good, Descriptor::new(1 << 40, 4096, writable, 0)],
        vec![good, Descriptor::new((8 << 20) - 8, 4096, writable, 0)],
        vec![good, Descriptor::new(u64::MAX - 4, 4096, writable, 0)],
        vec![good, Descriptor::new(4 << 20, 0, writable, 0)],
        vec![Descriptor::new(1 << 20, 0, 0, 0)],
        // The reply over the request.
        vec![good, Descriptor::new(1 << 20, 4096, writable, 0)],
        // More than a request may have: 4 MiB.
        vec![Descriptor::new(1 << 20, 1 << 22, 0, 0)],
    ];
    for chain in &chains {
        driver.send(REQUESTS, &request, 256);
        driver.send_descriptors(REQUESTS, chain);
    }
    driver.getattr(ROOT).unwrap();
}

#[test]
fn both_queues_are_served_at_once() {
    let folder = folder();
    for name in 0..50 {
        fs::write(folder.path().join(name.to_string()), b"").unwrap();
    }
    let shared = SharedFolder::open(folder.path(), SHARED).unwrap();
    let mut driver = Driver::initialised(shared.with_descriptor_limit(20));
    let mut other = driver.second_queue();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut node = 0;
            while !done.load(Ordering::Relaxed) {
                // Forgets what the guest was not told of yet, has open, or was told of just now.
                node = (node + 7) % 3000;
                other.forget(node, 1);
                let _ = other.lookup(ROOT, &(node % 50).to_string());
            }
        });
        for round in 0..3000 {
            let Ok(entry) = driver.lookup(ROOT, &(round % 50).to_string()) else {
                continue;
            };
            if let Ok(handle) = driver.open(entry.nodeid, libc::O_RDONLY) {
                let _ = driver.read(entry.nodeid, handle, 0, 16);
                driver.release(entry.nodeid, handle).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    driver.getattr(ROOT).unwrap();
}

/// Requests and the length of their fields before the names.
const FORMS: [(Opcode, usize); 30] = [
    (Opcode::Lookup, 0),
    (Opcode::Forget, 8),
    (Opcode::Getattr, 16),
    (Opcode::Setattr, 88),
    (Opcode::Readlink, 0),
    (Opcode::Symlink, 0),
    (Opcode::Mknod, 16),
    (Opcode::Mkdir, 8),
    (Opcode::Unlink, 0),
    (Opcode::Rmdir, 0),
    (Opcode::Rename, 8),
    (Opcode::Link, 8),
    (Opcode::Open, 8),
    (Opcode::Read, 40),
    (Opcode::Write, 40),
    (Opcode::Release, 24),
    (Opcode::Setxattr, 8),
    (Opcode::Getxattr, 8),
    (Opcode::Listxattr, 8),
    (Opcode::Removexattr, 0),
    (Opcode::Flush, 24),
    (Opcode::Opendir, 8),
    (Opcode::Readdir, 40),
    (Opcode::Readdirplus, 40),
    (Opcode::Releasedir, 24),
    (Opcode::Create, 16),
    (Opcode::BatchForget, 8),
    (Opcode::Fallocate, 32),
    (Opcode::Rename2, 16),
    (Opcode::Lseek, 24),
];

/// A request that is right in part: such get further than random bytes.
fn request() -> impl Strategy<Value = (u32, u64, Vec<u8>, Option<u32>, usize)> {
    let form = prop_oneof![
        9 => prop::sample::select(&FORMS[..]).prop_map(|(opcode, length)| (opcode as u32, length)),
        1 => (any::<u32>(), 0..100_usize),
        1 => (0_u32..54, 0..100_usize),
    ];
    let node = prop_oneof![8 => Just(ROOT), 6 => 0_u64..8, 1 => any::<u64>()];
    let name = prop_oneof![
        "f\0",
        "d\0",
        "\\.\\.\0",
        "[a-f]\0[a-f]\0",
        "user.[a-c]\0",
        "/etc\0"
    ];
    let field = prop_oneof![8 => 0_u32..3, 1 => Just(0o100_755), 1 => any::<u32>()];
    let body = (form, prop::collection::vec(field, 25), name);
    let body = body.prop_map(|((opcode, length), fields, name)| {
        let mut body: Vec<u8> = fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect();
        body.truncate(length);
        body.extend_from_slice(name.as_bytes());
        (opcode, body)
    });
    let length = prop::option::weighted(0.05, any::<u32>());
    let room = prop_oneof![1 => Just(0), 1 => Just(HEADER), 6 => 200..5000_usize];
    (body, node, length, room)
        .prop_map(|((opcode, body), node, length, room)| (opcode, node, body, length, room))
}

#[test]
fn no_request_stops_the_device() {
    let folder = folder();
    let folder = SharedFolder::open(folder.path(), SHARED).unwrap();
    let driver = RefCell::new(Driver::initialised(folder.with_descriptor_limit(100)));
    let config = Config {
        cases: 4000,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&request(), |(opcode, node, body, length, room)| {
        let mut driver = driver.borrow_mut();
        let mut bytes = driver.request(opcode, node, &body);
        if let Some(length) = length {
            bytes[..4].copy_from_slice(&length.to_le_bytes());
        }
        let reply = driver.send(REQUESTS, &bytes, room);
        prop_assert!(reply.len() <= room);
        if reply.len() >= HEADER {
            let header: OutHeader = decode(&reply);
            prop_assert_eq!(header.len as usize, reply.len());
            prop_assert!(header.error <= 0 && header.error > -4096);
        }
        if opcode == Opcode::Init as u32 || opcode == Opcode::Destroy as u32 {
            driver.init(FsOptions::all());
        }
        Ok(())
    });
    outcome.unwrap();
    let mut driver = driver.into_inner();
    driver.init(FsOptions::all());
    driver.getattr(ROOT).unwrap();
}

#[test]
fn random_bytes_do_not_stop_the_device() {
    let folder = folder();
    let driver = RefCell::new(Driver::new(folder.path(), SHARED));
    let config = Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    let bytes = prop::collection::vec(any::<u8>(), 1..3 * size_of::<InHeader>());
    let outcome = TestRunner::new(config).run(&(bytes, 0..200_usize), |(bytes, room)| {
        driver.borrow_mut().send(REQUESTS, &bytes, room);
        Ok(())
    });
    outcome.unwrap();
}
