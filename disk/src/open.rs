//! Opening an image.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::qcow2::Qcow2;
use crate::raw::Raw;
use crate::reference::canonical;
use crate::vmdk::Vmdk;
use crate::{Cache, DiskError, Format, Image};

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Its format. The caller knows it, from the user or by [`Format::from_extension`]; it is never guessed from contents.
    pub format: Format,
    /// Refuse every change, and open every file for reading only.
    pub read_only: bool,
    /// When a write is durable.
    pub cache: Cache,
    /// Files outside the image's own folder that it may refer to, as backing files and extents. A folder allows what
    /// lies beneath it.
    pub allowed: Vec<PathBuf>,
}

/// Opens the image at `path`, and locks it: one may write, or any number may read.
///
/// # Errors
/// When a file cannot be opened or is in use, when the image is not what its format demands, or refers to files that
/// are not allowed.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Image>, DiskError> {
    open_chained(path, options, &Chain::default())
}

/// Backing files that may stand one behind the other.
const DEPTH_MAX: usize = 32;

/// The images of which each refers to the next, up to one that is being opened.
#[derive(Debug, Default)]
pub(crate) struct Chain<'c> {
    above: Option<(&'c Chain<'c>, &'c Path)>,
}

impl Chain<'_> {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::successors(self.above, |(chain, _)| chain.above).map(|(_, path)| path)
    }
}

/// Opens an image that those of the chain refer to.
pub(crate) fn open_chained(
    path: &Path,
    options: &OpenOptions,
    chain: &Chain<'_>,
) -> Result<Box<dyn Image>, DiskError> {
    let invalid = |reason: &str| DiskError::Invalid {
        path: path.to_owned(),
        format: options.format,
        reason: reason.to_owned(),
    };
    let canonical = canonical(path)?;
    if chain.paths().any(|above| above == canonical) {
        return Err(invalid("it is its own backing file"));
    }
    if chain.paths().count() >= DEPTH_MAX {
        return Err(invalid("too many backing files stand behind each other"));
    }
    let chain = Chain {
        above: Some((chain, &canonical)),
    };
    match options.format {
        Format::Raw => Ok(Box::new(Raw::open(path, options)?)),
        Format::Qcow2 => Ok(Box::new(Qcow2::open(path, options, &chain)?)),
        Format::Vmdk => Ok(Box::new(Vmdk::open(path, options)?)),
    }
}

/// Opens one of an image's files and locks it.
pub(crate) fn open_file(path: &Path, read_only: bool) -> Result<LockedFile, DiskError> {
    let failed = |source| DiskError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(!read_only)
        // Opening a named pipe would wait for somebody at its other end.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(failed(io::Error::other(
            "it is neither a file nor a block device",
        )));
    }
    let file = LockedFile(file);
    let locked = if read_only {
        lock_for_reading(&file)
    } else {
        set_lock(&file, libc::F_WRLCK, WHOLE)
    };
    match locked {
        Ok(true) => Ok(file),
        Ok(false) => Err(DiskError::InUse {
            path: path.to_owned(),
        }),
        Err(source) => Err(DiskError::Io {
            what: "lock",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A file that is locked while this lives (fcntl(2), "Open file description locks"). Closing it is not enough: a child that
/// was forked and has not become another program yet has the same open file description, and with it the lock.
#[derive(Debug)]
pub(crate) struct LockedFile(File);

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        if let Err(error) = set_lock(&self.0, libc::F_UNLCK, WHOLE) {
            tracing::warn!("a disk image could not be unlocked: {error}");
        }
    }
}

/// What is locked of a file: from where on, and how many bytes.
type Part = (i64, i64);

/// A length of 0 is the whole file, however long it becomes.
const WHOLE: Part = (0, 0);

/// QEMU's programs lock one byte for each thing that they do with a file, and another one for each that nobody else may do
/// meanwhile; then they look whether others have locked the counterparts (block/file-posix.c, RAW_LOCK_PERM_BASE and
/// RAW_LOCK_SHARED_BASE; block-common.h, BLK_PERM_*). All of these locks are shared ones.
const DOES_READ: Part = (100, 1);
const DOES_WRITE: Part = (101, 1);
const DOES_RESIZE: Part = (103, 1);
const FORBIDS_READ: Part = (200, 1);
const FORBIDS_WRITE: Part = (201, 1);
const FORBIDS_RESIZE: Part = (203, 1);

/// Locks a file, which others may read then and nobody may write. Returns false if somebody writes it.
fn lock_for_reading(file: &File) -> io::Result<bool> {
    for part in [DOES_READ, FORBIDS_WRITE, FORBIDS_RESIZE] {
        if !set_lock(file, libc::F_RDLCK, part)? {
            return Ok(false);
        }
    }
    for part in [FORBIDS_READ, DOES_WRITE, DOES_RESIZE] {
        if has_lock_of_others(file, part)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns false if the locks of others contradict it.
fn set_lock(file: &File, kind: i32, part: Part) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(kind, part))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn has_lock_of_others(file: &File, part: Part) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_WRLCK, part);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn lock_of(kind: i32, (start, length): Part) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Bytes in the file or on the block device.
pub(crate) fn size_of(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        // A device's size is where it ends.
        io::Seek::seek(&mut &*file, io::SeekFrom::End(0))
    } else {
        Ok(metadata.len())
    }
}
