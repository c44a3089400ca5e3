//! What the guest must not do: leave the folder, change what is read-only, use up the process.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FallocateIn, LinkIn, MkdirIn, MknodIn, Opcode, OpenIn, Rename2In, RenameIn,
    SetattrIn, SetattrValid, SetxattrIn, WriteIn,
};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use vm_memory::ByteValued;

use super::driver::{Driver, ROOT};
use crate::fs::{CachePolicy, FolderError, FolderOptions, SharedFolder};

const SHARED: FolderOptions = FolderOptions::DEFAULT;

/// A folder, and beside it a file that is none of the guest's business.
struct Surroundings {
    _directory: tempfile::TempDir,
    folder: PathBuf,
    outside: PathBuf,
}

impl Surroundings {
    fn new() -> Surroundings {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("folder");
        let outside = directory.path().join("outside");
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), b"secret").unwrap();
        Surroundings {
            _directory: directory,
            folder,
            outside,
        }
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_by_every_request() {
    let around = Surroundings::new();
    fs::write(around.folder.join("f"), b"").unwrap();
    symlink(&around.outside, around.folder.join("link")).unwrap();
    let mut driver = Driver::new(&around.folder, SHARED);
    let file = driver.walk("f");
    let create = CreateIn {
        flags: libc::O_RDWR as u32,
        mode: 0o644,
        ..CreateIn::default()
    };
    let mknod = MknodIn {
        mode: libc::S_IFREG | 0o644,
        ..MknodIn::default()
    };
    let mkdir = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    let link = LinkIn { oldnodeid: file };
    let rename = RenameIn { newdir: ROOT };
    for name in ["..", ".", "/etc", "../outside/secret", "link/secret", ""] {
        let mut refused = |opcode, fields: &[u8], names: &[&str]| {
            let error = driver.ask(opcode, ROOT, fields, names).unwrap_err();
            let expected = [libc::EINVAL, libc::ENOENT];
            assert!(expected.contains(&error), "{opcode:?} {name:?}: {error}");
        };
        refused(Opcode::Lookup, &[], &[name]);
        refused(Opcode::Create, create.as_slice(), &[name]);
        refused(Opcode::Mknod, mknod.as_slice(), &[name]);
        refused(Opcode::Mkdir, mkdir.as_slice(), &[name]);
        refused(Opcode::Symlink, &[], &[name, "target"]);
        refused(Opcode::Link, link.as_slice(), &[name]);
        refused(Opcode::Unlink, &[], &[name]);
        refused(Opcode::Rmdir, &[], &[name]);
        refused(Opcode::Rename, rename.as_slice(), &[name, "new"]);
        refused(Opcode::Rename, rename.as_slice(), &["f", name]);
    }
    // A link that is there already is an entry like any other, and opens nothing behind it.
    let link = driver.walk("link");
    assert!(driver.readdir(Opcode::Readdir, link, 0, 4096).is_err());
    for name in ["secret", "new"] {
        let inside = driver.ask(Opcode::Create, link, create.as_slice(), &[name]);
        assert_eq!(inside.unwrap_err(), libc::ENOTDIR);
    }
    let replaced = driver.create(ROOT, "link", libc::O_RDWR, 0o644);
    assert_eq!(replaced.unwrap_err(), libc::ELOOP);
    assert_eq!(fs::read(around.outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&around.outside).unwrap().count(), 1);
}

#[test]
fn a_directory_that_becomes_a_link_at_any_moment_leads_nowhere() {
    let around = Surroundings::new();
    let (real, link) = (around.folder.join("d"), around.folder.join("link"));
    fs::create_dir(&real).unwrap();
    fs::write(real.join("secret"), b"decoy").unwrap();
    symlink(&around.outside, &link).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &real, AT_FDCWD, &link, flags).unwrap();
            }
        });
        let mut driver = Driver::new(&around.folder, SHARED);
        let mut reached = 0;
        for round in 0..4000 {
            let Ok(directory) = driver.lookup(ROOT, "d") else {
                continue;
            };
            if let Ok(entry) = driver.lookup(directory.nodeid, "secret") {
                let handle = driver.open(entry.nodeid, libc::O_RDONLY).unwrap();
                let contents = driver.read(entry.nodeid, handle, 0, 64).unwrap();
                assert_eq!(contents, b"decoy");
                driver.release(entry.nodeid, handle).unwrap();
                reached += 1;
            }
            let name = format!("new{round}");
            let _ = driver.create(directory.nodeid, &name, libc::O_RDWR, 0o644);
        }
        done.store(true, Ordering::Relaxed);
        assert!(reached > 0, "the directory was there part of the time");
    });
    assert_eq!(fs::read_dir(&around.outside).unwrap().count(), 1);
}

/// Every entry below `path` with its attributes and contents.
fn snapshot(path: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (mode, links) = (metadata.mode(), metadata.nlink());
        let times = (metadata.ctime(), metadata.ctime_nsec(), metadata.mtime());
        let contents = fs::read(&path).unwrap_or_default();
        all.push(format!("{path:?} {mode:o} {links} {times:?} {contents:?}"));
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            pending.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

#[test]
fn every_request_that_changes_something_is_refused_in_a_read_only_folder() {
    for cache in [CachePolicy::ALWAYS, CachePolicy::AUTO] {
        let around = Surroundings::new();
        fs::write(around.folder.join("f"), b"contents").unwrap();
        fs::create_dir(around.folder.join("d")).unwrap();
        let before = snapshot(&around.folder);
        let options = FolderOptions {
            read_only: true,
            cache,
            ..FolderOptions::DEFAULT
        };
        let mut driver = Driver::new(&around.folder, options);
        let file = driver.walk("f");
        let handle = driver.open(file, libc::O_RDONLY).unwrap_or(0);
        let mut refused = |opcode, node, fields: &[u8], names: &[&str]| {
            let reply = driver.ask(opcode, node, fields, names);
            assert_eq!(reply.unwrap_err(), libc::EROFS, "{opcode:?}");
        };
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_RDONLY | libc::O_TRUNC,
            libc::O_WRONLY | libc::O_APPEND,
        ] {
            let fields = OpenIn {
                flags: flags as u32,
                fuse_flags: 0,
            };
            refused(Opcode::Open, file, fields.as_slice(), &[]);
        }
        for valid in [
            SetattrValid::MODE,
            SetattrValid::UID,
            SetattrValid::GID,
            SetattrValid::SIZE,
            SetattrValid::ATIME_NOW,
            SetattrValid::MTIME,
        ] {
            let fields = SetattrIn {
                valid: valid.bits(),
                ..SetattrIn::default()
            };
            refused(Opcode::Setattr, file, fields.as_slice(), &[]);
        }
        for flags in [libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY | libc::O_TRUNC] {
            let fields = CreateIn {
                flags: flags as u32,
                mode: 0o644,
                ..CreateIn::default()
            };
            refused(Opcode::Create, ROOT, fields.as_slice(), &["new"]);
            refused(Opcode::Create, ROOT, fields.as_slice(), &["f"]);
        }
        for kind in [libc::S_IFREG, libc::S_IFIFO, libc::S_IFCHR] {
            let fields = MknodIn {
                mode: kind | 0o644,
                ..MknodIn::default()
            };
            refused(Opcode::Mknod, ROOT, fields.as_slice(), &["new"]);
        }
        refused(Opcode::Mkdir, ROOT, MkdirIn::default().as_slice(), &["new"]);
        refused(Opcode::Symlink, ROOT, &[], &["new", "target"]);
        let fields = LinkIn { oldnodeid: file };
        refused(Opcode::Link, ROOT, fields.as_slice(), &["new"]);
        refused(Opcode::Unlink, ROOT, &[], &["f"]);
        refused(Opcode::Rmdir, ROOT, &[], &["d"]);
        let fields = RenameIn { newdir: ROOT };
        refused(Opcode::Rename, ROOT, fields.as_slice(), &["f", "new"]);
        let fields = Rename2In {
            newdir: ROOT,
            flags: libc::RENAME_EXCHANGE,
            padding: 0,
        };
        refused(Opcode::Rename2, ROOT, fields.as_slice(), &["f", "d"]);
        let fields = SetxattrIn { size: 0, flags: 0 };
        refused(Opcode::Setxattr, file, fields.as_slice(), &["user.a"]);
        refused(Opcode::Removexattr, file, &[], &["user.a"]);
        let fields = FallocateIn {
            fh: handle,
            length: 4096,
            ..FallocateIn::default()
        };
        refused(Opcode::Fallocate, file, fields.as_slice(), &[]);
        let fields = WriteIn {
            fh: handle,
            size: 4,
            ..WriteIn::default()
        };
        refused(Opcode::Write, file, fields.as_slice(), &["new"]);
        assert_eq!(snapshot(&around.folder), before);
        assert_eq!(driver.read(file, handle, 0, 64).unwrap(), b"contents");
    }
}

#[test]
fn the_interfaces_of_the_hosts_kernel_are_shut() {
    let options = FolderOptions {
        read_only: true,
        ..FolderOptions::DEFAULT
    };
    for path in ["/proc", "/sys", "/proc/self"] {
        let error = SharedFolder::open(Path::new(path), options).map(drop);
        let refused = matches!(error, Err(FolderError::KernelInterface { .. }));
        assert!(refused, "{path}: {error:?}");
    }
    let mut driver = Driver::new(Path::new("/"), options);
    let proc = driver.lookup(ROOT, "proc").unwrap();
    assert_eq!(proc.attr.mode & libc::S_IFMT, libc::S_IFDIR);
    let inside = driver.lookup(proc.nodeid, "self").map(drop);
    assert_eq!(inside.unwrap_err(), libc::EACCES);
    let listed = driver.readdir(Opcode::Readdir, proc.nodeid, 0, 4096);
    assert_eq!(listed.unwrap_err(), libc::EACCES);
}

/// A folder with 40 files under a budget of 10 descriptors, and its driver.
fn crowded() -> (Surroundings, Driver) {
    let around = Surroundings::new();
    for name in 0..40 {
        fs::write(around.folder.join(name.to_string()), name.to_string()).unwrap();
    }
    let folder = SharedFolder::open(&around.folder, SHARED).unwrap();
    let driver = Driver::initialised(folder.with_descriptor_limit(10));
    (around, driver)
}

#[test]
fn a_guest_knows_more_files_than_there_are_descriptors() {
    let (around, mut driver) = crowded();
    let entries: Vec<_> = (0..40)
        .map(|name| driver.lookup(ROOT, &name.to_string()).unwrap())
        .collect();
    for (name, entry) in entries.iter().enumerate() {
        let handle = driver.open(entry.nodeid, libc::O_RDONLY).unwrap();
        let contents = driver.read(entry.nodeid, handle, 0, 64).unwrap();
        assert_eq!(contents, name.to_string().as_bytes());
        driver.release(entry.nodeid, handle).unwrap();
        let again = driver.lookup(ROOT, &name.to_string()).unwrap();
        assert_eq!(again.nodeid, entry.nodeid, "still the same inode");
    }
    // File 0 was used longest ago and has no descriptor by now. It is renamed: the name says where it is.
    fs::rename(around.folder.join("0"), around.folder.join("moved")).unwrap();
    let node = entries[0].nodeid;
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
    assert_eq!(driver.lookup(ROOT, "moved").unwrap().nodeid, node);
    assert_eq!(driver.getattr(node).unwrap().attr.size, 1);
    // File 1 is replaced by another: it is not taken for the old one.
    let node = entries[1].nodeid;
    fs::remove_file(around.folder.join("1")).unwrap();
    fs::write(around.folder.join("1"), "another").unwrap();
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
    assert_ne!(driver.lookup(ROOT, "1").unwrap().nodeid, node);
    assert_eq!(driver.getattr(node).unwrap_err(), libc::ESTALE);
}

#[test]
fn an_open_file_without_a_name_keeps_its_descriptor() {
    let (around, mut driver) = crowded();
    let node = driver.walk("0");
    let handle = driver.open(node, libc::O_RDONLY).unwrap();
    fs::remove_file(around.folder.join("0")).unwrap();
    for _ in 0..3 {
        for name in 1..40 {
            driver.lookup(ROOT, &name.to_string()).unwrap();
        }
    }
    assert_eq!(driver.getattr(node).unwrap().attr.nlink, 0);
    assert_eq!(driver.read(node, handle, 0, 64).unwrap(), b"0");
}

#[test]
fn a_guest_that_opens_too_much_gets_enfile_and_goes_on_after_closing() {
    let (_around, mut driver) = crowded();
    let mut open = Vec::new();
    let error = loop {
        let node = match driver.lookup(ROOT, &open.len().to_string()) {
            Ok(entry) => entry.nodeid,
            Err(error) => break error,
        };
        match driver.open(node, libc::O_RDONLY) {
            Ok(handle) => open.push((node, handle)),
            Err(error) => break error,
        }
    };
    assert_eq!(error, libc::ENFILE);
    assert!(open.len() >= 4);
    // A directory is opened for one request at a time then.
    assert_eq!(driver.names(ROOT, 300).len(), 42);
    for (node, handle) in open {
        driver.release(node, handle).unwrap();
    }
    driver.lookup(ROOT, "39").unwrap();
}
