//! Snapshots of the disks of stopped sandboxes: what a sandbox has changed, kept, so that others begin with it.
//!
//! A snapshot is a directory with `snapshot.json`, which says what it is and what it is based on, and `upper.img`, a sparse
//! copy of the sandbox's private layer. One at a path is just that. One with a name is in `$MSB_HOME/snapshots/<identity>/`,
//! and exists when the database has a record of it:
//!
//! - *Making*: the directory is filled, durably, while its maker keeps it locked; then the record is added, which decides.
//! - *Removing*: the record goes first, then the directory.
//!
//! An identity is never given twice. So a directory without a record that nobody keeps is of no use to anybody, and the
//! next one to make a snapshot removes it.
//!
//! An image that a snapshot with a name is based on cannot be removed.

mod archive;
mod artifact;
mod create;
mod descriptor;
mod error;
mod handle;
mod integrity;
mod name;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub use archive::LoadOptions;
pub use descriptor::SnapshotRoot;
pub use error::SnapshotError;
pub use handle::SnapshotHandle;
pub(crate) use name::Selector;
pub use name::{SnapshotName, SnapshotNameError};

use crate::database::Database;
use crate::home::Home;
use crate::identity::Id;
use crate::images::Unrecorded;
use crate::private_directory::make_private_directory;
use crate::staged::{self, Staged};
use descriptor::Snapshot;
use error::failed;

/// Is told how many bytes of a layer are done, and of how many. Breaks when the work is to be given up; nothing of it
/// remains then.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Goes on, whatever happens.
///
/// ```
/// assert!(microsandbox::snapshots::silent(0, 1).is_continue());
/// ```
pub fn silent(_done: u64, _total: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What can be chosen about a snapshot.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    /// Whatever its user wants to remember.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes the place of a snapshot of the same name, or at the same path.
    pub replace: bool,
}

/// The snapshots of a home. Any number of threads and processes may use one home at a time. Every call may wait for the
/// disk.
#[derive(Debug)]
pub struct Snapshots {
    home: Home,
    directory: PathBuf,
    database: Database,
}

impl Snapshots {
    /// Opens them.
    ///
    /// # Errors
    /// When the database or the directory of the snapshots cannot be used.
    pub fn open(home: &Home) -> Result<Snapshots, SnapshotError> {
        let directory = home.snapshots();
        make_private_directory(&directory)?;
        Ok(Snapshots {
            home: home.clone(),
            directory,
            database: Database::open(home)?,
        })
    }

    /// The snapshot of this name, or at this path: a path contains `/`, or begins with `.` or `~`.
    ///
    /// # Errors
    /// [`SnapshotError::SnapshotNotFound`]; [`SnapshotError::Invalid`] and [`SnapshotError::Newer`] of what is at the path.
    pub fn get(&self, snapshot: &str) -> Result<SnapshotHandle, SnapshotError> {
        match snapshot.parse()? {
            Selector::Name(name) => self.find(&name),
            Selector::Path(path) => {
                let mut found = artifact::read(&path)?;
                // It may be a copy of one that has a name elsewhere.
                found.descriptor.name = None;
                found.name = None;
                Ok(SnapshotHandle::new(found, path))
            }
        }
    }

    /// The snapshots that have names, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list(&self) -> Result<Vec<SnapshotHandle>, SnapshotError> {
        let snapshots = self.database.read(record::all)?.into_iter();
        Ok(snapshots.map(|snapshot| self.handle(snapshot)).collect())
    }

    /// Reads the whole layer of a snapshot, and compares it with what was copied.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`]; as [`get`](Self::get).
    pub fn verify(
        &self,
        snapshot: &str,
        progress: Progress<'_>,
    ) -> Result<SnapshotHandle, SnapshotError> {
        let found = self.get(snapshot)?;
        artifact::verify(found.path(), &found.snapshot, progress)?;
        Ok(found)
    }

    /// Removes a snapshot that has a name. Sandboxes that were made of it have copies, and stay as they are.
    ///
    /// # Errors
    /// [`SnapshotError::SnapshotNotFound`]; when not all of its files can be removed, which the next one to make a snapshot
    /// does then.
    pub fn remove(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        let found = self.find(name)?;
        let id = &found.snapshot.id;
        let deleted = self
            .database
            .change(|transaction| record::delete(transaction, id))?;
        if !deleted {
            return Err(not_found(name));
        }
        staged::remove_left_over(found.path()).map_err(failed("remove", found.path()))
    }

    fn find(&self, name: &SnapshotName) -> Result<SnapshotHandle, SnapshotError> {
        self.database
            .read(|transaction| record::by_name(transaction, name))?
            .map(|snapshot| self.handle(snapshot))
            .ok_or_else(|| not_found(name))
    }

    fn handle(&self, snapshot: Snapshot) -> SnapshotHandle {
        let path = self.path(&snapshot);
        SnapshotHandle::new(snapshot, path)
    }

    fn path(&self, snapshot: &Snapshot) -> PathBuf {
        self.directory.join(snapshot.id.as_str())
    }

    /// Known before the work, it saves that; what counts is whether the record can be added.
    fn check_absent(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        match self.find(name) {
            Ok(_) => Err(already_exists(name)),
            Err(SnapshotError::SnapshotNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins to make a snapshot that has a name, after the left-overs of others were removed.
    fn stage(&self) -> Result<Staged, SnapshotError> {
        self.remove_orphans()?;
        Ok(Staged::new(&self.directory)?)
    }

    /// Records a snapshot whose files are complete, and the image that came with it: from here on they exist.
    fn record(
        &self,
        staged: Staged,
        snapshot: Snapshot,
        name: &SnapshotName,
        replace: bool,
        image: Option<Unrecorded<'_>>,
    ) -> Result<SnapshotHandle, SnapshotError> {
        enum Outcome {
            Added { replaced: Option<PathBuf> },
            NameTaken,
            ImageMissing,
        }
        let outcome = self.database.change(|transaction| {
            let replaced = record::by_name(transaction, name)?;
            if replaced.is_some() && !replace {
                return Ok(Outcome::NameTaken);
            }
            if let Some(image) = &image {
                image.record(transaction)?;
            }
            if let Some((_, image)) = &snapshot.image
                && !record::has_image(transaction, image)?
            {
                return Ok(Outcome::ImageMissing);
            }
            if let Some(replaced) = &replaced {
                record::delete(transaction, &replaced.id)?;
            }
            record::insert(transaction, &snapshot, name)?;
            Ok(Outcome::Added {
                replaced: replaced.map(|replaced| self.path(&replaced)),
            })
        })?;
        let replaced = match outcome {
            Outcome::Added { replaced } => replaced,
            Outcome::NameTaken => return Err(already_exists(name)),
            Outcome::ImageMissing => {
                let missing = self.handle(snapshot).image_missing();
                return Err(missing.unwrap_or_else(|| not_found(name)));
            }
        };
        staged.finish();
        if let Some(image) = image {
            image.keep();
        }
        if let Some(replaced) = replaced {
            // What cannot be removed, the next one to make a snapshot removes.
            let _ = staged::remove_left_over(&replaced);
        }
        Ok(self.handle(snapshot))
    }

    /// Removes the directories that are neither recorded nor in the making.
    fn remove_orphans(&self) -> Result<(), SnapshotError> {
        let all = staged::with_identity(&self.directory, Id::parse)
            .map_err(failed("read", &self.directory))?;
        let is_recorded = |id: &Id| {
            self.database
                .read(|transaction| record::exists(transaction, id))
        };
        let mut is_settled = false;
        for (path, id) in all {
            if is_recorded(&id)? {
                continue;
            }
            // Recorded it is before it is let go of, so this lock comes first.
            let Ok(Some(_lock)) = staged::keep(&path) else {
                continue;
            };
            if !is_settled {
                self.database.settle()?;
                is_settled = true;
            }
            if !is_recorded(&id)? {
                // What cannot be removed is in nobody's way.
                let _ = staged::remove(&path);
            }
        }
        Ok(())
    }
}

fn not_found(name: &SnapshotName) -> SnapshotError {
    SnapshotError::SnapshotNotFound {
        snapshot: name.to_string(),
    }
}

fn already_exists(name: &SnapshotName) -> SnapshotError {
    SnapshotError::SnapshotAlreadyExists {
        name: name.to_string(),
    }
}
