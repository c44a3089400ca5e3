//! What a folder uses on the host's disk: 512 times the blocks of everything in it, as du(1) counts. Holes are free,
//! and a file with several names counts once.
//!
//! The guest decides how deep and how wide the folder is. So few directories are open at a time: of those above, the
//! walk keeps where it was, and finds its way back by "..", which must lead where it came from.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use fuse_backend_rs::abi::fuse_abi::stat64;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::attributes::{status_beneath, status_of};
use super::beneath::{self, Component, DescriptorDirectory};
use super::directory::OpenDirectory;
use super::errno;
use super::inode::FileIdentity;
use super::kernel_interfaces::is_kernel_interface;

/// Directories that are open at a time, besides the one that is read.
const KEPT_OPEN: usize = 16;

/// Most files with several names that are remembered, 16 bytes each. More count once for each name.
const MAX_REMEMBERED: usize = 1 << 20;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);

/// Bytes on the disk that a file with `status` uses.
pub(super) fn bytes_of(status: &stat64) -> u64 {
    u64::try_from(status.st_blocks)
        .unwrap_or_default()
        .saturating_mul(512)
}

/// A walk through a folder, which may be interrupted.
pub(super) struct Walk {
    /// Device of the root.
    device: u64,
    bytes: u64,
    several_names: HashSet<FileIdentity>,
    above: Vec<Level>,
    current: Level,
}

/// A directory on the way from the root to where the walk is.
struct Level {
    identity: FileIdentity,
    directory: Option<OpenDirectory>,
    /// The next entry's.
    position: u64,
}

/// Why the reading of a directory stops.
enum Stop {
    /// An entry is a directory, which was opened.
    Directory(OwnedFd, stat64),
    End,
    /// There was no time for more.
    Time,
}

impl Level {
    fn new(directory: OwnedFd, status: &stat64) -> Level {
        Level {
            identity: FileIdentity::of(status),
            directory: Some(OpenDirectory::new(directory)),
            position: 0,
        }
    }
}

impl Walk {
    /// Begins one through the directory behind `root` and everything beneath it.
    ///
    /// # Errors
    /// As open(2).
    pub(super) fn begin(
        root: BorrowedFd<'_>,
        descriptors: &DescriptorDirectory,
    ) -> io::Result<Walk> {
        let status = status_of(root)?;
        Ok(Walk {
            device: status.st_dev,
            bytes: bytes_of(&status),
            several_names: HashSet::new(),
            above: Vec::new(),
            current: Level::new(descriptors.reopen(root, DIRECTORY)?, &status),
        })
    }

    /// Walks on until `deadline`, if there is one. Returns the bytes in use when it is through, or `None` when there is
    /// more to walk. What cannot be opened counts itself only.
    ///
    /// # Errors
    /// As getdents(2); `ESTALE` if somebody moved a directory out of the way. Then the walk cannot go on.
    pub(super) fn go_on(&mut self, deadline: Option<Instant>) -> io::Result<Option<u64>> {
        loop {
            let directory = self.current.directory.take();
            let mut directory = directory.ok_or_else(|| errno(libc::EIO))?;
            match self.next_directory(&mut directory, deadline)? {
                Stop::Directory(child, status) => {
                    self.current.directory = (self.above.len() < KEPT_OPEN).then_some(directory);
                    let below = Level::new(child, &status);
                    self.above.push(std::mem::replace(&mut self.current, below));
                }
                Stop::End => {
                    let Some(parent) = self.above.pop() else {
                        return Ok(Some(self.bytes));
                    };
                    self.current = return_to(parent, &directory)?;
                }
                Stop::Time => {
                    self.current.directory = Some(directory);
                    return Ok(None);
                }
            }
        }
    }

    /// Counts the entries of `directory` from where the walk is, until one is a directory.
    fn next_directory(
        &mut self,
        directory: &mut OpenDirectory,
        deadline: Option<Instant>,
    ) -> io::Result<Stop> {
        loop {
            let mut found = None;
            let mut late = false;
            directory.read(self.current.position, |descriptor, entry| {
                late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if late || found.is_some() {
                    return Ok(false);
                }
                self.current.position = entry.next;
                let Ok(name) = Component::new(entry.name) else {
                    return Ok(true);
                };
                found = self.count(descriptor, name).map(CStr::to_owned);
                Ok(true)
            })?;
            match found {
                Some(name) => {
                    if let Some((child, status)) = self.enter(directory.as_fd(), &name) {
                        return Ok(Stop::Directory(child, status));
                    }
                }
                None if late => return Ok(Stop::Time),
                None => return Ok(Stop::End),
            }
        }
    }

    /// Counts entry `name`; returns the name if it is a directory. It may be gone by now.
    fn count<'n>(&mut self, directory: BorrowedFd<'_>, name: Component<'n>) -> Option<&'n CStr> {
        let status = status_beneath(directory, name).ok()?;
        let is_directory = status.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let new = is_directory
            || status.st_nlink < 2
            || self.several_names.len() >= MAX_REMEMBERED
            || self.several_names.insert(FileIdentity::of(&status));
        if new {
            self.bytes = self.bytes.saturating_add(bytes_of(&status));
        }
        is_directory.then_some(name.as_c_str())
    }

    fn enter(&self, directory: BorrowedFd<'_>, name: &CString) -> Option<(OwnedFd, stat64)> {
        let name = Component::new(name).ok()?;
        let child = beneath::open(directory, name, DIRECTORY, Mode::empty()).ok()?;
        let status = status_of(&child).ok()?;
        if status.st_dev != self.device && is_kernel_interface(&child).unwrap_or(true) {
            return None;
        }
        Some((child, status))
    }
}

/// Goes back from `directory` to the one above it, which is `parent`.
fn return_to(mut parent: Level, directory: &OpenDirectory) -> io::Result<Level> {
    if parent.directory.is_some() {
        return Ok(parent);
    }
    let flags = DIRECTORY | OFlag::O_CLOEXEC;
    let back = openat(directory, c"..", flags, Mode::empty())?;
    if FileIdentity::of(&status_of(&back)?) != parent.identity {
        return Err(errno(libc::ESTALE));
    }
    parent.directory = Some(OpenDirectory::new(back));
    Ok(parent)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    fn usage(path: &Path) -> u64 {
        begin(path).go_on(None).unwrap().unwrap()
    }

    fn begin(path: &Path) -> Walk {
        let root = fs::File::open(path).unwrap();
        Walk::begin(root.as_fd(), &DescriptorDirectory::open().unwrap()).unwrap()
    }

    fn bytes(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * 512
    }

    #[test]
    fn holes_are_free_second_names_too_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        fs::write(path.join("a/f"), [1; 10_000]).unwrap();
        fs::hard_link(path.join("a/f"), path.join("a/b/g")).unwrap();
        let sparse = fs::File::create(path.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", path.join("a/root")).unwrap();
        let all = ["", "a", "a/b", "a/b/c", "a/f", "sparse", "a/root"];
        let expected: u64 = all.iter().map(|name| bytes(&path.join(name))).sum();
        assert_eq!(usage(path), expected);
    }

    #[test]
    fn deep_and_wide_folders_are_walked_with_few_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = bytes(folder.path());
        let mut here = OwnedFd::from(fs::File::open(folder.path()).unwrap());
        for depth in 0..300 {
            for name in [c"x".to_owned(), CString::new("y".repeat(200)).unwrap()] {
                nix::sys::stat::mkdirat(&here, name.as_c_str(), Mode::S_IRWXU).unwrap();
                let made = status_beneath(here.as_fd(), Component::new(&name).unwrap()).unwrap();
                expected += bytes_of(&made);
            }
            let down = if depth % 2 == 0 { c"x" } else { c"." };
            here = openat(&here, down, DIRECTORY, Mode::empty()).unwrap();
            if depth % 2 == 1 {
                let long = CString::new("y".repeat(200)).unwrap();
                here = openat(&here, long.as_c_str(), DIRECTORY, Mode::empty()).unwrap();
            }
        }
        // A directory may have grown by then, on some file systems.
        assert!(usage(folder.path()) >= expected);
        assert!(usage(folder.path()) <= expected + 300 * 4096);
        // tempfile cannot remove a path that is too long for one system call.
        let removed = std::process::Command::new("rm")
            .arg("-rf")
            .arg(folder.path())
            .status();
        assert!(removed.unwrap().success());
    }

    #[test]
    fn an_interrupted_walk_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/b/c", "d/e", "f"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), [1; 5000]).unwrap();
        }
        let mut walk = begin(folder.path());
        let now = Instant::now();
        assert_eq!(walk.go_on(Some(now)).unwrap(), None);
        let soon = std::time::Duration::from_micros(20);
        let found = loop {
            let deadline = Instant::now() + soon;
            if let Some(found) = walk.go_on(Some(deadline)).unwrap() {
                break found;
            }
        };
        assert_eq!(found, usage(folder.path()));
    }
}
