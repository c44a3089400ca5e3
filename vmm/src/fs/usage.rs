//! What a folder uses on the host's disk: 512 times the blocks of everything in it, as du(1) counts. Holes are free,
//! and a file with several names counts once.
//!
//! The guest decides how deep and how wide the folder is. So few directories are open at a time: of those above, the
//! walk keeps where it was, and finds its way back by "..", which must lead where it came from.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

/// Bytes that the directory behind `root` and everything beneath it use. What cannot be opened counts itself only.
///
/// # Errors
/// As open(2) and getdents(2); `ESTALE` if somebody moved a directory out of the way meanwhile.
pub(super) fn usage_of(root: BorrowedFd<'_>, descriptors: &DescriptorDirectory) -> io::Result<u64> {
    let status = status_of(root)?;
    let mut walk = Walk {
        device: status.st_dev,
        bytes: bytes_of(&status),
        several_names: HashSet::new(),
    };
    let mut above: Vec<Level> = Vec::new();
    let mut current = Level {
        identity: FileIdentity::of(&status),
        directory: Some(OpenDirectory::new(descriptors.reopen(root, DIRECTORY)?)),
        position: 0,
    };
    loop {
        let directory = current.directory.take().ok_or_else(|| errno(libc::EIO))?;
        match walk.next_directory(&directory, &mut current.position)? {
            Some((child, status)) => {
                current.directory = (above.len() < KEPT_OPEN).then_some(directory);
                let identity = FileIdentity::of(&status);
                let below = Level {
                    identity,
                    directory: Some(OpenDirectory::new(child)),
                    position: 0,
                };
                above.push(std::mem::replace(&mut current, below));
            }
            None => {
                let Some(mut parent) = above.pop() else {
                    return Ok(walk.bytes);
                };
                if parent.directory.is_none() {
                    let back = openat(
                        &directory,
                        c"..",
                        DIRECTORY | OFlag::O_CLOEXEC,
                        Mode::empty(),
                    )?;
                    if FileIdentity::of(&status_of(&back)?) != parent.identity {
                        return Err(errno(libc::ESTALE));
                    }
                    parent.directory = Some(OpenDirectory::new(back));
                }
                current = parent;
            }
        }
    }
}

/// A directory on the way from the root to where the walk is.
struct Level {
    identity: FileIdentity,
    directory: Option<OpenDirectory>,
    /// The next entry's.
    position: u64,
}

struct Walk {
    /// That of the root.
    device: u64,
    bytes: u64,
    several_names: HashSet<FileIdentity>,
}

impl Walk {
    /// Counts the entries of `directory` from `position` on, until one is a directory, which it opens.
    fn next_directory(
        &mut self,
        directory: &OpenDirectory,
        position: &mut u64,
    ) -> io::Result<Option<(OwnedFd, stat64)>> {
        loop {
            let mut found = None;
            directory.read(*position, |entry| {
                if found.is_some() {
                    return Ok(false);
                }
                *position = entry.next;
                let Ok(name) = Component::new(entry.name) else {
                    return Ok(true);
                };
                found = self.count(directory.as_fd(), name).map(CStr::to_owned);
                Ok(true)
            })?;
            let Some(name) = found else {
                return Ok(None);
            };
            if let Some(child) = self.enter(directory.as_fd(), &name) {
                return Ok(Some(child));
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

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    fn usage(path: &Path) -> u64 {
        let root = fs::File::open(path).unwrap();
        usage_of(root.as_fd(), &DescriptorDirectory::open().unwrap()).unwrap()
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
}
