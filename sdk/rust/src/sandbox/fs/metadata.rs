//! What is told about files of a guest.

use std::time::SystemTime;

use files::EntryKind;
use nix::sys::stat::SFlag;
use protocol::{ClockTime, FileAttributes};

use crate::file_replies::time;

/// All that inode(7) tells of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsMetadata {
    /// What it is.
    pub kind: EntryKind,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it takes up.
    pub allocated: u64,
    /// Permissions: the lower twelve bits of `st_mode`.
    pub mode: u32,
    /// User that owns it.
    pub uid: u32,
    /// Group that owns it.
    pub gid: u32,
    /// How many names it has.
    pub links: u64,
    /// When it was read last.
    pub accessed: SystemTime,
    /// When its contents were changed last.
    pub modified: SystemTime,
    /// When it was changed last in any way.
    pub changed: SystemTime,
}

impl From<FileAttributes> for FsMetadata {
    fn from(found: FileAttributes) -> FsMetadata {
        let of = |clock: ClockTime| time(clock.seconds, clock.nanoseconds);
        FsMetadata {
            kind: match SFlag::from_bits_truncate(found.mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFREG => EntryKind::File,
                SFlag::S_IFDIR => EntryKind::Directory,
                SFlag::S_IFLNK => EntryKind::Symlink,
                _ => EntryKind::Other,
            },
            size: found.size,
            allocated: found.allocated,
            mode: found.mode & 0o7777,
            uid: found.uid,
            gid: found.gid,
            links: found.links,
            accessed: of(found.accessed),
            modified: of(found.modified),
            changed: of(found.changed),
        }
    }
}
