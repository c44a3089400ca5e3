//! Images that are made of others by a further layer.

use image::manifest::{ContainerConfig, History, MAX_CONFIG_BYTES, Step};
use image::store::{NewLayer, Shared};
use image::{Digest, Manifest, Progress, Reference, StoreError};

use super::{ImageError, ImageHandle, Images, check_tag, read};

/// What makes an image of another.
pub(crate) struct Derivation<'d> {
    /// Manifest of the other image, which stays meanwhile.
    pub(crate) base: &'d Digest,
    /// Name of the new one.
    pub(crate) reference: &'d Reference,
    /// Most bytes of the layer's archive.
    pub(crate) limit: u64,
    /// How the new image is run, and what is told of the step.
    pub(crate) description: (ContainerConfig, History),
}

impl Images {
    /// Does `work`, which makes an image here, and has nothing else of the store when it returns. If it fails nothing is left of
    /// that, nor of an image whose maker was killed before this.
    ///
    /// # Errors
    /// [`ImageError::Store`]; those of `work`.
    pub(crate) fn making<T, E: From<ImageError>>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.store().has_unfinished().map_err(ImageError::from)? {
            // What cannot be removed now, as others add images, the next one removes.
            let _ = self.sweep();
        }
        let shared = self.store().share().map_err(ImageError::from)?;
        let unfinished = shared.begin_image().map_err(ImageError::from)?;
        let made = work(&shared);
        drop(shared);
        match &made {
            // The image is there; at worst the next one looks for what is left of it, and finds nothing.
            Ok(_) => unfinished.finish().unwrap_or_default(),
            // If that cannot be now, as others add images, the note remains for the next one.
            Err(_) => drop(self.sweep()),
        }
        made
    }

    /// Makes an image of another by a layer that `fill` writes, and records it, if `is_wanted` is still true when that is all
    /// that is missing. For [`making`](Self::making).
    ///
    /// # Errors
    /// [`ImageError::NotATag`], [`ImageError::GivenUp`], [`ImageError::Store`]; those of `fill`.
    pub(crate) fn derive<E: From<ImageError>>(
        &self,
        store: &Shared,
        derivation: &Derivation<'_>,
        fill: impl FnOnce(&mut NewLayer<'_>) -> Result<(), E>,
        is_wanted: impl Fn() -> bool,
        progress: &dyn Progress,
    ) -> Result<ImageHandle, E> {
        check_tag(derivation.reference)?;
        let (manifest, _) = read(store, derivation.base)?;
        let layer = store.new_layer(derivation.limit);
        let mut layer = layer.map_err(ImageError::from)?;
        fill(&mut layer)?;
        let added = add(store, &manifest, layer, derivation, progress);
        let digest = added.map_err(ImageError::from)?;
        if !is_wanted() {
            return Err(ImageError::GivenUp.into());
        }
        let references = std::slice::from_ref(derivation.reference);
        Ok(self.record(store, &digest, references, progress)?)
    }
}

/// Adds what the new image consists of, and makes its file system. Returns the digest of its manifest.
fn add(
    store: &Shared,
    base: &Manifest,
    layer: NewLayer<'_>,
    derivation: &Derivation<'_>,
    progress: &dyn Progress,
) -> Result<Digest, StoreError> {
    let (layer, diff_id) = layer.finish(base.gzip_layer_type())?;
    let (config, history) = derivation.description.clone();
    let step = Step {
        diff_id,
        history,
        config,
    };
    let old = store.read_blob(&base.config.digest, MAX_CONFIG_BYTES)?;
    let config = step.apply(&old).map_err(|source| StoreError::Document {
        digest: base.config.digest,
        source,
    })?;
    let mut manifest = Manifest {
        config: store.add(&config, &base.config.media_type)?,
        layers: base.layers.clone(),
    };
    manifest.layers.push(layer);
    let config = store.config(&manifest)?;
    store.make_layers(&manifest, &config, progress)?;
    store.make_root(&config.diff_ids)?;
    let added = store.add(&manifest.write(), manifest.media_type())?;
    Ok(added.digest)
}
