//! What a change will need of the disk, for whoever has to keep within a limit. The bytes are those that file systems of the
//! host usually take, in blocks, and at least those; how many it was, [`used_bytes`](crate::used_bytes) tells afterwards.

use std::ffi::CString;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use crate::beneath::check_regular;
use crate::error::{failed, unresolved};
use crate::usage::bytes_of_copies;
use crate::{Files, FilesError};

/// In what file systems give out room. A new name may take one for the directory that it is in.
const BLOCK: u64 = 4096;

/// Bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// What a change takes.
    pub needed: u64,
    /// What it gives back before.
    pub given_up: u64,
}

impl Files {
    /// What [`write`](Self::write) of `size` bytes needs.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`], [`FilesError::NotRegular`].
    pub fn room_of_write(&self, path: impl AsRef<Path>, size: u64) -> Result<Room, FilesError> {
        let contents = in_blocks(size);
        Ok(match self.given_up_at(path.as_ref())? {
            Some(given_up) => Room {
                needed: contents,
                given_up,
            },
            None => Room {
                needed: contents.saturating_add(BLOCK),
                given_up: 0,
            },
        })
    }

    /// What [`mkdir`](Self::mkdir) needs: nothing if the directory exists.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`]; as openat2(2).
    pub fn room_of_mkdir(&self, path: impl AsRef<Path>) -> Result<Room, FilesError> {
        let path = self.path(path.as_ref())?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut missing = 0_u64;
        for prefix in path.prefixes() {
            let prefix = CString::new(prefix)
                .map_err(|error| failed("create", path.given())(error.into()))?;
            match self.root.resolve(&prefix, flags, Mode::empty()) {
                Ok(_) => {}
                Err(Errno::ENOENT) => missing = missing.saturating_add(1),
                Err(error) => return Err(unresolved("create", path.given(), error)),
            }
        }
        // Each has a block of its own; the name of the first may take one where it is added.
        let blocks = match missing {
            0 => 0,
            _ => missing.saturating_add(1),
        };
        Ok(Room {
            needed: blocks.saturating_mul(BLOCK),
            given_up: 0,
        })
    }

    /// What [`copy`](Self::copy) needs. A link is not followed.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`], [`FilesError::NotFound`].
    pub fn room_of_copy(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<Room, FilesError> {
        let from = self.path(from.as_ref())?;
        let entry = self.root.entry("count", &from)?;
        let failed = failed("count", from.given());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = entry.name.as_c_str();
        let contents = match openat(&entry.directory, name, flags, Mode::empty()) {
            Ok(directory) => bytes_of_copies(directory).map_err(failed)?,
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                let stat = fstatat(&entry.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                let stat = stat.map_err(|error| failed(error.into()))?;
                stat.st_blocks.unsigned_abs().saturating_mul(512)
            }
            Err(error) => return Err(failed(error.into())),
        };
        // Whether something else than a file may be there, the copying finds out.
        let given_up = self.given_up_at(to.as_ref()).unwrap_or(None);
        Ok(Room {
            needed: contents.saturating_add(if given_up.is_some() { 0 } else { BLOCK }),
            given_up: given_up.unwrap_or(0),
        })
    }

    /// What the file at `path` takes up, if there is one.
    fn given_up_at(&self, path: &Path) -> Result<Option<u64>, FilesError> {
        let path = self.path(path)?;
        match self.root.find("write", &path) {
            Ok(existing) => {
                let stat = check_regular("write", path.given(), &existing)?;
                Ok(Some(stat.st_blocks.unsigned_abs().saturating_mul(512)))
            }
            Err(FilesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn in_blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn room(blocks: u64, given_up: u64) -> Room {
        Room {
            needed: blocks * BLOCK,
            given_up,
        }
    }

    #[test]
    fn new_names_need_blocks_and_old_ones_give_theirs() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path()).unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("file"), vec![1; 10_000]).unwrap();
        File::open(root.path().join("file"))
            .unwrap()
            .sync_all()
            .unwrap();
        let blocks = fs::metadata(root.path().join("file")).unwrap().blocks() * 512;
        for (path, size, expected) in [
            ("new", 0, room(1, 0)),
            ("new", 1, room(2, 0)),
            ("a/new", 4097, room(3, 0)),
            ("file", 1, room(1, blocks)),
            ("file", 0, room(0, blocks)),
        ] {
            let found = files.room_of_write(path, size).unwrap();
            assert_eq!(found, expected, "{path} {size}");
        }
        for (path, expected) in [
            ("", 0),
            ("a", 0),
            ("b", 2),
            ("a/b", 2),
            ("a/b/c/d", 4),
            ("./b//c/", 3),
        ] {
            let found = files.room_of_mkdir(path).unwrap();
            assert_eq!(found, room(expected, 0), "{path:?}");
        }
        symlink("/etc", root.path().join("out")).unwrap();
        for path in ["/b", "../b", "out/b"] {
            let error = files.room_of_mkdir(path).unwrap_err();
            assert!(matches!(error, FilesError::PathEscape { .. }), "{error}");
        }
    }

    #[test]
    fn copies_of_one_file_with_two_names_are_two_files() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path()).unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.path().join("a/file"), root.path().join("a/second")).unwrap();
        fs::hard_link(root.path().join("a/file"), root.path().join("outside")).unwrap();
        let needed = |from, to| files.room_of_copy(from, to).unwrap();
        assert!(needed("a", "b").needed >= 2 << 20);
        files.copy("a", "b").unwrap();
        let anew = needed("outside", "b/file");
        assert!(anew.needed >= 1 << 20 && anew.given_up >= 1 << 20);
    }
}
