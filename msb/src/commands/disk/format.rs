//! Which format an image has, and what goes wrong with images.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use disk::{Cache, DiskError, Format, OpenOptions};

use crate::failure::with_hint;

/// The format that was given for `option`, or else what the file name says.
pub(super) fn format_of(
    path: &Path,
    given: Option<Format>,
    option: &str,
) -> anyhow::Result<Format> {
    given
        .or_else(|| Format::from_extension(path))
        .ok_or_else(|| {
            with_hint(
                anyhow!("the name of {} does not tell its format", path.display()),
                format!("give {option} raw, {option} qcow2 or {option} vmdk"),
            )
        })
}

/// How an image is opened for one of these commands.
pub(super) fn options(format: Format, read_only: bool, allowed: &[PathBuf]) -> OpenOptions {
    OpenOptions {
        format,
        read_only,
        cache: Cache::Writeback,
        allowed: allowed.to_vec(),
    }
}

/// Adds what the user can do about it.
pub(super) fn advise(error: DiskError) -> anyhow::Error {
    let hint = match &error {
        DiskError::InUse { .. } => "stop the machine or program that uses it",
        DiskError::NotAllowed { .. } => {
            "add --allow with that file or its folder, if you trust the image"
        }
        DiskError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            "remove it first, or choose another name"
        }
        DiskError::Invalid { .. } => "-f gives the format, if the name tells a wrong one",
        _ => return error.into(),
    };
    with_hint(error, hint)
}
