//! Whose turn it is to be granted room.
//!
//! What the guest sends on all connections stands in one row, in its kernel and in the transmit queue, so everything that is under way is
//! ahead of the first word of the next connection. If all connections that stream were told of their room at once, a whole
//! window of each would be. Therefore they are told one after the other, and each of no more than [`SHARE`]; one that streams alone is
//! told of all its room.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that a connection may send after its turn while others wait for theirs.
pub(super) const SHARE: u32 = 32 << 10;

/// The connections that wait to be granted room, by their places in the table, and the one that was granted some last.
#[derive(Debug)]
pub(super) struct Turns {
    waiting: VecDeque<u16>,
    /// Whose turn it is, and when it is over at the latest.
    holder: Option<(u16, Instant)>,
    /// How long a turn lasts if the guest does not use what it was granted.
    longest: Duration,
}

impl Turns {
    /// Nobody waits. A turn whose room is not used is over after `longest`.
    pub(super) fn new(longest: Duration) -> Turns {
        Turns {
            waiting: VecDeque::new(),
            holder: None,
            longest,
        }
    }

    /// The connection at `place`, which does not wait, has room to tell of. If it is its turn it has used that.
    pub(super) fn ask(&mut self, place: u16) {
        self.end_turn_of(place);
        self.waiting.push_back(place);
    }

    /// The connection at `place` needs no more turns.
    pub(super) fn leave(&mut self, place: u16) {
        self.end_turn_of(place);
        self.waiting.retain(|&waiting| waiting != place);
    }

    /// Begins the next turn if the last one is over. Returns whose it is, and the credit that it should have then.
    pub(super) fn pass(&mut self) -> Option<(u16, u32)> {
        if self.holder.is_some() {
            return None;
        }
        let place = self.waiting.pop_front()?;
        // Time does not reach its end: None is never seen.
        let until = Instant::now().checked_add(self.longest)?;
        self.holder = Some((place, until));
        let credit = if self.waiting.is_empty() {
            u32::MAX
        } else {
            SHARE
        };
        Some((place, credit))
    }

    /// Ends a turn that has lasted too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.holder.take_if(|(_, until)| *until <= now);
    }

    /// When the next turn begins at the latest, if somebody waits for it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (_, until) = self.holder?;
        (!self.waiting.is_empty()).then_some(until)
    }

    /// Forgets everybody.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.holder = None;
    }

    fn end_turn_of(&mut self, place: u16) {
        self.holder.take_if(|(holder, _)| *holder == place);
    }
}

#[cfg(test)]
impl Turns {
    /// How many connections wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
