//! An inode that the guest knows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fuse_backend_rs::abi::fuse_abi::stat64;

use super::descriptors::Permit;
use super::errno;
use super::files::OpenFile;
use super::freshness::LastOpen;
use super::listing::Listings;
use super::parking::{Folder, Parked};
use super::quota::{Hold, Meter, UnlinkedBytes};

/// A file on the host that the guest knows, held as long as this value lives.
#[derive(Clone)]
pub(super) struct Inode {
    pin: Arc<Pin>,
    record: Arc<Record>,
}

impl Inode {
    /// The inode with `record`, which `pin` holds.
    pub(super) fn new(record: Arc<Record>, pin: Arc<Pin>) -> Inode {
        Inode { record, pin }
    }

    /// The same file under another ID.
    pub(super) fn with_id(&self, id: u64) -> Inode {
        let record = Record {
            id,
            identity: self.record.identity,
            kind: self.record.kind,
            withheld: self.record.withheld,
            open: AtomicUsize::new(0),
            used: AtomicBool::new(true),
            last_open: LastOpen::default(),
            known_entries: AtomicBool::new(false),
            state: Mutex::new(State::Pinned(Arc::clone(&self.pin))),
            unlinked: UnlinkedBytes::default(),
        };
        Inode::new(Arc::new(record), Arc::clone(&self.pin))
    }

    /// Number under which the guest knows it.
    pub(super) fn id(&self) -> u64 {
        self.record.id
    }

    /// Type of the file, the `S_IFMT` bits of its mode; they never change.
    pub(super) fn kind(&self) -> u32 {
        self.record.kind
    }

    /// Device of the file system that it is on.
    pub(super) fn device(&self) -> u64 {
        self.record.identity.device
    }

    /// The state in which the guest last opened it.
    pub(super) fn last_open(&self) -> &LastOpen {
        &self.record.last_open
    }

    /// What it uses in a folder with a quota when it has lost its last name.
    pub(super) fn unlinked(&self) -> &UnlinkedBytes {
        &self.record.unlinked
    }

    /// Whether the guest knew the entry of this directory that was looked up last.
    pub(super) fn expects_known_entries(&self) -> bool {
        self.record.known_entries.load(Ordering::Relaxed)
    }

    /// Notes whether the guest knew the entry that was looked up last.
    pub(super) fn expect_known_entries(&self, known: bool) {
        self.record.known_entries.store(known, Ordering::Relaxed);
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.record.kind == libc::S_IFDIR
    }

    /// Refuses access to more than its attributes, if its contents are not for the guest.
    ///
    /// # Errors
    /// `EACCES`.
    pub(super) fn check_contents(&self) -> io::Result<()> {
        if self.record.withheld {
            Err(errno(libc::EACCES))
        } else {
            Ok(())
        }
    }

    /// What goes away with the descriptor.
    pub(super) fn pin(&self) -> &Pin {
        &self.pin
    }

    /// Notes that the guest has it open, for as long as the result lives. It is not parked meanwhile: it may lose its
    /// last name. Other machines that share the quota of `meter` know it as well.
    ///
    /// # Errors
    /// `ESTALE` if it has lost its last name before, and nobody counts its bytes any more; as fcntl(2).
    pub(super) fn opened(&self, meter: Option<&Meter>) -> io::Result<Opened> {
        let (identity, unlinked) = (self.record.identity, &self.record.unlinked);
        let hold = match meter {
            Some(meter) => meter.hold(identity, self.as_fd(), unlinked)?,
            None => None,
        };
        self.record.open.fetch_add(1, Ordering::Relaxed);
        Ok(Opened {
            record: Arc::clone(&self.record),
            pin: Arc::clone(&self.pin),
            hold,
        })
    }
}

impl AsFd for Inode {
    /// The `O_PATH` descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pin.descriptor.as_fd()
    }
}

/// The guest has an inode open.
pub(super) struct Opened {
    record: Arc<Record>,
    pin: Arc<Pin>,
    hold: Option<Hold>,
}

impl Opened {
    /// As [`Inode::unlinked`].
    pub(super) fn unlinked(&self) -> &UnlinkedBytes {
        &self.record.unlinked
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.end(self.pin.descriptor.as_fd(), &self.record.unlinked);
        }
        self.record.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The descriptor that holds an inode.
pub(super) struct Pin {
    descriptor: OwnedFd,
    _permit: Permit,
    /// Opened on first use where the guest reads without opening, see `SharedFolder::file`.
    pub(super) file: OnceLock<Arc<OpenFile>>,
    /// Of a directory.
    pub(super) listings: Listings,
}

impl Pin {
    /// Holds the inode that the `O_PATH` descriptor refers to.
    pub(super) fn new(descriptor: OwnedFd, permit: Permit) -> Arc<Pin> {
        Arc::new(Pin {
            descriptor,
            _permit: permit,
            file: OnceLock::new(),
            listings: Listings::default(),
        })
    }
}

/// What makes two names lead to the same file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileIdentity {
    device: u64,
    number: u64,
}

impl FileIdentity {
    /// Of the file that has `status`.
    pub(super) fn of(status: &stat64) -> FileIdentity {
        FileIdentity {
            device: status.st_dev,
            number: status.st_ino,
        }
    }

    /// One number of both; of neighbours on a device they are neighbours.
    pub(super) fn mixed(self) -> u64 {
        // Fibonacci hashing spreads devices, whose numbers are small.
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        self.device.wrapping_mul(SPREAD).wrapping_add(self.number)
    }
}

/// What is kept of an inode that the guest knows, whether it is held or parked.
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) identity: FileIdentity,
    kind: u32,
    /// Its contents are not for the guest, see `kernel_interfaces`.
    withheld: bool,
    /// How often the guest has it open.
    open: AtomicUsize,
    /// Used since parking it was considered last.
    used: AtomicBool,
    last_open: LastOpen,
    /// Of a directory: the entry that was looked up last was known to the guest.
    known_entries: AtomicBool,
    state: Mutex<State>,
    /// Behind the state, so that the descriptor is closed before they are free.
    unlinked: UnlinkedBytes,
}

/// Whether an inode has a descriptor.
pub(super) enum State {
    Pinned(Arc<Pin>),
    Parked(Parked),
}

/// What became of an inode that was to be parked.
pub(super) enum Outcome {
    /// It is, and this is to be closed.
    Parked(Arc<Pin>),
    /// It is in use.
    Later,
    /// It could not be found again.
    Never,
}

impl Record {
    /// Of the inode with ID `id` that has `status` and is held by `pin`; `withheld` if its contents are not for the guest.
    pub(super) fn new(id: u64, status: &stat64, withheld: bool, pin: Arc<Pin>) -> Arc<Record> {
        Arc::new(Record {
            id,
            identity: FileIdentity::of(status),
            kind: status.st_mode & libc::S_IFMT,
            withheld,
            open: AtomicUsize::new(0),
            used: AtomicBool::new(true),
            last_open: LastOpen::default(),
            known_entries: AtomicBool::new(false),
            state: Mutex::new(State::Pinned(pin)),
            unlinked: UnlinkedBytes::default(),
        })
    }

    /// Whether it has a descriptor. Taken after the lock of the table, never before.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that it is used.
    pub(super) fn touch(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Parks it, unless it is in use or was used since the last attempt.
    pub(super) fn park(&self, folder: &Folder<'_>) -> Outcome {
        if self.open.load(Ordering::Relaxed) > 0 || self.used.swap(false, Ordering::Relaxed) {
            return Outcome::Later;
        }
        let mut state = self.state();
        let State::Pinned(pin) = &*state else {
            return Outcome::Never;
        };
        if Arc::strong_count(pin) > 1 {
            return Outcome::Later;
        }
        let pin = Arc::clone(pin);
        match Parked::new(folder, pin.descriptor.as_fd(), self.identity) {
            Ok(parked) => {
                *state = State::Parked(parked);
                Outcome::Parked(pin)
            }
            Err(_) => Outcome::Never,
        }
    }
}
