//! The inodes that the guest knows.
//!
//! An inode is held by an `O_PATH` descriptor, which keeps its (device, inode number) from being given to another
//! file. The guest names it by a node ID that is never used twice. The kernel of the guest counts how often it was
//! told of an inode and gives the count back with FORGET; the inode is dropped when the counts meet.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fuse_backend_rs::abi::fuse_abi::{ROOT_ID, stat64};

use super::descriptors::{Budget, Permit};
use super::directory::OpenDirectory;
use super::errno;
use super::files::OpenFile;

/// A file on the host that the guest knows.
pub(super) struct Inode {
    /// Number under which the guest knows it.
    pub(super) id: u64,
    /// Type of the file, the `S_IFMT` bits of its mode; they never change.
    pub(super) kind: u32,
    descriptor: OwnedFd,
    _permit: Permit,
    /// Opened on first use where the guest reads without opening, see `SharedFolder::file`.
    pub(super) file: OnceLock<Arc<OpenFile>>,
    /// The same for a directory.
    pub(super) directory: OnceLock<Arc<OpenDirectory>>,
}

impl Inode {
    fn new(id: u64, kind: u32, descriptor: OwnedFd, permit: Permit) -> Arc<Inode> {
        Arc::new(Inode {
            id,
            kind,
            descriptor,
            _permit: permit,
            file: OnceLock::new(),
            directory: OnceLock::new(),
        })
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.kind == libc::S_IFDIR
    }

    /// Whether it is a regular file.
    pub(super) fn is_regular_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }
}

impl AsFd for Inode {
    /// The `O_PATH` descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What makes two names lead to the same file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FileIdentity {
    device: u64,
    number: u64,
}

impl FileIdentity {
    fn of(status: &stat64) -> FileIdentity {
        FileIdentity {
            device: status.st_dev,
            number: status.st_ino,
        }
    }
}

struct Known {
    inode: Arc<Inode>,
    identity: FileIdentity,
    lookups: u64,
}

#[derive(Default)]
struct Tables {
    by_id: HashMap<u64, Known>,
    by_identity: HashMap<FileIdentity, u64>,
}

/// All inodes that the guest knows, the root always among them.
pub(super) struct Inodes {
    root: Arc<Inode>,
    tables: Mutex<Tables>,
    next_id: AtomicU64,
}

impl Inodes {
    /// A table that holds the root only.
    pub(super) fn new(root: OwnedFd, permit: Permit) -> Inodes {
        Inodes {
            root: Inode::new(ROOT_ID, libc::S_IFDIR, root, permit),
            tables: Mutex::default(),
            next_id: AtomicU64::new(ROOT_ID.saturating_add(1)),
        }
    }

    /// The inode that the guest calls `id`.
    ///
    /// # Errors
    /// `ESTALE` if there is none: the guest forgot it, or never was told of it.
    pub(super) fn get(&self, id: u64) -> io::Result<Arc<Inode>> {
        if id == ROOT_ID {
            return Ok(Arc::clone(&self.root));
        }
        let tables = self.tables();
        let known = tables.by_id.get(&id).ok_or_else(|| errno(libc::ESTALE))?;
        Ok(Arc::clone(&known.inode))
    }

    /// Notes that the guest is told of the file that `descriptor` refers to once more, and returns its ID.
    ///
    /// # Errors
    /// `ENFILE` if the file is not known yet and `budget` is used up.
    pub(super) fn remember(
        &self,
        descriptor: OwnedFd,
        status: &stat64,
        budget: &Budget,
    ) -> io::Result<u64> {
        let identity = FileIdentity::of(status);
        let mut tables = self.tables();
        let Tables { by_id, by_identity } = &mut *tables;
        if let Some(known) = by_identity.get(&identity).and_then(|id| by_id.get_mut(id)) {
            known.lookups = known.lookups.saturating_add(1);
            return Ok(known.inode.id);
        }
        let permit = budget.take()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let kind = status.st_mode & libc::S_IFMT;
        let inode = Inode::new(id, kind, descriptor, permit);
        let known = Known {
            inode,
            identity,
            lookups: 1,
        };
        by_id.insert(id, known);
        by_identity.insert(identity, id);
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
            let identity = known.identity;
            tables.by_identity.remove(&identity);
            let forgotten = tables.by_id.remove(&id);
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

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
