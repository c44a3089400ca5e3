//! What images are loaded from: a directory, or a tar archive.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::failed;
use super::section::Section;
use super::tar::TarIndex;
use super::{ArchiveError, spool};
use crate::digest::Digest;
use crate::store::Shared;

/// Files by name.
#[derive(Debug)]
pub(super) enum Container {
    /// The files of an image layout, in which nobody else has a say.
    Directory(PathBuf),
    /// Those of an archive.
    Tar(TarIndex),
}

impl Container {
    /// # Errors
    /// When it is neither.
    pub(super) fn open(path: &Path, store: &Shared) -> Result<Container, ArchiveError> {
        if path.is_dir() {
            return Ok(Container::Directory(path.to_owned()));
        }
        let file = File::open(path).map_err(failed("open", path))?;
        Container::of_file(file, path, store)
    }

    /// An archive that is open, and may be a pipe. `path` is how its user knows it.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn of_file(
        file: File,
        path: &Path,
        store: &Shared,
    ) -> Result<Container, ArchiveError> {
        let file = spool::plain(file, path, store)?;
        Ok(Container::Tar(TarIndex::read(file)?))
    }

    /// The file of this name, if there is one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn find(&self, name: &str) -> Result<Option<Section>, ArchiveError> {
        let folder = match self {
            Container::Tar(index) => return Ok(index.get(name)),
            Container::Directory(folder) => folder,
        };
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        // Nobody waits for the other end of a pipe.
        options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(failed("examine", &path))?;
        if !metadata.is_file() {
            return Ok(None);
        }
        Ok(Some(Section::new(Arc::new(file), 0, metadata.len())))
    }

    /// The file of this name.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`].
    pub(super) fn get(&self, name: &str) -> Result<Section, ArchiveError> {
        self.find(name)?.ok_or_else(|| ArchiveError::Missing {
            name: name.to_owned(),
        })
    }
}

/// Where a blob is (image specification, `image-layout.md`).
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
