//! What a sandbox is made of.

use std::path::Path;

use image::archive::{self, Input};
use image::progress::Silent;
use image::store::{ImageLock, RootDisk, Shared};
use image::{ArchiveError, Digest, ImageConfig, Progress, Reference};

use super::selector::Selector;
use super::{ImageError, Images, archive_failed, damaged, read};
use crate::home::Home;

/// An OCI image layout in a directory or a tar archive: `oci:PATH[:TAG]`.
pub(super) const OCI: &str = "oci:";
/// An archive of `docker save`: `docker-archive:PATH[:NAME]`.
pub(super) const DOCKER_ARCHIVE: &str = "docker-archive:";

/// An image, and where its layers are. They stay there as long as this lives; for longer if a sandbox is recorded
/// as made of it meanwhile. Whoever removes it waits for the end of this.
#[derive(Debug)]
pub struct ResolvedImage {
    /// Digest of its manifest.
    pub manifest_digest: Digest,
    /// The disk with its file system.
    pub root: RootDisk,
    /// How it is run.
    pub config: ImageConfig,
    // The first one to go: its file is the store's.
    _image: ImageLock,
    _store: Shared,
}

/// The image that is called `image` and is here, or is in the layout or archive that is named as `oci:PATH[:TAG]` or
/// `docker-archive:PATH[:NAME]`. Layers whose file system is missing are made anew from their blobs.
///
/// # Errors
/// [`ImageError::ImageNotFound`], [`ImageError::Archive`]; [`ImageError::Damaged`] when a blob is missing, too.
pub fn resolve(home: &Home, image: &str) -> Result<ResolvedImage, ImageError> {
    Images::open(home)?.resolve(image, &Silent)
}

impl Images {
    /// See [`resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve(
        &self,
        image: &str,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        // Before it is looked up: from then on nobody removes it.
        let addition = self.adding()?;
        let manifest_digest = match source(image) {
            Some((path, wanted)) => self.load_one(&addition.store, path, wanted, progress)?,
            None => *self.get(image)?.digest(),
        };
        self.resolve_held(addition.keep(), manifest_digest, progress)
    }

    /// The image with this manifest, of which all is here as long as the store is shared.
    ///
    /// # Errors
    /// [`ImageError::ImageNotFound`] when it was removed meanwhile; [`ImageError::Damaged`].
    pub(super) fn resolve_held(
        &self,
        store: Shared,
        manifest_digest: Digest,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        let lock = store.use_image(&manifest_digest)?;
        self.find(&Selector::of_digest(&manifest_digest))?;
        let (manifest, config) = read(&store, &manifest_digest)?;
        let root = store
            .make_layers(&manifest, &config, progress)
            .and_then(|_| store.make_root(&config.diff_ids));
        Ok(ResolvedImage {
            manifest_digest,
            root: root.map_err(damaged(&manifest_digest))?,
            config,
            _image: lock,
            _store: store,
        })
    }

    /// Loads the one image of an archive, or the one of several that is wanted. It gets no name here.
    fn load_one(
        &self,
        store: &Shared,
        path: &Path,
        wanted: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Digest, ImageError> {
        let loaded = archive::load(store, Input::Path(path), wanted, progress);
        let loaded = loaded.map_err(archive_failed(path.to_owned()))?;
        let [image] = &loaded[..] else {
            let names = loaded.iter().flat_map(|image| &image.references);
            return Err(archive_failed(path.to_owned())(ArchiveError::Several {
                available: names.map(Reference::familiar_tagged).collect(),
            }));
        };
        Ok(*self.record(store, &image.manifest, &[], progress)?.digest())
    }
}

/// Whether `image` names an archive or a layout, and not an image that is here or in a registry.
pub(crate) fn is_archive(image: &str) -> bool {
    image.starts_with(OCI) || image.starts_with(DOCKER_ARCHIVE)
}

/// The path and the name of `oci:PATH[:TAG]` and `docker-archive:PATH[:NAME]`. A path that exists has no name behind it.
fn source(image: &str) -> Option<(&Path, Option<&str>)> {
    let rest = image
        .strip_prefix(OCI)
        .or_else(|| image.strip_prefix(DOCKER_ARCHIVE))?;
    if Path::new(rest).exists() {
        return Some((Path::new(rest), None));
    }
    // A name may have colons, too: the path is the shortest beginning that exists.
    let named = rest.match_indices(':').find_map(|(at, _)| {
        let (path, name) = (rest.get(..at)?, rest.get(at + 1..)?);
        Path::new(path)
            .exists()
            .then_some((Path::new(path), Some(name)))
    });
    Some(named.unwrap_or((Path::new(rest), None)))
}
