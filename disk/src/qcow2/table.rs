//! Tables of the metadata in memory: each is a cluster of the file. They are changed here and written by a flush.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Changes are written in pieces of whole pages of the host's page cache.
const PAGE: usize = 4096;

/// A cluster of metadata.
#[derive(Debug)]
pub(super) struct Table {
    /// Where it is in the file.
    pub(super) offset: u64,
    bytes: Box<[u8]>,
    /// What differs from the file.
    dirty: Option<Range<usize>>,
    /// A flush is writing what was dirty before: neither may another write overtake it, nor may it be read back from
    /// the file.
    writing: bool,
    /// Asked for since the last search for something to drop.
    used: AtomicBool,
}

/// A part of a table that is to be written.
#[derive(Debug)]
pub(super) struct Piece {
    key: u64,
    range: Range<usize>,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Table {
    pub(super) fn new(offset: u64, bytes: Box<[u8]>) -> Table {
        Table {
            offset,
            bytes,
            dirty: None,
            writing: false,
            used: AtomicBool::new(true),
        }
    }

    /// One that the file does not have yet.
    pub(super) fn fresh(offset: u64, bytes: Box<[u8]>) -> Table {
        let mut table = Table::new(offset, bytes);
        table.dirty = Some(0..table.bytes.len());
        table
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The big-endian word, 0 behind the end.
    pub(super) fn word(&self, index: u64) -> u64 {
        let rest = (index as usize)
            .checked_mul(8)
            .and_then(|at| self.bytes.get(at..));
        rest.and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    pub(super) fn set_word(&mut self, index: u64, value: u64) {
        self.set(index.saturating_mul(8) as usize, &value.to_be_bytes());
    }

    /// Changes bytes; what lies behind the end is ignored.
    pub(super) fn set(&mut self, at: usize, value: &[u8]) {
        let end = at.saturating_add(value.len());
        if let Some(bytes) = self.bytes.get_mut(at..end) {
            bytes.copy_from_slice(value);
            let (start, end) = match &self.dirty {
                Some(dirty) => (dirty.start.min(at), dirty.end.max(end)),
                None => (at, end),
            };
            self.dirty = Some(start..end);
        }
    }

    fn take_piece(&mut self, key: u64) -> Option<Piece> {
        let dirty = self.dirty.take()?;
        let start = dirty.start & !PAGE.wrapping_sub(1);
        let end = dirty.end.next_multiple_of(PAGE).min(self.bytes.len());
        self.writing = true;
        Some(Piece {
            key,
            offset: self.offset.saturating_add(start as u64),
            bytes: self.bytes.get(start..end)?.to_vec(),
            range: start..end,
        })
    }
}

/// What became of a request for room in a cache.
#[derive(Debug)]
pub(super) enum Room {
    /// There is some.
    Made,
    /// A table must be written first, then there is some. [`Cache::written`] follows.
    AfterWriting(Piece),
    /// Everything is dirty or being written.
    None,
}

/// Tables by their number. There are never more than the capacity.
#[derive(Debug)]
pub(super) struct Cache {
    tables: HashMap<u64, Table>,
    /// Those tables, the next to look at first: a clock.
    order: VecDeque<u64>,
    capacity: usize,
}

impl Cache {
    pub(super) fn new(capacity: usize) -> Cache {
        Cache {
            tables: HashMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    pub(super) fn get(&self, key: u64) -> Option<&Table> {
        let table = self.tables.get(&key)?;
        // Only the first use since it was passed over writes to the cache line.
        if !table.used.load(Ordering::Relaxed) {
            table.used.store(true, Ordering::Relaxed);
        }
        Some(table)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Table> {
        let table = self.tables.get_mut(&key)?;
        *table.used.get_mut() = true;
        Some(table)
    }

    /// Makes room for another table. One that is dirty is dropped only if `may_write`, and not before it was written: the
    /// file has old bytes until then.
    pub(super) fn make_room(&mut self, may_write: bool) -> Room {
        if self.tables.len() < self.capacity {
            return Room::Made;
        }
        // Twice around: the first time may find all of them used.
        for _ in 0..self.order.len().saturating_mul(2) {
            let Some(key) = self.order.pop_front() else {
                break;
            };
            let Some(table) = self.tables.get_mut(&key) else {
                continue;
            };
            let used = std::mem::take(table.used.get_mut());
            if used || table.writing || (table.dirty.is_some() && !may_write) {
                self.order.push_back(key);
                continue;
            }
            if let Some(piece) = table.take_piece(key) {
                self.order.push_front(key);
                return Room::AfterWriting(piece);
            }
            self.tables.remove(&key);
            return Room::Made;
        }
        Room::None
    }

    /// Takes a table in, for which there is room.
    pub(super) fn insert(&mut self, key: u64, table: Table) {
        if self.tables.insert(key, table).is_none() {
            self.order.push_back(key);
        }
    }

    /// What has to be written, as it is now. [`written`](Self::written) follows.
    pub(super) fn take_dirty(&mut self) -> Vec<Piece> {
        let mut pieces: Vec<_> = self
            .tables
            .iter_mut()
            .filter_map(|(key, table)| table.take_piece(*key))
            .collect();
        pieces.sort_by_key(|piece| piece.offset);
        pieces
    }

    /// The pieces were written, or not.
    pub(super) fn written(&mut self, pieces: &[Piece], success: bool) {
        for piece in pieces {
            if let Some(table) = self.tables.get_mut(&piece.key) {
                table.writing = false;
                if !success {
                    let dirty = table.dirty.clone().unwrap_or(piece.range.clone());
                    let start = dirty.start.min(piece.range.start);
                    table.dirty = Some(start..dirty.end.max(piece.range.end));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(offset: u64) -> Table {
        Table::new(offset, vec![0; 8192].into())
    }

    #[test]
    fn what_changes_is_written_once_and_again_after_a_failure() {
        let mut cache = Cache::new(2);
        cache.insert(1, table(1 << 20));
        cache.insert(2, table(2 << 20));
        cache.get_mut(2).unwrap().set_word(513, 7);
        let pieces = cache.take_dirty();
        let [piece] = &pieces[..] else {
            panic!("{pieces:?}");
        };
        assert_eq!((piece.offset, piece.bytes.len()), ((2 << 20) + 4096, 4096));
        cache.written(&pieces, false);
        assert_eq!(cache.take_dirty().len(), 1);
        cache.written(&pieces, true);
        assert!(cache.take_dirty().is_empty());
    }

    #[test]
    fn what_is_dirty_or_being_written_is_not_dropped() {
        let mut cache = Cache::new(2);
        cache.insert(1, table(0));
        cache.insert(2, table(8192));
        for key in [1, 2] {
            cache.get_mut(key).unwrap().set_word(0, 1);
        }
        assert!(matches!(cache.make_room(false), Room::None));
        let pieces = cache.take_dirty();
        assert!(matches!(cache.make_room(true), Room::None));
        cache.written(&pieces, true);
        assert!(matches!(cache.make_room(false), Room::Made));
        cache.insert(3, table(16384));
        cache.get_mut(3).unwrap().set_word(0, 1);
        cache.get_mut(3).unwrap().used = AtomicBool::new(false);
        for key in [1, 2] {
            if let Some(table) = cache.get_mut(key) {
                table.set_word(0, 1);
            }
        }
        for success in [false, true] {
            let Room::AfterWriting(piece) = cache.make_room(true) else {
                panic!("there is nothing to write");
            };
            cache.written(&[piece], success);
        }
        assert!(matches!(cache.make_room(true), Room::Made));
    }
}
