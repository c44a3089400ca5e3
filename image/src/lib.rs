//! OCI and Docker images: what their names mean, where they are kept, and how their layers become file systems that a
//! guest mounts.
//!
//! Everything in an image is hostile input: anybody may have made it.

pub mod archive;
pub mod digest;
pub mod erofs;
pub mod layer;
pub mod manifest;
mod parallel;
pub mod progress;
pub mod reference;
pub mod store;

pub use archive::ArchiveError;
pub use digest::{Digest, DigestError, Hasher};
pub use layer::Compression;
pub use manifest::{Descriptor, ImageConfig, Manifest};
pub use progress::Progress;
pub use reference::{Reference, ReferenceError};
pub use store::{Store, StoreError};
