//! Named volumes: files that outlive sandboxes, in `$MSB_HOME/volumes/<name>/`.
//!
//! A volume exists when the database has a record of it. What is made and removed in several steps is arranged so that
//! a crash between any two of them leaves the volume as it was or as it was to be, and that whoever comes next can tell
//! which and finish it:
//!
//! - *Making*: the directory is filled beside its place, durably; then the record is added, which decides; then the
//!   directory gets its place. A directory in the making without a record is removed, one with a record gets its place.
//! - *Removing*: the directory is moved out of its place, which decides; then the record is removed; then the files are.
//!   A directory that was moved away loses its record and its files.

mod config;
mod directory;
mod disk_image;
mod error;
mod fs;
mod handle;
mod name;
mod record;
#[cfg(test)]
mod tests;
mod uses;

use std::fs::File;
use std::io;
use std::path::Path;

pub use config::{NamedVolume, UnknownKind, VolumeConfig, VolumeKind, VolumeMode};
pub(crate) use disk_image::make as make_disk_image;
pub use error::VolumeError;
pub use fs::{FsEntry, FsEntryKind, VolumeFs, VolumeFsError, VolumeMachineError};
pub use handle::{VolumeHandle, VolumeUse};
pub use name::{VolumeName, VolumeNameError};

use crate::database::Database;
use crate::home::Home;
use crate::names::Name;
use directory::{Changes, Kept, Unfinished, VolumeDirectory, VolumesDirectory};
use error::failed;
use record::{Id, Record};
use uses::Use;

/// How often [`VolumeMode::EnsureExists`] begins anew when others make and remove the volume meanwhile.
const MAX_ATTEMPTS: u32 = 16;

/// The volumes of a home. Any number of threads and processes may use one home at a time.
///
/// ```
/// use microsandbox::home::Home;
/// use microsandbox::volumes::{VolumeConfig, Volumes};
///
/// # let place = tempfile::tempdir()?;
/// # let place = place.path().join("home");
/// let volumes = Volumes::open(&Home::at(place))?;
/// let cache = volumes.create(&"cache".parse()?, &VolumeConfig::default())?;
/// cache.fs().write("note", b"kept")?;
/// assert_eq!(cache.fs().read("note")?, b"kept");
/// assert!(cache.used_bytes()? > 0);
/// volumes.remove(&"cache".parse()?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Volumes {
    home: Home,
    directory: VolumesDirectory,
    database: Database,
}

impl Volumes {
    /// Opens them, and finishes what somebody who died has left unfinished.
    ///
    /// # Errors
    /// When the database or the directory of the volumes cannot be used.
    pub fn open(home: &Home) -> Result<Volumes, VolumeError> {
        let volumes = Volumes {
            home: home.clone(),
            directory: VolumesDirectory::open(home)?,
            database: Database::open(home)?,
        };
        volumes.finish_left_overs()?;
        Ok(volumes)
    }

    /// Makes a volume. It is durable when this returns.
    ///
    /// # Errors
    /// [`VolumeError::VolumeAlreadyExists`]: of several callers with one name, one succeeds and the others get this.
    /// [`VolumeError::InvalidConfig`] and [`VolumeError::SizeMissing`] when `config` makes no volume.
    pub fn create(
        &self,
        name: &VolumeName,
        config: &VolumeConfig,
    ) -> Result<VolumeHandle, VolumeError> {
        Ok(self.make(name, config, |_, _| Ok(()))?.0)
    }

    /// Makes a volume, and does `first` with its directory before others see it.
    fn make<T>(
        &self,
        name: &VolumeName,
        config: &VolumeConfig,
        first: impl FnOnce(&VolumeDirectory, &Changes) -> Result<T, VolumeError>,
    ) -> Result<(VolumeHandle, T), VolumeError> {
        config.check()?;
        if config.kind == VolumeKind::Disk && config.size().is_none() {
            return Err(VolumeError::SizeMissing {
                name: name.to_string(),
            });
        }
        let id = Id::generate().map_err(failed("read", Path::new("/dev/urandom")))?;
        let mut new = {
            let changes = self.enter()?;
            // Known now, it saves the making of a disk; what counts is whether the record can be added.
            self.check_absent(name)?;
            self.directory.begin(&id, &changes)?
        };
        let record = Record::new(id, name, config);
        match self.fill_and_install(&mut new, &record, first) {
            Ok(result) => Ok((self.handle(record), result)),
            Err(error) => {
                // What cannot be removed, the next command removes.
                let _ = new.remove();
                Err(error)
            }
        }
    }

    /// Makes a volume for `sandbox`, which uses it before anybody else can.
    fn make_for(
        &self,
        wanted: &NamedVolume,
        config: &VolumeConfig,
        sandbox: &Name,
    ) -> Result<VolumeUse, VolumeError> {
        let first = Use {
            sandbox: sandbox.to_string(),
            writes: !wanted.read_only,
        };
        let begin = |directory: &_, changes: &_| uses::begin(directory, &first, changes);
        let (volume, lock) = self.make(&wanted.name, config, begin)?;
        Ok(VolumeUse::new(volume, lock, true))
    }

    /// The volume of this name.
    ///
    /// # Errors
    /// [`VolumeError::VolumeNotFound`].
    pub fn get(&self, name: &VolumeName) -> Result<VolumeHandle, VolumeError> {
        let _changes = self.enter()?;
        self.find(name)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list(&self) -> Result<Vec<VolumeHandle>, VolumeError> {
        let _changes = self.enter()?;
        let records = self.database.read(record::all)?;
        Ok(records
            .into_iter()
            .map(|record| self.handle(record))
            .collect())
    }

    /// Removes a volume and its files; also one whose directory somebody has removed already.
    ///
    /// # Errors
    /// [`VolumeError::VolumeInUse`] while a sandbox uses it, from before its start until its end.
    /// [`VolumeError::FilesRemain`] if the volume is removed, but not all of its files can be.
    pub fn remove(&self, name: &VolumeName) -> Result<(), VolumeError> {
        let changes = self.enter()?;
        self.remove_unused(name, changes)
    }

    /// Ends the use that `lock` stands for, of a volume that was made for it, and removes the volume if nobody else uses it and
    /// nothing can be lost: others may have used a directory meanwhile, a disk they could not write.
    ///
    /// # Errors
    /// As [`remove`](Self::remove). Then it stays, a volume as any.
    fn unmake(&self, volume: &VolumeHandle, lock: &File) -> Result<(), VolumeError> {
        let changes = self.enter()?;
        // Not only closed: a process that another thread is just starting may have the descriptor, too.
        lock.unlock()
            .map_err(failed("unlock", &self.directory.of(volume.name()).uses()))?;
        let found = self.find(volume.name())?;
        if found.id() == volume.id() && found.is_untouched()? {
            self.remove_unused(volume.name(), changes)?;
        }
        Ok(())
    }

    fn remove_unused(&self, name: &VolumeName, changes: Changes) -> Result<(), VolumeError> {
        let volume = self.find(name)?;
        let directory = self.directory.of(name);
        let users = uses::current(&directory, &changes)?;
        if !users.is_empty() {
            return Err(in_use(name, users));
        }
        let id = volume.id();
        let trash = match self.directory.discard(name, id, &changes) {
            Ok(trash) => Some(trash),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("remove", directory.path())(error)),
        };
        self.database
            .change(|transaction| record::delete(transaction, id))?;
        drop(changes);
        let Some(trash) = trash else { return Ok(()) };
        let path = trash.path().to_owned();
        trash.remove().map_err(|source| VolumeError::FilesRemain {
            name: name.to_string(),
            path,
            source,
        })
    }

    /// Takes a volume into use for `sandbox`, and makes it before if that is asked for. To be called before the sandbox
    /// starts; the machine's process inherits the descriptor of the [`VolumeUse`], so that the volume is in use until the
    /// last of the processes has ended, however that happens. One that was made is in use from its first moment on, and
    /// goes again unless [`VolumeUse::keep`] says that the sandbox has started.
    ///
    /// # Errors
    /// [`VolumeError::VolumeNotFound`], [`VolumeError::VolumeAlreadyExists`], [`VolumeError::Incompatible`] as the mode
    /// says; [`VolumeError::VolumeInUse`] when it is a disk and one of its users writes;
    /// [`VolumeError::DirectoryMissing`] when somebody has removed its directory.
    pub fn acquire(&self, wanted: &NamedVolume, sandbox: &Name) -> Result<VolumeUse, VolumeError> {
        match &wanted.mode {
            VolumeMode::Existing => self.begin_use(wanted, sandbox, None),
            VolumeMode::Create(config) => self.make_for(wanted, config, sandbox),
            VolumeMode::EnsureExists(config) => self.ensure_exists(wanted, config, sandbox),
        }
    }

    fn ensure_exists(
        &self,
        wanted: &NamedVolume,
        config: &VolumeConfig,
        sandbox: &Name,
    ) -> Result<VolumeUse, VolumeError> {
        config.check()?;
        for _ in 0..MAX_ATTEMPTS {
            match self.begin_use(wanted, sandbox, Some(config)) {
                Err(VolumeError::VolumeNotFound { .. }) => {}
                result => return result,
            }
            match self.make_for(wanted, config, sandbox) {
                Err(VolumeError::VolumeAlreadyExists { .. }) => {}
                result => return result,
            }
        }
        Err(not_found(&wanted.name))
    }

    /// Takes a volume into use that exists, and is as `config` says.
    fn begin_use(
        &self,
        wanted: &NamedVolume,
        sandbox: &Name,
        config: Option<&VolumeConfig>,
    ) -> Result<VolumeUse, VolumeError> {
        let changes = self.enter()?;
        let volume = self.find(&wanted.name)?;
        if let Some(config) = config {
            check_compatible(&volume, config)?;
        }
        let directory = self.directory.of(&wanted.name);
        if !directory.exists() {
            return Err(volume.missing());
        }
        let writes = !wanted.read_only;
        let users = uses::current(&directory, &changes)?;
        let conflicts = |user: &Use| writes || user.writes;
        if volume.kind() == VolumeKind::Disk && users.iter().any(conflicts) {
            return Err(in_use(&wanted.name, users));
        }
        let sandbox = sandbox.to_string();
        let lock = uses::begin(&directory, &Use { sandbox, writes }, &changes)?;
        Ok(VolumeUse::new(volume, lock, false))
    }

    fn handle(&self, record: Record) -> VolumeHandle {
        let directory = self.directory.of(&record.name);
        VolumeHandle::new(record, directory, self.home.clone())
    }

    fn find(&self, name: &VolumeName) -> Result<VolumeHandle, VolumeError> {
        self.database
            .read(|transaction| record::by_name(transaction, name))?
            .map(|record| self.handle(record))
            .ok_or_else(|| not_found(name))
    }

    fn check_absent(&self, name: &VolumeName) -> Result<(), VolumeError> {
        match self.find(name) {
            Ok(_) => return Err(already_exists(name)),
            Err(VolumeError::VolumeNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let directory = self.directory.of(name);
        if directory.exists() {
            return Err(VolumeError::Unrecorded {
                path: directory.path().to_owned(),
            });
        }
        Ok(())
    }

    fn fill_and_install<T>(
        &self,
        new: &mut Kept,
        record: &Record,
        first: impl FnOnce(&VolumeDirectory, &Changes) -> Result<T, VolumeError>,
    ) -> Result<T, VolumeError> {
        fill(&new.directory(), record)?;
        new.sync().map_err(failed("write", new.path()))?;
        self.directory.sync().map_err(failed("write", new.path()))?;
        self.install(new, record, first)
    }

    fn install<T>(
        &self,
        new: &mut Kept,
        record: &Record,
        first: impl FnOnce(&VolumeDirectory, &Changes) -> Result<T, VolumeError>,
    ) -> Result<T, VolumeError> {
        let name = &record.name;
        let changes = self.enter()?;
        self.check_absent(name)?;
        let result = first(&new.directory(), &changes)?;
        let inserted = self
            .database
            .change(|transaction| record.insert(transaction))?;
        if !inserted {
            return Err(already_exists(name));
        }
        if let Err(error) = self.directory.install(new, name, &changes) {
            self.database
                .change(|transaction| record::delete(transaction, &record.id))?;
            return Err(failed("create", self.directory.of(name).path())(error));
        }
        Ok(result)
    }

    /// Waits until nobody else changes what there is, and makes every record agree with a directory.
    fn enter(&self) -> Result<Changes, VolumeError> {
        self.finish_left_overs()?;
        let changes = self.directory.lock()?;
        // Who died while this process waited for the lock has left something again. Its files have time.
        self.decide_all(&changes)?;
        Ok(changes)
    }

    /// Finishes what those have left unfinished who died while they made or removed a volume.
    fn finish_left_overs(&self) -> Result<(), VolumeError> {
        let dead = {
            let changes = self.directory.lock()?;
            self.decide_all(&changes)?
        };
        for directory in dead {
            // What cannot be removed is in nobody's way.
            let _ = directory.remove();
        }
        Ok(())
    }

    fn decide_all(&self, changes: &Changes) -> Result<Vec<Kept>, VolumeError> {
        let mut dead = Vec::new();
        for unfinished in self.directory.unfinished()? {
            dead.extend(self.decide(unfinished, changes)?);
        }
        Ok(dead)
    }

    /// Makes a directory's name and record agree, and returns it if it is to be removed.
    fn decide(
        &self,
        unfinished: Unfinished,
        changes: &Changes,
    ) -> Result<Option<Kept>, VolumeError> {
        let (id, path, made) = match unfinished {
            Unfinished::New(id, path) => (id, path, true),
            Unfinished::Trash(id, path) => (id, path, false),
        };
        // Somebody is at it, or has just finished.
        let Ok(Some(mut directory)) = Kept::keep(path) else {
            return Ok(None);
        };
        if made {
            self.database.settle()?;
            let recorded = self
                .database
                .read(|transaction| record::name_of(transaction, &id))?;
            let Some(name) = recorded else {
                return Ok(Some(directory));
            };
            if self
                .directory
                .install(&mut directory, &name, changes)
                .is_ok()
            {
                return Ok(None);
            }
        }
        self.database
            .change(|transaction| record::delete(transaction, &id))?;
        Ok(Some(directory))
    }
}

/// Makes what is in the directory of a new volume, durably but for their names.
fn fill(directory: &VolumeDirectory, record: &Record) -> Result<(), VolumeError> {
    directory.make_uses()?;
    match record.size_mib {
        Some(size_mib) => disk_image::make(&directory.disk(), size_mib),
        None => directory.make_data(),
    }
}

/// Whether a volume is as it is asked for. No quota is a configuration as any, that of a volume without a limit; a size
/// need only be given for a disk that is missing, so without one any disk fits.
fn check_compatible(volume: &VolumeHandle, config: &VolumeConfig) -> Result<(), VolumeError> {
    let differs = |property, existing: Option<String>, requested: Option<String>| {
        if existing == requested {
            return Ok(());
        }
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        Err(VolumeError::Incompatible {
            name: volume.name().to_string(),
            property,
            existing: or_none(existing),
            requested: or_none(requested),
        })
    };
    let mib = |size: u32| format!("{size} MiB");
    differs(
        "kind",
        Some(volume.kind().to_string()),
        Some(config.kind.to_string()),
    )?;
    differs(
        "quota",
        volume.quota_mib().map(mib),
        config.quota().map(mib),
    )?;
    if let Some(size) = config.size() {
        differs("size", volume.size_mib().map(mib), Some(mib(size)))?;
    }
    Ok(())
}

fn not_found(name: &VolumeName) -> VolumeError {
    VolumeError::VolumeNotFound {
        name: name.to_string(),
    }
}

fn already_exists(name: &VolumeName) -> VolumeError {
    VolumeError::VolumeAlreadyExists {
        name: name.to_string(),
    }
}

fn in_use(name: &VolumeName, users: Vec<Use>) -> VolumeError {
    VolumeError::VolumeInUse {
        name: name.to_string(),
        sandboxes: users.into_iter().map(|user| user.sandbox).collect(),
    }
}
