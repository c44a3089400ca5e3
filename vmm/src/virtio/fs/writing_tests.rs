//! Writing: contents, attributes, names.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{
    AttrOut, EntryOut, FallocateIn, FlushIn, FsyncIn, GetxattrIn, GetxattrOut, LinkIn, LseekIn,
    LseekOut, MkdirIn, MknodIn, Opcode, Rename2In, RenameIn, SetattrIn, SetattrValid, SetxattrIn,
    WRITE_CACHE, WRITE_KILL_PRIV, WriteIn,
};
use vm_memory::ByteValued;

use super::driver::{Driver, ROOT, decode};
use crate::fs::{FolderOptions, SharedFolder};

const SHARED: FolderOptions = FolderOptions::DEFAULT;

fn mode_of(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn at(handle: u64, offset: u64) -> WriteIn {
    WriteIn {
        fh: handle,
        offset,
        ..WriteIn::default()
    }
}

fn setattr(driver: &mut Driver, node: u64, fields: SetattrIn) -> Result<AttrOut, i32> {
    let reply = driver.call(Opcode::Setattr, node, fields.as_slice(), 256)?;
    Ok(decode(&reply))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_new_file_has_exactly_the_mode_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let (entry, handle) = driver
        .create(ROOT, "f", libc::O_RDWR | libc::O_CREAT, 0o100_666)
        .unwrap();
    assert_eq!(mode_of(folder.path().join("f")), 0o666);
    assert_eq!(
        driver.write(entry.nodeid, at(handle, 0), b"hello").unwrap(),
        5
    );
    assert_eq!(driver.write(entry.nodeid, at(handle, 3), b"p!").unwrap(), 2);
    assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"help!");
    assert_eq!(driver.read(entry.nodeid, handle, 0, 9).unwrap(), b"help!");
    assert_eq!(
        (driver.traffic().written(), driver.traffic().read()),
        (7, 5)
    );
    driver.release(entry.nodeid, handle).unwrap();

    // A file that cannot be opened for writing again is still writable for its maker.
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let (entry, handle) = driver.create(ROOT, "object", flags, 0o100_444).unwrap();
    assert_eq!(driver.write(entry.nodeid, at(handle, 0), b"x").unwrap(), 1);
    assert_eq!(mode_of(folder.path().join("object")), 0o444);
    let exists = driver.create(ROOT, "object", flags, 0o100_444);
    assert_eq!(exists.unwrap_err(), libc::EEXIST);
    let (again, _) = driver
        .create(ROOT, "f", libc::O_WRONLY | libc::O_TRUNC, 0o100_600)
        .unwrap();
    assert_eq!(again.attr.size, 0);
    assert_eq!(mode_of(folder.path().join("f")), 0o666, "it existed before");
}

#[test]
fn a_mebibyte_is_written_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..1_u32 << 20).map(|i| (i % 241) as u8).collect();
    let mut driver = Driver::new(folder.path(), SHARED);
    let (entry, handle) = driver.create(ROOT, "f", libc::O_WRONLY, 0o600).unwrap();
    let written = driver.write(entry.nodeid, at(handle, 7), &data).unwrap();
    assert_eq!(written, 1 << 20);
    assert!(fs::read(folder.path().join("f")).unwrap()[7..] == data);
}

#[test]
fn each_write_says_for_itself_whether_it_appends() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"0123").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let flags = libc::O_WRONLY | libc::O_APPEND;
    let handle = driver.open(node, flags).unwrap();
    let append = WriteIn {
        flags: flags as u32,
        ..at(handle, 0)
    };
    driver.write(node, append, b"45").unwrap();
    let mapped_page = WriteIn {
        fuse_flags: WRITE_CACHE,
        ..append
    };
    driver.write(node, mapped_page, b"x").unwrap();
    let flag_cleared = WriteIn {
        flags: libc::O_WRONLY as u32,
        ..at(handle, 1)
    };
    driver.write(node, flag_cleared, b"y").unwrap();
    assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"xy2345");
}

#[test]
fn a_file_that_was_opened_for_reading_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"0123").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let handle = driver.open(node, libc::O_RDONLY).unwrap();
    let error = driver.write(node, at(handle, 0), b"x").unwrap_err();
    assert_eq!(error, libc::EBADF);
}

#[test]
fn files_are_truncated_by_open_and_by_setattr() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    let mut driver = Driver::new(folder.path(), SHARED);
    fs::write(&path, b"0123456789").unwrap();
    let node = driver.walk("f");
    let shrink = SetattrIn {
        valid: SetattrValid::SIZE.bits(),
        size: 4,
        ..SetattrIn::default()
    };
    assert_eq!(setattr(&mut driver, node, shrink).unwrap().attr.size, 4);
    let handle = driver.open(node, libc::O_RDWR).unwrap();
    let grow = SetattrIn {
        valid: (SetattrValid::SIZE).bits() | fuse_backend_rs::abi::fuse_abi::FATTR_FH,
        fh: handle,
        size: 1 << 40,
        ..SetattrIn::default()
    };
    // Sparse: no space is taken.
    assert_eq!(setattr(&mut driver, node, grow).unwrap().attr.size, 1 << 40);
    let absurd = SetattrIn {
        valid: SetattrValid::SIZE.bits(),
        size: u64::MAX,
        ..SetattrIn::default()
    };
    assert_eq!(setattr(&mut driver, node, absurd).unwrap_err(), libc::EFBIG);
    driver.open(node, libc::O_RDWR | libc::O_TRUNC).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn mode_and_times_are_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, b"").unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.path().join("link")).unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let valid = SetattrValid::MODE | SetattrValid::ATIME | SetattrValid::MTIME;
    let fields = SetattrIn {
        valid: valid.bits(),
        mode: 0o104_755,
        atime: 12,
        atimensec: 345,
        mtime: 67,
        mtimensec: 89,
        ..SetattrIn::default()
    };
    let node = driver.walk("f");
    let attr = setattr(&mut driver, node, fields).unwrap().attr;
    assert_eq!((attr.atime, attr.atimensec), (12, 345));
    assert_eq!((attr.mtime, attr.mtimensec), (67, 89));
    assert_eq!(mode_of(&path), 0o4755);

    let now = SetattrIn {
        valid: (SetattrValid::MTIME | SetattrValid::MTIME_NOW).bits(),
        ..SetattrIn::default()
    };
    let attr = setattr(&mut driver, node, now).unwrap().attr;
    assert!(attr.mtime > 1_600_000_000);
    assert_eq!(attr.atime, 12, "left alone");

    let absurd = SetattrIn {
        mtimensec: libc::UTIME_NOW as u32,
        valid: SetattrValid::MTIME.bits(),
        ..SetattrIn::default()
    };
    assert_eq!(
        setattr(&mut driver, node, absurd).unwrap_err(),
        libc::EINVAL
    );

    let link = driver.walk("link");
    let times = SetattrIn {
        valid: SetattrValid::MTIME.bits(),
        mtime: 5,
        ..SetattrIn::default()
    };
    assert_eq!(setattr(&mut driver, link, times).unwrap().attr.mtime, 5);
}

#[test]
fn privileges_go_with_a_write_or_truncation_by_someone_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, b"0123").unwrap();
    let privileged = || fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let handle = driver.open(node, libc::O_RDWR).unwrap();

    privileged();
    let write = WriteIn {
        fuse_flags: WRITE_KILL_PRIV,
        ..at(handle, 0)
    };
    driver.write(node, write, b"x").unwrap();
    assert_eq!(mode_of(&path), 0o755);

    privileged();
    let truncate = SetattrIn {
        valid: (SetattrValid::SIZE | SetattrValid::KILL_SUIDGID).bits(),
        size: 1,
        ..SetattrIn::default()
    };
    setattr(&mut driver, node, truncate).unwrap();
    assert_eq!(mode_of(&path), 0o755);
}

#[test]
fn directories_and_files_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let fields = MkdirIn {
        mode: 0o40_777,
        umask: 0o22,
    };
    let reply = driver.ask(Opcode::Mkdir, ROOT, fields.as_slice(), &["d"]);
    let directory = decode::<EntryOut>(&reply.unwrap()).nodeid;
    assert_eq!(mode_of(folder.path().join("d")), 0o777);
    let (file, handle) = driver.create(directory, "f", libc::O_RDWR, 0o644).unwrap();
    driver.write(file.nodeid, at(handle, 0), b"kept").unwrap();

    let busy = driver.ask(Opcode::Rmdir, ROOT, &[], &["d"]);
    assert_eq!(busy.unwrap_err(), libc::ENOTEMPTY);
    let wrong = driver.ask(Opcode::Rmdir, directory, &[], &["f"]);
    assert_eq!(wrong.unwrap_err(), libc::ENOTDIR);
    let wrong = driver.ask(Opcode::Unlink, ROOT, &[], &["d"]);
    assert_eq!(wrong.unwrap_err(), libc::EISDIR);
    driver.ask(Opcode::Unlink, directory, &[], &["f"]).unwrap();
    assert_eq!(driver.read(file.nodeid, handle, 0, 9).unwrap(), b"kept");
    assert_eq!(driver.getattr(file.nodeid).unwrap().attr.nlink, 0);
    driver.ask(Opcode::Rmdir, ROOT, &[], &["d"]).unwrap();
    assert!(!folder.path().join("d").exists());
}

#[test]
fn entries_are_renamed_replaced_and_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("a");
    let plain = RenameIn { newdir: ROOT };
    driver
        .ask(Opcode::Rename, ROOT, plain.as_slice(), &["a", "b"])
        .unwrap();
    assert_eq!(read("b"), "a");
    assert_eq!(driver.lookup(ROOT, "b").unwrap().nodeid, node);

    let mut rename2 = |flags, names: [&str; 2]| {
        let fields = Rename2In {
            newdir: ROOT,
            flags,
            padding: 0,
        };
        driver.ask(Opcode::Rename2, ROOT, fields.as_slice(), &names)
    };
    let error = rename2(libc::RENAME_NOREPLACE, ["b", "c"]).unwrap_err();
    assert_eq!(error, libc::EEXIST);
    rename2(libc::RENAME_EXCHANGE, ["b", "c"]).unwrap();
    assert_eq!((read("b"), read("c")), ("c".into(), "a".into()));
    let error = rename2(libc::RENAME_WHITEOUT, ["b", "d"]).unwrap_err();
    assert_eq!(error, libc::EINVAL);
}

#[test]
fn links_fifos_and_sockets_are_made_and_devices_are_not() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let link = LinkIn { oldnodeid: node };
    let reply = driver.ask(Opcode::Link, ROOT, link.as_slice(), &["hard"]);
    let entry: EntryOut = decode(&reply.unwrap());
    assert_eq!((entry.nodeid, entry.attr.nlink), (node, 2));
    driver.forget(node, 1);
    driver.getattr(node).unwrap();

    driver
        .ask(Opcode::Symlink, ROOT, &[], &["soft", "/etc/passwd"])
        .unwrap();
    let target = fs::read_link(folder.path().join("soft")).unwrap();
    assert_eq!(target, Path::new("/etc/passwd"));
    let soft = LinkIn {
        oldnodeid: driver.walk("soft"),
    };
    driver
        .ask(Opcode::Link, ROOT, soft.as_slice(), &["soft too"])
        .unwrap();
    assert!(folder.path().join("soft too").is_symlink());

    let mut mknod = |mode, name: &str| {
        let fields = MknodIn {
            mode,
            rdev: 0x103,
            ..MknodIn::default()
        };
        let reply = driver.ask(Opcode::Mknod, ROOT, fields.as_slice(), &[name]);
        reply.map(|reply| decode::<EntryOut>(&reply).nodeid)
    };
    let fifo = mknod(libc::S_IFIFO | 0o666, "fifo").unwrap();
    mknod(libc::S_IFSOCK | 0o666, "socket").unwrap();
    mknod(libc::S_IFREG | 0o640, "regular").unwrap();
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        assert_eq!(mknod(kind | 0o666, "device").unwrap_err(), libc::EPERM);
    }
    let kind = |name: &str| fs::metadata(folder.path().join(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo());
    assert!(kind("socket").file_type().is_socket());
    assert_eq!(kind("fifo").mode() & 0o777, 0o666);
    assert_eq!(kind("regular").mode() & 0o777, 0o640);
    // Opening it on the host would wait for a writer.
    assert!(driver.open(fifo, libc::O_RDONLY).is_err());
}

#[test]
fn extended_attributes_of_the_user_are_kept_and_others_hidden() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let set = SetxattrIn { size: 5, flags: 0 };
    let body = [set.as_slice(), b"user.colour\0green"].concat();
    driver.call(Opcode::Setxattr, node, &body, 64).unwrap();

    let sized = |size| GetxattrIn { size, padding: 0 };
    let mut get = |name: &str, size| {
        let fields = sized(size);
        driver.ask(Opcode::Getxattr, node, fields.as_slice(), &[name])
    };
    assert_eq!(get("user.colour", 64).unwrap(), b"green");
    let length: GetxattrOut = decode(&get("user.colour", 0).unwrap());
    assert_eq!(length.size, 5);
    assert_eq!(get("user.colour", 4).unwrap_err(), libc::ERANGE);
    assert_eq!(get("user.other", 64).unwrap_err(), libc::ENODATA);
    let hidden = get("system.posix_acl_access", 64).unwrap_err();
    assert_eq!(hidden, libc::EOPNOTSUPP);

    let list = driver.call(Opcode::Listxattr, node, sized(64).as_slice(), 64);
    assert_eq!(list.unwrap(), b"user.colour\0");
    driver
        .ask(Opcode::Removexattr, node, &[], &["user.colour"])
        .unwrap();
    let list = driver.call(Opcode::Listxattr, node, sized(0).as_slice(), 64);
    assert_eq!(decode::<GetxattrOut>(&list.unwrap()).size, 0);
}

#[test]
fn space_is_reserved_released_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let (entry, handle) = driver.create(ROOT, "f", libc::O_RDWR, 0o600).unwrap();
    let node = entry.nodeid;
    let mut allocate = |mode: i32, offset, length| {
        let fields = FallocateIn {
            fh: handle,
            offset,
            length,
            mode: mode as u32,
            padding: 0,
        };
        driver.call(Opcode::Fallocate, node, fields.as_slice(), 64)
    };
    allocate(0, 0, 1 << 20).unwrap();
    allocate(
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        0,
        1 << 19,
    )
    .unwrap();
    assert_eq!(allocate(0, 0, u64::MAX).unwrap_err(), libc::EFBIG);
    let collapse = allocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse.unwrap_err(), libc::EOPNOTSUPP);
    driver.write(node, at(handle, 1 << 21), b"data").unwrap();

    let mut seek = |whence: i32, offset| {
        let fields = LseekIn {
            fh: handle,
            offset,
            whence: whence as u32,
            padding: 0,
        };
        let reply = driver.call(Opcode::Lseek, node, fields.as_slice(), 64)?;
        Ok::<u64, i32>(decode::<LseekOut>(&reply).offset)
    };
    assert_eq!(seek(libc::SEEK_HOLE, 0).unwrap(), 0);
    assert_eq!(seek(libc::SEEK_DATA, 1 << 20).unwrap(), 1 << 21);
    assert_eq!(seek(libc::SEEK_DATA, 1 << 30).unwrap_err(), libc::ENXIO);
    assert_eq!(seek(libc::SEEK_SET, 0).unwrap_err(), libc::EINVAL);
}

#[test]
fn files_and_directories_are_flushed_and_synchronised() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let (entry, handle) = driver.create(ROOT, "f", libc::O_RDWR, 0o600).unwrap();
    let flush = FlushIn {
        fh: handle,
        ..FlushIn::default()
    };
    let node = entry.nodeid;
    driver
        .call(Opcode::Flush, node, flush.as_slice(), 64)
        .unwrap();
    driver.write(node, at(handle, 0), b"still open").unwrap();
    let fsync = |handle, fsync_flags| FsyncIn {
        fh: handle,
        fsync_flags,
        padding: 0,
    };
    for flags in [0, 1] {
        let fields = fsync(handle, flags);
        driver
            .call(Opcode::Fsync, node, fields.as_slice(), 64)
            .unwrap();
    }
    for flags in [0, 1] {
        let fields = fsync(0, flags);
        driver
            .call(Opcode::Fsyncdir, ROOT, fields.as_slice(), 64)
            .unwrap();
        let reply = driver.call(Opcode::Fsyncdir, node, fields.as_slice(), 64);
        assert_eq!(reply.unwrap_err(), libc::ENOTDIR);
    }
}

#[test]
fn an_ordinary_user_owns_as_root_what_the_guest_makes() {
    let folder = tempfile::tempdir().unwrap();
    let shared = SharedFolder::open(folder.path(), SHARED).unwrap();
    let mut driver = Driver::initialised(shared.of_ordinary_user());
    driver.caller = (1234, 1234);
    let (entry, _) = driver.create(ROOT, "f", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0));
    let metadata = fs::metadata(folder.path().join("f")).unwrap();
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());

    let mut chown = |user, group| {
        let fields = SetattrIn {
            valid: (SetattrValid::UID | SetattrValid::GID).bits(),
            uid: user,
            gid: group,
            ..SetattrIn::default()
        };
        setattr(&mut driver, entry.nodeid, fields).map(drop)
    };
    chown(0, 0).unwrap();
    assert_eq!(chown(1234, 1234).unwrap_err(), libc::EPERM);
}

#[test]
fn root_gives_new_files_to_the_caller() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(folder.path().join(name)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    let mut driver = Driver::new(folder.path(), SHARED);
    driver.caller = (1234, 1235);
    driver.create(ROOT, "f", libc::O_RDWR, 0o104_755).unwrap();
    assert_eq!(owner("f"), (1234, 1235, 0o4755));
    let mkdir = |mode| MkdirIn { mode, umask: 0 };
    let reply = driver.ask(Opcode::Mkdir, ROOT, mkdir(0o775).as_slice(), &["d"]);
    let directory = decode::<EntryOut>(&reply.unwrap()).nodeid;
    assert_eq!(owner("d"), (1234, 1235, 0o775));
    driver.ask(Opcode::Symlink, ROOT, &[], &["l", "f"]).unwrap();
    assert_eq!((owner("l").0, owner("l").1), (1234, 1235));

    // In a directory with the set-group-ID bit, everything gets its group and directories the bit.
    let shared = SetattrIn {
        valid: SetattrValid::MODE.bits(),
        mode: 0o2775,
        ..SetattrIn::default()
    };
    setattr(&mut driver, directory, shared).unwrap();
    driver.caller = (1236, 1237);
    driver.create(directory, "f", libc::O_RDWR, 0o664).unwrap();
    assert_eq!(owner("d/f"), (1236, 1235, 0o664));
    driver
        .ask(Opcode::Mkdir, directory, mkdir(0o755).as_slice(), &["d"])
        .unwrap();
    assert_eq!(owner("d/d"), (1236, 1235, 0o2755));
}

#[test]
fn names_are_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let odd: &CStr = c"\x01 \xff\xfe\n*";
    let name = std::os::unix::ffi::OsStrExt::from_bytes(odd.to_bytes());
    let name: &std::ffi::OsStr = name;
    let fields = MkdirIn::default();
    driver
        .ask(Opcode::Mkdir, ROOT, fields.as_slice(), &[name])
        .unwrap();
    driver.ask(Opcode::Lookup, ROOT, &[], &[name]).unwrap();
    assert!(folder.path().join(name).is_dir());
}
