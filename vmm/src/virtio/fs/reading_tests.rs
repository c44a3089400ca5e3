//! Reading: names, attributes, contents.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use fuse_backend_rs::abi::fuse_abi::{FsOptions, Kstatfs, Opcode};

use super::driver::{Driver, HIGH_PRIORITY, REQUESTS, ROOT, decode};
use crate::fs::{CachePolicy, FolderOptions};

const LAYER: FolderOptions = FolderOptions {
    read_only: true,
    cache: CachePolicy::ALWAYS,
    ..FolderOptions::DEFAULT
};
const SHARED: FolderOptions = FolderOptions::DEFAULT;

#[test]
fn init_offers_one_mebibyte_requests_and_no_locks() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let reply = driver.init(FsOptions::all());
    assert_eq!((reply.major, reply.minor), (7, 33));
    assert_eq!(reply.max_pages, 256);
    assert_eq!(reply.max_write, 1 << 20);
    let enabled = FsOptions::from_bits_truncate(u64::from(reply.flags));
    assert!(enabled.contains(FsOptions::DO_READDIRPLUS));
    // The guest's kernel must be able to refuse to truncate a program that runs.
    assert!(!enabled.contains(FsOptions::ATOMIC_O_TRUNC));
    assert!(!enabled.intersects(FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS));
    assert!(!enabled.intersects(FsOptions::WRITEBACK_CACHE | FsOptions::POSIX_ACL));
}

#[test]
fn what_nobody_waits_for_leaves_the_processor_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let driver = Driver::new(folder.path(), SHARED);
    assert!(driver.device.workers[HIGH_PRIORITY].gathers);
    assert!(!driver.device.workers[REQUESTS].gathers);
}

#[test]
fn a_file_is_found_and_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("d/f"), b"contents").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let directory = driver.walk("d");
    let entry = driver.lookup(directory, "f").unwrap();
    let metadata = fs::metadata(folder.path().join("d/f")).unwrap();
    assert_eq!(entry.attr.ino, metadata.ino());
    assert_eq!(entry.attr.size, 8);
    assert_eq!(entry.attr.mode, metadata.mode());
    assert_eq!((entry.entry_valid, entry.attr_valid), (1, 1));
    let handle = driver.open(entry.nodeid, libc::O_RDONLY).unwrap();
    assert_eq!(
        driver.read(entry.nodeid, handle, 0, 4096).unwrap(),
        b"contents"
    );
    assert_eq!(driver.read(entry.nodeid, handle, 5, 2).unwrap(), b"nt");
    assert_eq!(driver.read(entry.nodeid, handle, 8, 10).unwrap(), b"");
    driver.release(entry.nodeid, handle).unwrap();
    let error = driver.read(entry.nodeid, handle, 0, 1).unwrap_err();
    assert_eq!(error, libc::EBADF);
}

#[test]
fn a_mebibyte_is_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..1_u32 << 20).map(|i| (i % 251) as u8).collect();
    fs::write(folder.path().join("f"), &data).unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let handle = driver.open(node, libc::O_RDONLY).unwrap();
    assert!(driver.read(node, handle, 0, 1 << 20).unwrap() == data);
}

#[test]
fn the_guest_does_not_tell_that_it_closes_files_in_the_hosts_memory() {
    const NO_FLUSH: u32 = 1 << 5;
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::write(folder.path().join("f"), b"").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        let opened = driver.open_whole(node, flags).unwrap();
        assert_eq!(opened.open_flags & NO_FLUSH, NO_FLUSH, "{flags:#o}");
    }
    let (_, created) = driver
        .create_whole(ROOT, "new", libc::O_RDWR, 0o644)
        .unwrap();
    assert_eq!(created.open_flags & NO_FLUSH, NO_FLUSH);
}

#[test]
fn a_layer_is_read_without_open_and_remembers_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"contents").unwrap();
    let mut driver = Driver::new(folder.path(), LAYER);
    let missing = driver.lookup(ROOT, "missing").unwrap();
    assert_eq!((missing.nodeid, missing.entry_valid), (0, 24 * 60 * 60));
    let node = driver.walk("f");
    assert_eq!(driver.open(node, libc::O_RDONLY).unwrap_err(), libc::ENOSYS);
    assert_eq!(driver.read(node, 0, 0, 100).unwrap(), b"contents");
    assert_eq!(driver.read(node, 0, 3, 2).unwrap(), b"te");
}

#[test]
fn a_missing_name_of_a_shared_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    assert_eq!(driver.lookup(ROOT, "missing").unwrap_err(), libc::ENOENT);
}

#[test]
fn hard_links_are_one_inode_until_all_lookups_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), b"").unwrap();
    fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.lookup(ROOT, "a").unwrap().nodeid;
    assert_eq!(driver.lookup(ROOT, "b").unwrap().nodeid, node);
    assert_eq!(driver.lookup(ROOT, "a").unwrap().attr.nlink, 2);
    driver.forget(node, 2);
    driver.getattr(node).unwrap();
    driver.forget(node, 1);
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
    driver.forget(ROOT, u64::MAX);
    driver.getattr(ROOT).unwrap();
    let again = driver.lookup(ROOT, "a").unwrap().nodeid;
    assert_ne!(again, node, "a node ID is never used twice");
    driver.forget(again, u64::MAX);
    assert_eq!(driver.getattr(again).unwrap_err(), libc::ESTALE);
}

#[test]
fn a_symbolic_link_is_read_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", folder.path().join("link")).unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let link = driver.lookup(ROOT, "link").unwrap();
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    let target = driver.call(Opcode::Readlink, link.nodeid, &[], 4096);
    assert_eq!(target.unwrap(), b"/etc/passwd");
    assert!(driver.open(link.nodeid, libc::O_RDONLY).is_err());
    assert!(driver.lookup(link.nodeid, "x").is_err());
}

#[test]
fn statfs_is_that_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let reply = driver.call(Opcode::Statfs, ROOT, &[], 256).unwrap();
    let status: Kstatfs = decode(&reply);
    assert_eq!(status.namelen, 255);
    assert!(status.blocks > 0 && status.bsize > 0);
}

#[test]
fn a_reset_ends_the_session_and_a_new_one_begins() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f"), b"1").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    let handle = driver.open(node, libc::O_RDONLY).unwrap();
    driver.device.workers[REQUESTS].executor.reset();
    assert_eq!(driver.lookup(ROOT, "f").unwrap_err(), libc::EIO);
    driver.init(FsOptions::all());
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
    assert_eq!(driver.read(node, handle, 0, 1).unwrap_err(), libc::EBADF);
    let node = driver.walk("f");
    let handle = driver.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(driver.read(node, handle, 0, 1).unwrap(), b"1");
}

#[test]
fn a_name_leads_to_what_is_there_now_however_often_it_was_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, "old").unwrap();
    fs::write(folder.path().join("g"), "g").unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let node = driver.walk("f");
    for _ in 0..3 {
        assert_eq!(driver.walk("f"), node);
    }
    fs::rename(folder.path().join("g"), &path).unwrap();
    let new = driver.lookup(ROOT, "f").unwrap();
    assert_ne!(new.nodeid, node);
    assert_eq!(new.attr.size, 1);
    assert_eq!(driver.getattr(node).unwrap().attr.nlink, 0);
    // It was told four times: forgotten when that is given back.
    driver.forget(node, 3);
    driver.getattr(node).unwrap();
    driver.forget(node, 1);
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
}
