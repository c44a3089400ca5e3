//! Why something cannot be done with a volume.

use std::io;
use std::path::{Path, PathBuf};

use super::VolumeNameError;
use crate::database::DatabaseError;
use crate::private_directory::PrivateDirectoryError;

/// Something cannot be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The name is none.
    #[error(transparent)]
    InvalidName(#[from] VolumeNameError),
    /// What was asked for contradicts itself.
    #[error("The volume cannot be made: {reason}")]
    InvalidConfig {
        /// Why, as a clause.
        reason: &'static str,
    },
    /// There is one of this name.
    #[error("A volume named {name:?} exists")]
    VolumeAlreadyExists {
        /// The name.
        name: String,
    },
    /// There is none of this name.
    #[error("No volume named {name:?} exists")]
    VolumeNotFound {
        /// The name.
        name: String,
    },
    /// Sandboxes use it.
    #[error("The volume {name:?} is used by {}", list(sandboxes))]
    VolumeInUse {
        /// The name.
        name: String,
        /// The names of the sandboxes.
        sandboxes: Vec<String>,
    },
    /// It exists, and is not as it was asked for.
    #[error("The volume {name:?} has the {property} {existing}, not {requested}")]
    Incompatible {
        /// The name.
        name: String,
        /// In what they differ: `kind`, `quota` or `size`.
        property: &'static str,
        /// How it is.
        existing: String,
        /// How it was asked for.
        requested: String,
    },
    /// A disk needs a size.
    #[error("The disk of the volume {name:?} needs a size")]
    SizeMissing {
        /// The name.
        name: String,
    },
    /// Something that is no volume has the place of one.
    #[error("{path} is there, but is recorded as no volume")]
    Unrecorded {
        /// What is there.
        path: PathBuf,
    },
    /// The files of a volume are gone.
    #[error("The directory {path} of the volume {name:?} is gone")]
    DirectoryMissing {
        /// The name.
        name: String,
        /// Where it should be.
        path: PathBuf,
    },
    /// The volume is removed, but what it held is not.
    #[error("The volume {name:?} is removed, but its files are not, which are in {path} now")]
    FilesRemain {
        /// The name that it had.
        name: String,
        /// Where its files are.
        path: PathBuf,
        /// Why they cannot be removed.
        source: io::Error,
    },
    /// mke2fs(8) is not installed.
    #[error(
        "The program mke2fs, which makes the file system on the disk of a volume, is not installed"
    )]
    NoMke2fs,
    /// mke2fs(8) failed.
    #[error("mke2fs failed to make a file system of {size_mib} MiB: {message}")]
    Mke2fs {
        /// Size of the disk in MiB.
        size_mib: u32,
        /// What it said.
        message: String,
    },
    /// The directory of the volumes cannot be used.
    #[error(transparent)]
    Directory(#[from] PrivateDirectoryError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A system call failed.
    #[error("Failed to {action} {path}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// `"a", "b"`, or what can be said without names.
fn list(sandboxes: &[String]) -> String {
    let names: Vec<_> = sandboxes.iter().map(|name| format!("{name:?}")).collect();
    match names.len() {
        1 => format!("the sandbox {}", names.concat()),
        _ => format!("the sandboxes {}", names.join(", ")),
    }
}

/// Makes an error of a system call one of a volume.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io {
        action,
        path,
        source,
    }
}
