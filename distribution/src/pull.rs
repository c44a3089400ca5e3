//! An image on its way from a registry to the store: its manifest, its configuration, and the layers that are not there yet.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::client::{Fetched, Repository};
use super::download::Download;
use super::error::PullError;
use super::{Access, RegistryError};
use image::digest::Digest;
use image::manifest::{Document, Index, MAX_MANIFEST_BYTES, Manifest};
use image::progress::Progress;
use image::reference::Reference;
use image::store::Shared;

/// Layers that are downloaded at a time.
const DOWNLOADS: usize = 4;

/// Indices that may lead to each other.
const MAX_INDICES: usize = 4;

impl Access {
    /// Pulls an image into the store and makes file systems of its layers. Returns the digest of its manifest for
    /// linux/amd64. What is there is not downloaded again, and what another process downloads is waited for.
    ///
    /// Dropping the future ends the pull. What came of a blob stays in the store, and the next pull goes on from there.
    ///
    /// # Errors
    /// When the registry cannot be used or has no such image, or the store cannot take it.
    pub async fn pull(
        &self,
        reference: &Reference,
        shared: Arc<Shared>,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<Digest, PullError> {
        let (sources, fetched) = self.resolve(reference).await?;
        let download = Download {
            sources: sources.into(),
            shared,
            progress,
        };
        let (digest, manifest) = download.manifest(fetched).await?;
        download.ensure(&manifest.config).await?;
        let config = download.shared.config(&manifest)?;
        download.layers(&manifest, &config.diff_ids).await?;
        Ok(digest)
    }

    /// What the reference leads to, and where the rest is to be had: at the endpoint that knew it, else at those that
    /// come after it.
    async fn resolve(
        &self,
        reference: &Reference,
    ) -> Result<(Vec<Repository>, Fetched), RegistryError> {
        let registry = reference.registry();
        let mut endpoints = self.endpoints(registry)?.into_iter();
        let expected = reference.digest();
        let version = expected.map(Digest::to_string);
        let version = version.as_deref().or(reference.tag()).unwrap_or_default();
        let mut failure = None;
        while let Some(endpoint) = endpoints.next() {
            let repository = self
                .repository(endpoint, registry, reference.repository())
                .await?;
            match repository.manifest(version, expected).await {
                Ok(fetched) => {
                    let mut sources = vec![repository];
                    for endpoint in endpoints {
                        let path = reference.repository();
                        sources.push(self.repository(endpoint, registry, path).await?);
                    }
                    return Ok((sources, fetched));
                }
                Err(error) => failure = Some(error),
            }
        }
        // There is always the registry itself.
        Err(failure.unwrap_or_else(|| RegistryError::NotFound {
            registry: registry.to_owned(),
            what: reference.to_string(),
        }))
    }
}

impl Download {
    /// The manifest that a document leads to, and its digest. It is kept in the store.
    async fn manifest(&self, fetched: Fetched) -> Result<(Digest, Manifest), PullError> {
        let mut fetched = fetched;
        for _ in 0..MAX_INDICES {
            let document = Document::parse(&fetched.bytes, fetched.media_type.as_deref());
            match document.map_err(|source| PullError::document(fetched.digest, source))? {
                Document::Manifest(manifest) => {
                    let media_type = fetched.media_type.as_deref().unwrap_or_default();
                    self.shared.add(&fetched.bytes, media_type)?;
                    return Ok((fetched.digest, manifest));
                }
                Document::Index(index) => fetched = self.follow(&index, fetched.digest).await?,
            }
        }
        Err(PullError::TooManyIndices)
    }

    /// What an index has for us: from the store if it is there.
    async fn follow(&self, index: &Index, digest: Digest) -> Result<Fetched, PullError> {
        let chosen = index
            .choose()
            .map_err(|source| PullError::document(digest, source))?;
        if self.shared.has_blob(&chosen.digest) {
            return Ok(Fetched {
                bytes: self.shared.read_blob(&chosen.digest, MAX_MANIFEST_BYTES)?,
                digest: chosen.digest,
                media_type: Some(chosen.media_type.clone()),
            });
        }
        let mut failure = None;
        for source in self.sources.iter() {
            match source
                .manifest(&chosen.digest.to_string(), Some(&chosen.digest))
                .await
            {
                Ok(fetched) => return Ok(fetched),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| PullError::no_source(&chosen.digest), PullError::from))
    }

    /// Downloads and converts layers; the first ones are converted while others come. The first failure ends all.
    async fn layers(&self, manifest: &Manifest, diff_ids: &[Digest]) -> Result<(), PullError> {
        let downloads = Arc::new(Semaphore::new(DOWNLOADS));
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let conversions = Arc::new(Semaphore::new(processors));
        let mut tasks = JoinSet::<Result<(), PullError>>::new();
        let mut seen = HashSet::new();
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            // Some images have the same empty layer many times.
            if !seen.insert((layer.descriptor.digest, *diff_id)) {
                continue;
            }
            let (layer, diff_id, this) = (layer.clone(), *diff_id, self.clone());
            let (downloads, conversions) = (Arc::clone(&downloads), Arc::clone(&conversions));
            tasks.spawn(async move {
                {
                    let _permit = downloads.acquire().await.map_err(PullError::task)?;
                    this.ensure(&layer.descriptor).await?;
                }
                let _permit = conversions.acquire().await.map_err(PullError::task)?;
                let converted = spawn_blocking(move || {
                    this.shared.make_layer(&layer, &diff_id, &*this.progress)
                });
                converted.await.map_err(PullError::task)??;
                Ok(())
            });
        }
        while let Some(result) = tasks.join_next().await {
            result.map_err(PullError::task)??;
        }
        Ok(())
    }
}
