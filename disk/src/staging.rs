//! New files that appear when they are complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::DiskError;

/// A folder beside a new image, in which it is made under its name. Nothing remains of it when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    target: PathBuf,
    parent: PathBuf,
    name: OsString,
    folder: PathBuf,
}

impl Staging {
    /// # Errors
    /// When `target` exists, or its folder does not permit to make files.
    pub(crate) fn new(target: &Path) -> Result<Staging, DiskError> {
        let failed = |source| create_error(target, source);
        if target.symlink_metadata().is_ok() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let name = target
            .file_name()
            .ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        let parent = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let folder = parent.join(hidden);
        fs::create_dir(&folder).map_err(failed)?;
        Ok(Staging {
            target: target.to_owned(),
            parent: parent.to_owned(),
            name: name.to_owned(),
            folder,
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
}
