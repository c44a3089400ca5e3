//! Folders with a quota: what fits, what it costs, what is given back, who else uses it.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    FallocateIn, LinkIn, MkdirIn, Opcode, ReleaseIn, RenameIn, SetattrIn, SetattrValid, SetxattrIn,
    StatfsOut, WriteIn,
};
use proptest::prelude::*;
use vm_memory::ByteValued;

use super::driver::{Driver, ROOT, decode};
use crate::fs::{FolderOptions, Quota, QuotaError, SharedFolder};

pub(super) const BLOCK: u64 = 4096;
pub(super) const CREATE: i32 = libc::O_RDWR | libc::O_CREAT;

/// What du(1) says of `path`, counted apart from the code under test; no file has two names.
pub(super) fn used(path: &Path) -> u64 {
    let status = fs::symlink_metadata(path).unwrap();
    let beneath: u64 = if status.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|entry| used(&entry.unwrap().path())).sum()
    } else {
        0
    };
    status.blocks() * 512 + beneath
}

/// A folder that may use `left` bytes more than it does when it is empty.
struct Limited {
    folder: tempfile::TempDir,
    limit: u64,
    driver: Driver,
}

impl Limited {
    fn new(left: u64) -> Limited {
        Limited::of(tempfile::tempdir().unwrap(), left)
    }

    /// One in memory, whose file system has no blocks of its own to add when it writes a file out that is in many pieces.
    fn exact(left: u64) -> Limited {
        Limited::of(tempfile::tempdir_in("/dev/shm").unwrap(), left)
    }

    fn of(folder: tempfile::TempDir, left: u64) -> Limited {
        let limit = used(folder.path()) + left;
        let driver = open(folder.path(), limit, None);
        Limited {
            folder,
            limit,
            driver,
        }
    }

    /// Bytes that are free, as the guest's df(1) shows them.
    fn free(&mut self) -> u64 {
        free(&mut self.driver)
    }

    /// Bytes that are free, by what the host has on its disk.
    fn truly_free(&self) -> u64 {
        self.limit.saturating_sub(used(self.folder.path()))
    }

    fn check(&mut self) {
        assert_eq!(self.free() / BLOCK, self.truly_free() / BLOCK);
    }

    fn create(&mut self, name: &str) -> (u64, u64) {
        let (entry, handle) = self.driver.create(ROOT, name, CREATE, 0o644).unwrap();
        (entry.nodeid, handle)
    }

    fn close_and_forget(&mut self, (node, handle): (u64, u64)) {
        self.driver.release(node, handle).unwrap();
        self.driver.forget(node, 1);
    }

    fn unlink(&mut self, name: &str) {
        let unlinked = self.driver.ask(Opcode::Unlink, ROOT, &[], &[name]);
        unlinked.unwrap();
    }
}

pub(super) fn open(path: &Path, limit: u64, ledger: Option<&Path>) -> Driver {
    let quota = Quota {
        limit,
        ledger: ledger.map(Path::to_owned),
    };
    let folder = SharedFolder::open(path, FolderOptions::DEFAULT).unwrap();
    Driver::initialised(folder.with_quota(&quota).unwrap())
}

pub(super) fn free(driver: &mut Driver) -> u64 {
    let reply = driver.call(Opcode::Statfs, ROOT, &[], 256).unwrap();
    let space: StatfsOut = decode(&reply);
    space.st.bfree * u64::from(space.st.frsize)
}

pub(super) fn write(
    driver: &mut Driver,
    file: (u64, u64),
    offset: u64,
    data: &[u8],
) -> Result<usize, i32> {
    let fields = WriteIn {
        fh: file.1,
        offset,
        ..WriteIn::default()
    };
    driver.write(file.0, fields, data)
}

pub(super) fn set_size(driver: &mut Driver, node: u64, size: u64) {
    let fields = SetattrIn {
        valid: SetattrValid::SIZE.bits(),
        size,
        ..SetattrIn::default()
    };
    driver
        .call(Opcode::Setattr, node, fields.as_slice(), 256)
        .unwrap();
}

fn allocate(
    driver: &mut Driver,
    file: (u64, u64),
    mode: i32,
    offset: u64,
    length: u64,
) -> Result<(), i32> {
    let fields = FallocateIn {
        fh: file.1,
        offset,
        length,
        mode: mode as u32,
        padding: 0,
    };
    let reply = driver.call(Opcode::Fallocate, file.0, fields.as_slice(), 64);
    reply.map(drop)
}

#[test]
fn as_much_of_a_write_as_fits_is_written() {
    let mut limited = Limited::new(10 * BLOCK);
    let file = limited.create("f");
    let left = limited.free();
    let driver = &mut limited.driver;
    let written = write(driver, file, 0, &[1; 1 << 20]).unwrap();
    assert_eq!(written as u64, left / BLOCK * BLOCK);
    let error = write(driver, file, written as u64, b"x").unwrap_err();
    assert_eq!(error, libc::ENOSPC);
    assert_eq!(limited.free(), 0);
    assert!(used(limited.folder.path()) <= limited.limit);
    let size = fs::metadata(limited.folder.path().join("f")).unwrap().len();
    assert_eq!(size, written as u64, "what did not fit leaves no trace");
    // To write where there is something already costs nothing.
    let driver = &mut limited.driver;
    assert_eq!(write(driver, file, 100, &[2; 20_000]).unwrap(), 20_000);
    // Behind a hole nothing fits, and the file is as it was.
    set_size(driver, file.0, 1 << 30);
    let error = write(driver, file, 1 << 29, b"x").unwrap_err();
    assert_eq!(error, libc::ENOSPC);
    assert!(used(limited.folder.path()) <= limited.limit);
    limited.check();
}

#[test]
fn reserved_space_is_paid_for_once() {
    let mut limited = Limited::new(64 * BLOCK);
    let file = limited.create("f");
    let left = limited.free();
    let driver = &mut limited.driver;
    let error = allocate(driver, file, 0, 0, left + BLOCK).unwrap_err();
    assert_eq!(error, libc::ENOSPC);
    allocate(driver, file, libc::FALLOC_FL_KEEP_SIZE, 0, left).unwrap();
    assert_eq!(limited.free(), 0);
    let driver = &mut limited.driver;
    let data = vec![1; left as usize];
    assert_eq!(write(driver, file, 0, &data).unwrap() as u64, left);
    assert_eq!(write(driver, file, left, b"x").unwrap_err(), libc::ENOSPC);
    assert!(used(limited.folder.path()) <= limited.limit);
}

#[test]
fn what_the_guest_frees_it_can_use_again() {
    let mut limited = Limited::new(100 * BLOCK);
    let file = limited.create("f");
    let before = limited.free();
    write(&mut limited.driver, file, 0, &[1; 80 * 4096]).unwrap();
    limited.check();
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    allocate(&mut limited.driver, file, punch, 0, 20 * BLOCK).unwrap();
    limited.check();
    set_size(&mut limited.driver, file.0, 40 * BLOCK);
    limited.check();
    assert!(limited.free() >= before - 20 * BLOCK);
    set_size(&mut limited.driver, file.0, 1 << 40);
    limited.check();
    let open = limited.driver.open(file.0, libc::O_RDWR | libc::O_TRUNC);
    limited.driver.release(file.0, open.unwrap()).unwrap();
    assert_eq!(limited.free(), before);
    // Sparse: only what is written counts.
    write(&mut limited.driver, file, 1 << 40, b"end").unwrap();
    assert!(limited.free() >= before - 2 * BLOCK);
    limited.check();
}

#[test]
fn an_unlinked_file_counts_until_nobody_has_it() {
    let mut limited = Limited::new(100 * BLOCK);
    let empty = limited.free();
    let file = limited.create("f");
    write(&mut limited.driver, file, 0, &[1; 50 * 4096]).unwrap();
    let link = LinkIn { oldnodeid: file.0 };
    limited
        .driver
        .ask(Opcode::Link, ROOT, link.as_slice(), &["g"])
        .unwrap();
    let both = limited.free();
    limited.unlink("f");
    assert_eq!(limited.free(), both, "it has another name");
    limited.unlink("g");
    assert_eq!(limited.free(), both, "it is open");
    // It grows without a name, and a walk does not find it: still nothing is given away.
    write(&mut limited.driver, file, 50 * BLOCK, &[1; 30 * 4096]).unwrap();
    let other = limited.create("other");
    let fits = write(&mut limited.driver, other, 0, &[1; 100 * 4096]).unwrap();
    assert!(fits <= 20 * 4096, "{fits}");
    let error = write(&mut limited.driver, other, 90 * BLOCK, b"x");
    assert_eq!(error.unwrap_err(), libc::ENOSPC);
    limited.driver.forget(file.0, 2);
    assert_eq!(limited.free() / BLOCK, 0, "it is forgotten, but open");
    // As the guest's kernel does it; the node is still known to the handle.
    let fields = ReleaseIn {
        fh: file.1,
        ..ReleaseIn::default()
    };
    limited
        .driver
        .call(Opcode::Release, file.0, fields.as_slice(), 64)
        .unwrap();
    assert!(limited.free() >= 79 * BLOCK);
    limited.unlink("other");
    limited.close_and_forget(other);
    assert_eq!(limited.free(), empty);
    limited.check();
}

#[test]
fn a_file_that_another_is_renamed_over_is_given_back() {
    let mut limited = Limited::new(100 * BLOCK);
    let empty = limited.free();
    for name in ["f", "g"] {
        let file = limited.create(name);
        write(&mut limited.driver, file, 0, &[1; 20 * 4096]).unwrap();
        limited.close_and_forget(file);
    }
    let fields = RenameIn { newdir: ROOT };
    limited
        .driver
        .ask(Opcode::Rename, ROOT, fields.as_slice(), &["f", "g"])
        .unwrap();
    limited.check();
    limited.unlink("g");
    assert_eq!(limited.free(), empty);
}

#[test]
fn names_links_and_attributes_count_as_on_the_host() {
    let mut limited = Limited::new(1000 * BLOCK);
    let fields = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    for name in 0..50 {
        let name = format!("{name}{}", "x".repeat(200));
        limited
            .driver
            .ask(Opcode::Mkdir, ROOT, fields.as_slice(), &[&name])
            .unwrap();
    }
    limited.check();
    let long = "t".repeat(3000);
    limited
        .driver
        .ask(Opcode::Symlink, ROOT, &[], &["link", &long])
        .unwrap();
    limited.check();
    let file = limited.create("f");
    let fields = SetxattrIn {
        size: 3000,
        flags: 0,
    };
    let body = [fields.as_slice(), b"user.a\0", &[b'v'; 3000]].concat();
    let set = limited.driver.call(Opcode::Setxattr, file.0, &body, 64);
    if set != Err(libc::EOPNOTSUPP) && set != Err(libc::ENOSPC) {
        set.unwrap();
        limited.check();
        limited
            .driver
            .ask(Opcode::Removexattr, file.0, &[], &["user.a"])
            .unwrap();
    }
    limited.check();
}

#[test]
fn a_full_folder_takes_no_new_names_and_lets_old_ones_go() {
    let mut limited = Limited::new(8 * BLOCK);
    let file = limited.create("f");
    while write(&mut limited.driver, file, 0, &[1; 1 << 20]) != Ok(0) {
        if limited.free() == 0 {
            break;
        }
    }
    let driver = &mut limited.driver;
    let made = driver.create(ROOT, "new", CREATE, 0o644);
    assert_eq!(made.unwrap_err(), libc::ENOSPC);
    let fields = MkdirIn::default();
    let made = driver.ask(Opcode::Mkdir, ROOT, fields.as_slice(), &["d"]);
    assert_eq!(made.unwrap_err(), libc::ENOSPC);
    assert!(!limited.folder.path().join("new").exists());
    limited.unlink("f");
    limited.close_and_forget(file);
    limited.create("new");
}

#[test]
fn what_the_host_does_is_noticed_before_enospc() {
    let mut limited = Limited::new(20 * BLOCK);
    let path = limited.folder.path().join("host");
    let file = limited.create("f");
    write(&mut limited.driver, file, 0, &[1; 4096]).unwrap();
    let left = limited.free();
    fs::write(&path, vec![1; left as usize]).unwrap();
    // The count says that there is room; the host does not ask. From the next walk on it is known.
    let error = loop {
        match write(&mut limited.driver, file, 0, &[1; 1 << 20]) {
            Err(error) => break error,
            Ok(_) if limited.free() == 0 => {
                let end = fs::metadata(limited.folder.path().join("f")).unwrap().len();
                break write(&mut limited.driver, file, end, b"x").unwrap_err();
            }
            Ok(_) => {}
        }
    };
    assert_eq!(error, libc::ENOSPC);
    fs::remove_file(&path).unwrap();
    set_size(&mut limited.driver, file.0, 0);
    let written = write(&mut limited.driver, file, 0, &[1; 15 * 4096]).unwrap();
    assert_eq!(written, 15 * 4096);
    limited.check();
}

/// A folder whose walks are interrupted often, with two directories "x" and "y" of 100 files each, and full but for 3
/// blocks: what was left is in "x/big".
fn walked_in_parts() -> Limited {
    let mut limited = Limited::new(40 * BLOCK);
    for directory in ["x", "y"] {
        let path = limited.folder.path().join(directory);
        fs::create_dir(&path).unwrap();
        for name in 0..100 {
            fs::write(path.join(name.to_string()), "").unwrap();
        }
    }
    let left = limited.truly_free() - 3 * BLOCK;
    fs::write(limited.folder.path().join("x/big"), vec![1; left as usize]).unwrap();
    let quota = Quota {
        limit: limited.limit,
        ledger: None,
    };
    let folder = SharedFolder::open(limited.folder.path(), FolderOptions::DEFAULT).unwrap();
    let folder = folder.with_quota(&quota).unwrap();
    limited.driver = Driver::initialised(folder.with_short_walks(Duration::from_micros(50)));
    limited
}

#[test]
fn a_walk_in_parts_finds_what_the_host_has_freed() {
    let mut limited = walked_in_parts();
    let file = limited.create("f");
    fs::remove_file(limited.folder.path().join("x/big")).unwrap();
    let reserved =
        (0..100_000).find(|_| allocate(&mut limited.driver, file, 0, 0, 10 * BLOCK).is_ok());
    reserved.unwrap();
    limited.check();
}

#[test]
fn a_walk_in_parts_is_not_fooled_by_moving_files() {
    let mut limited = walked_in_parts();
    let file = limited.create("f");
    let mut directories = ["x", "y"].map(|name| limited.driver.walk(name));
    for _ in 0..500 {
        let fields = RenameIn {
            newdir: directories[1],
        };
        let names = ["big", "big"];
        limited
            .driver
            .ask(Opcode::Rename, directories[0], fields.as_slice(), &names)
            .unwrap();
        directories.reverse();
        let reserved = allocate(&mut limited.driver, file, 0, 0, 10 * BLOCK);
        assert_eq!(reserved.unwrap_err(), libc::ENOSPC);
    }
}

#[test]
fn a_file_is_replaced_in_a_full_folder() {
    let mut limited = Limited::new(30 * BLOCK);
    for name in ["f", "new"] {
        let file = limited.create(name);
        write(&mut limited.driver, file, 0, b"contents").unwrap();
    }
    let filler = limited.create("filler");
    fill(&mut limited.driver, filler);
    let fields = RenameIn { newdir: ROOT };
    let mut rename = |names: [&str; 2]| {
        limited
            .driver
            .ask(Opcode::Rename, ROOT, fields.as_slice(), &names)
    };
    rename(["new", "f"]).unwrap();
    assert!(!limited.folder.path().join("new").exists());
}

#[test]
fn threads_at_the_limit_do_not_overshoot() {
    let mut limited = Limited::new(300 * BLOCK);
    let mut other = limited.driver.second_queue();
    let files = ["a", "b"].map(|name| limited.create(name));
    let both = Arc::new(Barrier::new(2));
    let start = Arc::clone(&both);
    let filler = std::thread::spawn(move || {
        start.wait();
        fill(&mut other, files[1])
    });
    both.wait();
    fill(&mut limited.driver, files[0]);
    filler.join().unwrap();
    let used = used(limited.folder.path());
    assert!(used <= limited.limit, "{used} of {}", limited.limit);
    assert!(used + BLOCK > limited.limit, "{used} of {}", limited.limit);
}

/// Writes until nothing is left, and returns how many bytes that took.
pub(super) fn fill(driver: &mut Driver, file: (u64, u64)) -> u64 {
    let mut offset = 0;
    loop {
        match write(driver, file, offset, &[1; 5000]) {
            Ok(written) => offset += written as u64,
            Err(error) => {
                assert_eq!(error, libc::ENOSPC);
                return offset;
            }
        }
    }
}

#[test]
fn two_machines_share_one_quota() {
    let folder = tempfile::tempdir().unwrap();
    let beside = tempfile::tempdir().unwrap();
    let ledger = beside.path().join("usage");
    let limit = used(folder.path()) + 400 * BLOCK;
    let mut machines = [0, 1].map(|_| open(folder.path(), limit, Some(&ledger)));
    let files = [0, 1].map(|index: usize| {
        let name = ["a", "b"][index];
        let (entry, handle) = machines[index].create(ROOT, name, CREATE, 0o644).unwrap();
        (entry.nodeid, handle)
    });
    let [mut first, mut second] = machines;
    write(&mut first, files[0], 0, &[1; 150 * 4096]).unwrap();
    let both = Arc::new(Barrier::new(2));
    let start = Arc::clone(&both);
    let filler = std::thread::spawn(move || {
        start.wait();
        fill(&mut second, files[1]);
        second
    });
    both.wait();
    let mine = fill(&mut first, files[0]);
    let mut second = filler.join().unwrap();
    assert!(used(folder.path()) <= limit);
    assert!(used(folder.path()) + BLOCK > limit);
    // What one frees the other can use.
    assert_eq!(free(&mut second), 0);
    set_size(&mut first, files[0].0, 0);
    assert!(free(&mut second) >= mine / BLOCK * BLOCK);
    let bytes = fs::read(&ledger).unwrap();
    let count = u64::from_ne_bytes(bytes[8..16].try_into().unwrap());
    assert_eq!(count, used(folder.path()));

    // A machine that dies with a file that only it knew: the next walk of the other finds the space.
    write(&mut first, files[0], 0, &[1; 100 * 4096]).unwrap();
    first.ask(Opcode::Unlink, ROOT, &[], &["a"]).unwrap();
    let before = free(&mut second);
    drop(first);
    assert!(free(&mut second) >= before + 100 * BLOCK);
}

#[test]
fn a_wrong_ledger_is_put_right_by_who_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let beside = tempfile::tempdir().unwrap();
    let ledger = beside.path().join("usage");
    fs::write(folder.path().join("f"), [1; 10_000]).unwrap();
    let limit = used(folder.path()) + 100 * BLOCK;
    drop(open(folder.path(), limit, Some(&ledger)));
    // As a machine leaves it that dies between writing and counting.
    let file = fs::File::options().write(true).open(&ledger).unwrap();
    file.write_all_at(&(1_u64 << 40).to_ne_bytes(), 8).unwrap();
    let mut driver = open(folder.path(), limit, Some(&ledger));
    assert_eq!(free(&mut driver), 100 * BLOCK);
    // While it runs, it is put right before anything is refused.
    file.write_all_at(&(1_u64 << 40).to_ne_bytes(), 8).unwrap();
    let (entry, handle) = driver.create(ROOT, "g", CREATE, 0o644).unwrap();
    write(&mut driver, (entry.nodeid, handle), 0, b"fits").unwrap();
}

#[test]
fn only_folders_have_a_quota() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, "").unwrap();
    let quota = Quota {
        limit: 1,
        ledger: None,
    };
    let file = SharedFolder::open_single_file(&path, FolderOptions::DEFAULT).unwrap();
    let refused = file.with_quota(&quota).map(drop);
    assert!(matches!(refused, Err(QuotaError::SingleFile)));
}

#[derive(Clone, Debug)]
enum Act {
    Write(usize, u64, usize),
    Punch(usize, u64, u64),
    Reserve(usize, u64, u64),
    Resize(usize, u64),
    Remove(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let (file, at, length) = (0..3_usize, 0..400_000_u64, 1..200_000_u64);
    prop_oneof![
        4 => (file.clone(), at.clone(), 1..200_000_usize).prop_map(|(f, a, l)| Act::Write(f, a, l)),
        1 => (file.clone(), at.clone(), length.clone()).prop_map(|(f, a, l)| Act::Punch(f, a, l)),
        1 => (file.clone(), at.clone(), length).prop_map(|(f, a, l)| Act::Reserve(f, a, l)),
        1 => (file.clone(), at).prop_map(|(f, a)| Act::Resize(f, a)),
        1 => file.prop_map(Act::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the guest does, the folder uses no more than it may, and the count is right.
    #[test]
    fn the_limit_holds_and_the_count_is_right(acts in prop::collection::vec(act(), 1..40)) {
        let mut limited = Limited::exact(120 * BLOCK);
        let mut files = ["a", "b", "c"].map(|name| limited.create(name));
        for act in acts {
            match act {
                Act::Write(file, at, length) => {
                    let _ = write(&mut limited.driver, files[file], at, &vec![1; length]);
                }
                Act::Punch(file, at, length) => {
                    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    let _ = allocate(&mut limited.driver, files[file], mode, at, length);
                }
                Act::Reserve(file, at, length) => {
                    let _ = allocate(&mut limited.driver, files[file], 0, at, length);
                }
                Act::Resize(file, size) => set_size(&mut limited.driver, files[file].0, size),
                Act::Remove(file) => {
                    let name = ["a", "b", "c"][file];
                    limited.unlink(name);
                    limited.close_and_forget(files[file]);
                    // A name needs a block: where none is left, there is one now or the file used none.
                    if limited.free() < BLOCK {
                        return Ok(());
                    }
                    files[file] = limited.create(name);
                }
            }
            prop_assert!(used(limited.folder.path()) <= limited.limit);
            prop_assert_eq!(limited.free() / BLOCK, limited.truly_free() / BLOCK);
        }
    }
}
