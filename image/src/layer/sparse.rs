//! Maps of sparse files in extended headers (GNU tar, "Storing Sparse Files": versions 0.0, 0.1 and 1.0).

use super::header::Stretch;
use super::pax::{Extended, decimal};

/// How the map of a sparse file is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PaxSparse {
    /// In the extended header.
    Map(Vec<Stretch>),
    /// In front of the content.
    InContent,
}

const WRONG: &str = "the map of a sparse file is not in order";

/// What an extended header says of a sparse file, if it is of one.
pub(super) fn declared(records: Extended<'_>) -> Result<Option<PaxSparse>, String> {
    let version = (
        records.get("GNU.sparse.major"),
        records.get("GNU.sparse.minor"),
    );
    match version {
        (Some(b"1"), Some(b"0")) => return Ok(Some(PaxSparse::InContent)),
        (None, None) | (Some(b"0"), Some(b"0" | b"1")) => {}
        _ => return Err("a sparse file is of an unknown version".to_owned()),
    }
    if let Some(map) = records.get("GNU.sparse.map") {
        let numbers = map.split(|byte| *byte == b',');
        return Ok(Some(PaxSparse::Map(pairs(numbers)?)));
    }
    if records.own.sparse.is_empty() {
        return Ok(None);
    }
    let in_turn = records
        .own
        .sparse
        .chunks(2)
        .all(|pair| matches!(pair, [(first, _), (second, _)] if first.ends_with(b"offset") && second.ends_with(b"numbytes")));
    if !in_turn {
        return Err(WRONG.to_owned());
    }
    let numbers = records.own.sparse.iter().map(|(_, value)| &value[..]);
    Ok(Some(PaxSparse::Map(pairs(numbers)?)))
}

fn pairs<'a>(mut numbers: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Stretch>, String> {
    let mut stretches = Vec::new();
    while let Some(offset) = numbers.next() {
        let length = numbers.next().and_then(decimal);
        match (decimal(offset), length) {
            (Some(offset), Some(length)) => stretches.push(Stretch { offset, length }),
            _ => return Err(WRONG.to_owned()),
        }
    }
    Ok(stretches)
}

/// The lines of a map that stands in front of the content: how many stretches there are, then two lines for each.
#[derive(Debug, Default)]
pub(super) struct MapLines {
    expected: Option<u64>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl MapLines {
    /// Adds a record of the content; says whether the map ends in it.
    pub(super) fn add(&mut self, record: &[u8]) -> Result<bool, String> {
        for byte in record {
            if *byte != b'\n' {
                self.line.push(*byte);
                // As many digits as 64 bits can have.
                if self.line.len() > 20 {
                    return Err(WRONG.to_owned());
                }
                continue;
            }
            let number = decimal(&self.line).ok_or(WRONG)?;
            self.line.clear();
            match self.expected {
                None => self.expected = Some(number.checked_mul(2).ok_or(WRONG)?),
                Some(_) => self.numbers.push(number),
            }
            if self.expected == Some(self.numbers.len() as u64) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The map, when it has ended.
    pub(super) fn stretches(&self) -> Vec<Stretch> {
        let pairs = self.numbers.chunks_exact(2);
        pairs
            .filter_map(|pair| match pair {
                [offset, length] => Some(Stretch {
                    offset: *offset,
                    length: *length,
                }),
                _ => None,
            })
            .collect()
    }
}

/// Checks that a map's stretches follow each other within the file, and are as long together as what is stored.
pub(super) fn check(stretches: &[Stretch], size: u64, stored: u64) -> Result<(), String> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for stretch in stretches {
        if stretch.offset < end {
            return Err(WRONG.to_owned());
        }
        end = stretch.offset.checked_add(stretch.length).ok_or(WRONG)?;
        // No more than `end`.
        sum += stretch.length;
    }
    if end > size || sum != stored {
        return Err(WRONG.to_owned());
    }
    Ok(())
}
