//! Directories, which a guest reads without opening them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{Dirent, EntryOut, FsOptions, Opcode};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::driver::{Driver, ROOT, decode, dirents};
use crate::fs::{CachePolicy, Exports, FolderOptions, SharedFolder};

const SHARED: FolderOptions = FolderOptions::DEFAULT;

const POLICIES: [CachePolicy; 3] = [CachePolicy::None, CachePolicy::AUTO, CachePolicy::ALWAYS];

fn cached(cache: CachePolicy) -> FolderOptions {
    FolderOptions { cache, ..SHARED }
}

/// A folder with `count` files, and their names.
fn full(count: usize) -> (tempfile::TempDir, BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let names: BTreeSet<String> = (0..count)
        .map(|i| format!("{i}-{}", "n".repeat(i % 200)))
        .collect();
    for name in &names {
        fs::write(folder.path().join(name), b"").unwrap();
    }
    (folder, names)
}

/// A program of the guest that lists the root, page by page.
#[derive(Default)]
struct Program {
    position: u64,
    found: Vec<String>,
}

impl Program {
    /// Reads one page of `size` bytes; returns what it found, nothing at the end.
    fn page(&mut self, driver: &mut Driver, size: u32) -> Vec<String> {
        let reply = driver.readdir(Opcode::Readdir, ROOT, self.position, size);
        let entries = dirents(&reply.unwrap(), 0);
        if let Some((_, last, _)) = entries.last() {
            self.position = last.off;
        }
        let page: Vec<String> = entries.into_iter().map(|(name, ..)| name).collect();
        self.found.extend_from_slice(&page);
        page
    }

    fn finish(mut self, driver: &mut Driver) -> Vec<String> {
        while !self.page(driver, 4096).is_empty() {}
        self.found
    }
}

fn list(driver: &mut Driver) -> BTreeSet<String> {
    Program::default().finish(driver).into_iter().collect()
}

/// Descriptors of this process that lead to `path` itself for reading.
fn open_at(path: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let entries = entries.map(|entry| entry.unwrap());
    let there = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == path));
    let numbers = there.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap());
    numbers
        .filter(|number| !flags_of(*number).contains(OFlag::O_PATH))
        .collect()
}

fn flags_of(number: i32) -> OFlag {
    // SAFETY: the caller found it open, and nobody else closes those of its folder.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL).unwrap())
}

#[test]
fn no_directory_has_to_be_opened() {
    let (folder, names) = full(30);
    for cache in POLICIES {
        for read_only in [false, true] {
            let options = FolderOptions {
                read_only,
                ..cached(cache)
            };
            let mut driver = Driver::new(folder.path(), options);
            assert_eq!(driver.opendir(ROOT).unwrap_err(), libc::ENOSYS);
            assert!(list(&mut driver).is_superset(&names));
        }
    }
    let exports = Exports::new();
    let shared = SharedFolder::open(folder.path(), SHARED).unwrap();
    exports.attach("one", shared).unwrap();
    let mut driver = Driver::of_exports(&exports);
    let one = driver.walk("one");
    for node in [ROOT, one] {
        assert_eq!(driver.opendir(node).unwrap_err(), libc::ENOSYS);
    }
    assert_eq!(driver.names(one, 4096).len(), 32);
}

#[test]
fn a_guest_that_opens_directories_may() {
    const CACHE_DIR: u32 = 1 << 3;
    let (folder, names) = full(30);
    let old = FsOptions::all() - FsOptions::ZERO_MESSAGE_OPENDIR;
    for cache in POLICIES {
        let mut driver = Driver::new(folder.path(), cached(cache));
        driver.init(old);
        let opened = driver.opendir_whole(ROOT).unwrap();
        let may_keep = opened.open_flags & CACHE_DIR != 0;
        assert_eq!(may_keep, cache == CachePolicy::ALWAYS);
        assert!(list(&mut driver).is_superset(&names));
        driver.call(Opcode::Releasedir, ROOT, &[0; 24], 64).unwrap();
        let file = driver.walk("0-");
        assert_eq!(driver.opendir(file).unwrap_err(), libc::ENOTDIR);
    }
    let exports = Exports::new();
    let shared = SharedFolder::open(folder.path(), SHARED).unwrap();
    exports.attach("one", shared).unwrap();
    let mut driver = Driver::of_exports(&exports);
    driver.init(old);
    let one = driver.walk("one");
    for node in [ROOT, one] {
        driver.opendir(node).unwrap();
        driver.call(Opcode::Releasedir, node, &[0; 24], 64).unwrap();
    }
}

/// The reply that ends a listing of `node`, to both requests.
fn end_of(driver: &mut Driver, node: u64) -> Vec<u8> {
    let position = driver.names(node, 4096).last().unwrap().1.off;
    let [plain, plus] = [Opcode::Readdir, Opcode::Readdirplus]
        .map(|opcode| driver.readdir(opcode, node, position, 4096).unwrap());
    assert_eq!(plain, plus);
    plain
}

#[test]
fn linux_keeps_no_listing_that_the_host_may_change() {
    // An empty reply is what makes it keep one; what is shorter than an entry is an end as well.
    let (folder, _) = full(3);
    let shared = |cache| SharedFolder::open(folder.path(), cached(cache)).unwrap();
    let expected = |cache: CachePolicy| {
        let may_keep = matches!(cache, CachePolicy::Always { .. });
        if may_keep { 0 } else { 8 }
    };
    let exports = Exports::new();
    for (name, cache) in ["none", "auto", "always"].into_iter().zip(POLICIES) {
        let mut driver = Driver::initialised(shared(cache));
        let end = end_of(&mut driver, ROOT);
        assert_eq!(end.len(), expected(cache), "{name}");
        exports.attach(name, shared(cache)).unwrap();
    }
    let mut driver = Driver::of_exports(&exports);
    for (name, cache) in ["none", "auto", "always"].into_iter().zip(POLICIES) {
        let node = driver.walk(name);
        assert_eq!(end_of(&mut driver, node).len(), expected(cache), "{name}");
    }
    assert_eq!(end_of(&mut driver, ROOT).len(), 8);
}

#[test]
fn two_programs_list_a_directory_at_once() {
    let (folder, names) = full(1000);
    let mut driver = Driver::new(folder.path(), SHARED);
    let mut programs = [Program::default(), Program::default()];
    let [one, other] = &mut programs;
    one.page(&mut driver, 4096);
    // The other comes from behind, is at the same place for a while, and goes ahead.
    loop {
        other.page(&mut driver, 300);
        let page = one.page(&mut driver, 4096);
        if page.is_empty() {
            break;
        }
        while other.found.len() < one.found.len() && !other.page(&mut driver, 1000).is_empty() {}
    }
    for program in programs {
        let found = program.finish(&mut driver);
        assert_eq!(found.len(), 1002, "each once");
        let found: BTreeSet<String> = found.into_iter().collect();
        assert!(found.is_superset(&names));
    }
    assert_eq!(open_at(folder.path()), [0; 0]);
}

#[test]
fn a_listing_shows_what_is_there_when_it_begins() {
    let (folder, _) = full(60);
    let mut driver = Driver::new(folder.path(), SHARED);
    let order = Program::default().finish(&mut driver);
    for round in 0..20 {
        // A listing that stopped in the middle, and knows what comes next.
        let mut earlier = Program::default();
        earlier.page(&mut driver, 300);
        let removed = order.get(20 + round).unwrap();
        fs::remove_file(folder.path().join(removed)).unwrap();

        let mut program = Program::default();
        program.page(&mut driver, 300);
        assert_eq!(program.position, earlier.position);
        // It may go on with what the other had open, because nobody can tell them apart.
        earlier.page(&mut driver, 300);
        let found = program.finish(&mut driver);
        assert!(!found.contains(removed), "{removed} is gone");
        fs::write(folder.path().join(removed), b"").unwrap();
        assert!(list(&mut driver).contains(removed), "{removed} is back");
    }
}

#[test]
fn a_large_directory_is_opened_once_and_closed_at_the_end() {
    let (folder, names) = full(1000);
    let mut driver = Driver::new(folder.path(), SHARED);
    let mut program = Program::default();
    program.page(&mut driver, 4096);
    let [number] = open_at(folder.path())[..] else {
        panic!("it is open while it is listed");
    };
    // What is open is marked, to know it again.
    let marked = flags_of(number) | OFlag::O_NONBLOCK;
    // SAFETY: as in `flags_of`.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_SETFL(marked)).unwrap();
    for _ in 0..20 {
        program.page(&mut driver, 4096);
        let [number] = open_at(folder.path())[..] else {
            panic!("once");
        };
        assert!(flags_of(number).contains(OFlag::O_NONBLOCK));
    }
    let found = program.finish(&mut driver);
    assert!(
        found
            .into_iter()
            .collect::<BTreeSet<_>>()
            .is_superset(&names)
    );
    assert_eq!(open_at(folder.path()), [0; 0]);
}

#[test]
fn listings_that_are_never_finished_keep_little_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    fs::create_dir(&path).unwrap();
    for name in 0..100 {
        fs::write(path.join(name.to_string()), b"").unwrap();
    }
    let shared = SharedFolder::open(folder.path(), SHARED).unwrap();
    let mut driver = Driver::initialised(shared.with_descriptor_limit(20));
    let node = driver.walk("d");
    for size in 0..30 {
        let reply = driver.readdir(Opcode::Readdir, node, 0, 300 + 30 * size);
        assert!(!reply.unwrap().is_empty());
    }
    assert_eq!(open_at(&path).len(), 4);
    driver.forget(node, 1);
    assert_eq!(open_at(&path), [0; 0]);
    // Where none can be kept open, each page is read by itself.
    let shared = SharedFolder::open(&path, SHARED).unwrap();
    let mut driver = Driver::initialised(shared.with_descriptor_limit(0));
    assert_eq!(driver.names(ROOT, 300).len(), 102);
    let _ = driver.readdir(Opcode::Readdir, ROOT, 0, 300);
    assert_eq!(open_at(&path), [0; 0]);
}

#[test]
fn what_is_removed_while_it_is_listed_is_seen_before() {
    // As rm(1) and programs like it do, with another one that looks on.
    let (folder, mut names) = full(3000);
    let mut driver = Driver::new(folder.path(), SHARED);
    let mut remover = Program::default();
    loop {
        let page = remover.page(&mut driver, 4096);
        if page.is_empty() {
            break;
        }
        for name in page.iter().filter(|name| !name.starts_with('.')) {
            assert!(names.remove(name), "{name} is seen once");
            driver.ask(Opcode::Unlink, ROOT, &[], &[name]).unwrap();
        }
        Program::default().page(&mut driver, 300);
    }
    assert_eq!(names, BTreeSet::new());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_large_directory_is_read_without_loss_whatever_the_size_of_the_requests() {
    let (folder, expected) = full(3000);
    let mut driver = Driver::new(folder.path(), SHARED);
    for size in [300, 4096, 65536] {
        let names = driver.names(ROOT, size);
        assert_eq!(names.len(), 3002, "requests of {size} bytes");
        let found: BTreeSet<String> = names.into_iter().map(|(name, _)| name).collect();
        assert!(found.is_superset(&expected));
        assert!(found.contains(".") && found.contains(".."));
    }
    // From a position in the middle, to which nobody came.
    let names = driver.names(ROOT, 4096);
    let middle: &Dirent = &names[1500].1;
    let reply = driver.readdir(Opcode::Readdir, ROOT, middle.off, 4096);
    let entries = dirents(&reply.unwrap(), 0);
    assert_eq!(entries[0].0, names[1501].0);
}

#[test]
fn readdirplus_counts_a_lookup_for_each_entry_that_it_returns() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let mut driver = Driver::new(folder.path(), SHARED);
    let mut offset = 0;
    let mut nodes = Vec::new();
    loop {
        // Room for two entries and some: the third must not be counted before it is returned.
        let reply = driver.readdir(Opcode::Readdirplus, ROOT, offset, 400);
        let entries = dirents(&reply.unwrap(), size_of::<EntryOut>());
        let Some((_, last, _)) = entries.last() else {
            break;
        };
        offset = last.off;
        for (name, dirent, attributes) in entries {
            let entry: EntryOut = decode(&attributes);
            if name.starts_with('.') {
                assert_eq!(entry.nodeid, 0, "{name} is not looked up");
                continue;
            }
            assert_eq!(entry.attr.ino, dirent.ino);
            assert_eq!(entry.attr.size, 1);
            nodes.push(entry.nodeid);
        }
    }
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        driver.getattr(node).unwrap();
        driver.forget(node, 1);
        assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
    }
}

#[test]
fn the_parent_of_the_root_is_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(folder.path(), SHARED);
    let root = driver.getattr(ROOT).unwrap().attr.ino;
    let names = driver.names(ROOT, 4096);
    assert_eq!(names.len(), 2);
    for (name, dirent) in names {
        assert_eq!(dirent.ino, root, "{name}");
    }
}
