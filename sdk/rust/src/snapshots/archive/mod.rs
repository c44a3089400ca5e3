//! Snapshots in files: a tar archive, compressed by Zstandard, with `snapshot.json`, `upper.img` and, if wanted, `image.tar`,
//! the image that the snapshot is based on.
//!
//! `tar --zstd -x` makes a snapshot of it that is used by its path. The layer is a sparse entry as GNU tar has them.

pub(super) mod frames;
mod load;
mod save;

pub use load::LoadOptions;

/// The image, as an OCI layout in a tar archive.
const IMAGE: &str = "image.tar";

/// Bytes of a block of tar(5).
const BLOCK: u64 = 512;
