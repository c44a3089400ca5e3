//! The private layer of a root on disk: a sparse raw image with an ext4 file system.
//!
//! mke2fs(8) takes much longer than anything else of a start. So it makes one image of each size, in the cache of the home,
//! and each sandbox gets a copy of what is not a hole in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::sparse;
use crate::volumes::make_disk_image;

/// Makes the image at `path`, where nothing is yet, with a file system of `mib` MiB. Its contents are durable.
///
/// # Errors
/// When mke2fs is missing or fails, or the file cannot be written.
pub(super) fn make(home: &Home, path: &Path, mib: u32) -> Result<(), MicrosandboxError> {
    let template = template(home, mib)?;
    let from = File::open(&template).map_err(failed("open", &template))?;
    copy(&from, path)
}

/// Makes the image at `path`, where nothing is yet, what `from` is. Its contents are durable.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn copy(from: &File, path: &Path) -> Result<(), MicrosandboxError> {
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    sparse::copy(from, &to)
        .and_then(|()| to.sync_all())
        .map_err(failed("write", path))
}

/// The image of this size that is copied; it is made if there is none. Nobody ever changes one.
fn template(home: &Home, mib: u32) -> Result<PathBuf, MicrosandboxError> {
    let directory = home.cache();
    let path = directory.join(format!("upper-{mib}.img"));
    if path.exists() {
        return Ok(path);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(failed("create", &directory))?;
    let id = Id::generate().map_err(failed("read", "/dev/urandom".as_ref()))?;
    let new = directory.join(format!(".new-{}", id.as_str()));
    let made = make_disk_image(&new, mib)
        .map_err(MicrosandboxError::from)
        // Of several that make one, the last remains, and the others are as good.
        .and_then(|()| fs::rename(&new, &path).map_err(failed("rename", &new)));
    if made.is_err() {
        // In nobody's way.
        let _ = fs::remove_file(&new);
    }
    made.map(|()| path)
}
