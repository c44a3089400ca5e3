//! The private layer of a root on disk: a sparse raw image with an ext4 file system.
//!
//! mke2fs(8) takes much longer than anything else of a start. So it makes one image of each size, in the cache of the home,
//! and each sandbox gets a copy of what is not a hole in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::volumes::make_disk_image;

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// Makes the image at `path`, where nothing is yet, with a file system of `mib` MiB. Its contents are durable.
///
/// # Errors
/// When mke2fs is missing or fails, or the file cannot be written.
pub(super) fn make(home: &Home, path: &Path, mib: u32) -> Result<(), MicrosandboxError> {
    let template = template(home, mib)?;
    let mut from = File::open(&template).map_err(failed("open", &template))?;
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    copy(&mut from, &to)
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

/// Copies what is not a hole: by sharing it where the file system can (ioctl_ficlonerange(2)).
fn copy(from: &mut File, to: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: FICLONE takes the number of a descriptor that is open, and touches no memory of this process.
    let cloned = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    if cloned == 0 {
        return Ok(());
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut chunk = vec![0; CHUNK];
    let mut end = 0;
    while let Some((start, stop)) = next_data(from, end)? {
        let mut position = start;
        while position < stop {
            let left = usize::try_from(stop - position).unwrap_or(CHUNK).min(CHUNK);
            let part = chunk.get_mut(..left).unwrap_or_default();
            from.read_exact_at(part, position)?;
            to.write_all_at(part, position)?;
            position += left as u64;
        }
        end = stop;
    }
    Ok(())
}

/// Where the next data from `offset` on begins and ends.
fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let start = match lseek64(file, offset, Whence::SeekData) {
        Ok(start) => start,
        // None is left.
        Err(Errno::ENXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stop = lseek64(file, start, Whence::SeekHole)?;
    let unsigned = |position| u64::try_from(position).map_err(io::Error::other);
    Ok(Some((unsigned(start)?, unsigned(stop)?)))
}
