//! The private layer of a root as a layer of an image: what overlayfs keeps in its upper directory, told as a tar archive
//! (image specification, `layer.md`).
//!
//! Whoever used the layer is hostile, and is gone: nothing changes meanwhile, but any name and attribute may be there.
//!
//! | overlayfs | the archive |
//! |---|---|
//! | a character device 0:0 | an empty file `.wh.NAME` |
//! | a directory with `trusted.overlay.opaque` | the directory, and in it an empty file `.wh..wh..opq` |
//! | a directory with `trusted.overlay.redirect`: it was renamed | the directory, opaque, with all that is seen in it |
//!
//! Sockets mean nothing without their program, and are left out as by every program that makes archives.

mod attributes;
mod own;
mod sparse;
mod tar;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::FilesError;
use tar::Archive;
use walk::Walk;

/// Takes the parts of an archive, 1 to [`MAX_DATA`](protocol::MAX_DATA) bytes each.
pub trait LayerSink {
    /// Why it takes no more.
    type Error: From<FilesError>;

    /// Takes the next part.
    ///
    /// # Errors
    /// When it takes no more.
    fn part(&mut self, part: &[u8]) -> Result<(), Self::Error>;
}

/// A private layer, and what it lies over. The descriptors are those of directories.
pub struct Layer<'l, M> {
    /// The upper directory of the overlay.
    pub upper: BorrowedFd<'l>,
    /// The file system beneath it.
    pub below: BorrowedFd<'l>,
    /// Mounts the overlay of both, if something is asked that only it can tell: what is in a directory that was renamed.
    pub merged: M,
}

impl<M: FnMut() -> io::Result<OwnedFd>> Layer<'_, M> {
    /// Tells `sink` of all of it as a tar archive, in the POSIX.1-2001 format. The root directory itself is not told, nor
    /// what a sandbox makes for itself.
    ///
    /// # Errors
    /// [`FilesError::ReservedName`], [`FilesError::NotInLayer`], [`FilesError::TooDeep`] above 256 directories within each
    /// other; as read(2); those of `sink`.
    pub fn read<S: LayerSink>(self, sink: &mut S) -> Result<(), S::Error> {
        Walk::new(self.below, self.merged, Archive::new(sink)).all(self.upper)
    }
}
