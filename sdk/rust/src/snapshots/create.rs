//! From a stopped sandbox to a snapshot.

use std::fs::File;
use std::path::Path;

use super::artifact;
use super::descriptor::{Descriptor, FORMAT, Snapshot, SnapshotRoot, now, upper};
use super::error::failed;
use super::{
    Progress, SnapshotError, SnapshotHandle, SnapshotName, SnapshotOptions, Snapshots, integrity,
};
use crate::error::MicrosandboxError;
use crate::names::Name;
use crate::sandbox::StoppedSandbox;
use crate::staged::Staged;

impl Snapshots {
    /// Makes a snapshot of a stopped sandbox, which cannot be started meanwhile. It is durable when this returns.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`], [`MicrosandboxError::SandboxRunning`];
    /// [`SnapshotError::SnapshotAlreadyExists`]: of several callers with one name, one succeeds and the others get this;
    /// [`SnapshotError::NoLayer`]. Nothing remains of one that failed.
    pub fn create(
        &self,
        name: &SnapshotName,
        sandbox: &Name,
        options: &SnapshotOptions,
        progress: Progress<'_>,
    ) -> Result<SnapshotHandle, MicrosandboxError> {
        if !options.replace {
            self.check_absent(name)?;
        }
        // It is held until the snapshot is recorded: as long as there is the sandbox, there is its image.
        let stopped = StoppedSandbox::hold(&self.home, sandbox)?;
        let staged = self.stage()?;
        let snapshot = fill(&staged, Some(name), &stopped, options, progress)?;
        Ok(self.record(staged, snapshot, name, options.replace, None)?)
    }

    /// As [`create`](Self::create), as the directory `path` and without a name. Its image can be removed.
    ///
    /// # Errors
    /// As there; [`SnapshotError::PathExists`].
    pub fn create_at(
        &self,
        path: &Path,
        sandbox: &Name,
        options: &SnapshotOptions,
        progress: Progress<'_>,
    ) -> Result<SnapshotHandle, MicrosandboxError> {
        check_replaceable(path, options.replace)?;
        let stopped = StoppedSandbox::hold(&self.home, sandbox)?;
        let staged = Staged::beside(path).map_err(SnapshotError::from)?;
        let snapshot = fill(&staged, None, &stopped, options, progress)?;
        staged
            .publish(path, options.replace)
            .map_err(SnapshotError::from)?;
        Ok(SnapshotHandle::new(snapshot, path.to_owned()))
    }
}

/// Only a snapshot is replaced by one.
fn check_replaceable(path: &Path, replace: bool) -> Result<(), SnapshotError> {
    let is_there = path.symlink_metadata().is_ok();
    if is_there && !(replace && artifact::read(path).is_ok()) {
        return Err(SnapshotError::PathExists {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Makes the files of a snapshot, durably.
fn fill(
    staged: &Staged,
    name: Option<&SnapshotName>,
    stopped: &StoppedSandbox,
    options: &SnapshotOptions,
    progress: Progress<'_>,
) -> Result<Snapshot, SnapshotError> {
    let sandbox = stopped.name().to_string();
    let layer = stopped.directory().upper();
    let from = match File::open(&layer) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(SnapshotError::NoLayer { sandbox });
        }
        result => result.map_err(failed("open", &layer))?,
    };
    let size = from.metadata().map_err(failed("read", &layer))?.len();
    let path = staged.path().join(artifact::UPPER);
    let to = artifact::create(&path)?;
    let digest = integrity::copy(&from, &to, progress).map_err(failed("write", &path))?;
    let descriptor = Descriptor {
        format: FORMAT,
        id: staged.id.as_str().to_owned(),
        name: name.map(SnapshotName::to_string),
        created_at: now(),
        sandbox,
        labels: options.labels.clone(),
        root: SnapshotRoot::of(stopped.config()),
        upper: upper(size, &digest),
    };
    let snapshot = Snapshot::check(descriptor).map_err(|reason| SnapshotError::Invalid {
        path: layer,
        reason,
    })?;
    artifact::write(staged.path(), &snapshot)?;
    staged.sync()?;
    Ok(snapshot)
}
