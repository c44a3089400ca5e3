//! The directories of sandboxes: `$MSB_HOME/sandboxes/<identity>/`.
//!
//! One is made after its record and removed after it. So one without a record is of no use to anybody, whatever has
//! happened; and since an identity is never given twice, it can be removed at any time, while others make sandboxes, even
//! of the same name.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::control::Ended;
use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::private_directory::make_private_directory;

const LOGS: &str = "logs";
const UPPER: &str = "upper.img";

/// The directory of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDirectory {
    path: PathBuf,
}

impl SandboxDirectory {
    pub(crate) fn of(home: &Home, id: &Id) -> SandboxDirectory {
        SandboxDirectory {
            path: home.sandboxes().join(id.as_str()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where what its processes write is logged.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join(LOGS)
    }

    /// The image with the private layer of its root.
    pub(crate) fn upper(&self) -> PathBuf {
        self.path.join(UPPER)
    }

    /// Makes it. Whether it survives a loss of power is up to [`sync`](Self::sync).
    ///
    /// # Errors
    /// As mkdir(2).
    pub(crate) fn make(&self, home: &Home) -> Result<(), MicrosandboxError> {
        make_private_directory(&home.sandboxes())?;
        for path in [&self.path, &self.logs()] {
            DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(failed("create", path))?;
        }
        Ok(())
    }

    /// Makes it and its entries durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(crate) fn sync(&self) -> Result<(), MicrosandboxError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        for path in [&self.path, parent] {
            sync(path).map_err(failed("write", path))?;
        }
        Ok(())
    }

    /// What the machine's process left about the end of the last run; `None` if it left nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn ended(&self) -> Result<Option<Ended>, MicrosandboxError> {
        Ended::read(&self.path).map_err(MicrosandboxError::runtime(
            "The end of the sandbox cannot be read",
        ))
    }

    /// Removes what the last run left about its end, durably, so that it cannot be taken for the end of the next.
    ///
    /// # Errors
    /// As unlink(2) and fsync(2); also when the directory is gone.
    pub(crate) fn forget_end(&self) -> Result<(), MicrosandboxError> {
        Ended::remove(&self.path).map_err(MicrosandboxError::runtime(
            "The end of the last run cannot be removed",
        ))?;
        sync(&self.path).map_err(failed("write", &self.path))
    }

    /// Removes it and all that is in it. That is no error if it is gone already.
    ///
    /// # Errors
    /// As unlink(2).
    pub(crate) fn remove(&self) -> Result<(), MicrosandboxError> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let remove = || {
            let name = std::ffi::CString::new(name.as_encoded_bytes())?;
            files::remove_tree(File::open(parent)?.as_fd(), &name)
        };
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(failed("remove", &self.path)),
        }
    }
}

/// The identities of all directories that there are.
///
/// # Errors
/// As readdir(3).
pub(crate) fn all(home: &Home) -> Result<Vec<Id>, MicrosandboxError> {
    let path = home.sandboxes();
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed("read", &path))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", &path))?.file_name();
        ids.extend(name.to_str().and_then(Id::parse));
    }
    Ok(ids)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
