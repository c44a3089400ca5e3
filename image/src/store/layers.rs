//! Makes file systems of layers.

use std::fs::File;
use std::path::PathBuf;

use super::{Shared, StoreError, lock};
use crate::digest::Digest;
use crate::layer::{self, Limits};
use crate::manifest::{ImageConfig, Layer, Manifest};
use crate::parallel;
use crate::progress::{LayerState, Progress};

impl Shared {
    /// The EROFS image of a layer whose blob is in the store; it is made if there is none. While somebody else makes it
    /// this waits: not to be called where futures are polled.
    ///
    /// # Errors
    /// When the blob is missing, is no layer, or is another one than `diff_id` says.
    pub fn make_layer(
        &self,
        layer: &Layer,
        diff_id: &Digest,
        progress: &dyn Progress,
    ) -> Result<PathBuf, StoreError> {
        let path = self.store.layer(diff_id);
        if !self.is_made(&path) {
            let _lock = lock(&self.store, &format!("layer-{}", diff_id.hex()))?;
            // Who waited may find it made.
            if !self.is_made(&path) {
                progress.layer(diff_id, LayerState::Converting);
                self.convert(layer, diff_id)?;
            }
        }
        progress.layer(diff_id, LayerState::Ready);
        Ok(path)
    }

    /// The EROFS images of all layers, the lowest first.
    ///
    /// # Errors
    /// As [`make_layer`](Self::make_layer).
    pub fn make_layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let layers: Vec<_> = manifest.layers.iter().zip(&config.diff_ids).collect();
        parallel::map(&layers, |(layer, diff_id)| {
            self.make_layer(layer, diff_id, progress)
        })
    }

    fn convert(&self, layer: &Layer, diff_id: &Digest) -> Result<(), StoreError> {
        let (blob, _) = self.open_blob(&layer.descriptor.digest)?;
        self.publish_new(&self.store.layer(diff_id), |output| {
            self.fill(layer, diff_id, blob, output)
        })
    }

    fn fill(
        &self,
        layer: &Layer,
        diff_id: &Digest,
        blob: File,
        output: &File,
    ) -> Result<(), StoreError> {
        let digest = layer.descriptor.digest;
        let converted = layer::convert(blob, layer.compression, output, &Limits::default())
            .map_err(|source| StoreError::Layer { digest, source })?;
        if converted.diff_id != *diff_id {
            return Err(StoreError::WrongLayer {
                expected: *diff_id,
                found: converted.diff_id,
            });
        }
        Ok(())
    }
}
