//! Why something cannot be done with a snapshot.

use std::io;
use std::path::{Path, PathBuf};

use image::Digest;

use super::SnapshotNameError;
use crate::database::DatabaseError;
use crate::images::ImageError;
use crate::private_directory::PrivateDirectoryError;
use crate::staged::StagedError;

/// Something cannot be done with a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The name is none.
    #[error(transparent)]
    InvalidName(#[from] SnapshotNameError),
    /// There is none of this name, or at this path.
    #[error("No snapshot {snapshot:?} exists")]
    SnapshotNotFound {
        /// The name or the path.
        snapshot: String,
    },
    /// There is one of this name.
    #[error("A snapshot {name:?} exists already")]
    SnapshotAlreadyExists {
        /// The name.
        name: String,
    },
    /// Something is where a snapshot was to be made.
    #[error("{path} exists already")]
    PathExists {
        /// What is there.
        path: PathBuf,
    },
    /// The sandbox has no layer that could be copied.
    #[error("The sandbox {sandbox:?} keeps no changes on a disk of its own")]
    NoLayer {
        /// Its name.
        sandbox: String,
    },
    /// The image that it is based on is not here.
    #[error(
        "The snapshot {snapshot:?} is based on the image {reference} ({digest}), which is not here"
    )]
    ImageMissing {
        /// The name or the path of the snapshot.
        snapshot: String,
        /// Name of the image.
        reference: String,
        /// Of its manifest.
        digest: Digest,
    },
    /// The layer is not the one that was copied.
    #[error(
        "The layer {path} is damaged: its data has the digest {found}, and should have {expected}"
    )]
    Damaged {
        /// The layer.
        path: PathBuf,
        /// What the snapshot says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is no snapshot, or not a whole one.
    #[error("{path} is no snapshot: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as a clause.
        reason: String,
    },
    /// A later version of this program made it.
    #[error("{path} is a snapshot of format {found}, and this program knows none after {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that this program makes.
        known: u32,
    },
    /// What it is based on is a path of this machine, which an archive cannot have.
    #[error("The snapshot is based on {root}, and only those based on images can be in an archive")]
    NotPortable {
        /// The path.
        root: PathBuf,
    },
    /// An archive is none, or not one of a snapshot.
    #[error("The archive cannot be loaded: {reason}")]
    Archive {
        /// What is wrong with it, as a clause.
        reason: String,
    },
    /// The caller wanted it to stop.
    #[error("The work on the snapshot was given up")]
    Stopped,
    /// The image of a snapshot cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The directory of the snapshots cannot be used.
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

impl From<StagedError> for SnapshotError {
    fn from(error: StagedError) -> SnapshotError {
        let StagedError {
            action,
            path,
            source,
        } = error;
        match source.kind() {
            io::ErrorKind::AlreadyExists => SnapshotError::PathExists { path },
            _ => SnapshotError::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// Why work that goes through a layer ended early: that was wanted.
#[derive(Debug, thiserror::Error)]
#[error("it was given up")]
pub(super) struct Stop;

/// Makes an error of a system call one of a snapshot.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| match source.get_ref() {
        Some(inner) if inner.is::<Stop>() => SnapshotError::Stopped,
        _ => SnapshotError::Io {
            action,
            path,
            source,
        },
    }
}
