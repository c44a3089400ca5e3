//! A stopped sandbox's changes as a new image.
//!
//! They are in the private layer of its root, which a guest has written: a small machine mounts it, and its agent makes the
//! archive of a layer of it. Here that is only compressed, hashed and kept, and then taken apart with the distrust that
//! any layer meets.

mod description;
mod work;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image::progress::Silent;
use image::store::{NewLayer, Shared};
use image::{Digest, Progress, Reference, StoreError};

use super::fs::in_guest;
use super::handle::SandboxHandle;
use super::image::{image_name, recorded, root_disk};
use super::machine::blocking;
use super::start::{let_go, try_claim};
use super::{RootAccessConfig, SandboxConfig};
use crate::disk_machine::{DiskMachine, DiskMachineError, MountedDisk, RemoteError};
use crate::error::{CommitObstacle, MicrosandboxError, failed};
use crate::home::Home;
use crate::images::{Derivation, ImageError, ImageHandle, Images, ResolvedImage};
use crate::launch::{DiskImage, HostPath};
use crate::names::Name;
use crate::registry::{Record, Registry, SandboxDirectory};
use crate::run_directory::Claim;
use work::{Work, Worker};

/// Where the guest has the layer and what is beneath it, and the directory in which both paths begin.
const LAYER: &str = "/layer";
const BELOW: &str = "/below";
const ROOT: &str = "/";

/// Bytes that an archive may have beyond what the disks hold: headers of small files.
const OVERHEAD: u64 = 64 << 20;

/// What is told of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// A remark on the change.
    pub message: Option<String>,
    /// Who made it.
    pub author: Option<String>,
}

impl SandboxHandle {
    /// Makes an image of the one that the sandbox was made of and what was changed since then in its root, and calls it
    /// `reference`. It is run as the sandbox was: with its environment, user, working directory, entry point, command,
    /// labels and stop signal. The sandbox stays as it is, and can be neither started nor removed meanwhile.
    ///
    /// The files `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, which every sandbox gets anew, are not part of the image,
    /// nor what was in volumes. Dropping the future ends the commit and waits until nothing is left of it.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxRunning`] unless it is stopped; [`MicrosandboxError::NotCommittable`] when its changes are
    /// in no layer on an image; [`MicrosandboxError::Fs`] when there is a file that no layer of an image can have, such as one
    /// whose name begins with `.wh.`; [`ImageError::NotATag`].
    pub async fn commit(
        &self,
        reference: &Reference,
        options: CommitOptions,
    ) -> Result<ImageHandle, MicrosandboxError> {
        self.commit_with_progress(reference, options, Arc::new(Silent))
            .await
    }

    /// As [`commit`](Self::commit), and tells how far it is.
    ///
    /// # Errors
    /// As there.
    pub async fn commit_with_progress(
        &self,
        reference: &Reference,
        options: CommitOptions,
        progress: Arc<dyn Progress + Send + Sync>,
    ) -> Result<ImageHandle, MicrosandboxError> {
        // Its last run is concluded then, and it is the sandbox that it was.
        let record = self.machine().observe().await?.record;
        let (home, reference) = (self.home().clone(), reference.clone());
        let (work, worker) = Work::begin();
        let committed = blocking(move || {
            let worker = worker;
            let commit = Commit::begin(&home, &record)?;
            commit.carry_out(&reference, &options, &worker, &*progress)
        })
        .await;
        drop(work);
        committed
    }
}

/// A sandbox that is being committed. It has its name as long as this lives.
struct Commit<'c> {
    home: &'c Home,
    record: Record,
    config: SandboxConfig,
    base: Digest,
    _name: HeldName,
}

/// The lock of a name.
struct HeldName(Option<Claim>);

impl HeldName {
    fn take(home: &Home, name: &Name) -> Result<HeldName, MicrosandboxError> {
        match try_claim(home, name)? {
            Some(claim) => Ok(HeldName(Some(claim))),
            None => Err(MicrosandboxError::SandboxRunning {
                name: name.to_string(),
            }),
        }
    }
}

impl Drop for HeldName {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            let_go(claim);
        }
    }
}

impl<'c> Commit<'c> {
    fn begin(home: &'c Home, observed: &Record) -> Result<Commit<'c>, MicrosandboxError> {
        let name = HeldName::take(home, &observed.name)?;
        let record = Registry::open(home)?.get(&observed.name)?.record;
        if record.id != observed.id {
            return Err(MicrosandboxError::InvalidHandle {
                name: record.name.to_string(),
            });
        }
        let config: SandboxConfig = serde_json::from_str(&record.config)
            .map_err(|error| MicrosandboxError::invalid("config", error))?;
        let not_committable = |reason| MicrosandboxError::NotCommittable {
            name: observed.name.to_string(),
            reason,
        };
        check(&config).map_err(not_committable)?;
        let base = recorded(&config)?.ok_or_else(|| not_committable(CommitObstacle::NoImage))?;
        Ok(Commit {
            home,
            record,
            config,
            base,
            _name: name,
        })
    }

    fn carry_out(
        &self,
        reference: &Reference,
        options: &CommitOptions,
        worker: &Worker,
        progress: &dyn Progress,
    ) -> Result<ImageHandle, MicrosandboxError> {
        let images = Images::open(self.home)?;
        images.making(|store| self.make(&images, store, reference, options, worker, progress))
    }

    fn make(
        &self,
        images: &Images,
        store: &Shared,
        reference: &Reference,
        options: &CommitOptions,
        worker: &Worker,
        progress: &dyn Progress,
    ) -> Result<ImageHandle, MicrosandboxError> {
        // It stays as long as this lives.
        let image = images.resolve(&self.base.to_string(), progress)?;
        let size = images.get(&self.base.to_string())?.size_bytes();
        let upper = SandboxDirectory::of(self.home, &self.record.id).upper();
        let disk = fs::metadata(&upper).map_err(failed("examine", &upper))?;
        let derivation = Derivation {
            base: &self.base,
            reference,
            limit: limit(disk.len().saturating_add(size)),
            description: description::describe(&self.config, &image.config.config, options),
        };
        images.derive(
            store,
            &derivation,
            |layer| self.read(&upper, &image, layer, worker, progress),
            || !worker.is_given_up(),
            progress,
        )
    }

    /// Lets a machine read the layer.
    fn read(
        &self,
        upper: &Path,
        image: &ResolvedImage,
        layer: &mut NewLayer<'_>,
        worker: &Worker,
        progress: &dyn Progress,
    ) -> Result<(), MicrosandboxError> {
        let disks = vec![
            MountedDisk {
                // The journal of a layer whose machine was killed is replayed as its next start would do it: for that the
                // disk is one that can be written. The agent makes the file system read-only before it looks at it.
                disk: DiskImage {
                    path: HostPath(upper.to_owned()),
                    format: disk::Format::Raw,
                    cache: disk::Cache::Writeback,
                    partition: None,
                    fstype: Some("ext4".to_owned()),
                },
                directory: LAYER,
                read_only: false,
            },
            MountedDisk {
                disk: root_disk(&image.root),
                directory: BELOW,
                read_only: true,
            },
        ];
        let name = format!("commit-{}", self.record.id.as_str());
        let name = name.parse().map_err(DiskMachineError::from);
        let machine = name
            .and_then(|name| DiskMachine::start(self.home, name, disks, Vec::new()))
            .map_err(unread)?;
        let stream = machine.connect().map_err(unread)?;
        if !worker.reads(&stream) {
            return Err(ImageError::GivenUp.into());
        }
        let mut refused: Option<StoreError> = None;
        // The file system is read-only by then.
        let read = machine.look(stream, ROOT, |remote| {
            let (layer_path, below) = (relative(LAYER), relative(BELOW));
            remote.read_layer(layer_path, below, |part| {
                layer.write(part).map_err(|error| {
                    refused = Some(error);
                    RemoteError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
                })?;
                progress.archive(layer.written());
                Ok(())
            })
        });
        if let Some(error) = refused {
            return Err(ImageError::from(error).into());
        }
        if worker.is_given_up() {
            return Err(ImageError::GivenUp.into());
        }
        read.map_err(|error| match error {
            RemoteError::Files(error) => in_guest(error),
            RemoteError::Agent(error) => unread(DiskMachineError::Agent(error)),
            RemoteError::Machine(error) => unread(error),
        })
    }
}

/// Whether there is a layer on disk over an image.
fn check(config: &SandboxConfig) -> Result<(), CommitObstacle> {
    match config.root_access() {
        _ if image_name(&config.image).is_none() => Err(CommitObstacle::NoImage),
        None | Some(RootAccessConfig::Upper { .. }) => Ok(()),
        Some(RootAccessConfig::Tmpfs { .. }) => Err(CommitObstacle::InMemory),
        Some(RootAccessConfig::ReadOnly | RootAccessConfig::Writable) => {
            Err(CommitObstacle::NoLayer)
        }
    }
}

/// Most bytes of the archive of what disks of together so many bytes hold. Holes are not stored, so that it is not much more;
/// a machine that goes on for ever is noticed.
fn limit(disks: u64) -> u64 {
    disks.saturating_add(disks / 4).saturating_add(OVERHEAD)
}

fn relative(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}

fn unread(error: DiskMachineError) -> MicrosandboxError {
    MicrosandboxError::runtime("The layer of the sandbox cannot be read")(error)
}
