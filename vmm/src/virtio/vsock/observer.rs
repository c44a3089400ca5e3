//! Watching connections to the guest: who opens one, and what the guest answers on it.
//!
//! A connection that is watched passes through the backlog of its host end: what the guest sent is copied out of its memory
//! once, shown to the tap, and then sent to the host program. Both get the same copy, because the guest may change its memory
//! between two looks. A connection without a tap is not touched by any of this.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// Most bytes that a tap is shown at once.
pub const MAX_SHOWN: usize = 64 << 10;

/// Is told of the connections that host programs open to one port of the guest.
///
/// Observer and taps are called on the thread of the device, whose system calls are confined: they may use memory, locks that
/// are held briefly, channels, and write to an event, but neither wait nor open files. A panic ends the machine.
pub trait Observer: Send {
    /// A host program opened a connection, of which the guest will hear next. The tap is dropped when the connection is over,
    /// for whatever reason: one of its ends closed it and the host program has what the guest sent, the guest
    /// does not listen or broke the rules, its driver reset the device, the machine ended.
    fn connected(&mut self) -> Box<dyn Tap>;

    /// Whether connections are taken now. As long as they are not, they wait in the listener's backlog; a write to the
    /// [`resumption`](Self::resumption) lets this be asked again.
    fn admits(&self) -> bool {
        true
    }

    /// An eventfd(2), always the same. Whoever made room for taps that stalled writes to it, and they are asked again. A
    /// write that comes before the tap has returned [`Flow::Stalled`] is not lost, and one too many does no harm. Nobody
    /// reads it.
    fn resumption(&self) -> BorrowedFd<'_>;
}

/// Sees what the guest sends on one connection.
pub trait Tap: Send {
    /// The next bytes of the guest, 1 to [`MAX_SHOWN`] of them, before the host program gets them. They are what the guest sent,
    /// in order and each of them once, divided in no particular way: frames begin and end anywhere, several may be
    /// in one piece. They are not checked in any way.
    ///
    /// Bytes that arrive after the host program is gone go nowhere and are not shown, nor are those that a stalled
    /// connection held when it was dropped.
    fn data(&mut self, bytes: &[u8]) -> Flow;
}

/// What a tap lets happen to the bytes that it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// All of them go to the host program.
    Passed,
    /// The connection waits. Other connections go on, and so does this one in the other direction. The
    /// guest notices when its credit is used up: the device keeps no more than it granted.
    Stalled {
        /// So many of the bytes, from the first one, were taken and go to the host program. The others are shown again, with
        /// what followed them.
        taken: usize,
        /// When the tap is asked again at the latest, so that a writer that is stuck itself cannot hold the connection for
        /// ever. It may be asked earlier at any time.
        until: Instant,
    },
}

/// A tap, and how far it came in the backlog of its connection.
pub(super) struct Observation {
    tap: Box<dyn Tap>,
    /// Bytes at the front of the backlog that the tap took.
    passed: usize,
    /// The tap stalled the connection, and is asked again now at the latest.
    stalled_until: Option<Instant>,
}

impl Observation {
    /// The tap has seen nothing yet.
    pub(super) fn new(tap: Box<dyn Tap>) -> Observation {
        Observation {
            tap,
            passed: 0,
            stalled_until: None,
        }
    }

    /// Bytes at the front of the backlog that the tap took.
    pub(super) fn passed(&self) -> usize {
        self.passed
    }

    /// When the tap is asked again at the latest, if it stalled the connection.
    pub(super) fn stalled_until(&self) -> Option<Instant> {
        self.stalled_until
    }

    /// Shows the tap what it has not taken yet, unless it stalls the connection.
    pub(super) fn show(&mut self, backlog: &VecDeque<u8>) {
        while self.stalled_until.is_none() {
            let rest = rest_of(backlog, self.passed);
            let piece = rest.get(..MAX_SHOWN).unwrap_or(rest);
            if piece.is_empty() {
                return;
            }
            let taken = match self.tap.data(piece) {
                Flow::Passed => piece.len(),
                Flow::Stalled { taken, until } => {
                    self.stalled_until = Some(until);
                    taken.min(piece.len())
                }
            };
            self.passed = self.passed.saturating_add(taken);
        }
    }

    /// The tap may be asked again.
    pub(super) fn resume(&mut self) {
        self.stalled_until = None;
    }

    /// The first `count` bytes left the backlog.
    pub(super) fn consume(&mut self, count: usize) {
        self.passed = self.passed.saturating_sub(count);
    }

    /// The backlog was dropped.
    pub(super) fn clear(&mut self) {
        self.passed = 0;
        self.stalled_until = None;
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Observation")
            .field("passed", &self.passed)
            .field("stalled_until", &self.stalled_until)
            .finish_non_exhaustive()
    }
}

/// What stands behind the first `skipped` bytes, as far as it lies in one piece.
fn rest_of(bytes: &VecDeque<u8>, skipped: usize) -> &[u8] {
    let (front, back) = bytes.as_slices();
    match skipped.checked_sub(front.len()) {
        None => front.get(skipped..),
        Some(skipped) => back.get(skipped..),
    }
    .unwrap_or_default()
}
