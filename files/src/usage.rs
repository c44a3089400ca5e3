//! How much room files take up.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::entries::Entries;

/// How many directories above the current one are kept open. Those between are found again by `..`.
const KEPT_OPEN: usize = 32;

/// Fraction bits of a share.
const FRACTION: u32 = 32;

/// Bytes that `root` and everything beneath it take up on the host, as du(1) counts them: allocated blocks, and a file
/// with several names once. Links are not followed. Memory is a few bytes for each level of the deepest directory, so
/// a file with `n` names counts as an `n`th of it at each. What changes meanwhile may be counted or not; what this
/// user cannot read is not.
///
/// # Errors
/// As getdents64(2) and fstatat(2).
pub fn used_bytes(root: OwnedFd) -> io::Result<u64> {
    sum(root, share)
}

/// As [`used_bytes`], but each name of a file counts as if it were the only one, as in a copy that makes a file of each.
///
/// # Errors
/// As [`used_bytes`].
pub(crate) fn bytes_of_copies(root: OwnedFd) -> io::Result<u64> {
    sum(root, |stat| bytes(stat) << FRACTION)
}

/// The sum of what names count for, with [`FRACTION`] bits behind the point, rounded.
fn sum(root: OwnedFd, count: impl Fn(&FileStat) -> u128) -> io::Result<u64> {
    let mut used = count(&fstat(&root)?);
    let mut walk = Walk {
        current: root,
        above: Vec::new(),
        entries: Entries::new(),
    };
    walk.entries.resume(walk.current.as_fd(), 0)?;
    loop {
        let Some(entry) = walk.entries.next(walk.current.as_fd())? else {
            if walk.go_up()? {
                continue;
            }
            let rounded = used.saturating_add(1 << (FRACTION - 1)) >> FRACTION;
            return Ok(u64::try_from(rounded).unwrap_or(u64::MAX));
        };
        let stat = match fstatat(
            &walk.current,
            entry.name.as_c_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => stat,
            // Removed, or in a directory that may be listed but not searched.
            Err(Errno::ENOENT | Errno::EACCES) => continue,
            Err(error) => return Err(error.into()),
        };
        used = used.saturating_add(count(&stat));
        if is_directory(&stat) {
            walk.go_down(&entry.name, entry.behind)?;
        }
    }
}

/// What one of its names counts for, with [`FRACTION`] bits behind the point.
fn share(stat: &FileStat) -> u128 {
    // The links of a directory are its `.` and the `..` of those in it.
    let names = if is_directory(stat) {
        1
    } else {
        stat.st_nlink.max(1)
    };
    (bytes(stat) << FRACTION) / u128::from(names)
}

fn bytes(stat: &FileStat) -> u128 {
    u128::from(stat.st_blocks.unsigned_abs()) << 9
}

fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

struct Walk {
    current: OwnedFd,
    /// The directories on the way to it, the root first.
    above: Vec<Above>,
    entries: Entries,
}

struct Above {
    /// Itself, if it is one of the first.
    directory: Option<OwnedFd>,
    device_and_inode: (u64, u64),
    /// Where reading goes on.
    behind: i64,
}

impl Walk {
    fn go_down(&mut self, name: &CStr, behind: i64) -> io::Result<()> {
        let child = match open_directory(self.current.as_fd(), name) {
            Ok(child) => child,
            // It is something else by now, or not for this user.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.entries.resume(child.as_fd(), 0)?;
        let directory = std::mem::replace(&mut self.current, child);
        self.above.push(Above {
            device_and_inode: identity(&fstat(&directory)?),
            directory: (self.above.len() < KEPT_OPEN).then_some(directory),
            behind,
        });
        Ok(())
    }

    /// Returns false at the root.
    fn go_up(&mut self) -> io::Result<bool> {
        // `..` of a directory that was moved meanwhile is not where the walk came from: what is left of the
        // directories between is skipped then, up to one that was kept open.
        let mut lost = false;
        while let Some(above) = self.above.pop() {
            let directory = match above.directory {
                Some(directory) => directory,
                None if lost => continue,
                None => match open_directory(self.current.as_fd(), c"..") {
                    Ok(parent) if identity(&fstat(&parent)?) == above.device_and_inode => parent,
                    _ => {
                        lost = true;
                        continue;
                    }
                },
            };
            self.entries.resume(directory.as_fd(), above.behind)?;
            self.current = directory;
            return Ok(true);
        }
        Ok(false)
    }
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, symlink};
    use std::path::Path;
    use std::process::Command;

    use nix::sys::stat::mkdirat;

    use super::*;

    fn used(path: &Path) -> u64 {
        used_bytes(File::open(path).unwrap().into()).unwrap()
    }

    fn du(path: &Path) -> u64 {
        let output = Command::new("du")
            .args(["-s", "-B1"])
            .arg(path)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split('\t').next().unwrap().parse().unwrap()
    }

    #[test]
    fn as_du_counts() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        assert_eq!(used(path), du(path));
        fs::create_dir_all(path.join("a/b/c")).unwrap();
        fs::write(path.join("a/file"), vec![1; 100_000]).unwrap();
        for name in ["a/b/second", "a/b/c/third", "fourth"] {
            fs::hard_link(path.join("a/file"), path.join(name)).unwrap();
        }
        File::create(path.join("sparse"))
            .unwrap()
            .write_at(b"x", 1 << 30)
            .unwrap();
        symlink("/usr", path.join("link")).unwrap();
        symlink(".", path.join("a/loop")).unwrap();
        for number in 0..2000 {
            fs::write(
                path.join(format!("a/b/a file with a long name {number}")),
                "x",
            )
            .unwrap();
        }
        File::open(path).unwrap().sync_all().unwrap();
        assert_eq!(used(path), du(path));
        assert!(used(path) > 100_000 && used(path) < 1 << 26);
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let root = tempfile::tempdir().unwrap();
        let mut directory: OwnedFd = File::open(root.path()).unwrap().into();
        for _ in 0..10 * KEPT_OPEN {
            mkdirat(&directory, c"d", Mode::S_IRWXU).unwrap();
            mkdirat(&directory, c"e", Mode::S_IRWXU).unwrap();
            directory = open_directory(directory.as_fd(), c"d").unwrap();
        }
        assert_eq!(used(root.path()), du(root.path()));
        crate::remove_tree(File::open(root.path()).unwrap().as_fd(), c"d").unwrap();
    }

    #[test]
    fn others_may_change_everything_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let deep: String = "d/".repeat(60);
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::create_dir_all(path.join("x").join(&deep)).unwrap();
                    fs::rename(path.join("x/d/d/d"), path.join("moved")).unwrap();
                    fs::remove_dir_all(path.join("moved")).unwrap();
                    fs::remove_dir_all(path.join("x")).unwrap();
                    symlink("/usr", path.join("x")).unwrap();
                    fs::remove_file(path.join("x")).unwrap();
                }
            });
            let largest = std::panic::catch_unwind(|| (0..1000).map(|_| used(path)).max());
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            // /usr is much larger.
            assert!(largest.unwrap().unwrap() < 10 << 20);
        });
    }
}
