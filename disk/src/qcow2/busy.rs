//! Clusters of the disk that somebody is giving another place.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

/// Ranges of clusters, no two of which overlap.
#[derive(Debug, Default)]
pub(super) struct Busy {
    ranges: Mutex<Vec<Range<u64>>>,
    released: Condvar,
}

/// A range is busy while this lives.
#[derive(Debug)]
pub(super) struct Reservation<'b> {
    busy: &'b Busy,
    range: Range<u64>,
}

impl Busy {
    /// Waits until nobody else has a part of the range. Who has one does not ask for another.
    pub(super) fn reserve(&self, range: Range<u64>) -> Reservation<'_> {
        let overlaps = |ranges: &mut Vec<Range<u64>>| {
            let overlap = |other: &Range<u64>| other.start < range.end && range.start < other.end;
            ranges.iter().any(overlap)
        };
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ranges = self
            .released
            .wait_while(ranges, overlaps)
            .unwrap_or_else(PoisonError::into_inner);
        ranges.push(range.clone());
        Reservation { busy: self, range }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut ranges = self
            .busy
            .ranges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ranges.retain(|range| *range != self.range);
        self.busy.released.notify_all();
    }
}
