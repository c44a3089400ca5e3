//! The inodes that the guest knows.
//!
//! The guest names an inode by a node ID that is never used twice. Its kernel counts how often it was told of an inode
//! and gives the count back with FORGET; the inode is dropped when the counts meet.
//!
//! An inode is held by an `O_PATH` descriptor, which keeps its (device, inode number) from being given to another
//! file. Where descriptors run short, inodes that were not used for a while are parked, see `parking`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuse_backend_rs::abi::fuse_abi::{ROOT_ID, stat64};

use super::beneath::DescriptorDirectory;
use super::descriptors::{Budget, Permit};
use super::errno;
use super::inode::{FileIdentity, Inode, Outcome, Pin, Record, State};
use super::parking::Folder;

/// Most inodes that a guest may know; bounds this process's memory where the guest's own memory does not.
const MAX_KNOWN: usize = 1 << 20;

/// Bits of a node ID that count within a folder; those above are the number of the export, see `exports`.
pub(super) const COUNTING_BITS: u32 = 48;

/// Inodes that are parked at once when descriptors run short.
const PARKED_AT_ONCE: usize = 64;

struct Known {
    record: Arc<Record>,
    lookups: u64,
}

#[derive(Default)]
struct Tables {
    by_id: HashMap<u64, Known>,
    by_identity: HashMap<FileIdentity, u64>,
    /// Those that could be parked, in the order in which that is considered.
    candidates: VecDeque<u64>,
}

impl Tables {
    /// Adds a candidate. Forgotten ones are left in the list, so it is tidied when they are more than the others.
    fn add_candidate(&mut self, id: u64) {
        let known = self.by_id.len().max(PARKED_AT_ONCE);
        if self.candidates.len() > known.saturating_mul(2) {
            self.candidates.retain(|id| self.by_id.contains_key(id));
        }
        self.candidates.push_back(id);
    }

    /// Notes that the guest is told of the file behind `descriptor` once more, if it is known.
    fn remember_again(
        &mut self,
        identity: FileIdentity,
        descriptor: &OwnedFd,
    ) -> Option<Arc<Record>> {
        let id = *self.by_identity.get(&identity)?;
        let known = self.by_id.get_mut(&id)?;
        let same = match &*known.record.state() {
            State::Pinned(_) => true,
            State::Parked(parked) => parked.is(descriptor.as_fd()),
        };
        if !same {
            // The parked file was removed, and its number given to this one.
            self.by_identity.remove(&identity);
            return None;
        }
        known.lookups = known.lookups.saturating_add(1);
        known.record.touch();
        Some(Arc::clone(&known.record))
    }
}

/// All inodes that the guest knows, the root always among them.
pub(super) struct Inodes {
    root: Inode,
    tables: Mutex<Tables>,
    /// The next ID, but for the number of the export.
    next: AtomicU64,
    budget: Budget,
    descriptors: Arc<DescriptorDirectory>,
}

impl Inodes {
    /// A table that holds only `root`, which has `status`.
    ///
    /// # Errors
    /// `ENFILE` when `budget` is used up.
    pub(super) fn new(
        root: OwnedFd,
        status: &stat64,
        descriptors: Arc<DescriptorDirectory>,
        budget: Budget,
    ) -> io::Result<Inodes> {
        let pin = Pin::new(root, budget.take()?);
        let record = Record::new(ROOT_ID, status, false, Arc::clone(&pin));
        Ok(Inodes {
            root: Inode::new(record, pin),
            tables: Mutex::default(),
            next: AtomicU64::new(ROOT_ID.saturating_add(1)),
            budget,
            descriptors,
        })
    }

    /// From now on the IDs are those of export `number`. The guest knows none yet.
    pub(super) fn become_export(&mut self, number: u16) {
        let id = (u64::from(number) << COUNTING_BITS) | ROOT_ID;
        self.root = self.root.with_id(id);
    }

    /// The root, which the guest always knows.
    pub(super) fn root(&self) -> &Inode {
        &self.root
    }

    /// The inode of the file with `identity`, if the guest knows it and it has a descriptor.
    pub(super) fn pinned(&self, identity: FileIdentity) -> Option<Inode> {
        let record = {
            let tables = self.tables();
            let id = tables.by_identity.get(&identity)?;
            Arc::clone(&tables.by_id.get(id)?.record)
        };
        let pin = match &*record.state() {
            State::Pinned(pin) => Arc::clone(pin),
            State::Parked(_) => return None,
        };
        Some(Inode::new(record, pin))
    }

    /// Notes that the guest is told once more of the file with `identity`, if it knows it and the file has a descriptor:
    /// then no other has that identity. Returns its ID.
    pub(super) fn remember_pinned(&self, identity: FileIdentity) -> Option<u64> {
        let mut tables = self.tables();
        let id = *tables.by_identity.get(&identity)?;
        let known = tables.by_id.get_mut(&id)?;
        if matches!(&*known.record.state(), State::Parked(_)) {
            return None;
        }
        known.lookups = known.lookups.saturating_add(1);
        known.record.touch();
        Some(id)
    }

    /// An ID that was not used before.
    fn unused_id(&self) -> io::Result<u64> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if next >> COUNTING_BITS != 0 {
            return Err(errno(libc::ENFILE));
        }
        let export = self.root.id() >> COUNTING_BITS;
        Ok((export << COUNTING_BITS) | next)
    }

    /// The inode that the guest calls `id`.
    ///
    /// # Errors
    /// `ESTALE` if there is none: the guest forgot it, or never was told of it, or it was parked and is not where it was;
    /// the guest's kernel then looks up its name again. `ENFILE` if it is parked and descriptors run short.
    pub(super) fn get(&self, id: u64) -> io::Result<Inode> {
        if id == self.root.id() {
            return Ok(self.root.clone());
        }
        let record = {
            let tables = self.tables();
            let known = tables.by_id.get(&id).ok_or_else(|| errno(libc::ESTALE))?;
            Arc::clone(&known.record)
        };
        record.touch();
        let pinned = match &*record.state() {
            State::Pinned(pin) => Some(Arc::clone(pin)),
            State::Parked(_) => None,
        };
        match pinned {
            Some(pin) => Ok(Inode::new(record, pin)),
            None => self.recall(record, None),
        }
    }

    /// Opens a parked inode again, or takes the descriptor `found` of it.
    fn recall(&self, record: Arc<Record>, found: Option<OwnedFd>) -> io::Result<Inode> {
        let permit = self.permit()?;
        let mut state = record.state();
        let descriptor = match (&*state, found) {
            (State::Parked(_), Some(found)) => found,
            (State::Parked(parked), None) => parked.open(self.root.as_fd(), record.identity)?,
            (State::Pinned(pin), _) => {
                let pin = Arc::clone(pin);
                drop(state);
                return Ok(Inode::new(record, pin));
            }
        };
        let pin = Pin::new(descriptor, permit);
        *state = State::Pinned(Arc::clone(&pin));
        drop(state);
        self.tables().add_candidate(record.id);
        Ok(Inode::new(record, pin))
    }

    /// Sees to it that an inode of which the guest was just told is pinned: if it was parked, `found` may be at another
    /// place than it was then. Returns its ID.
    fn told(&self, record: Arc<Record>, found: OwnedFd) -> io::Result<u64> {
        let id = record.id;
        let parked = matches!(&*record.state(), State::Parked(_));
        if parked {
            self.recall(record, Some(found))
                .inspect_err(|_| self.forget(id, 1))?;
        }
        Ok(id)
    }

    /// Notes that the guest is told of the file that `descriptor` refers to once more, and returns its ID. Of one that
    /// is new, `withheld` says whether its contents are not for the guest.
    ///
    /// # Errors
    /// `ENFILE` if the file is not known yet and the guest knows too many; as `withheld`.
    pub(super) fn remember(
        &self,
        descriptor: OwnedFd,
        status: &stat64,
        withheld: impl FnOnce(&OwnedFd) -> io::Result<bool>,
    ) -> io::Result<u64> {
        let identity = FileIdentity::of(status);
        let known = self.tables().remember_again(identity, &descriptor);
        if let Some(record) = known {
            return self.told(record, descriptor);
        }
        let withheld = withheld(&descriptor)?;
        let permit = self.permit()?;
        let mut tables = self.tables();
        // The other queue of the device may have been faster.
        if let Some(record) = tables.remember_again(identity, &descriptor) {
            drop(tables);
            return self.told(record, descriptor);
        }
        if tables.by_id.len() >= MAX_KNOWN {
            return Err(errno(libc::ENFILE));
        }
        let id = self.unused_id()?;
        let record = Record::new(id, status, withheld, Pin::new(descriptor, permit));
        tables.by_id.insert(id, Known { record, lookups: 1 });
        tables.by_identity.insert(identity, id);
        tables.add_candidate(id);
        Ok(id)
    }

    /// Notes that the guest is told of `id`, which it knows, once more.
    ///
    /// # Errors
    /// `ESTALE` if the guest forgot it meanwhile.
    pub(super) fn remember_again(&self, id: u64) -> io::Result<()> {
        let mut tables = self.tables();
        let known = tables.by_id.get_mut(&id);
        let known = known.ok_or_else(|| errno(libc::ESTALE))?;
        known.lookups = known.lookups.saturating_add(1);
        Ok(())
    }

    /// Takes back `count` of the times that the guest was told of `id`. More than it was told means all of them.
    pub(super) fn forget(&self, id: u64, count: u64) {
        let mut tables = self.tables();
        let Some(known) = tables.by_id.get_mut(&id) else {
            return;
        };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 {
            let identity = known.record.identity;
            let forgotten = tables.by_id.remove(&id);
            if tables.by_identity.get(&identity) == Some(&id) {
                tables.by_identity.remove(&identity);
            }
            // Closing can take long on some file systems: not under the lock.
            drop(tables);
            drop(forgotten);
        }
    }

    /// Forgets everything but the root. IDs go on where they were, so an old one never means something new.
    pub(super) fn clear(&self) {
        let forgotten = std::mem::take(&mut *self.tables());
        drop(forgotten);
    }

    /// Permission to hold one more descriptor. Parks inodes if need be.
    ///
    /// # Errors
    /// `ENFILE` if descriptors run short nevertheless.
    pub(super) fn permit(&self) -> io::Result<Permit> {
        match self.budget.take() {
            Err(_) if self.park_some() => self.budget.take(),
            result => result,
        }
    }

    /// Permission to hold one more descriptor only to make later requests faster.
    pub(super) fn spare_permit(&self) -> Option<Permit> {
        self.budget.take_spare()
    }

    /// Parks inodes that were not used for a while: those that were not used since all others were considered.
    fn park_some(&self) -> bool {
        let Ok(folder) = Folder::new(self.root.as_fd(), &self.descriptors) else {
            return false;
        };
        let mut tables = self.tables();
        let Tables {
            by_id, candidates, ..
        } = &mut *tables;
        let mut released = Vec::new();
        // Twice around: the first time may only find that all were used.
        for _ in 0..candidates.len().saturating_mul(2) {
            if released.len() == PARKED_AT_ONCE {
                break;
            }
            let Some(id) = candidates.pop_front() else {
                break;
            };
            let Some(known) = by_id.get(&id) else {
                continue;
            };
            match known.record.park(&folder) {
                Outcome::Parked(pin) => released.push(pin),
                Outcome::Later => candidates.push_back(id),
                Outcome::Never => {}
            }
        }
        drop(tables);
        !released.is_empty()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With another budget, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_takes_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(folder.path()).unwrap());
        let root = open();
        let mut status = super::super::attributes::status_of(&root).unwrap();
        let descriptors = Arc::new(DescriptorDirectory::open().unwrap());
        let inodes = Inodes::new(root, &status, descriptors, Budget::of(10)).unwrap();
        for number in 0..1000 {
            status.st_ino = number;
            let id = inodes.remember(open(), &status, |_| Ok(false)).unwrap();
            inodes.forget(id, 1);
        }
        let tables = inodes.tables();
        assert!(tables.by_id.is_empty() && tables.by_identity.is_empty());
        assert!(tables.candidates.len() <= 2 * PARKED_AT_ONCE + 1);
    }
}
