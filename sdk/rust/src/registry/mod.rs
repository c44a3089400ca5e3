//! The sandboxes that there are, running or not: their records in the database, and what becomes of a record whose machine
//! is gone.
//!
//! A record says `active` while a machine's process is supposed to be alive. That process, or the creator that is about to
//! start it, holds the lock of the run directory of the name. So who finds a record active and the lock free *concludes* the
//! run: it reads how the machine ended, or that it could not tell any more, and records it, unless somebody was faster. A
//! sandbox that is ephemeral, or whose creation never came to an end, is forgotten then.
//!
//! The lock is taken before a run is recorded. So a record that was read first and a lock that was found free afterwards
//! are those of a run that is over.

mod directory;
mod end;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::control::StopReason;
use crate::database::{Database, DatabaseError};
use crate::error::{MicrosandboxError, failed};
use crate::home::Home;
use crate::identity::Id;
use crate::names::Name;
use crate::run_directory::RunDirectory;
use crate::sandbox::SandboxStatus;

pub(crate) use directory::SandboxDirectory;
pub(crate) use end::End;
pub(crate) use record::Record;
use record::Unreadable;

/// How often a reader begins anew when machines end meanwhile.
const MAX_ROUNDS: u32 = 8;

/// The sandboxes of a home. Any number of threads and processes may use one home at a time.
#[derive(Debug)]
pub(crate) struct Registry {
    home: Home,
    database: Database,
}

/// A sandbox and what it does.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) record: Record,
    pub(crate) status: SandboxStatus,
}

/// The sandboxes that there are.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) observed: Vec<Observed>,
    /// Why others cannot be told of.
    pub(crate) unreadable: Vec<DatabaseError>,
}

/// Records how the last run of the sandbox `name` ended, if its machine is gone and nobody has recorded it yet. A sandbox
/// that is ephemeral, or that never came up, is removed. For the machine's process when it has let go of its run
/// directory, and for whoever waited for it; readers do the same.
///
/// # Errors
/// When the database or the directory of the sandbox cannot be used.
pub fn conclude(home: &Home, name: &Name) -> Result<(), MicrosandboxError> {
    Registry::open(home)?.observe(name)?;
    Ok(())
}

impl Registry {
    /// # Errors
    /// When the database cannot be used.
    pub(crate) fn open(home: &Home) -> Result<Registry, MicrosandboxError> {
        Ok(Registry {
            home: home.clone(),
            database: Database::open(home)?,
        })
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn directory(&self, record: &Record) -> SandboxDirectory {
        SandboxDirectory::of(&self.home, &record.id)
    }

    /// The sandbox of this name and what it does.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`].
    pub(crate) fn get(&self, name: &Name) -> Result<Observed, MicrosandboxError> {
        self.observe(name)?.ok_or_else(|| not_found(name))
    }

    /// As [`get`](Self::get); with an identity, it is that sandbox or none.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`MicrosandboxError::InvalidHandle`] if another sandbox has this name.
    pub(crate) fn get_of(
        &self,
        name: &Name,
        of: Option<&Id>,
    ) -> Result<Observed, MicrosandboxError> {
        let observed = self.get(name)?;
        match of {
            Some(id) if *id != observed.record.id => Err(MicrosandboxError::InvalidHandle {
                name: name.to_string(),
            }),
            _ => Ok(observed),
        }
    }

    fn observe(&self, name: &Name) -> Result<Option<Observed>, MicrosandboxError> {
        for _ in 0..MAX_ROUNDS {
            let Some(record) = self.by_name(name)? else {
                return Ok(None);
            };
            if let Some(status) = self.status(&record)? {
                return Ok(Some(Observed { record, status }));
            }
            if !self.try_conclude(&record)? {
                return self.as_concluded(record);
            }
        }
        Err(restless(name))
    }

    fn by_name(&self, name: &Name) -> Result<Option<Record>, DatabaseError> {
        let found = self
            .database
            .read(|transaction| record::by_name(transaction, name))?;
        found
            .transpose()
            .map_err(|unreadable| self.unreadable(unreadable))
    }

    fn unreadable(&self, unreadable: Unreadable) -> DatabaseError {
        DatabaseError::Record {
            path: self.home.database(),
            name: unreadable.name,
            source: unreadable.reason,
        }
    }

    /// Concludes the run of a machine that is gone; returns false where nothing can be recorded now. That is for whoever comes
    /// when it can: to tell how things are, nothing has to be written.
    ///
    /// # Errors
    /// When the database is no good.
    fn try_conclude(&self, record: &Record) -> Result<bool, MicrosandboxError> {
        match self.conclude_dead(record, StopReason::Crashed) {
            Ok(()) => Ok(true),
            Err(MicrosandboxError::Database(
                DatabaseError::Locked { .. }
                | DatabaseError::ReadOnly { .. }
                | DatabaseError::Failed { .. },
            )) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The sandbox as it will be when the end of its machine is recorded; `None` if it is forgotten then.
    fn as_concluded(&self, record: Record) -> Result<Option<Observed>, MicrosandboxError> {
        if record.ephemeral || !record.ever_ready {
            return Ok(None);
        }
        let end = self.end_of(&record, StopReason::Crashed)?;
        Ok(Some(Observed {
            status: SandboxStatus::after(end.ended.reason),
            record: Record {
                active: false,
                ended: Some(end),
                ..record
            },
        }))
    }

    /// How the last run of a machine that is gone ended, by what it left.
    fn end_of(&self, record: &Record, presumed: StopReason) -> Result<End, MicrosandboxError> {
        let ended = self.directory(record).ended()?;
        Ok(ended.map_or_else(|| End::untold(presumed), End::told))
    }

    /// The sandboxes that have all of these labels, newest first; those whose records make no sense stop none of the others.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub(crate) fn list(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<Listing, MicrosandboxError> {
        let records = self
            .database
            .read(|transaction| record::with_labels(transaction, labels))?;
        let mut observed = Vec::with_capacity(records.len());
        let mut unreadable = Vec::new();
        // Who cannot write may have waited for that, and need not do so again.
        let mut can_conclude = true;
        for record in records {
            let record = match record {
                Ok(record) => record,
                Err(reason) => {
                    unreadable.push(self.unreadable(reason));
                    continue;
                }
            };
            match self.status(&record)? {
                Some(status) => observed.push(Observed { record, status }),
                None => {
                    can_conclude = can_conclude && self.try_conclude(&record)?;
                    if !can_conclude {
                        observed.extend(self.as_concluded(record)?);
                        continue;
                    }
                    // It may be gone, or started again.
                    observed.extend(
                        self.observe(&record.name)?
                            .filter(|found| found.record.id == record.id),
                    );
                }
            }
        }
        Ok(Listing {
            observed,
            unreadable,
        })
    }

    /// What the sandbox does; `None` if its machine is gone and nobody has recorded that.
    fn status(&self, record: &Record) -> Result<Option<SandboxStatus>, MicrosandboxError> {
        if !record.active {
            let reason = record.ended.as_ref().map(|end| end.ended.reason);
            return Ok(Some(
                reason.map_or(SandboxStatus::Stopped, SandboxStatus::after),
            ));
        }
        let directory = RunDirectory::of(&self.home, &record.name);
        // In this order: a machine removes its status before it lets go of the lock.
        let status = directory.status()?;
        if !directory.is_locked()? {
            return Ok(None);
        }
        Ok(Some(status.map_or(SandboxStatus::Starting, |status| {
            status.state.into()
        })))
    }

    /// Records a sandbox whose first run begins. The caller holds the lock of its name.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxAlreadyExists`].
    pub(crate) fn create(
        &self,
        record: &Record,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), MicrosandboxError> {
        // Who holds the lock knows that no other machine of this name is alive.
        self.conclude_own(&record.name)?;
        let inserted = self
            .database
            .change(|transaction| record::insert(transaction, record, labels))?;
        inserted
            .then_some(())
            .ok_or_else(|| MicrosandboxError::SandboxAlreadyExists {
                name: record.name.to_string(),
            })
    }

    /// As [`create`](Self::create), in the place of a sandbox of the same name, if there is one: the name is that of one or
    /// the other at any time.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub(crate) fn replace(
        &self,
        record: &Record,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), MicrosandboxError> {
        let replaced = self.database.change(|transaction| {
            let replaced = record::by_name(transaction, &record.name)?;
            let replaced = replaced
                .transpose()
                .map_err(|unreadable| unreadable.reason)?;
            if let Some(replaced) = &replaced {
                record::delete(transaction, &replaced.id)?;
            }
            record::insert(transaction, record, labels)?;
            Ok(replaced)
        })?;
        if let Some(replaced) = replaced {
            // What cannot be removed, the next creation removes.
            let _ = self.directory(&replaced).remove();
        }
        Ok(())
    }

    /// Notes that the guest of the run came up.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotRunning`] if the run is over already.
    pub(crate) fn set_ready(&self, record: &Record) -> Result<(), MicrosandboxError> {
        let noted = self
            .database
            .change(|transaction| record::set_ready(transaction, record))?;
        noted
            .then_some(())
            .ok_or_else(|| MicrosandboxError::SandboxNotRunning {
                name: record.name.to_string(),
                status: SandboxStatus::Stopped,
            })
    }

    /// Begins the next run. The caller holds the lock of the name.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`].
    pub(crate) fn begin_run(&self, name: &Name) -> Result<Record, MicrosandboxError> {
        let record = self.conclude_own(name)?.ok_or_else(|| not_found(name))?;
        self.directory(&record).forget_end()?;
        let begun = self
            .database
            .change(|transaction| record::begin_run(transaction, &record))?;
        if !begun {
            return Err(not_found(name));
        }
        Ok(Record {
            run: record.run.saturating_add(1),
            active: true,
            ..record
        })
    }

    /// The sandbox of this name, which has no machine: the caller holds the lock of the name.
    ///
    /// # Errors
    /// [`MicrosandboxError::SandboxNotFound`].
    pub(crate) fn stopped(&self, name: &Name) -> Result<Record, MicrosandboxError> {
        self.conclude_own(name)?.ok_or_else(|| not_found(name))
    }

    /// Takes back [`begin_run`](Self::begin_run), of a run that never had a machine.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub(crate) fn cancel_run(&self, record: &Record) -> Result<(), MicrosandboxError> {
        let cancelled = self
            .database
            .change(|transaction| record::cancel_run(transaction, record));
        Ok(cancelled?)
    }

    /// Forgets a sandbox and removes what it kept, or what was made of it until its creation was taken back. The caller holds the
    /// lock of its name.
    ///
    /// # Errors
    /// When the database or the directory cannot be used; what could not be removed, the next creation removes.
    pub(crate) fn forget(&self, record: &Record) -> Result<(), MicrosandboxError> {
        self.database
            .change(|transaction| record::delete(transaction, &record.id))?;
        self.directory(record).remove()
    }

    /// The sandbox of this name after its last run was concluded, for the holder of the lock of the name.
    fn conclude_own(&self, name: &Name) -> Result<Option<Record>, MicrosandboxError> {
        for _ in 0..MAX_ROUNDS {
            match self.by_name(name)? {
                Some(record) if record.active => {
                    self.conclude_dead(&record, StopReason::Crashed)?;
                }
                record => return Ok(record),
            }
        }
        Err(restless(name))
    }

    /// Records the end of a run whose machine is gone; `presumed` is the reason if the machine could not tell any more.
    ///
    /// # Errors
    /// When the database or the directory cannot be used.
    pub(crate) fn conclude_dead(
        &self,
        record: &Record,
        presumed: StopReason,
    ) -> Result<(), MicrosandboxError> {
        let end = self.end_of(record, presumed)?;
        let text = serde_json::to_string(&end).map_err(MicrosandboxError::runtime(
            "The end of the sandbox cannot be recorded",
        ))?;
        let forgotten = self
            .database
            .change(|transaction| record::end_run(transaction, record, &text))?;
        if forgotten {
            self.directory(record).remove()?;
        }
        Ok(())
    }

    /// Removes the directories of sandboxes that nothing is recorded of.
    ///
    /// # Errors
    /// When the directories or the database cannot be read.
    pub(crate) fn remove_orphans(&self) -> Result<(), MicrosandboxError> {
        // In this order: what is recorded later was not seen.
        let mut orphans = directory::all(&self.home)?;
        if orphans.is_empty() {
            return Ok(());
        }
        let Some(recorded) = self.database.read(record::ids)? else {
            return Ok(());
        };
        orphans.retain(|id| !recorded.contains(id));
        for id in orphans {
            // What cannot be removed is in nobody's way.
            let _ = SandboxDirectory::of(&self.home, &id).remove();
        }
        Ok(())
    }

    /// An identity for a new sandbox.
    ///
    /// # Errors
    /// When the system has no random bytes to give.
    pub(crate) fn new_id() -> Result<Id, MicrosandboxError> {
        Id::generate().map_err(failed("read", "/dev/urandom".as_ref()))
    }
}

fn not_found(name: &Name) -> MicrosandboxError {
    MicrosandboxError::SandboxNotFound {
        name: name.to_string(),
    }
}

/// Others start and end it all the time.
fn restless(name: &Name) -> MicrosandboxError {
    MicrosandboxError::Unsupported {
        message: format!(
            "The sandbox {:?} is started and ended too often to be looked at",
            name.as_str()
        ),
    }
}
