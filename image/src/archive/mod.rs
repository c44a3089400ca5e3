//! Images in files: OCI image layouts, as a directory or a tar archive, and archives of `docker save`.
//!
//! Nothing of an archive is unpacked under a name that it gives. Its blobs go into the store, where they are named for
//! their content, and each is checked against the digest that the one above it has for it.

mod container;
mod copy;
mod docker;
mod error;
mod layout;
mod save;
mod section;
mod spool;
mod tar;

use std::fs::File;
use std::path::Path;

pub use error::ArchiveError;
pub use save::{Format, SavedImage, save};

use crate::digest::Digest;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Shared;
use container::Container;

/// Where images are loaded from.
#[derive(Debug)]
pub enum Input<'a> {
    /// A directory with an OCI image layout, or an archive, perhaps compressed.
    Path(&'a Path),
    /// An archive that is open, which may be a pipe.
    Open(File),
}

/// An image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its names in the archive, complete ones only.
    pub references: Vec<Reference>,
}

/// Adds the images of an archive to the store, or only the one that is called `wanted` there, and makes file systems of
/// their layers. They stay there as long as `store` lives, or a record spares them. If this fails, what it added can be told
/// from [`Shared::added`].
///
/// # Errors
/// When the archive is none, has no such image, or an image in it cannot be used.
pub fn load(
    store: &Shared,
    input: Input<'_>,
    wanted: Option<&str>,
    progress: &dyn Progress,
) -> Result<Vec<LoadedImage>, ArchiveError> {
    let container = match input {
        Input::Path(path) => Container::open(path, store)?,
        Input::Open(file) => Container::of_file(file, Path::new("the archive"), store)?,
    };
    if container.find(layout::MARKER)?.is_some() {
        return layout::load(store, &container, wanted, progress);
    }
    if container.find(docker::MANIFEST)?.is_some() {
        return docker::load(store, &container, wanted, progress);
    }
    Err(ArchiveError::NotAnArchive)
}
