//! File system images in the format EROFS, which Linux mounts read-only.
//!
//! What is written here is mounted by the guest's kernel, and what is read is written here: other images are refused
//! where they use anything else of the format. Nothing in this module knows of archives.

mod blocks;
mod directory;
mod error;
mod format;
mod markers;
mod merge;
mod read;
mod tree;
mod write;
mod xattr;

pub use blocks::BlockWriter;
pub use directory::NAME_MAX;
pub use error::ErofsError;
pub use format::BLOCK;
pub use markers::is_reserved;
pub use merge::merge;
pub use read::Reader;
pub use tree::{Attributes, Device, Directory, Extent, Inode, InodeId, Kind, Time, Tree};
pub use write::finish;
pub use xattr::{XATTR_NAME_MAX, XATTR_VALUE_MAX, Xattr};
