//! Several exports behind one device: what each shows, that nothing leads from one to another, attaching and detaching.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    EntryOut, GetxattrIn, LinkIn, MkdirIn, MknodIn, Opcode, RenameIn, SetattrIn, SetattrValid,
    SetxattrIn, StatfsOut, WriteIn,
};
use vm_memory::ByteValued;

use super::driver::{Driver, ROOT, decode, dirents};
use crate::fs::{CachePolicy, ExportError, Exports, FolderError, FolderOptions, SharedFolder};

const SHARED: FolderOptions = FolderOptions::DEFAULT;

fn folder(path: &Path) -> SharedFolder {
    SharedFolder::open(path, SHARED).unwrap()
}

fn file(path: &Path) -> SharedFolder {
    SharedFolder::open_single_file(path, SHARED).unwrap()
}

fn write_at(handle: u64) -> WriteIn {
    WriteIn {
        fh: handle,
        ..WriteIn::default()
    }
}

fn set_mode(driver: &mut Driver, node: u64, mode: u32) -> Result<(), i32> {
    let fields = SetattrIn {
        valid: SetattrValid::MODE.bits(),
        mode,
        ..SetattrIn::default()
    };
    let reply = driver.call(Opcode::Setattr, node, fields.as_slice(), 256);
    reply.map(drop)
}

/// Two folders, "one" and "two", with a file "f" in each.
struct Two {
    _folder: tempfile::TempDir,
    one: std::path::PathBuf,
    two: std::path::PathBuf,
    exports: Exports,
    driver: Driver,
}

impl Two {
    fn new() -> Two {
        let above = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            let path = above.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("f"), name).unwrap();
            path
        });
        let exports = Exports::new();
        exports.attach("one", folder(&one)).unwrap();
        exports.attach("two", folder(&two)).unwrap();
        let driver = Driver::of_exports(&exports);
        Two {
            _folder: above,
            one,
            two,
            exports,
            driver,
        }
    }

    fn contents(&mut self, path: &str) -> Vec<u8> {
        let node = self.driver.walk(path);
        let handle = self.driver.open(node, libc::O_RDONLY).unwrap();
        self.driver.read(node, handle, 0, 64).unwrap()
    }
}

/// Names in the device's root.
fn names_in_root(driver: &mut Driver) -> Vec<String> {
    let entries = driver.names(ROOT, 64);
    entries.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_root_shows_each_export_and_cannot_be_changed() {
    let mut two = Two::new();
    assert_eq!(names_in_root(&mut two.driver), [".", "..", "one", "two"]);
    assert_eq!(two.contents("one/f"), b"one");
    assert_eq!(two.contents("two/f"), b"two");
    assert_eq!(two.driver.traffic().read(), 6, "they count together");
    let root = two.driver.getattr(ROOT).unwrap();
    assert_eq!(root.attr.mode, libc::S_IFDIR | 0o555);
    assert_eq!((root.attr_valid, root.attr_valid_nsec), (0, 0));
    let entry = two.driver.lookup(ROOT, "one").unwrap();
    assert_eq!((entry.entry_valid, entry.entry_valid_nsec), (0, 0));

    let driver = &mut two.driver;
    let made = driver.create(ROOT, "new", libc::O_RDWR | libc::O_CREAT, 0o644);
    assert_eq!(made.unwrap_err(), libc::EROFS);
    let fields = MkdirIn::default();
    let made = driver.ask(Opcode::Mkdir, ROOT, fields.as_slice(), &["new"]);
    assert_eq!(made.unwrap_err(), libc::EROFS);
    let removed = driver.ask(Opcode::Rmdir, ROOT, &[], &["one"]);
    assert_eq!(removed.unwrap_err(), libc::EROFS);
    let fields = RenameIn { newdir: ROOT };
    let moved = driver.ask(Opcode::Rename, ROOT, fields.as_slice(), &["one", "three"]);
    assert_eq!(moved.unwrap_err(), libc::EROFS);
    assert_eq!(set_mode(driver, ROOT, 0o777).unwrap_err(), libc::EROFS);
    assert_eq!(driver.lookup(ROOT, "..").unwrap_err(), libc::ENOENT);
    assert_eq!(driver.lookup(ROOT, "three").unwrap_err(), libc::ENOENT);
}

#[test]
fn reading_the_root_with_attributes_tells_of_the_exports() {
    let mut two = Two::new();
    let reply = two.driver.readdir(Opcode::Readdirplus, ROOT, 0, 4096);
    let entries = dirents(&reply.unwrap(), size_of::<EntryOut>());
    assert_eq!(entries.len(), 4);
    let (name, dirent, attributes) = &entries[3];
    let entry: EntryOut = decode(attributes);
    assert_eq!(name, "two");
    assert_eq!(dirent.type_, u32::from(libc::DT_DIR));
    assert_eq!(entry.nodeid, two.driver.walk("two"));
    assert_eq!(entry.attr.ino, dirent.ino);
}

#[test]
fn nothing_leads_from_one_export_to_another() {
    let mut two = Two::new();
    let (one, other) = (two.driver.walk("one"), two.driver.walk("two"));
    let fields = RenameIn { newdir: other };
    let moved = two
        .driver
        .ask(Opcode::Rename, one, fields.as_slice(), &["f", "g"]);
    assert_eq!(moved.unwrap_err(), libc::EXDEV);
    let link = LinkIn {
        oldnodeid: two.driver.walk("one/f"),
    };
    let linked = two.driver.ask(Opcode::Link, other, link.as_slice(), &["g"]);
    assert_eq!(linked.unwrap_err(), libc::EXDEV);
    assert!(!two.two.join("g").exists() && two.one.join("f").exists());
    // A handle belongs to the export that gave it, whatever node comes with it.
    let mine = two.driver.walk("one/f");
    let theirs = two.driver.walk("two/f");
    let handle = two.driver.open(mine, libc::O_RDONLY).unwrap();
    let read = two.driver.read(theirs, handle, 0, 9);
    assert_eq!(read.unwrap_err(), libc::EBADF);
    // Node IDs that nobody was told.
    for node in [0, 2, 3 << 48 | 1, u64::MAX, 1 << 48, 1 << 48 | 9999] {
        assert_eq!(two.driver.getattr(node).unwrap_err(), libc::ESTALE);
    }
}

#[test]
fn a_folder_shown_twice_has_two_sets_of_inodes() {
    let mut two = Two::new();
    two.exports.attach("again", folder(&two.one)).unwrap();
    let first = two.driver.walk("one/f");
    let second = two.driver.walk("again/f");
    assert_ne!(first, second);
    let number = |node, driver: &mut Driver| driver.getattr(node).unwrap().attr.ino;
    assert_ne!(
        number(first, &mut two.driver),
        number(second, &mut two.driver)
    );
    // A listing and the attributes agree.
    let node = two.driver.walk("again");
    let names = two.driver.names(node, 4096);
    let (_, dirent) = names.iter().find(|(name, _)| name == "f").unwrap();
    assert_eq!(dirent.ino, number(second, &mut two.driver));
    let parent = names.iter().find(|(name, _)| name == "..").unwrap();
    assert_eq!(parent.1.ino, number(node, &mut two.driver));
}

#[test]
fn what_is_attached_shows_at_once_and_what_is_detached_is_gone() {
    let mut two = Two::new();
    let above = two.one.parent().unwrap().to_owned();
    fs::create_dir(above.join("three")).unwrap();
    fs::write(above.join("three/f"), "three").unwrap();
    assert_eq!(two.driver.lookup(ROOT, "three").unwrap_err(), libc::ENOENT);
    let handle = two.exports.clone();
    let path = above.join("three");
    std::thread::spawn(move || handle.attach("three", folder(&path)).unwrap())
        .join()
        .unwrap();
    assert_eq!(two.contents("three/f"), b"three");
    assert_eq!(
        names_in_root(&mut two.driver),
        [".", "..", "one", "two", "three"]
    );

    let (root, node) = (two.driver.walk("one"), two.driver.walk("one/f"));
    let open = two.driver.open(node, libc::O_RDONLY).unwrap();
    let listed = two.driver.readdir(Opcode::Readdir, root, 0, 4096);
    let listed = dirents(&listed.unwrap(), 0);
    assert!(descriptors_beneath(&two.one) > 0);
    two.exports.detach("one").unwrap();
    assert_eq!(descriptors_beneath(&two.one), 0, "all are closed");
    let driver = &mut two.driver;
    assert_eq!(driver.lookup(ROOT, "one").unwrap_err(), libc::ENOENT);
    assert_eq!(driver.getattr(root).unwrap_err(), libc::ESTALE);
    assert_eq!(driver.lookup(root, "f").unwrap_err(), libc::ESTALE);
    assert_eq!(driver.read(node, open, 0, 9).unwrap_err(), libc::ESTALE);
    let read = driver.readdir(Opcode::Readdir, root, listed[0].1.off, 4096);
    assert_eq!(read.unwrap_err(), libc::ESTALE);
    assert_eq!(driver.release(node, open).unwrap_err(), libc::ESTALE);
    driver.forget(node, 1);
    assert_eq!(names_in_root(driver), [".", "..", "two", "three"]);

    // The same name again is another export.
    two.exports.attach("one", folder(&two.one)).unwrap();
    assert_ne!(two.driver.walk("one/f"), node);
    assert_eq!(two.driver.getattr(node).unwrap_err(), libc::ESTALE);
    assert_eq!(two.contents("one/f"), b"one");
}

/// How many descriptors of this process lead to `path` or beneath.
fn descriptors_beneath(path: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(path))
        .count()
}

#[test]
fn names_of_exports_are_checked() {
    let two = Two::new();
    let attach = |name: &str| two.exports.attach(name, folder(&two.one));
    for name in ["", ".", "..", "a/b", "A", "a b", "ä", &"a".repeat(256)] {
        let error = attach(name).unwrap_err();
        assert!(matches!(error, ExportError::Name { .. }), "{name}");
    }
    assert!(matches!(attach("one"), Err(ExportError::Exists { .. })));
    let missing = two.exports.detach("three");
    assert!(matches!(missing, Err(ExportError::Missing { .. })));
    attach(&"a".repeat(255)).unwrap();
}

#[test]
fn a_single_file_is_the_hosts_file_and_nothing_beside_it() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("config");
    fs::write(&path, "before").unwrap();
    fs::write(above.path().join("secret"), "secret").unwrap();
    let exports = Exports::new();
    exports.attach("file", file(&path)).unwrap();
    let mut driver = Driver::of_exports(&exports);
    let entry = driver.lookup(ROOT, "file").unwrap();
    assert_eq!(entry.attr.mode & libc::S_IFMT, libc::S_IFREG);
    let node = entry.nodeid;
    for name in ["secret", "..", "."] {
        assert!(driver.lookup(node, name).is_err());
    }
    let listed = driver.readdir(Opcode::Readdir, node, 0, 4096);
    assert_eq!(listed.unwrap_err(), libc::ENOTDIR);
    let made = driver.create(node, "new", libc::O_RDWR | libc::O_CREAT, 0o644);
    assert_eq!(made.unwrap_err(), libc::ENOTDIR);

    let handle = driver.open(node, libc::O_RDWR | libc::O_TRUNC).unwrap();
    driver.write(node, write_at(handle), b"after").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"after");
    fs::write(&path, "by the host").unwrap();
    let read = driver.read(node, handle, 0, 64).unwrap();
    assert_eq!(read, b"by the host");
    set_mode(&mut driver, node, 0o600).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);

    // Another file in its place on the host is another file.
    fs::write(above.path().join("replacement"), "replaced").unwrap();
    fs::rename(above.path().join("replacement"), &path).unwrap();
    let node = driver.lookup(ROOT, "file").unwrap().nodeid;
    let handle = driver.open(node, libc::O_RDONLY).unwrap();
    let read = driver.read(node, handle, 0, 64).unwrap();
    assert_eq!(read, b"by the host");
}

#[test]
fn only_folders_and_regular_files_are_shared() {
    let above = tempfile::tempdir().unwrap();
    let fifo = above.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = |path: &Path| SharedFolder::open_single_file(path, SHARED).map(drop);
    for path in [fifo.as_path(), Path::new("/dev/null")] {
        assert!(matches!(refused(path), Err(FolderError::Special { .. })));
    }
    let kernel = refused(Path::new("/proc/self/mem"));
    assert!(matches!(kernel, Err(FolderError::KernelInterface { .. })));
    fs::write(above.path().join("f"), "").unwrap();
    let single = file(&above.path().join("f"));
    assert!(super::fs_device("tag", single).is_err());
}

#[test]
fn each_export_has_its_own_options() {
    let mut two = Two::new();
    let read_only = FolderOptions {
        read_only: true,
        cache: CachePolicy::None,
        ..SHARED
    };
    let layer = FolderOptions {
        cache: CachePolicy::Always {
            timeout: Duration::from_secs(30),
        },
        ..SHARED
    };
    let (one, other) = (two.one.clone(), two.two.clone());
    let open = |path, options| SharedFolder::open(path, options).unwrap();
    two.exports.attach("ro", open(&one, read_only)).unwrap();
    two.exports.attach("layer", open(&other, layer)).unwrap();
    let driver = &mut two.driver;
    let node = driver.walk("ro/f");
    assert_eq!(driver.open(node, libc::O_RDWR).unwrap_err(), libc::EROFS);
    let writable = driver.walk("one/f");
    driver.open(writable, libc::O_RDWR).unwrap();
    let lifetime = |path: &str, driver: &mut Driver| {
        let node = driver.walk(path);
        driver.getattr(node).unwrap().attr_valid
    };
    assert_eq!(lifetime("ro/f", driver), 0);
    assert_eq!(lifetime("one/f", driver), 1);
    assert_eq!(lifetime("layer/f", driver), 30);
    let node = driver.walk("layer");
    let absent = driver.lookup(node, "absent").unwrap();
    assert_eq!((absent.nodeid, absent.entry_valid), (0, 30));

    let space = |node, driver: &mut Driver| -> StatfsOut {
        decode(&driver.call(Opcode::Statfs, node, &[], 256).unwrap())
    };
    assert_eq!(space(ROOT, driver).st.blocks, 0);
    let node = driver.walk("one");
    assert!(space(node, driver).st.blocks > 0);
}

/// A driver for an export "x" of `path` with `options`, and its node.
fn restricted(path: &Path, options: FolderOptions) -> (Driver, u64) {
    let exports = Exports::new();
    let folder = SharedFolder::open(path, options).unwrap();
    exports.attach("x", folder).unwrap();
    let mut driver = Driver::of_exports(&exports);
    let node = driver.walk("x");
    (driver, node)
}

#[test]
fn no_exec_hides_the_permission_and_leaves_the_hosts_alone() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("program");
    fs::write(&path, "#!").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let options = FolderOptions {
        no_exec: true,
        ..SHARED
    };
    let (mut driver, root) = restricted(above.path(), options);
    let entry = driver.lookup(root, "program").unwrap();
    assert_eq!(entry.attr.mode & 0o7777, 0o644);
    let node = entry.nodeid;
    set_mode(&mut driver, node, 0o777).unwrap();
    assert_eq!(driver.getattr(node).unwrap().attr.mode & 0o7777, 0o666);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    set_mode(&mut driver, node, 0o600).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o711);
    driver
        .create(root, "new", libc::O_RDWR | libc::O_CREAT, 0o100_755)
        .unwrap();
    let made = fs::metadata(above.path().join("new")).unwrap();
    assert_eq!(made.mode() & 0o7777, 0o644);
    let fields = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    let reply = driver.ask(Opcode::Mkdir, root, fields.as_slice(), &["d"]);
    let entry: EntryOut = decode(&reply.unwrap());
    assert_eq!(entry.attr.mode & 0o7777, 0o755, "directories are entered");
}

#[test]
fn no_suid_hides_privileges_and_gives_none() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("sudo");
    fs::write(&path, "#!").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
    let options = FolderOptions {
        no_suid: true,
        ..SHARED
    };
    let (mut driver, root) = restricted(above.path(), options);
    let entry = driver.lookup(root, "sudo").unwrap();
    assert_eq!(entry.attr.mode & 0o7777, 0o755);
    for mode in [0o4755, 0o2755] {
        set_mode(&mut driver, entry.nodeid, mode).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    }
    let flags = libc::O_RDWR | libc::O_CREAT;
    driver.create(root, "new", flags, 0o106_755).unwrap();
    let fields = MknodIn {
        mode: 0o106_755,
        ..MknodIn::default()
    };
    driver
        .ask(Opcode::Mknod, root, fields.as_slice(), &["node"])
        .unwrap();
    for name in ["new", "node"] {
        let made = fs::metadata(above.path().join(name)).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o755, "{name}");
    }
    let name = c"security.capability";
    let fields = SetxattrIn { size: 4, flags: 0 };
    let body = [fields.as_slice(), name.to_bytes_with_nul(), b"cap!"].concat();
    let set = driver.call(Opcode::Setxattr, entry.nodeid, &body, 64);
    assert_eq!(set.unwrap_err(), libc::EOPNOTSUPP);
    let fields = GetxattrIn {
        size: 64,
        padding: 0,
    };
    let get = driver.ask(
        Opcode::Getxattr,
        entry.nodeid,
        fields.as_slice(),
        &["security.capability"],
    );
    assert_eq!(get.unwrap_err(), libc::EOPNOTSUPP);
}

#[test]
fn no_dev_shows_a_device_that_nothing_drives() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let above = tempfile::tempdir().unwrap();
    let made = nix::sys::stat::mknod(
        &above.path().join("kmsg"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::S_IRUSR,
        libc::makedev(1, 11),
    );
    if made.is_err() {
        return;
    }
    let number = |options: FolderOptions| {
        let (mut driver, root) = restricted(above.path(), options);
        driver.lookup(root, "kmsg").unwrap().attr.rdev
    };
    assert_eq!(number(SHARED), 1 << 8 | 11);
    let no_dev = FolderOptions {
        no_dev: true,
        ..SHARED
    };
    assert_eq!(number(no_dev), 1);
}

#[test]
fn a_new_session_knows_nothing_of_the_last_one() {
    let mut two = Two::new();
    let node = two.driver.walk("one/f");
    two.driver
        .init(fuse_backend_rs::abi::fuse_abi::FsOptions::all());
    assert_eq!(two.driver.getattr(node).unwrap_err(), libc::ESTALE);
    assert_eq!(two.contents("one/f"), b"one");
}
