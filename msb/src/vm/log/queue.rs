//! Entries between those who have them and the thread that writes them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use microsandbox::logs::{LogBatch, LogSource};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Bytes of output that wait at most.
const CAPACITY: usize = 4 << 20;

/// Bytes beyond it that system lines may take up.
const RESERVE: usize = 64 << 10;

/// Batches of this size are likely to be followed by more of them, so that their memory is kept.
const LARGE: usize = 64 << 10;

/// Entries that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Tells the device that there is room again.
    room: EventFd,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: LogBatch,
    /// Bytes for which there was no room.
    dropped: u64,
    /// Somebody waits for room.
    stalled: bool,
    /// Nothing more is to come.
    closed: bool,
    /// Everything is written that will be.
    finished: bool,
}

/// Entries that are to be written.
pub(super) struct Taken {
    /// The entries.
    pub(super) batch: LogBatch,
    /// Bytes that are missing before them.
    pub(super) dropped: u64,
    /// These are the last ones.
    pub(super) last: bool,
}

/// A queue that is held for a moment, with room for output.
pub(super) struct Room<'a> {
    waiting: MutexGuard<'a, Waiting>,
    changed: &'a Condvar,
    time: SystemTime,
}

impl Queue {
    /// An empty queue.
    ///
    /// # Errors
    /// As eventfd(2).
    pub(super) fn new() -> nix::Result<Queue> {
        Ok(Queue {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            room: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    /// Becomes readable when there is room after there was none.
    pub(super) fn resumption(&self) -> BorrowedFd<'_> {
        self.room.as_fd()
    }

    /// The queue, if there is room for entries of so many bytes.
    pub(super) fn room_for(&self, bytes: usize) -> Option<Room<'_>> {
        let mut waiting = self.lock();
        if waiting.batch.len().saturating_add(bytes) > CAPACITY {
            waiting.stalled = true;
            return None;
        }
        Some(Room {
            waiting,
            changed: &self.changed,
            time: SystemTime::now(),
        })
    }

    /// Counts bytes for which there was no room.
    pub(super) fn drop_output(&self, bytes: usize) {
        let mut waiting = self.lock();
        waiting.dropped = waiting.dropped.saturating_add(bytes as u64);
    }

    /// Adds a line about the machine.
    pub(super) fn push_line(&self, line: &str) {
        let mut waiting = self.lock();
        if waiting.batch.len().saturating_add(line.len()) <= CAPACITY + RESERVE {
            let line = format!("{line}\n");
            waiting
                .batch
                .push(LogSource::System, 0, SystemTime::now(), line.as_bytes());
            self.changed.notify_all();
        }
    }

    /// Waits for entries. `spare` is memory for the next ones.
    pub(super) fn take(&self, spare: LogBatch) -> Taken {
        let mut waiting = self.lock();
        while waiting.batch.is_empty() && !waiting.closed {
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let taken = Taken {
            batch: std::mem::replace(&mut waiting.batch, spare),
            dropped: std::mem::take(&mut waiting.dropped),
            last: waiting.closed,
        };
        if std::mem::take(&mut waiting.stalled) {
            // One write too many does no harm, and the counter is far from its limit.
            let _ = self.room.write(1);
        }
        taken
    }

    /// Everything is written.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Nothing more is to come: waits until everything is written, but no longer than `limit`.
    pub(super) fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut waiting = self.lock();
        waiting.closed = true;
        self.changed.notify_all();
        while !waiting.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let result = self.changed.wait_timeout(waiting, left);
            waiting = result.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room<'_> {
    /// Adds output of a session.
    pub(super) fn push(&mut self, source: LogSource, session: u64, data: &[u8]) {
        self.waiting.batch.push(source, session, self.time, data);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.waiting.batch.is_empty() {
            self.changed.notify_all();
        }
    }
}

/// Memory for the next entries, after `written`, which had so many bytes, was emptied.
pub(super) fn spare(written: LogBatch, bytes: usize) -> LogBatch {
    if bytes < LARGE {
        LogBatch::new()
    } else {
        written
    }
}
