//! Files with holes, as GNU tar stores them ("Storing Sparse Files", version 1.0): the map of what is no hole stands in front
//! of the content. All readers of layers know it, and a file of a terabyte in which nothing stands needs no terabyte.

use std::fs::File;
use std::io;

use crate::tree::stretches::data_from;

/// Most stretches of a map. Readers keep it in memory.
const MAX_STRETCHES: u64 = 16 << 10;

/// Bytes of a hole that is worth a stretch, when there would be too many otherwise.
const FIRST_LEAST_HOLE: u64 = 64 << 10;

/// What of a file is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// Bytes of the file.
    size: u64,
    /// Holes with less bytes are stored as zeros.
    least_hole: u64,
    stretches: u64,
    /// Bytes of data that are stored.
    pub(super) data: u64,
    /// Bytes of the map's text, without what fills its last record.
    pub(super) text: u64,
}

impl SparseMap {
    /// Looks for holes; returns `None` if there are none.
    ///
    /// # Errors
    /// As lseek(2).
    pub(super) fn of(file: &mut File, size: u64) -> io::Result<Option<SparseMap>> {
        let mut least_hole = 1;
        loop {
            let map = SparseMap::count(file, size, least_hole)?;
            if map.data == size {
                return Ok(None);
            }
            if map.stretches <= MAX_STRETCHES {
                return Ok(Some(map));
            }
            // Beyond the size there is one stretch.
            least_hole = least_hole.saturating_mul(4).max(FIRST_LEAST_HOLE);
        }
    }

    fn count(file: &mut File, size: u64, least_hole: u64) -> io::Result<SparseMap> {
        let mut map = SparseMap {
            size,
            least_hole,
            stretches: 0,
            data: 0,
            text: 0,
        };
        let (mut stretches, mut data, mut text) = (0_u64, 0_u64, 0_u64);
        map.each(file, |start, end| {
            stretches = stretches.saturating_add(1);
            data = data.saturating_add(end.saturating_sub(start));
            text = text.saturating_add(line(start, end).len() as u64);
            Ok::<_, io::Error>(())
        })?;
        (map.stretches, map.data) = (stretches, data);
        map.text = text.saturating_add(map.head().len() as u64);
        Ok(map)
    }

    /// The first line: how many stretches follow.
    pub(super) fn head(&self) -> String {
        format!("{}\n", self.stretches)
    }

    /// Calls `visit` for each stretch that is stored, with its beginning and its end. The last one ends where the file does,
    /// empty if that is a hole.
    ///
    /// # Errors
    /// As lseek(2); those of `visit`.
    pub(super) fn each<E: From<io::Error>>(
        &self,
        file: &mut File,
        mut visit: impl FnMut(u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = self.size;
        let mut at = 0;
        let mut pending: Option<(u64, u64)> = None;
        while at < size {
            let (start, end) = data_from(file, at, size)?;
            at = end;
            if start >= size {
                break;
            }
            pending = match pending {
                Some((first, last)) if start.saturating_sub(last) < self.least_hole => {
                    Some((first, end))
                }
                Some((first, last)) => {
                    visit(first, last)?;
                    Some((start, end))
                }
                None if start < self.least_hole => Some((0, end)),
                None => Some((start, end)),
            };
        }
        match pending {
            Some((first, last)) if size.saturating_sub(last) < self.least_hole => {
                visit(first, size)
            }
            Some((first, last)) => {
                visit(first, last)?;
                visit(size, size)
            }
            None => visit(size, size),
        }
    }
}

/// The lines of a stretch: its offset and its length.
pub(super) fn line(start: u64, end: u64) -> String {
    format!("{start}\n{}\n", end.saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn file(size: u64, data: &[u64]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for &at in data {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[1; 4096]).unwrap();
        }
        file
    }

    fn stretches(map: &SparseMap, file: &mut File) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        map.each(file, |start, end| {
            all.push((start, end));
            Ok::<_, io::Error>(())
        })
        .unwrap();
        all
    }

    #[test]
    fn what_is_no_hole_is_stored() {
        let mut sparse = file(5 << 20, &[1 << 20, 3 << 20]);
        let map = SparseMap::of(&mut sparse, 5 << 20).unwrap().unwrap();
        let expected = [
            (1 << 20, (1 << 20) + 4096),
            (3 << 20, (3 << 20) + 4096),
            (5 << 20, 5 << 20),
        ];
        assert_eq!(stretches(&map, &mut sparse), expected);
        assert_eq!((map.data, map.head().as_str()), (8192, "3\n"));
        let mut empty = file(1 << 40, &[]);
        let map = SparseMap::of(&mut empty, 1 << 40).unwrap().unwrap();
        assert_eq!(stretches(&map, &mut empty), [(1 << 40, 1 << 40)]);
        let mut full = file(4096, &[0]);
        assert_eq!(SparseMap::of(&mut full, 4096).unwrap(), None);
    }

    #[test]
    fn of_too_many_holes_the_small_ones_are_zeros() {
        let places: Vec<u64> = (0..20_000).map(|number| number * 8192).collect();
        let size = (1 << 30) + 20_000 * 8192;
        let mut sparse = file(size, &places);
        let map = SparseMap::of(&mut sparse, size).unwrap().unwrap();
        let end = 19_999 * 8192 + 4096;
        assert_eq!(stretches(&map, &mut sparse), [(0, end), (size, size)]);
        assert_eq!(
            map.text,
            "2\n".len() as u64 + line(0, end).len() as u64 + line(size, size).len() as u64
        );
    }
}
