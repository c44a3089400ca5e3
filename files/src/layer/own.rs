//! What a sandbox makes for itself in its root, and is no change that its user made.
//!
//! Containers have it on mounts, and it is in no layer of theirs. Directories on which a user's volumes are mounted do become
//! part of an image, empty, as those of containers do.

/// Files that each new sandbox gets anew, and where the agent keeps its own: whatever is there.
const FILES: [&[u8]; 4] = [b"etc/hosts", b"etc/hostname", b"etc/resolv.conf", b".msb"];

/// Directories in which they lie, or on which the agent mounts what every guest has.
const DIRECTORIES: [&[u8]; 5] = [b"etc", b"proc", b"sys", b"dev", b"run"];

/// Permissions of such a directory that the agent has made.
pub(super) const DIRECTORY_MODE: u32 = 0o755;

/// Whether nothing at this path is the user's.
pub(super) fn is_own(path: &[u8]) -> bool {
    FILES.contains(&path)
}

/// Whether a directory at this path is the user's only if something in it is, or it is another than beneath.
pub(super) fn may_be_own(path: &[u8]) -> bool {
    DIRECTORIES.contains(&path)
}
