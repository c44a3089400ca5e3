//! New files that appear when they are complete.
//!
//! The folder in which they are made is locked (flock(2)) by who makes them. So one that nobody keeps locked is left over from
//! somebody who was killed, and whoever makes an image of the same name next removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::DiskError;

/// What names of such folders end with, behind a dot, the image's name, a dot and a number.
const PARTIAL: &str = ".partial";

/// Hexadecimal digits of that number.
const DIGITS: usize = 16;

/// How often a name is tried that somebody has, or takes for a left-over.
const ATTEMPTS_MAX: u32 = 16;

/// A folder beside a new image, in which it is made under its name. Nothing remains of it when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    parent: PathBuf,
    name: OsString,
    folder: PathBuf,
    /// Locked until the folder is removed.
    _lock: File,
}

impl Staging {
    /// # Errors
    /// When `target` exists, or its folder does not permit to make files.
    pub(crate) fn new(target: &Path) -> Result<Staging, DiskError> {
        let failed = |source| create_error(target, source);
        if target.symlink_metadata().is_ok() {
            return Err(failed(Errno::EEXIST.into()));
        }
        let name = target
            .file_name()
            .ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        let parent = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut prefix = OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        remove_left_overs(parent, &prefix);
        let (folder, lock) = make_folder(parent, &prefix).map_err(failed)?;
        Ok(Staging {
            target: target.to_owned(),
            parent: parent.to_owned(),
            name: name.to_owned(),
            folder,
            _lock: lock,
        })
    }

    /// Where the image is to be made.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// An error of making the image, with the name that its user knows.
    pub(crate) fn name_target(&self, mut error: DiskError) -> DiskError {
        use DiskError::{InUse, Invalid, Io, NotAllowed, Open, Unsupported};
        let (Open { path, .. }
        | InUse { path }
        | Invalid { path, .. }
        | Unsupported { path, .. }
        | NotAllowed { path, .. }
        | Io { path, .. }) = &mut error;
        if *path == self.path() {
            path.clone_from(&self.target);
        }
        error
    }

    /// Makes all files of the folder appear, the image last. They must be durable; that they appeared is durable afterwards, too.
    ///
    /// # Errors
    /// When one of them exists; none appears then.
    pub(crate) fn publish(self) -> Result<(), DiskError> {
        let failed = |source| create_error(&self.target, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name != self.name {
                names.push(name);
            }
        }
        names.push(self.name.clone());
        let mut moved: Vec<PathBuf> = Vec::new();
        for name in names {
            let (from, to) = (self.folder.join(&name), self.parent.join(&name));
            if let Err(error) = rename_new(&from, &to) {
                for path in moved {
                    // The error that is reported is the first one.
                    let _ = fs::remove_file(path);
                }
                return Err(create_error(&to, error));
            }
            moved.push(to);
        }
        File::open(&self.parent)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// Makes a folder with a name that nobody had before, and locks it.
fn make_folder(parent: &Path, prefix: &OsStr) -> io::Result<(PathBuf, File)> {
    for _ in 0..ATTEMPTS_MAX {
        let number = RandomState::new().build_hasher().finish();
        let mut name = prefix.to_owned();
        name.push(format!("{number:0DIGITS$x}{PARTIAL}"));
        let folder = parent.join(name);
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
        match keep(&folder) {
            Ok(Some(lock)) => return Ok((folder, lock)),
            // Somebody took it for a left-over before it was locked.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Removes the folders that nobody keeps. What cannot be removed is in nobody's way.
fn remove_left_overs(parent: &Path, prefix: &OsStr) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| is_partial(&entry.file_name(), prefix)) {
        let folder = entry.path();
        if let Ok(Some(_lock)) = keep(&folder)
            && let Err(error) = fs::remove_dir_all(&folder)
        {
            tracing::warn!("cannot remove {}: {error}", folder.display());
        }
    }
}

fn is_partial(name: &OsStr, prefix: &OsStr) -> bool {
    let number = name
        .as_bytes()
        .strip_prefix(prefix.as_bytes())
        .and_then(|rest| rest.strip_suffix(PARTIAL.as_bytes()));
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    number.is_some_and(|number| number.len() == DIGITS && number.iter().all(is_digit))
}

/// Locks a folder; returns nothing if somebody keeps it, or if it is another one by now.
fn keep(folder: &Path) -> io::Result<Option<File>> {
    let lock = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(folder)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Who kept it before may have removed it.
    let (found, locked) = (fs::symlink_metadata(folder)?, lock.metadata()?);
    let is_same = (found.dev(), found.ino()) == (locked.dev(), locked.ino());
    Ok(is_same.then_some(lock))
}

/// Renames to a name that is free.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // Some file systems cannot. A hard link to an existing name fails as well.
        Err(nix::Error::EINVAL) => fs::hard_link(from, to),
        other => Ok(other?),
    }
}

fn create_error(path: &Path, source: io::Error) -> DiskError {
    DiskError::Io {
        what: "create",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_appear_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.vmdk");
        let staging = Staging::new(&target).unwrap();
        fs::write(staging.path(), "a").unwrap();
        drop(staging);
        assert!(names(folder.path()).is_empty());

        let staging = Staging::new(&target).unwrap();
        fs::write(staging.path(), "a").unwrap();
        fs::write(staging.path().with_file_name("flat"), "b").unwrap();
        staging.publish().unwrap();
        assert_eq!(names(folder.path()), ["disk.vmdk", "flat"]);
        assert!(Staging::new(&target).is_err());

        let other = folder.path().join("other.vmdk");
        let staging = Staging::new(&other).unwrap();
        fs::write(staging.path(), "c").unwrap();
        fs::write(staging.path().with_file_name("flat"), "d").unwrap();
        staging.publish().unwrap_err();
        assert_eq!(names(folder.path()), ["disk.vmdk", "flat"]);
        assert_eq!(fs::read(folder.path().join("flat")).unwrap(), b"b");
    }

    #[test]
    fn what_a_killed_maker_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.vmdk");
        let living = Staging::new(&target).unwrap();
        fs::write(living.path(), "living").unwrap();
        let left_over = folder.path().join(".disk.vmdk.0123456789abcdef.partial");
        let others = [
            ".disk.vmdk.backup.partial",
            ".disk.vmdk.old.0123456789abcdef.partial",
            ".disk.vmdk.0123456789abcdef",
            ".disk2.vmdk.0123456789abcdef.partial",
        ];
        for path in others
            .map(|name| folder.path().join(name))
            .iter()
            .chain([&left_over])
        {
            fs::create_dir(path).unwrap();
            fs::write(path.join("disk.vmdk"), "a").unwrap();
        }
        Staging::new(&target).unwrap();
        assert!(!left_over.exists());
        for name in others {
            assert!(
                folder.path().join(name).join("disk.vmdk").exists(),
                "{name}"
            );
        }
        living.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"living");
    }

    #[test]
    fn of_many_makers_one_wins_and_none_loses_its_files() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let target = folder.path().join(format!("{round}.vmdk"));
            let start = std::sync::Barrier::new(4);
            let make = || {
                start.wait();
                let staging = Staging::new(&target)?;
                fs::write(staging.path(), "a").unwrap();
                staging.publish()
            };
            let ends: Vec<_> = std::thread::scope(|scope| {
                let makers: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                makers
                    .into_iter()
                    .map(|maker| maker.join().unwrap())
                    .collect()
            });
            let mut won = 0;
            for end in ends {
                match end {
                    Ok(()) => won += 1,
                    Err(DiskError::Io { source, .. }) => {
                        assert_eq!(source.kind(), io::ErrorKind::AlreadyExists);
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert_eq!(won, 1);
        }
        assert_eq!(names(folder.path()).len(), 50);
    }
}
