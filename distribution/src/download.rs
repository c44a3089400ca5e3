//! Blobs on their way from a registry to the store.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::answer::{Again, Attempt, Patience};
use super::client::Repository;
use super::error::{PullError, Reason, RegistryError};
use image::manifest::Descriptor;
use image::progress::Progress;
use image::store::{BlobState, BlobWriter, Shared, StoreError};

/// Parts of a blob that wait to be written; a part has some 16 KiB.
const WAITING_PARTS: usize = 64;

/// Where blobs come from and where they go.
#[derive(Clone)]
pub(super) struct Download {
    /// The repository, at each endpoint that serves it, the preferred one first. At least one.
    pub(super) sources: Arc<[Repository]>,
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Arc<dyn Progress + Send + Sync>,
}

impl Download {
    /// Sees to it that a blob is in the store. What somebody has of it is not downloaded again.
    pub(super) async fn ensure(&self, descriptor: &Descriptor) -> Result<(), PullError> {
        let mut sources = &self.sources[..];
        let mut began_anew = false;
        loop {
            let Some(writer) = self.begin(descriptor).await? else {
                self.progress
                    .blob(&descriptor.digest, descriptor.size, descriptor.size);
                return Ok(());
            };
            let resumed = writer.offset() > 0;
            let result = self.complete(sources, writer, descriptor).await;
            // Nothing of what has the wrong digest is kept, so the next attempt is from the beginning.
            match (result, sources) {
                (Err(PullError::Store(StoreError::WrongDigest { .. })), _)
                    if resumed && !began_anew =>
                {
                    began_anew = true;
                }
                (Err(PullError::Store(StoreError::WrongDigest { .. })), [_, rest @ ..])
                    if !rest.is_empty() =>
                {
                    sources = rest;
                }
                (result, _) => return result,
            }
        }
    }

    /// What takes the blob, unless it is there. Waits while another process downloads it.
    async fn begin(&self, descriptor: &Descriptor) -> Result<Option<Box<BlobWriter>>, PullError> {
        let (shared, descriptor) = (Arc::clone(&self.shared), descriptor.clone());
        let state = spawn_blocking(move || shared.blob_writer(&descriptor)).await;
        match state.map_err(PullError::task)?? {
            BlobState::Present => Ok(None),
            BlobState::Write(writer) => Ok(Some(writer)),
        }
    }

    /// Gets what is missing, from the first source that has it.
    async fn complete(
        &self,
        sources: &[Repository],
        mut writer: Box<BlobWriter>,
        descriptor: &Descriptor,
    ) -> Result<(), PullError> {
        let mut failure = None;
        for source in sources {
            let (returned, result) = self.repeat(source, writer, descriptor).await?;
            writer = returned;
            match result {
                Ok(()) => {
                    let committed = spawn_blocking(move || writer.commit()).await;
                    return committed
                        .map_err(PullError::task)?
                        .map_err(PullError::Store);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or_else(|| PullError::no_source(&descriptor.digest), PullError::from))
    }

    /// Gets what is missing from one source, however often the connection breaks, as long as something comes.
    async fn repeat(
        &self,
        source: &Repository,
        mut writer: Box<BlobWriter>,
        descriptor: &Descriptor,
    ) -> Result<(Box<BlobWriter>, Result<(), RegistryError>), PullError> {
        let mut patience = Patience::new(source.limits());
        loop {
            let before = writer.offset();
            if before == descriptor.size {
                return Ok((writer, Ok(())));
            }
            let (returned, result) = self.transfer(source, writer, descriptor).await?;
            writer = returned;
            let Err(attempt) = result else {
                continue;
            };
            if writer.offset() > before {
                patience.renew();
            }
            if let Err(error) = patience.wait(attempt).await {
                return Ok((writer, Err(error)));
            }
        }
    }

    /// One request, as far as it leads. What is written and hashed does not keep other downloads waiting.
    async fn transfer(
        &self,
        source: &Repository,
        writer: Box<BlobWriter>,
        descriptor: &Descriptor,
    ) -> Result<(Box<BlobWriter>, Result<(), Attempt>), PullError> {
        let mut body = match source.blob(descriptor, writer.offset()).await {
            Ok(body) => body,
            Err(attempt) => return Ok((writer, Err(attempt))),
        };
        let mut done = writer.offset();
        let (sender, mut receiver) = mpsc::channel::<bytes::Bytes>(WAITING_PARTS);
        let writing = spawn_blocking(move || {
            let mut writer = writer;
            while let Some(part) = receiver.blocking_recv() {
                writer.write(&part)?;
            }
            Ok::<_, StoreError>(writer)
        });
        let mut result = Ok(());
        while done < descriptor.size {
            let part = match source.next(&mut body).await {
                Ok(Some(part)) if part.len() as u64 <= descriptor.size - done => part,
                Ok(Some(_)) => {
                    let what = format!("a blob has more than {} bytes", descriptor.size);
                    result = Err(source.question("").protocol(what).into());
                    break;
                }
                Ok(None) => {
                    result = Err(ended_early(source));
                    break;
                }
                Err(attempt) => {
                    result = Err(attempt);
                    break;
                }
            };
            done += part.len() as u64;
            if sender.send(part).await.is_err() {
                // It could not be written; why says who writes.
                break;
            }
            self.progress
                .blob(&descriptor.digest, done, descriptor.size);
        }
        drop(sender);
        let writer = writing.await.map_err(PullError::task)??;
        Ok((writer, result))
    }
}

fn ended_early(source: &Repository) -> Attempt {
    Attempt {
        error: RegistryError::Unreachable {
            registry: source.registry().to_owned(),
            source: Reason::new("a blob ended too early"),
        },
        again: Again::Soon,
    }
}
