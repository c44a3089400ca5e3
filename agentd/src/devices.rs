//! Device files that agentd needs for sessions.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Opened once, before any process of the guest runs: whatever the guest later does to its
/// `/dev`, agentd does not block or stumble over it.
#[derive(Debug)]
pub(crate) struct Devices {
    /// `/dev/null`, for reading.
    pub(crate) null: OwnedFd,
    /// The directory of the devpts file system.
    pub(crate) terminals: OwnedFd,
}

impl Devices {
    /// Opens them at their usual places.
    pub(crate) fn open() -> io::Result<Self> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Ok(Self {
            null: open(
                "/dev/null",
                OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?,
            terminals: open("/dev/pts", directory | OFlag::O_CLOEXEC, Mode::empty())?,
        })
    }
}
