//! All requests on a thread that is confined to the system calls of the device's workers.

use std::fs;

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FATTR_FH, FallocateIn, FlushIn, FsyncIn, GetxattrIn, LinkIn, LseekIn, MkdirIn,
    MknodIn, Opcode, Rename2In, RenameIn, SetattrIn, SetattrValid, SetxattrIn, WRITE_KILL_PRIV,
    WriteIn,
};
use vm_memory::ByteValued;

use super::driver::{Driver, REQUESTS, ROOT};
use crate::fs::{CachePolicy, FolderOptions, Quota, SharedFolder};
use crate::jail;

/// A call outside of the list ends the process, and with it the run of the tests.
#[test]
fn every_request_makes_do_with_the_listed_system_calls() {
    let folder = tempfile::tempdir().unwrap();
    for name in 0..40 {
        fs::write(folder.path().join(name.to_string()), b"contents").unwrap();
    }
    let open = |path: &std::path::Path, read_only, cache| {
        let options = FolderOptions {
            read_only,
            cache,
            ..FolderOptions::DEFAULT
        };
        let folder = SharedFolder::open(path, options).unwrap();
        Driver::initialised(folder.with_descriptor_limit(12))
    };
    let mut writable = open(folder.path(), false, CachePolicy::AUTO);
    let mut layer = open(folder.path(), true, CachePolicy::ALWAYS);
    let mut host = open("/".as_ref(), true, CachePolicy::AUTO);
    let beside = tempfile::tempdir().unwrap();
    let mut limited = {
        let quota = Quota {
            limit: 4 << 20,
            ledger: Some(beside.path().join("usage")),
        };
        let inside = beside.path().join("limited");
        fs::create_dir(&inside).unwrap();
        let shared = SharedFolder::open(&inside, FolderOptions::DEFAULT).unwrap();
        Driver::initialised(shared.with_quota(&quota).unwrap())
    };
    let confined = std::thread::spawn(move || {
        jail::confine(SharedFolder::SYSTEM_CALLS).unwrap();
        read_all(&mut writable);
        read_all(&mut layer);
        change_names(&mut writable);
        change_contents(&mut writable);
        change_attributes(&mut writable);
        change_names(&mut limited);
        change_contents(&mut limited);
        fill(&mut limited);
        change_attributes(&mut limited);
        host.lookup(ROOT, "proc").unwrap();
        writable.device.workers[REQUESTS].executor.reset();
    });
    confined.join().unwrap();
}

/// Writes until nothing is left, and asks what that is.
fn fill(driver: &mut Driver) {
    let (entry, handle) = driver
        .create(ROOT, "full", libc::O_RDWR | libc::O_CREAT, 0o644)
        .unwrap();
    let mut fields = WriteIn {
        fh: handle,
        ..WriteIn::default()
    };
    let error = loop {
        match driver.write(entry.nodeid, fields, &[1; 1 << 20]) {
            Ok(length) => fields.offset += length as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, libc::ENOSPC);
    driver.call(Opcode::Statfs, ROOT, &[], 256).unwrap();
    driver.ask(Opcode::Unlink, ROOT, &[], &["full"]).unwrap();
    driver.release(entry.nodeid, handle).unwrap();
    driver.forget(entry.nodeid, 1);
}

fn read_all(driver: &mut Driver) {
    // Twice, and more files than descriptors: they are parked and recalled.
    let nodes: Vec<u64> = (0..40).map(|name| driver.walk(&name.to_string())).collect();
    for node in nodes {
        driver.getattr(node).unwrap();
        let handle = driver.open(node, libc::O_RDONLY).unwrap_or(0);
        assert_eq!(driver.read(node, handle, 0, 64).unwrap(), b"contents");
        let seek = LseekIn {
            fh: handle,
            whence: libc::SEEK_HOLE as u32,
            ..LseekIn::default()
        };
        driver
            .call(Opcode::Lseek, node, seek.as_slice(), 64)
            .unwrap();
        let flush = FlushIn {
            fh: handle,
            ..FlushIn::default()
        };
        let _ = driver.call(Opcode::Flush, node, flush.as_slice(), 64);
        let _ = driver.release(node, handle);
        let list = GetxattrIn {
            size: 4096,
            padding: 0,
        };
        driver
            .call(Opcode::Listxattr, node, list.as_slice(), 4096)
            .unwrap();
        let get = driver.ask(Opcode::Getxattr, node, list.as_slice(), &["user.none"]);
        assert_eq!(get.unwrap_err(), libc::ENODATA);
    }
    driver.call(Opcode::Statfs, ROOT, &[], 256).unwrap();
    assert_eq!(driver.names(ROOT, 300).len(), 42);
    let entries = driver.readdir(Opcode::Readdirplus, ROOT, 0, 4096);
    assert!(!entries.unwrap().is_empty());
}

fn change_names(driver: &mut Driver) {
    driver.caller = (12, 12);
    let mkdir = MkdirIn {
        mode: 0o700,
        umask: 0,
    };
    let make = |driver: &mut Driver, opcode, fields: &[u8], names: &[&str]| {
        driver.ask(opcode, ROOT, fields, names).unwrap();
    };
    make(driver, Opcode::Mkdir, mkdir.as_slice(), &["d"]);
    for (mode, name) in [(libc::S_IFIFO, "fifo"), (libc::S_IFREG, "regular")] {
        let fields = MknodIn {
            mode: mode | 0o600,
            ..MknodIn::default()
        };
        make(driver, Opcode::Mknod, fields.as_slice(), &[name]);
    }
    make(driver, Opcode::Symlink, &[], &["link", "target"]);
    let link = driver.walk("link");
    driver.call(Opcode::Readlink, link, &[], 4096).unwrap();
    let fields = LinkIn {
        oldnodeid: driver.walk("regular"),
    };
    make(driver, Opcode::Link, fields.as_slice(), &["hard"]);
    let fields = RenameIn { newdir: ROOT };
    make(driver, Opcode::Rename, fields.as_slice(), &["hard", "soft"]);
    let fields = Rename2In {
        newdir: ROOT,
        flags: libc::RENAME_EXCHANGE,
        padding: 0,
    };
    make(driver, Opcode::Rename2, fields.as_slice(), &["d", "soft"]);
    make(driver, Opcode::Unlink, &[], &["d"]);
    make(driver, Opcode::Rmdir, &[], &["soft"]);
    let fields = FsyncIn::default();
    driver
        .call(Opcode::Fsyncdir, ROOT, fields.as_slice(), 64)
        .unwrap();
}

fn change_contents(driver: &mut Driver) {
    driver.caller = (0, 0);
    let (entry, handle) = driver.create(ROOT, "new", libc::O_RDWR, 0o104_755).unwrap();
    let node = entry.nodeid;
    let append = WriteIn {
        fh: handle,
        flags: libc::O_APPEND as u32,
        fuse_flags: WRITE_KILL_PRIV,
        ..WriteIn::default()
    };
    driver.write(node, append, b"data").unwrap();
    let at_offset = WriteIn { flags: 0, ..append };
    driver.write(node, at_offset, b"data").unwrap();
    let allocate = FallocateIn {
        fh: handle,
        length: 4096,
        ..FallocateIn::default()
    };
    driver
        .call(Opcode::Fallocate, node, allocate.as_slice(), 64)
        .unwrap();
    for fsync_flags in [0, 1] {
        let fields = FsyncIn {
            fh: handle,
            fsync_flags,
            padding: 0,
        };
        driver
            .call(Opcode::Fsync, node, fields.as_slice(), 64)
            .unwrap();
    }
    let flush = FlushIn {
        fh: handle,
        ..FlushIn::default()
    };
    driver
        .call(Opcode::Flush, node, flush.as_slice(), 64)
        .unwrap();
    let size = SetattrIn {
        valid: (SetattrValid::SIZE | SetattrValid::KILL_SUIDGID).bits() | FATTR_FH,
        fh: handle,
        size: 1,
        ..SetattrIn::default()
    };
    driver
        .call(Opcode::Setattr, node, size.as_slice(), 256)
        .unwrap();
    driver.release(node, handle).unwrap();
    let existing = CreateIn {
        flags: (libc::O_RDWR | libc::O_TRUNC) as u32,
        ..CreateIn::default()
    };
    driver
        .ask(Opcode::Create, ROOT, existing.as_slice(), &["new"])
        .unwrap();
}

fn change_attributes(driver: &mut Driver) {
    let node = driver.walk("new");
    let valid = SetattrValid::MODE
        | SetattrValid::SIZE
        | SetattrValid::UID
        | SetattrValid::ATIME
        | SetattrValid::MTIME_NOW;
    let fields = SetattrIn {
        valid: valid.bits(),
        mode: 0o640,
        ..SetattrIn::default()
    };
    driver
        .call(Opcode::Setattr, node, fields.as_slice(), 256)
        .unwrap();
    let set = SetxattrIn { size: 1, flags: 0 };
    let body = [set.as_slice(), b"user.a\0b"].concat();
    driver.call(Opcode::Setxattr, node, &body, 64).unwrap();
    driver
        .ask(Opcode::Removexattr, node, &[], &["user.a"])
        .unwrap();
}
