//! A folder with a quota that several machines share: files that lose their last name while others have them open.

use std::fs;
use std::os::unix::fs::FileExt;

use fuse_backend_rs::abi::fuse_abi::{Opcode, RenameIn, SetattrIn, SetattrValid};
use vm_memory::ByteValued;

use super::driver::{Driver, ROOT};
use super::quota_tests::{BLOCK, CREATE, fill, free, open, set_size, used, write};

/// Two machines, or two mounts, that share a folder of which `blocks` are left.
struct Shared {
    folder: tempfile::TempDir,
    beside: tempfile::TempDir,
    limit: u64,
    one: Driver,
    other: Driver,
}

impl Shared {
    fn new(blocks: u64) -> Shared {
        let folder = tempfile::tempdir().unwrap();
        let beside = tempfile::tempdir().unwrap();
        let ledger = beside.path().join("usage");
        let limit = used(folder.path()) + blocks * BLOCK;
        let [one, other] = [0, 1].map(|_| open(folder.path(), limit, Some(&ledger)));
        Shared {
            folder,
            beside,
            limit,
            one,
            other,
        }
    }

    /// A file of 50 blocks, which the other has open.
    fn with_open_file() -> (Shared, (u64, u64)) {
        let mut shared = Shared::new(100);
        let file = create(&mut shared.other, "f");
        write(&mut shared.other, file, 0, &[1; 50 * 4096]).unwrap();
        (shared, file)
    }

    fn free(&mut self) -> u64 {
        let [one, other] = [&mut self.one, &mut self.other].map(free);
        assert_eq!(one, other);
        one
    }

    fn unlink(&mut self) {
        self.one.ask(Opcode::Unlink, ROOT, &[], &["f"]).unwrap();
    }

    /// That it uses what du(1) says, and the count says so.
    fn check(&mut self) {
        assert_eq!(self.limit - self.free(), used(self.folder.path()));
    }
}

fn create(driver: &mut Driver, name: &str) -> (u64, u64) {
    let (entry, handle) = driver.create(ROOT, name, CREATE, 0o644).unwrap();
    (entry.nodeid, handle)
}

fn close(driver: &mut Driver, (node, handle): (u64, u64)) {
    driver.release(node, handle).unwrap();
    driver.forget(node, 1);
}

/// That no more than `blocks` can be had, which is found out by walking.
fn assert_left(driver: &mut Driver, blocks: u64) {
    let file = create(driver, "filler");
    let fits = fill(driver, file) / BLOCK;
    assert!(fits <= blocks && fits + 2 >= blocks, "{fits} of {blocks}");
    driver.ask(Opcode::Unlink, ROOT, &[], &["filler"]).unwrap();
    close(driver, file);
}

#[test]
fn a_file_that_another_machine_has_open_counts_until_it_is_closed() {
    for knows in [false, true] {
        let (mut shared, file) = Shared::with_open_file();
        if knows {
            shared.one.walk("f");
        }
        let before = shared.free();
        shared.unlink();
        assert_eq!(shared.free(), before);
        assert_left(&mut shared.one, 50);
        // It grows and shrinks, and each byte counts once.
        write(&mut shared.other, file, 50 * BLOCK, &[1; 30 * 4096]).unwrap();
        assert_eq!(shared.free(), before - 30 * BLOCK);
        assert_left(&mut shared.one, 20);
        set_size(&mut shared.other, file.0, 10 * BLOCK);
        assert_eq!(shared.free(), before + 40 * BLOCK);
        assert_left(&mut shared.other, 90);
        close(&mut shared.other, file);
        assert_eq!(shared.free(), before + 50 * BLOCK);
        shared.check();
    }
}

#[test]
fn a_file_that_both_machines_have_open_counts_until_the_last_closes_it() {
    for first_is_other in [false, true] {
        let mut shared = Shared::new(100);
        let empty = shared.free();
        let file = create(&mut shared.other, "f");
        let node = shared.one.walk("f");
        let mine = (node, shared.one.open(node, libc::O_RDWR).unwrap());
        // It is empty when it loses its name.
        shared.unlink();
        write(&mut shared.other, file, 0, &[1; 50 * 4096]).unwrap();
        write(&mut shared.one, mine, 50 * BLOCK, &[1; 10 * 4096]).unwrap();
        let both = shared.free();
        assert_eq!(both, empty - 60 * BLOCK);
        if first_is_other {
            close(&mut shared.other, file);
            assert_eq!(shared.free(), both);
            close(&mut shared.one, mine);
        } else {
            close(&mut shared.one, mine);
            assert_eq!(shared.free(), both);
            close(&mut shared.other, file);
        }
        assert_eq!(shared.free(), empty);
        shared.check();
    }
}

#[test]
fn a_file_that_another_is_renamed_over_counts_while_a_machine_has_it_open() {
    let (mut shared, file) = Shared::with_open_file();
    let new = create(&mut shared.one, "new");
    close(&mut shared.one, new);
    let before = shared.free();
    let fields = RenameIn { newdir: ROOT };
    let names = ["new", "f"];
    shared
        .one
        .ask(Opcode::Rename, ROOT, fields.as_slice(), &names)
        .unwrap();
    assert_eq!(shared.free(), before);
    close(&mut shared.other, file);
    shared.check();
}

#[test]
fn what_was_given_back_is_neither_opened_nor_changed_any_more() {
    let (mut shared, file) = Shared::with_open_file();
    shared.other.release(file.0, file.1).unwrap();
    shared.unlink();
    let free = shared.free();
    shared.check();
    let opened = shared.other.open(file.0, libc::O_RDWR);
    assert_eq!(opened.unwrap_err(), libc::ESTALE);
    let fields = SetattrIn {
        valid: SetattrValid::SIZE.bits(),
        ..SetattrIn::default()
    };
    let resized = shared
        .other
        .call(Opcode::Setattr, file.0, fields.as_slice(), 256);
    assert_eq!(resized.unwrap_err(), libc::ESTALE);
    assert_eq!(shared.free(), free);
}

#[test]
fn what_a_killed_machine_had_open_counts_until_nothing_is_open() {
    let mut shared = Shared::new(100);
    let file = create(&mut shared.other, "f");
    // As a machine leaves it that was the last one to have a file open which another took the name from.
    let ledger = shared.beside.path().join("usage");
    let ledger = fs::File::options().write(true).open(ledger).unwrap();
    ledger.write_all_at(&shared.limit.to_ne_bytes(), 8).unwrap();
    let orphaned = 100 * BLOCK;
    ledger.write_all_at(&orphaned.to_ne_bytes(), 32).unwrap();
    let made = shared.one.create(ROOT, "g", CREATE, 0o644);
    assert_eq!(
        made.unwrap_err(),
        libc::ENOSPC,
        "it may be one of the other"
    );
    close(&mut shared.other, file);
    create(&mut shared.one, "g");
    shared.check();
}
