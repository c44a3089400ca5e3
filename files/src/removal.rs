//! Removing a directory with all that is in it, whoever changes it meanwhile.
//!
//! Each step names one entry of a directory that is held open and follows no link, so whatever a guest puts in the place
//! of a directory, nothing outside is touched. Descriptors are bounded: what lies deeper than [`MAX_DEPTH`] is moved
//! up first, which needs none of the paths that would be too long.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How many directories are open one within the other; each takes two descriptors.
const MAX_DEPTH: u32 = 32;

/// How often a directory is looked at again because something new was in it.
const MAX_ROUNDS: u32 = 16;

/// Removes entry `name` of `parent`, if it is there, and everything beneath it. Directories that their owner may not
/// change are made changeable: a guest can leave such.
///
/// # Errors
/// As unlink(2) and rmdir(2); `ENOTEMPTY` when others keep adding to it.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut removal = Removal {
        top: open_directory(parent, name)?,
        moved: 0,
    };
    let mut rounds = 0;
    loop {
        let moved_before = removal.moved;
        removal.empty(removal.top.try_clone()?, 0)?;
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // What was moved up is to be removed now.
            Err(Errno::ENOTEMPTY) if removal.moved > moved_before => {}
            Err(Errno::ENOTEMPTY) if rounds < MAX_ROUNDS => rounds += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

struct Removal {
    /// The directory that is removed.
    top: OwnedFd,
    /// How many directories were moved up into it.
    moved: u64,
}

impl Removal {
    /// Removes what is in `directory`, or moves it up.
    fn empty(&mut self, directory: OwnedFd, depth: u32) -> io::Result<()> {
        let mut entries = Dir::from_fd(openat(&directory, ".", directory_flags(), Mode::empty())?)?;
        for entry in entries.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // Saves a system call. If it is wrong by now, the next round finds out.
            if entry.file_type() != Some(Type::Directory) {
                match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => continue,
                    Err(Errno::EISDIR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let child = match open_directory(directory.as_fd(), name) {
                Ok(child) => child,
                Err(error) if changed_meanwhile(&error) => continue,
                Err(error) => return Err(error),
            };
            if depth == MAX_DEPTH {
                self.move_up(directory.as_fd(), name)?;
                continue;
            }
            self.empty(child, depth + 1)?;
            match unlinkat(&directory, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let new_name = CString::new(format!(".removed-{}", self.moved))?;
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(directory, name, &self.top, new_name.as_c_str(), flags) {
                // The number was taken by somebody else's file.
                Err(Errno::EEXIST) => {}
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether an entry has become something else than the directory that it was.
fn changed_meanwhile(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// Opens a directory so that what is in it can be removed.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let directory = match openat(parent, name, directory_flags(), Mode::empty()) {
        Err(Errno::EACCES) => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let directory = openat(parent, name, flags, Mode::empty())?;
            // fchmod(2) does not take such a descriptor. Its entry in /proc leads to this very directory.
            let entry = format!("/proc/self/fd/{}", directory.as_raw_fd());
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(entry, mode)?;
            openat(&directory, ".", directory_flags(), Mode::empty())?
        }
        result => result?,
    };
    let mode = Mode::from_bits_truncate(fstat(&directory)?.st_mode);
    if !mode.contains(Mode::S_IRWXU) {
        // If it is another user's, removing will tell.
        let _ = fchmod(&directory, mode | Mode::S_IRWXU);
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use nix::sys::stat::mkdirat;

    use super::*;

    fn remove(parent: &Path, name: &CStr) -> io::Result<()> {
        remove_tree(File::open(parent).unwrap().as_fd(), name)
    }

    #[test]
    fn what_is_not_there_is_removed() {
        let root = tempfile::tempdir().unwrap();
        remove(root.path(), c"nothing").unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        remove(root.path(), c"file").unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (tree, outside) = (root.path().join("tree"), root.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, tree.join("a/directory")).unwrap();
        symlink(outside.join("precious"), tree.join("a/b/file")).unwrap();
        symlink(&outside, root.path().join("link")).unwrap();
        remove(root.path(), c"tree").unwrap();
        remove(root.path(), c"link").unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
    }

    #[test]
    fn depth_costs_no_descriptors_and_needs_no_paths() {
        let root = tempfile::tempdir().unwrap();
        let mut directory: OwnedFd = File::open(root.path()).unwrap().into();
        let name = "d".repeat(200);
        for _ in 0..10 * MAX_DEPTH {
            mkdirat(&directory, name.as_str(), Mode::S_IRWXU).unwrap();
            mkdirat(&directory, c"e", Mode::S_IRWXU).unwrap();
            directory =
                openat(&directory, name.as_str(), directory_flags(), Mode::empty()).unwrap();
        }
        drop(directory);
        remove(root.path(), &CString::new(name).unwrap()).unwrap();
        remove(root.path(), c"e").unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_without_permissions_are_removed_by_their_owner() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o777)).unwrap();
        let parent = root.path().to_owned();
        // As in the tests of the database: root is another user for files in this thread.
        let body = move || {
            if nix::unistd::geteuid().is_root() {
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            }
            fs::create_dir_all(parent.join("tree/a/b")).unwrap();
            fs::write(parent.join("tree/a/file"), "").unwrap();
            fs::set_permissions(parent.join("tree/a/b"), Permissions::from_mode(0o000)).unwrap();
            fs::set_permissions(parent.join("tree/a"), Permissions::from_mode(0o500)).unwrap();
            remove(&parent, c"tree").unwrap();
            assert!(!parent.join("tree").exists());
        };
        std::thread::spawn(body).join().unwrap();
    }
}
