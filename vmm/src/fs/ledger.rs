//! How many bytes a folder with a quota uses: a count that all machines which share the folder agree on.
//!
//! The count lies in a small file that each machine maps. The format, all numbers in the byte order of x86-64:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..8 | `msbquota` |
//! | 8..16 | bytes that the folder uses: 512 times the blocks (`st_blocks`) of everything in it, as du(1) counts |
//! | 16..24 | how often a name was moved, or added to a file that has one |
//! | 24..32 | by how many bytes files have grown in all |
//! | 32..40 | how many of these bytes are orphaned: they belong to files that one machine took the last name from while a guest of another had them open |
//! | 40..512 | 59 slots, one for each machine at most: how many of these bytes belong to other files that have no name any more but are still known to a guest of that machine |
//!
//! Locks on open file descriptions, see fcntl(2), say who is there: byte 0 is locked for reading by everyone who has
//! the file open, and for writing by one who is alone; byte 1 is locked by whoever changes the folder, so that
//! looking, changing and counting are one step; byte 2 + n is locked by the owner of slot n; the bytes behind those are
//! the business of the module `holds`. A machine that dies leaves no lock, so its slot counts no more, and the bytes that
//! it used are wrong by what one request changed. What it had orphaned counts until nobody has a file open. The SDK keeps
//! this account, too, when the host changes files (`sdk/rust/src/volumes/fs/account.rs`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::holds::Holds;

const MAGIC: [u8; 8] = *b"msbquota";

/// Most machines that share a folder with a quota at a time.
const SLOTS: usize = 59;

/// Bytes that are locked.
const PRESENCE: i64 = 0;
const CHANGE: i64 = 1;
const FIRST_SLOT: i64 = 2;
/// The first byte behind them.
pub(super) const BEHIND_SLOTS: i64 = FIRST_SLOT + SLOTS as i64;

#[repr(C)]
struct Counts {
    magic: [u8; 8],
    used: AtomicU64,
    moves: AtomicU64,
    grown: AtomicU64,
    orphaned: AtomicU64,
    unlinked: [AtomicU64; SLOTS],
}

/// The count, mapped.
pub(super) struct Ledger {
    counts: NonNull<Counts>,
    /// None for a count that is shared with nobody.
    file: Option<File>,
    /// None as well then.
    holds: Option<Holds>,
    slot: usize,
}

// SAFETY: the mapping belongs to this value until it is dropped, and all of it that changes is atomic.
unsafe impl Send for Ledger {}
// SAFETY: as above.
unsafe impl Sync for Ledger {}

impl Ledger {
    /// A count of its own.
    ///
    /// # Errors
    /// As mmap(2).
    pub(super) fn private() -> io::Result<Ledger> {
        Ok(Ledger {
            counts: map(None)?,
            file: None,
            holds: None,
            slot: 0,
        })
    }

    /// Opens the count at `path`, which is made if it does not exist. If nobody else has it open, `count` says what the
    /// folder uses, before anyone else gets at the file.
    ///
    /// # Errors
    /// As open(2), mmap(2) and `count`; `InvalidData` if the file is no ledger; `ENOLCK` if 59 machines have it open.
    pub(super) fn open(path: &Path, count: impl FnOnce() -> io::Result<u64>) -> io::Result<Ledger> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let alone = try_lock(&file, PRESENCE)?;
        if !alone {
            // Waits while another one counts.
            lock(&file, libc::F_RDLCK, PRESENCE)?;
        }
        if file.metadata()?.len() == 0 && alone {
            file.set_len(u64::try_from(size_of::<Counts>()).unwrap_or_default())?;
            file.write_all_at(&MAGIC, 0)?;
        }
        let mut magic = [0; MAGIC.len()];
        let is_ledger = file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC;
        if !is_ledger || file.metadata()?.len() != size_of::<Counts>() as u64 {
            let text = "it exists, but does not count what a folder uses";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let slot = claim_slot(&file)?;
        let ledger = Ledger {
            counts: map(Some(&file))?,
            holds: Some(Holds::new(file.try_clone()?)),
            file: Some(file),
            slot,
        };
        if let Some(slot) = ledger.own_slot() {
            slot.store(0, Ordering::Relaxed);
        }
        if alone {
            // The host may change the folder, too.
            let _change = ledger.begin_change()?;
            ledger.counts().orphaned.store(0, Ordering::Relaxed);
            ledger.set_used(count()?)?;
            if let Some(file) = &ledger.file {
                lock(file, libc::F_RDLCK, PRESENCE)?;
            }
        }
        Ok(ledger)
    }

    fn counts(&self) -> &Counts {
        // SAFETY: the mapping is as long as `Counts`, readable and writable, and lives as long as `self`.
        unsafe { self.counts.as_ref() }
    }

    fn own_slot(&self) -> Option<&AtomicU64> {
        self.counts().unlinked.get(self.slot)
    }

    /// Bytes in use, those of files without a name among them.
    pub(super) fn used(&self) -> u64 {
        self.counts().used.load(Ordering::Relaxed)
    }

    /// Sets what is in use to `named`, the bytes of files that have a name, and those of the others.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn set_used(&self, named: u64) -> io::Result<()> {
        let mut used = named.saturating_add(self.orphaned());
        for (slot, unlinked) in self.counts().unlinked.iter().enumerate() {
            let bytes = unlinked.load(Ordering::Relaxed);
            if bytes == 0 {
                continue;
            }
            if slot == self.slot || self.is_taken(slot)? {
                used = used.saturating_add(bytes);
            } else {
                unlinked.store(0, Ordering::Relaxed);
            }
        }
        self.counts().used.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a machine that lives owns `slot`, which is not the own one.
    fn is_taken(&self, slot: usize) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let byte = byte_of(slot);
        let free = try_lock(file, byte)?;
        if free {
            lock(file, libc::F_UNLCK, byte)?;
        }
        Ok(!free)
    }

    /// Counts a change of what is in use.
    pub(super) fn change_used(&self, before: u64, after: u64) {
        change(&self.counts().used, before, after);
        let growth = after.saturating_sub(before);
        self.counts().grown.fetch_add(growth, Ordering::Relaxed);
    }

    /// Notes that a name moves, so that a walk that is under way may miss it.
    pub(super) fn note_move(&self) {
        self.counts().moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the folder stands, for a walk that begins.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            moves: self.counts().moves.load(Ordering::Relaxed),
            grown: self.counts().grown.load(Ordering::Relaxed),
        }
    }

    /// By how many bytes files have grown since; `None` if names were moved.
    pub(super) fn growth_since(&self, standing: &Standing) -> Option<u64> {
        let now = self.standing();
        let unmoved = now.moves == standing.moves;
        unmoved.then(|| now.grown.wrapping_sub(standing.grown))
    }

    /// Counts a change of what files use that have no name any more but are known to this machine's guest.
    pub(super) fn change_unlinked(&self, before: u64, after: u64) {
        if let Some(slot) = self.own_slot() {
            change(slot, before, after);
        }
    }

    /// What guests of this machine have open; `None` for a count that is shared with nobody.
    pub(super) fn holds(&self) -> Option<&Holds> {
        self.holds.as_ref()
    }

    /// Bytes that are orphaned.
    pub(super) fn orphaned(&self) -> u64 {
        self.counts().orphaned.load(Ordering::Relaxed)
    }

    /// Counts a change of what is orphaned.
    pub(super) fn change_orphaned(&self, before: u64, after: u64) {
        change(&self.counts().orphaned, before, after);
    }

    /// Keeps the others from changing the folder until the result is dropped. This machine's threads keep each other
    /// from it by themselves.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn begin_change(&self) -> io::Result<Change<'_>> {
        if let Some(file) = &self.file {
            lock(file, libc::F_WRLCK, CHANGE)?;
        }
        Ok(Change(self))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and nothing borrows it any more.
        unsafe { libc::munmap(self.counts.as_ptr().cast(), size_of::<Counts>()) };
    }
}

/// What was counted of a folder's changes at some moment.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    moves: u64,
    grown: u64,
}

/// The folder is being changed.
pub(super) struct Change<'l>(&'l Ledger);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if let Some(file) = &self.0.file {
            // Releasing a lock that is held takes no memory and does not fail.
            let _ = lock(file, libc::F_UNLCK, CHANGE);
        }
    }
}

fn change(count: &AtomicU64, before: u64, after: u64) {
    let changed = |count: u64| {
        Some(count.saturating_sub(before.saturating_sub(after)))
            .map(|count| count.saturating_add(after.saturating_sub(before)))
    };
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
}

fn byte_of(slot: usize) -> i64 {
    i64::try_from(slot)
        .unwrap_or(i64::MAX)
        .saturating_add(FIRST_SLOT)
}

/// Claims a slot that no living machine owns.
fn claim_slot(file: &File) -> io::Result<usize> {
    for slot in 0..SLOTS {
        if try_lock(file, byte_of(slot))? {
            return Ok(slot);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOLCK))
}

/// A lock of `byte` of a kind of fcntl(2).
pub(super) fn flock(kind: libc::c_int, byte: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Locks `byte` for writing, unless someone else has it locked.
pub(super) fn try_lock(file: &File, byte: i64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK, byte))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks or unlocks `byte`, and waits for it.
pub(super) fn lock(file: &File, kind: libc::c_int, byte: i64) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&flock(kind, byte))) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn map(file: Option<&File>) -> io::Result<NonNull<Counts>> {
    let anonymous = if file.is_some() {
        0
    } else {
        libc::MAP_ANONYMOUS
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<Counts>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | anonymous,
            file.map_or(-1, AsRawFd::as_raw_fd),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> io::Result<u64> {
        panic!("the folder is not walked: somebody else has the ledger open")
    }

    #[test]
    fn only_who_is_alone_counts_and_all_see_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage");
        let first = Ledger::open(&path, || Ok(1000)).unwrap();
        let second = Ledger::open(&path, never).unwrap();
        assert_eq!(second.used(), 1000);
        second.change_used(0, 500);
        first.change_used(700, 100);
        assert_eq!((first.used(), second.used()), (900, 900));
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"msbquota");
        assert_eq!(bytes[8..16], 900_u64.to_ne_bytes());
        drop((first, second));
        let third = Ledger::open(&path, || Ok(7)).unwrap();
        assert_eq!(third.used(), 7, "counted anew");
    }

    #[test]
    fn the_nameless_files_of_a_machine_that_died_count_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage");
        let first = Ledger::open(&path, || Ok(0)).unwrap();
        let second = Ledger::open(&path, never).unwrap();
        first.change_unlinked(0, 10);
        second.change_unlinked(0, 100);
        first.set_used(1000).unwrap();
        assert_eq!(first.used(), 1110);
        // Its locks are gone, what it wrote is there.
        drop(second);
        first.set_used(1000).unwrap();
        assert_eq!(first.used(), 1010);
    }

    #[test]
    fn another_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage");
        std::fs::write(&path, "somebody's notes").unwrap();
        let error = Ledger::open(&path, || Ok(0)).map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's notes");
    }
}
