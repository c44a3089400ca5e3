//! The end of a process's output, with its place in all of it.

use std::collections::VecDeque;

/// Bytes that are kept.
pub(in crate::vm) const CAPACITY: usize = 1024 * 1024;

/// Most pieces that are kept: a process that changes between its two outputs with each byte has them forgotten earlier.
const MAX_PIECES: usize = 64 * 1024;

/// Where output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vm) enum Source {
    /// Standard output, or the terminal.
    Output,
    /// Standard error.
    Error,
}

/// The last bytes that a process wrote, of both outputs in the order of their arrival. Positions count the bytes of both from
/// the process's beginning.
#[derive(Debug, Default)]
pub(in crate::vm) struct Backlog {
    bytes: VecDeque<u8>,
    /// Position of the first byte in `bytes`.
    start: u64,
    /// Where each piece begins, and where it comes from; a piece ends with the next.
    pieces: VecDeque<(u64, Source)>,
}

impl Backlog {
    /// Position of the first byte that is kept.
    pub(in crate::vm) fn start(&self) -> u64 {
        self.start
    }

    /// Position behind the last byte.
    pub(in crate::vm) fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }

    /// Adds output, and forgets what is too old.
    pub(in crate::vm) fn push(&mut self, source: Source, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let excess = self
            .bytes
            .len()
            .saturating_add(data.len())
            .saturating_sub(CAPACITY);
        self.forget(excess.min(self.bytes.len()));
        let end = self.end();
        if self.pieces.back().is_none_or(|&(_, last)| last != source) {
            if self.pieces.len() >= MAX_PIECES {
                let second = self.pieces.get(1).map_or(end, |&(start, _)| start);
                self.forget(
                    usize::try_from(second.saturating_sub(self.start)).unwrap_or(usize::MAX),
                );
            }
            self.pieces.push_back((end, source));
        }
        // Longer than all that is kept, its own beginning is forgotten.
        let skipped = data.len().saturating_sub(CAPACITY);
        self.start = self.start.saturating_add(skipped as u64);
        self.bytes.extend(data.get(skipped..).unwrap_or_default());
    }

    /// The bytes from `position` on, as many as lie in one piece, at most `limit`; `None` when there are none yet. What was
    /// forgotten is skipped.
    pub(in crate::vm) fn read(&self, position: u64, limit: usize) -> Option<(Source, &[u8])> {
        let position = position.max(self.start);
        let next = self.pieces.partition_point(|&(start, _)| start <= position);
        let (_, source) = *self.pieces.get(next.checked_sub(1)?)?;
        let end = self
            .pieces
            .get(next)
            .map_or(self.end(), |&(start, _)| start);
        let offset = usize::try_from(position.saturating_sub(self.start)).ok()?;
        let length = usize::try_from(end.saturating_sub(position))
            .ok()?
            .min(limit);
        let (front, back) = self.bytes.as_slices();
        let slice = match offset.checked_sub(front.len()) {
            None => front.get(offset..)?,
            Some(offset) => back.get(offset..)?,
        };
        let slice = slice.get(..length.min(slice.len()))?;
        (!slice.is_empty()).then_some((source, slice))
    }

    fn forget(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.bytes.drain(..count);
        self.start = self.start.saturating_add(count as u64);
        while let Some(&(next, _)) = self.pieces.get(1)
            && next <= self.start
        {
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything from `position` on, and where it comes from.
    fn all(backlog: &Backlog, mut position: u64) -> Vec<(Source, u8)> {
        let mut bytes = Vec::new();
        position = position.max(backlog.start());
        while let Some((source, data)) = backlog.read(position, 1000) {
            bytes.extend(data.iter().map(|&byte| (source, byte)));
            position += data.len() as u64;
        }
        assert_eq!(position, backlog.end());
        bytes
    }

    #[test]
    fn keeps_the_order_of_both_outputs() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.read(0, 10), None);
        backlog.push(Source::Output, b"ab");
        backlog.push(Source::Output, b"cd");
        backlog.push(Source::Error, b"!");
        backlog.push(Source::Output, b"e");
        assert_eq!(backlog.read(0, 10), Some((Source::Output, &b"abcd"[..])));
        assert_eq!(backlog.read(1, 2), Some((Source::Output, &b"bc"[..])));
        assert_eq!(backlog.read(4, 10), Some((Source::Error, &b"!"[..])));
        assert_eq!(backlog.read(5, 10), Some((Source::Output, &b"e"[..])));
        assert_eq!(backlog.read(6, 10), None);
        assert_eq!(backlog.read(600, 10), None);
    }

    #[test]
    fn forgets_what_is_too_old() {
        let mut backlog = Backlog::default();
        let chunk = vec![7; 64 * 1024];
        for _ in 0..20 {
            backlog.push(Source::Output, &chunk);
        }
        assert_eq!(backlog.end(), 20 * 64 * 1024);
        assert_eq!(backlog.start(), 4 * 64 * 1024);
        assert!(backlog.bytes.capacity() <= CAPACITY);
        assert_eq!(all(&backlog, 0).len(), CAPACITY);
    }

    #[test]
    fn bounds_what_changes_with_each_byte() {
        let mut backlog = Backlog::default();
        for _ in 0..MAX_PIECES {
            backlog.push(Source::Output, b"o");
            backlog.push(Source::Error, b"e");
        }
        assert_eq!(backlog.pieces.len(), MAX_PIECES);
        assert_eq!(all(&backlog, 0).len(), MAX_PIECES);
        assert_eq!(backlog.end(), 2 * MAX_PIECES as u64);
    }

    proptest! {
        #[test]
        fn is_the_end_of_what_was_written(
            writes in prop::collection::vec((any::<bool>(), 0_usize..400_000), 0..12),
            position in 0_u64..2_000_000,
        ) {
            let mut backlog = Backlog::default();
            let mut written = Vec::new();
            for (is_error, length) in writes {
                let source = if is_error { Source::Error } else { Source::Output };
                let data: Vec<u8> = (0..length).map(|index| index as u8).collect();
                backlog.push(source, &data);
                written.extend(data.into_iter().map(|byte| (source, byte)));
            }
            prop_assert_eq!(backlog.end(), written.len() as u64);
            prop_assert_eq!(backlog.start(), written.len().saturating_sub(CAPACITY) as u64);
            if position <= backlog.end() {
                let from = position.max(backlog.start());
                prop_assert_eq!(all(&backlog, from), &written[from as usize..]);
            }
        }
    }
}
