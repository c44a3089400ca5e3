//! Changes of a folder with a quota: what each needs, and what it took.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use fuse_backend_rs::abi::fuse_abi::{stat64, statvfs64};
use fuse_backend_rs::api::filesystem::ZeroCopyReader;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, ftruncate, lseek64};

use super::attributes::{space_of, status_beneath, status_of};
use super::files::OpenFile;
use super::holds::Turn;
use super::inode::{FileIdentity, Inode};
use super::nodes::Place;
use super::quota::{BLOCK, Booking, Meter, UnlinkedBytes};
use super::transfer::Transfer;
use super::usage::bytes_of;
use super::{SharedFolder, errno};

impl SharedFolder {
    /// Runs `change` of the file behind `descriptor`, which may take `needed` bytes of the disk.
    ///
    /// # Errors
    /// `ENOSPC` if they are not left; `ESTALE` if its bytes are not counted any more; as `change`.
    pub(super) fn change_file<T>(
        &self,
        descriptor: BorrowedFd<'_>,
        unlinked: &UnlinkedBytes,
        needed: u64,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(meter) = &self.meter else {
            return change();
        };
        let mut booking = meter.begin()?;
        booking.require(needed)?;
        let before = status_of(descriptor)?;
        booking.check_counted(&before, unlinked)?;
        let result = change();
        booking.file_changed(&before, &status_of(descriptor)?, unlinked);
        result
    }

    /// Runs `change` of names in `parents`, which may take `needed` bytes of the disk, and returns with its result the
    /// bytes of what it made.
    ///
    /// # Errors
    /// `ENOSPC` if they are not left; as `change`.
    pub(super) fn change_names<T>(
        &self,
        parents: &[&Inode],
        needed: u64,
        change: impl FnOnce() -> io::Result<(T, u64)>,
    ) -> io::Result<T> {
        let Some(meter) = &self.meter else {
            return change().map(|(result, _)| result);
        };
        let mut booking = meter.begin()?;
        booking.require(needed)?;
        let before = sum_of(parents)?;
        let result = change();
        let made = result.as_ref().map_or(0, |(_, made)| *made);
        booking.changed(before, sum_of(parents)?.saturating_add(made));
        result.map(|(result, _)| result)
    }

    /// Notes that a name moves or is added to a file that has one: a walk that is under way may miss it.
    pub(super) fn note_move(&self) {
        if let Some(meter) = &self.meter {
            meter.note_move();
        }
    }

    /// Runs `change` of names in `parents`, by which the entry at `place` is lost, if there is one; if not, it may take
    /// `needed` bytes.
    ///
    /// # Errors
    /// `ENOSPC` if they are not left; as `change`.
    pub(super) fn lose_entry(
        &self,
        place: &Place<'_>,
        parents: &[&Inode],
        needed: u64,
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(meter) = &self.meter else {
            return change();
        };
        // Before the booking, so that it is dropped after it.
        let known;
        let mut booking = meter.begin()?;
        let lost = status_beneath(place.parent().as_fd(), place.name()).ok();
        // A name that exists already needs no room in its directory.
        booking.require(if lost.is_some() { 0 } else { needed })?;
        let before = sum_of(parents)?;
        let lost = lost.filter(|lost| lost.st_nlink < 2 || is_directory(lost));
        known = lost
            .as_ref()
            .and_then(|lost| self.inodes.pinned(FileIdentity::of(lost)));
        let turn = match &lost {
            Some(_) => booking.turn()?,
            None => None,
        };
        let result = change();
        booking.changed(before, sum_of(parents)?);
        if let (Ok(()), Some(lost)) = (&result, &lost) {
            // If that cannot be told, it counts too much rather than too little.
            let held = |turn: &Turn<'_>| turn.is_held_elsewhere(FileIdentity::of(lost));
            if turn.as_ref().is_some_and(|turn| held(turn).unwrap_or(true)) {
                booking.orphaned(bytes_of(lost));
            } else {
                let unlinked = known.as_ref().map(Inode::unlinked);
                booking.unlinked(bytes_of(lost), unlinked);
            }
        }
        result
    }

    /// Writes as much of `size` bytes to `file` as fits, at `offset` or, where `transfer` appends, at the end. To
    /// write where the disk is allocated already costs nothing.
    ///
    /// # Errors
    /// `ENOSPC` if nothing fits; as pwritev2(2) if nothing was written.
    pub(super) fn write_within(
        meter: &Meter,
        file: &OpenFile,
        transfer: &mut Transfer<'_>,
        buffers: &mut dyn ZeroCopyReader,
        (size, offset): (usize, u64),
    ) -> io::Result<usize> {
        let unlinked = file.unlinked().ok_or_else(|| errno(libc::EBADF))?;
        let mut booking = meter.begin()?;
        let mut before = status_of(file)?;
        let begin = if transfer.appends() {
            u64::try_from(before.st_size).unwrap_or_default()
        } else {
            offset
        };
        let end = begin.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
        booking.free_if_walked(allocated_by(begin, end));
        let mut done = 0_usize;
        while done < size {
            let moved = u64::try_from(done).unwrap_or(u64::MAX);
            let range = (begin.saturating_add(moved), end);
            let step = Step::within(file, range, booking.free())?;
            let written = buffers.read_to(transfer, step.length, offset.saturating_add(moved));
            let after = status_of(file)?;
            let overdrawn = bytes_of(&after).saturating_sub(bytes_of(&before)) > booking.free();
            if step.hole.is_some() && overdrawn {
                step.undo(file, &before)?;
                Self::book(&booking, &mut before, status_of(file)?, unlinked);
                return none_or(done, errno(libc::ENOSPC));
            }
            Self::book(&booking, &mut before, after, unlinked);
            match written {
                Ok(length) => done = done.saturating_add(length),
                Err(error) => return none_or(done, error),
            }
            if written.is_ok_and(|length| length < step.length) {
                break;
            }
        }
        Ok(done)
    }

    fn book(booking: &Booking<'_>, before: &mut stat64, after: stat64, unlinked: &UnlinkedBytes) {
        booking.file_changed(before, &after, unlinked);
        *before = after;
    }

    /// Bytes that an allocation of the range may take; exact only as far as it must be to be permitted.
    pub(super) fn allocation_cost(
        &self,
        file: &OpenFile,
        mode: FallocateFlags,
        (begin, length): (u64, u64),
    ) -> io::Result<u64> {
        if self.meter.is_none() || mode.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE) {
            return Ok(0);
        }
        holes_within(file, begin, begin.saturating_add(length))
    }

    /// Space as the guest sees it from the inode with ID `inode`: that of the file system, or of the quota.
    pub(super) fn space(&self, inode: u64) -> io::Result<statvfs64> {
        let inode = self.inodes.get(inode)?;
        let mut space = space_of(&inode)?;
        if let Some(meter) = &self.meter {
            let (limit, free) = meter.limit_and_free()?;
            let on_disk = space.f_bavail.saturating_mul(space.f_frsize);
            space.f_frsize = BLOCK;
            space.f_bsize = BLOCK;
            space.f_blocks = limit / BLOCK;
            space.f_bfree = free / BLOCK;
            space.f_bavail = free.min(on_disk) / BLOCK;
        }
        Ok(space)
    }
}

fn none_or(done: usize, error: io::Error) -> io::Result<usize> {
    if done == 0 { Err(error) } else { Ok(done) }
}

fn is_directory(status: &stat64) -> bool {
    status.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// What the directories themselves use; one that is there twice counts once.
fn sum_of(directories: &[&Inode]) -> io::Result<u64> {
    let mut sum = 0_u64;
    let mut seen = None;
    for directory in directories {
        if seen != Some(directory.id()) {
            sum = sum.saturating_add(bytes_of(&status_of(directory)?));
        }
        seen = Some(directory.id());
    }
    Ok(sum)
}

/// Bytes that a write from `begin` to `end` allocates at most.
fn allocated_by(begin: u64, end: u64) -> u64 {
    end.div_ceil(BLOCK)
        .saturating_sub(begin / BLOCK)
        .saturating_mul(BLOCK)
}

/// Bytes of the blocks between `begin` and `end` that hold no data. Space that is reserved but not written counts as
/// a hole.
fn holes_within(file: &OpenFile, begin: u64, end: u64) -> io::Result<u64> {
    let mut bytes = 0_u64;
    let mut at = begin;
    while at < end {
        let data = find(file, at, Whence::SeekData)?
            .unwrap_or(end)
            .clamp(at, end);
        if data > at {
            bytes = bytes.saturating_add(allocated_by(at, data));
        }
        at = match find(file, data, Whence::SeekHole)? {
            Some(hole) if hole > data => hole,
            _ => end,
        };
    }
    Ok(bytes)
}

/// Where data or a hole begins from `at` on; `None` behind the end.
fn find(file: &OpenFile, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    let at = i64::try_from(at).map_err(|_| errno(libc::EFBIG))?;
    match lseek64(file, at, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A part of a write.
struct Step {
    length: usize,
    /// Begin of a block that holds no data, for which nothing is left: it can be written only if it is reserved
    /// already, which shows when it was written.
    hole: Option<u64>,
}

impl Step {
    /// The longest part of what is to be written to `range` that `free` bytes suffice for; if they do for none, the part
    /// in the first block.
    fn within(file: &OpenFile, (begin, end): (u64, u64), free: u64) -> io::Result<Step> {
        let block = begin / BLOCK;
        let behind = block.saturating_add(free / BLOCK).saturating_mul(BLOCK);
        let length = |end: u64| usize::try_from(end.saturating_sub(begin)).unwrap_or(usize::MAX);
        if behind > begin {
            let length = length(behind.min(end));
            return Ok(Step { length, hole: None });
        }
        let first = block.saturating_mul(BLOCK);
        let next = first.saturating_add(BLOCK);
        let is_hole = holes_within(file, first, next)? > 0;
        Ok(Step {
            length: length(next.min(end)),
            hole: is_hole.then_some(first),
        })
    }

    /// Makes the block a hole again, as it was when the file had the status `before`.
    fn undo(&self, file: &OpenFile, before: &stat64) -> io::Result<()> {
        let Some(hole) = self.hole.and_then(|hole| i64::try_from(hole).ok()) else {
            return Ok(());
        };
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, punch, hole, BLOCK.cast_signed())?;
        if status_of(file)?.st_size > before.st_size {
            ftruncate(file, before.st_size)?;
        }
        Ok(())
    }
}
