//! The guest's kernel and its initramfs, with what to do if they are not found.

use std::path::{Path, PathBuf};

use microsandbox::home::Home;
use microsandbox::launch::{BootFile, BootFileError, Program};

use crate::failure::with_hint;

/// Finds one of them, see [`BootFile::find`].
///
/// # Errors
/// When there is none, with what to do about it.
pub(crate) fn find(file: &BootFile, option: Option<&Path>, home: &Home) -> anyhow::Result<PathBuf> {
    file.find(option, &Program::running(), home).map_err(|error| {
        let hint = match &error {
            BootFileError::Missing {
                option, variable, ..
            } => format!(
                "build it with `make kernel` and `make initramfs`, or name it with {option} or {variable}"
            ),
            BootFileError::Unusable { named_by, .. } => format!("{named_by} names a file"),
        };
        with_hint(error, hint)
    })
}
