//! How a named volume is cached.

use disk::Cache;
use microsandbox::launch::Sharing;
use microsandbox::volumes::VolumeKind;

/// How a named volume is cached, which means something else for a directory than for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamedCaching {
    /// As usual, whichever it is.
    Usual,
    /// How a directory is shared.
    Directory(Sharing),
    /// When a write to a disk is durable.
    Disk(Cache),
}

/// A volume is not of the kind that its options are for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{options} are for a volume that is a {}, and this one is a {actual}", other_than(*.actual))]
pub(crate) struct WrongKind {
    options: &'static str,
    actual: VolumeKind,
}

fn other_than(kind: VolumeKind) -> VolumeKind {
    match kind {
        VolumeKind::Dir => VolumeKind::Disk,
        VolumeKind::Disk => VolumeKind::Dir,
    }
}

impl NamedCaching {
    /// How a directory is shared and when a write to a disk is durable, of a volume of this kind.
    ///
    /// # Errors
    /// If what was said is for the other kind.
    pub(crate) fn of(&self, kind: VolumeKind) -> Result<(Sharing, Cache), WrongKind> {
        match (self, kind) {
            (NamedCaching::Usual, _) => Ok((Sharing::default(), Cache::Writeback)),
            (NamedCaching::Directory(sharing), VolumeKind::Dir) => {
                Ok((sharing.clone(), Cache::Writeback))
            }
            (NamedCaching::Disk(cache), VolumeKind::Disk) => Ok((Sharing::default(), *cache)),
            (NamedCaching::Directory(_), actual) => Err(WrongKind {
                options: "cache=none, auto, always and timeout=",
                actual,
            }),
            (NamedCaching::Disk(_), actual) => Err(WrongKind {
                options: "cache=writeback and writethrough",
                actual,
            }),
        }
    }
}
