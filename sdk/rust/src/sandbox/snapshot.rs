//! Sandboxes and snapshots: one is made of the other.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::handle::SandboxHandle;
use super::machine::blocking;
use super::{RootAccessConfig, SandboxConfig};
use crate::error::MicrosandboxError;
use crate::home::Home;
use crate::images::ImageError;
use crate::snapshots::{
    Selector, SnapshotError, SnapshotHandle, SnapshotName, SnapshotOptions, Snapshots, silent,
};

impl SandboxHandle {
    /// Makes a snapshot of this sandbox, which is stopped and cannot be started meanwhile, under a name.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxRunning`]; [`MicrosandboxError::Snapshot`] when there is one of that name, or the sandbox
    /// keeps no changes on a disk.
    pub async fn snapshot(&self, name: &str) -> Result<SnapshotHandle, MicrosandboxError> {
        let name: SnapshotName = name.parse().map_err(SnapshotError::from)?;
        self.make(move |snapshots, sandbox| {
            snapshots.create(&name, sandbox, &SnapshotOptions::default(), &mut silent)
        })
        .await
    }

    /// As [`snapshot`](Self::snapshot), as a directory that nothing is at yet. Nobody keeps its image from being removed.
    ///
    /// # Errors
    /// As there.
    pub async fn snapshot_to(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<SnapshotHandle, MicrosandboxError> {
        let path = path.as_ref().to_owned();
        self.make(move |snapshots, sandbox| {
            snapshots.create_at(&path, sandbox, &SnapshotOptions::default(), &mut silent)
        })
        .await
    }

    async fn make(
        &self,
        work: impl FnOnce(&Snapshots, &crate::names::Name) -> Result<SnapshotHandle, MicrosandboxError>
        + Send
        + 'static,
    ) -> Result<SnapshotHandle, MicrosandboxError> {
        let observed = self.machine().observe().await?;
        let home = self.home().clone();
        blocking(move || work(&Snapshots::open(&home)?, &observed.record.name)).await
    }
}

/// Finds the snapshot of a sandbox that is to be created, and takes over what it says. Returns the layer that the
/// sandbox's own becomes a copy of.
///
/// # Errors
/// [`MicrosandboxError::Snapshot`].
pub(super) fn take_snapshot(
    home: &Home,
    config: &mut SandboxConfig,
) -> Result<Option<Taken>, MicrosandboxError> {
    let Some(text) = &mut config.snapshot else {
        return Ok(None);
    };
    let found = Snapshots::open(home)?.get(text)?;
    if let Ok(Selector::Path(path)) = text.parse() {
        // It is recorded as what it is from everywhere.
        let absolute = std::path::absolute(&path).unwrap_or(path);
        *text = absolute.to_string_lossy().into_owned();
    }
    let upper = found.open_upper()?;
    found.root().clone().give(config);
    config.root_access = Some(RootAccessConfig::Upper {
        mib: found.size_mib(),
    });
    Ok(Some(Taken { upper, found }))
}

/// A snapshot that a sandbox is made of.
#[derive(Debug)]
pub(super) struct Taken {
    /// Its layer.
    pub(super) upper: File,
    found: SnapshotHandle,
}

impl Taken {
    /// What it means for the snapshot that its root cannot be used.
    pub(super) fn explain(&self, error: MicrosandboxError) -> MicrosandboxError {
        match error {
            MicrosandboxError::Image(ImageError::ImageNotFound { .. }) => {
                match self.found.image_missing() {
                    Some(missing) => missing.into(),
                    None => error,
                }
            }
            MicrosandboxError::InvalidConfig { field, reason } if field == "image" => {
                MicrosandboxError::InvalidConfig {
                    field: "snapshot".to_owned(),
                    reason: format!("what it is based on is gone: {reason}"),
                }
            }
            error => error,
        }
    }
}

/// Whether an image is given besides a snapshot, or neither is.
pub(super) fn check(config: &SandboxConfig) -> Result<(), MicrosandboxError> {
    if config.snapshot.is_none() {
        return Ok(());
    }
    let besides = [
        ("image", config.image != PathBuf::new()),
        ("image_digest", config.image_digest.is_some()),
        ("image_format", config.image_format.is_some()),
        ("image_fstype", config.image_fstype.is_some()),
        ("image_partition", config.image_partition.is_some()),
        ("root_access", config.root_access.is_some()),
        ("oci_upper_size_mib", config.oci_upper_size_mib.is_some()),
    ];
    match besides.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((field, _)) => Err(MicrosandboxError::invalid(
            field,
            "a snapshot has it already: only one of both is given",
        )),
    }
}
