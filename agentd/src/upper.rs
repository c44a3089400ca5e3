//! The disk of the root's private layer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;

use crate::mount_context::MountContext;

/// Leads to the file system, which is in no mount table: only the overlay uses it.
#[derive(Debug)]
pub(crate) struct Upper(OwnedFd);

impl Upper {
    /// The file system that is mounted at `place`; that mount may disappear afterwards.
    pub(crate) fn open(place: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(place, flags, Mode::empty())?))
    }

    /// The file system that is mounted at the directory `place`.
    pub(crate) fn at(place: OwnedFd) -> Self {
        Self(place)
    }

    /// Bytes in use and free.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let found = fstatvfs(&self.0)?;
        let used = found.blocks().saturating_sub(found.blocks_free());
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok((bytes(used), bytes(found.blocks_available())))
    }

    /// Writes everything back and leaves the file system as one that was unmounted, with nothing in its journal. A
    /// file that somebody still has open for writing prevents it.
    pub(crate) fn make_read_only(&self) -> io::Result<()> {
        // mount(2) remounts only what is in a mount table.
        MountContext::of(self.0.as_fd())?.make_read_only()
    }
}
