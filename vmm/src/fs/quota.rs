//! How much a folder may use on the host's disk.
//!
//! Everything that changes what the folder uses is one step with looking and counting, for this machine's threads by a
//! lock of the process and for other machines by one on the ledger. So nobody gets more than is left. What the host
//! changes is noticed by a walk through the folder, which comes before `ENOSPC`, and before statistics after a while.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::stat64;

use super::attributes::status_of;
use super::beneath::DescriptorDirectory;
use super::errno;
use super::holds::{Holds, Turn};
use super::inode::FileIdentity;
use super::ledger::{Change, Ledger, Standing};
use super::usage::{Walk, bytes_of};

/// What file systems allocate at least.
pub(super) const BLOCK: u64 = 4096;

/// How long a request may walk; the rest of the folder is left to later ones. Everything else that the device serves
/// waits so long.
const SLICE: Duration = Duration::from_millis(100);

/// A walk that took less than this is repeated whenever it is needed.
const QUICK: Duration = Duration::from_millis(10);

/// After a longer one, or a part of one, no other begins before this many times its duration have passed, lest a guest
/// at its limit keeps the host walking.
const REST: u32 = 4;

/// How long after the loss of its last name a file may be waited for, if its bytes are needed. The guest forgets a file
/// as soon as nobody has it open, but says so through another queue than the one in which it writes the next.
const FAREWELL: Duration = Duration::from_millis(100);

/// How old the count may be when statistics are asked for.
const STATISTICS_AGE: Duration = Duration::from_secs(10);

/// A limit of what a folder may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Most bytes that everything in the folder may use on the disk, the folder itself among it, as du(1) counts:
    /// holes are free.
    pub limit: u64,
    /// The file that counts them, where several machines share the folder; it is made if it does not exist. It must not
    /// lie in the folder. Its format is that of the module `ledger`: after the 8 bytes `msbquota`, the bytes in use as
    /// a number of 8 bytes.
    pub ledger: Option<PathBuf>,
}

/// A folder cannot have a quota.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// It is a single file.
    #[error("a single file cannot have a quota")]
    SingleFile,
    /// It cannot be found out what the folder uses.
    #[error("cannot count what the folder uses")]
    Count(#[source] io::Error),
    /// The file of the count cannot be used.
    #[error("cannot keep count of what the folder uses in {}", path.display())]
    Ledger {
        /// As the caller gave it.
        path: PathBuf,
        /// As open(2), fcntl(2) or mmap(2) reported it.
        #[source]
        source: io::Error,
    },
}

/// The quota of a folder that is open.
pub(super) struct Meter {
    limit: u64,
    ledger: Arc<Ledger>,
    farewells: Arc<Farewells>,
    root: OwnedFd,
    descriptors: Arc<DescriptorDirectory>,
    walks: Mutex<Walks>,
    /// How long a request may walk.
    slice: Duration,
}

/// The last walk, or part of one, and what is left of it.
struct Walks {
    /// When the last one was through.
    counted: Instant,
    /// When a request walked last, and how long.
    ended: Instant,
    took: Duration,
    unfinished: Option<(Walk, Standing)>,
}

impl Meter {
    /// For the folder behind `root`.
    ///
    /// # Errors
    /// If the folder cannot be walked, or the ledger not be used.
    pub(super) fn new(
        quota: &Quota,
        root: OwnedFd,
        descriptors: Arc<DescriptorDirectory>,
    ) -> Result<Meter, QuotaError> {
        let begun = Instant::now();
        let count = || {
            let bytes = Walk::begin(root.as_fd(), &descriptors)?.go_on(None)?;
            bytes.ok_or_else(|| errno(libc::EIO))
        };
        let ledger = match &quota.ledger {
            Some(path) => Ledger::open(path, count).map_err(|source| QuotaError::Ledger {
                path: path.clone(),
                source,
            }),
            None => Ledger::private()
                .and_then(|ledger| ledger.set_used(count()?).map(|()| ledger))
                .map_err(QuotaError::Count),
        }?;
        Ok(Meter {
            limit: quota.limit,
            ledger: Arc::new(ledger),
            farewells: Arc::default(),
            root,
            descriptors,
            walks: Mutex::new(Walks {
                counted: Instant::now(),
                ended: Instant::now(),
                took: begun.elapsed(),
                unfinished: None,
            }),
            slice: SLICE,
        })
    }

    /// With a very short time to walk, for tests.
    #[cfg(test)]
    pub(super) fn set_slice(&mut self, slice: Duration) {
        self.slice = slice;
    }

    /// Notes that the guest opens `file`, which `descriptor` refers to, where other machines want to know; `unlinked` is
    /// its.
    ///
    /// # Errors
    /// `ESTALE` if it has lost its last name before, and nobody counts its bytes any more; as fcntl(2).
    pub(super) fn hold(
        &self,
        file: FileIdentity,
        descriptor: BorrowedFd<'_>,
        unlinked: &UnlinkedBytes,
    ) -> io::Result<Option<Hold>> {
        let Some(holds) = self.ledger.holds() else {
            return Ok(None);
        };
        let mut turn = holds.turn()?;
        let is_first = turn.hold(file)?;
        let lost = || Ok::<_, io::Error>(status_of(descriptor)?.st_nlink == 0);
        if is_first && !unlinked.is_counted() && lost().unwrap_or(true) {
            turn.let_go(file);
            return Err(errno(libc::ESTALE));
        }
        Ok(Some(Hold {
            file,
            ledger: Arc::clone(&self.ledger),
            farewells: Arc::clone(&self.farewells),
        }))
    }

    /// Notes that a name moves.
    pub(super) fn note_move(&self) {
        self.ledger.note_move();
    }

    /// Begins a change: until the result is dropped nobody else changes the folder.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn begin(&self) -> io::Result<Booking<'_>> {
        let walks = self.walks.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Booking {
            _change: self.ledger.begin_change()?,
            meter: self,
            walks,
        })
    }

    /// Most bytes and how many of them are left, for statistics.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn limit_and_free(&self) -> io::Result<(u64, u64)> {
        let mut booking = self.begin()?;
        if booking.walks.counted.elapsed() >= STATISTICS_AGE {
            booking.walk();
        }
        Ok((self.limit, booking.free()))
    }
}

/// A change that is being made and counted.
// Fields are dropped in this order: other machines may go on first, then this one's threads.
pub(super) struct Booking<'m> {
    _change: Change<'m>,
    meter: &'m Meter,
    walks: MutexGuard<'m, Walks>,
}

impl Booking<'_> {
    /// Bytes that are left.
    pub(super) fn free(&self) -> u64 {
        self.meter.limit.saturating_sub(self.meter.ledger.used())
    }

    /// Makes sure that `needed` bytes are left, if need be by looking at the folder again.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(super) fn require(&mut self, needed: u64) -> io::Result<()> {
        if needed == 0 || needed <= self.free_if_walked(needed) {
            Ok(())
        } else {
            Err(errno(libc::ENOSPC))
        }
    }

    /// Bytes that are left; if they are less than `needed`, after what the guest is about to forget, and after looking
    /// at the folder again.
    pub(super) fn free_if_walked(&mut self, needed: u64) -> u64 {
        if self.free() < needed {
            self.meter.farewells.wait_until(|| self.free() >= needed);
        }
        if self.free() < needed {
            self.walk();
        }
        self.free()
    }

    /// Counts anew, unless that was done just now, as far as a request may. What is walked without a break is exact,
    /// because nobody changes the folder meanwhile. Else what has grown meanwhile is added, and if names were moved the
    /// walk does not count, because it may have missed them; nor if it fails, such as because the host moves directories.
    fn walk(&mut self) {
        let walks = &mut *self.walks;
        let rest = walks.took.saturating_mul(REST);
        if walks.took >= QUICK && walks.ended.elapsed() < rest {
            return;
        }
        let begun = Instant::now();
        let ledger = &self.meter.ledger;
        let unfinished = walks
            .unfinished
            .take()
            .filter(|(_, standing)| ledger.growth_since(standing).is_some());
        let walk = match unfinished {
            Some(walk) => Ok(walk),
            None => Walk::begin(self.meter.root.as_fd(), &self.meter.descriptors)
                .map(|walk| (walk, ledger.standing())),
        };
        if let Ok((mut walk, standing)) = walk {
            match walk.go_on(begun.checked_add(self.meter.slice)) {
                Ok(Some(named)) => {
                    forget_orphans_of_the_dead(ledger);
                    let growth = ledger.growth_since(&standing).unwrap_or_default();
                    let counted = ledger.set_used(named.saturating_add(growth));
                    tracing::debug!(named, growth, ?counted, "walked a folder with a quota");
                    walks.counted = Instant::now();
                }
                Ok(None) => walks.unfinished = Some((walk, standing)),
                Err(error) => tracing::debug!(%error, "cannot walk a folder with a quota"),
            }
        }
        walks.ended = Instant::now();
        walks.took = begun.elapsed();
    }

    /// Counts that `before` bytes became `after`.
    pub(super) fn changed(&self, before: u64, after: u64) {
        self.meter.ledger.change_used(before, after);
    }

    /// Counts a change of a file. One without a name is not found by a walk: `unlinked` keeps count of it, unless it is
    /// orphaned.
    pub(super) fn file_changed(&self, before: &stat64, after: &stat64, unlinked: &UnlinkedBytes) {
        let (before, bytes) = (bytes_of(before), bytes_of(after));
        self.changed(before, bytes);
        if after.st_nlink > 0 {
            return;
        }
        let ledger = &self.meter.ledger;
        if ledger.holds().is_none() || unlinked.is_counted() {
            unlinked.set(ledger, &self.meter.farewells, bytes);
        } else {
            ledger.change_orphaned(before, bytes);
        }
    }

    /// Refuses to change a file with `status` whose bytes were given back because nobody had it open when it lost its
    /// last name: what changes from then on would be counted as of another.
    ///
    /// # Errors
    /// `ESTALE`; as fcntl(2).
    pub(super) fn check_counted(
        &self,
        status: &stat64,
        unlinked: &UnlinkedBytes,
    ) -> io::Result<()> {
        if status.st_nlink > 0 || unlinked.is_counted() {
            return Ok(());
        }
        match self.turn()? {
            Some(turn) if !turn.is_held(FileIdentity::of(status)) => Err(errno(libc::ESTALE)),
            _ => Ok(()),
        }
    }

    /// Keeps others from opening and closing files while a last name goes, if any others share the folder.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn turn(&self) -> io::Result<Option<Turn<'_>>> {
        self.meter.ledger.holds().map(Holds::turn).transpose()
    }

    /// Counts that a file of `bytes` lost its last name. If the guest still knows it, `unlinked` is its; then the host
    /// frees it when the guest forgets it.
    pub(super) fn unlinked(&self, bytes: u64, unlinked: Option<&UnlinkedBytes>) {
        match unlinked {
            Some(unlinked) => {
                unlinked.set(&self.meter.ledger, &self.meter.farewells, bytes);
                self.meter.farewells.begin();
            }
            None => self.changed(bytes, 0),
        }
    }

    /// Counts that a file of `bytes` lost its last name which a guest of another machine has open.
    pub(super) fn orphaned(&self, bytes: u64) {
        self.meter.ledger.change_orphaned(0, bytes);
    }
}

/// Machines that died have closed nothing. When nobody has a file open, none is orphaned.
fn forget_orphans_of_the_dead(ledger: &Ledger) {
    if ledger.orphaned() == 0 {
        return;
    }
    let turn = ledger.holds().map(Holds::turn);
    if let Some(Ok(turn)) = turn
        && turn.is_any_held().is_ok_and(|held| !held)
    {
        ledger.change_orphaned(ledger.orphaned(), 0);
    }
}

/// The guest has a file open in a folder that other machines share.
pub(super) struct Hold {
    file: FileIdentity,
    ledger: Arc<Ledger>,
    farewells: Arc<Farewells>,
}

impl Hold {
    /// The guest closes the file, which `descriptor` refers to. If it is orphaned and nobody else has it open, `unlinked`
    /// counts it from now on, until this guest forgets it.
    pub(super) fn end(self, descriptor: BorrowedFd<'_>, unlinked: &UnlinkedBytes) {
        let Some(Ok(mut turn)) = self.ledger.holds().map(Holds::turn) else {
            return;
        };
        let is_last = turn.let_go(self.file)
            && !unlinked.is_counted()
            && self.ledger.orphaned() > 0
            && turn.is_held_elsewhere(self.file).is_ok_and(|held| !held);
        let status = is_last.then(|| status_of(descriptor));
        if let Some(Ok(status)) = status
            && status.st_nlink == 0
        {
            // If the host took its name it was never orphaned.
            let bytes = bytes_of(&status).min(self.ledger.orphaned());
            self.ledger.change_orphaned(bytes, 0);
            unlinked.set(&self.ledger, &self.farewells, bytes);
            self.farewells.begin();
        }
    }
}

/// The files that have no name any more and that the guest may be about to forget.
#[derive(Default)]
struct Farewells {
    /// When a file lost its last name.
    begun: Mutex<Option<Instant>>,
    /// The guest forgot one.
    over: Condvar,
}

impl Farewells {
    fn begin(&self) {
        *self.lock() = Some(Instant::now());
    }

    fn end(&self) {
        // Under the lock, so that nobody is between looking and waiting.
        let _begun = self.lock();
        self.over.notify_all();
    }

    /// Waits until `enough` was forgotten, but not longer than [`FAREWELL`] after the last file lost its name: the guest
    /// may as well have it open.
    fn wait_until(&self, enough: impl Fn() -> bool) {
        let begun = self.lock();
        let age = begun.map_or(FAREWELL, |begun| begun.elapsed());
        let left = FAREWELL.saturating_sub(age);
        if !left.is_zero() {
            let _ = self.over.wait_timeout_while(begun, left, |_| !enough());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file without a name uses while the guest knows it. Given back on drop.
#[derive(Default)]
pub(super) struct UnlinkedBytes(Mutex<Option<Unlinked>>);

struct Unlinked {
    bytes: u64,
    ledger: Arc<Ledger>,
    farewells: Arc<Farewells>,
}

impl UnlinkedBytes {
    fn set(&self, ledger: &Arc<Ledger>, farewells: &Arc<Farewells>, bytes: u64) {
        let mut counted = self.lock();
        let before = counted.as_ref().map_or(0, |counted| counted.bytes);
        ledger.change_unlinked(before, bytes);
        *counted = Some(Unlinked {
            bytes,
            ledger: Arc::clone(ledger),
            farewells: Arc::clone(farewells),
        });
    }

    fn is_counted(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Unlinked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnlinkedBytes {
    fn drop(&mut self) {
        let counted = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Unlinked {
            bytes,
            ledger,
            farewells,
        }) = counted.take()
        {
            // In this order a walk that ends in between counts too much, not too little. It is not kept from that: this
            // may run while a change is being made.
            ledger.change_used(bytes, 0);
            ledger.change_unlinked(bytes, 0);
            farewells.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_to_be_forgotten_is_waited_for_and_nothing_else() {
        let farewells = Farewells::default();
        farewells.wait_until(|| panic!("nothing has lost its name"));
        farewells.begin();
        let gone = Mutex::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *gone.lock().unwrap() = true;
                farewells.end();
            });
            farewells.wait_until(|| *gone.lock().unwrap());
        });
        // One that stays open is not waited for for ever.
        farewells.begin();
        farewells.wait_until(|| false);
        farewells.wait_until(|| panic!("it was waited for before"));
    }
}
