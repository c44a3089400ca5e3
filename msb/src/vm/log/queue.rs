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

/// How long the thread that writes rests after it has written: a process that writes line after line, or in small pieces, would
/// otherwise wake it for each of them, and every piece would cost a write(2) and two changes of threads.
pub(super) const REST: Duration = Duration::from_millis(20);

/// Bytes of entries for which it does not rest.
pub(super) const ENOUGH: usize = 256 << 10;

/// Batches of this size are likely to be followed by more of them, so that their memory is kept.
const LARGE: usize = 64 << 10;

/// Entries that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// How long the thread that writes rests.
    rest: Duration,
    /// Tells the device that there is room again.
    room: EventFd,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: LogBatch,
    /// Bytes for which there was no room.
    dropped: u64,
    /// What waits is to be written now.
    urgent: bool,
    /// Bytes of entries that wake the thread that writes; `None` while it needs no waking.
    wakes_at: Option<usize>,
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
    /// An empty queue; the thread that writes rests for `rest`.
    ///
    /// # Errors
    /// As eventfd(2).
    pub(super) fn new(rest: Duration) -> nix::Result<Queue> {
        Ok(Queue {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            rest,
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
            waiting.urgent = true;
            waiting.wake(&self.changed);
        }
    }

    /// Rests, and waits for entries. `spare` is memory for the next ones.
    pub(super) fn take(&self, spare: LogBatch) -> Taken {
        let mut waiting = self.lock();
        waiting.wakes_at = Some(ENOUGH);
        let rested = self
            .changed
            .wait_timeout_while(waiting, self.rest, |waiting| {
                waiting.batch.len() < ENOUGH && !waiting.urgent && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        waiting = rested.0;
        waiting.wakes_at = Some(1);
        waiting = self
            .changed
            .wait_while(waiting, |waiting| {
                waiting.batch.is_empty() && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        waiting.wakes_at = None;
        waiting.urgent = false;
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

impl Waiting {
    /// Wakes the thread that writes, once, if there is what it waits for.
    fn wake(&mut self, changed: &Condvar) {
        let enough = |bytes| self.urgent || self.batch.len() >= bytes;
        if !self.batch.is_empty() && self.wakes_at.take_if(|bytes| enough(*bytes)).is_some() {
            changed.notify_all();
        }
    }
}

impl Room<'_> {
    /// Adds output of a session.
    pub(super) fn push(&mut self, source: LogSource, session: u64, data: &[u8]) {
        self.waiting.batch.push(source, session, self.time, data);
    }

    /// The session's output is complete: whoever learns of its end next may look for it in the log.
    pub(super) fn hurry(&mut self) {
        self.waiting.urgent = true;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.waiting.wake(self.changed);
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
