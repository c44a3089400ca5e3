//! Grain directories and grain tables: where the grains of a sparse extent lie.
//!
//! A directory lists tables of 512 entries, an entry is the sector where a grain begins. Many extents have all of it
//! twice. The first copy is read, both are written.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;

use super::header::{Header, TABLE_BYTES, TABLE_ENTRIES, TABLE_SECTORS};
use super::refusal::Refusal;
use crate::raw::Raw;
use crate::{Buffers, Image, SECTOR};

/// Most tables in memory: 2 MiB, which find 32 GiB in grains of 64 KiB.
const CACHED: usize = 1024;

/// So many changed tables make a flush necessary, so that there are always some that can leave the memory.
pub(super) const MAX_CHANGED: usize = 512;

/// An entry that says zeros, if the header permits it.
const ZEROED: u32 = 1;

/// Where a grain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// It was never written: zeros.
    Absent,
    /// Its first sector in the file.
    At(u64),
}

/// The metadata of an extent.
#[derive(Debug)]
pub(super) struct Tables {
    /// The one that is read comes first.
    directories: Vec<Directory>,
    cached: HashMap<u32, Table>,
    /// Sectors that hold metadata, in order.
    reserved: Vec<Range<u64>>,
    zeroed_grains: bool,
    compressed: bool,
    grain: u64,
    capacity: u64,
    changed: usize,
    clock: u64,
}

#[derive(Debug)]
struct Directory {
    at: u64,
    entries: Vec<u32>,
    changed: BTreeSet<u32>,
}

#[derive(Debug)]
struct Table {
    entries: Box<[u32]>,
    state: State,
    used: u64,
}

/// How a table in memory differs from the one in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Same,
    Changed,
    /// A [`Batch`] has its bytes, which may not have arrived in the file.
    Leaving,
}

/// What has to be written to the file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    indexes: Vec<u32>,
    /// Offsets in bytes.
    pub(super) tables: Vec<(u64, Vec<u8>)>,
    /// To be written when the tables are durable.
    pub(super) directories: Vec<(u64, Vec<u8>)>,
    directory_indexes: Vec<(usize, u32)>,
}

/// A table whose two copies are not the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Differing {
    pub(super) index: u32,
    /// They contradict each other nowhere: each lacks at most grains that the other one has.
    pub(super) incomplete: bool,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.directories.is_empty()
    }
}

impl Tables {
    /// Reads the directories and checks that no two pieces of metadata share a sector. The second directory matters only to
    /// those who write.
    pub(super) fn load(
        file: &Raw,
        header: &Header,
        directory_at: u64,
        writable: bool,
    ) -> Result<Tables, Refusal> {
        let sectors = file.size() / SECTOR;
        let count = header.tables();
        // The header.
        let mut places = Vec::from([Range { start: 0, end: 1 }]);
        if header.descriptor_at != 0 {
            let size = header.descriptor_size;
            places.push(place_in(sectors, header.descriptor_at, size, "descriptor")?);
        }
        let mut directories = Vec::new();
        let redundant = header.redundant_at.filter(|_| writable);
        for at in [Some(directory_at), redundant].into_iter().flatten() {
            let size = count.saturating_mul(4).div_ceil(SECTOR);
            places.push(place_in(sectors, at, size, "grain directory")?);
            let entries = read_numbers(file, at, count as usize)?;
            for &entry in entries.iter().filter(|&&entry| entry != 0) {
                places.push(place_in(
                    sectors,
                    entry.into(),
                    TABLE_SECTORS,
                    "grain table",
                )?);
            }
            directories.push(Directory {
                at,
                entries,
                changed: BTreeSet::new(),
            });
        }
        Ok(Tables {
            directories,
            cached: HashMap::new(),
            reserved: merge(places)?,
            zeroed_grains: header.zeroed_grains,
            compressed: header.compressed,
            grain: header.grain,
            capacity: header.capacity,
            changed: 0,
            clock: 0,
        })
    }

    /// Grains from this one to the end of its table.
    pub(super) fn left_in_table(grain: u64) -> u64 {
        TABLE_ENTRIES.saturating_sub(grain % TABLE_ENTRIES)
    }

    /// Where the grain with this number is. Reads its table if need be.
    pub(super) fn find(&mut self, file: &Raw, grain: u64) -> io::Result<Grain> {
        let (index, slot) = split(grain)?;
        if !self.load_table(file, index)? {
            return Ok(Grain::Absent);
        }
        self.find_loaded(file, index, slot)
    }

    /// Where the grain is, if its table is in memory; `NotFound` otherwise.
    pub(super) fn find_cached(&mut self, file: &Raw, grain: u64) -> io::Result<Grain> {
        let (index, slot) = split(grain)?;
        self.find_loaded(file, index, slot)
    }

    fn find_loaded(&mut self, file: &Raw, index: u32, slot: usize) -> io::Result<Grain> {
        self.clock = self.clock.wrapping_add(1);
        let table = self.cached.get_mut(&index).ok_or(io::ErrorKind::NotFound)?;
        table.used = self.clock;
        let entry = table.entries.get(slot).copied().unwrap_or(0);
        match entry {
            0 => Ok(Grain::Absent),
            ZEROED if self.zeroed_grains => Ok(Grain::Absent),
            _ => {
                self.check_grain(file, index, slot, entry)?;
                Ok(Grain::At(entry.into()))
            }
        }
    }

    /// A grain may lie anywhere in the file, except on metadata.
    fn check_grain(&self, file: &Raw, index: u32, slot: usize, entry: u32) -> io::Result<()> {
        let first = u64::from(index)
            .saturating_mul(TABLE_ENTRIES)
            .saturating_add(slot as u64)
            .saturating_mul(self.grain);
        let used = if self.compressed {
            // How long it is stands in its first sector.
            1
        } else {
            // The last grain need not be complete.
            self.capacity.saturating_sub(first).min(self.grain)
        };
        let start = u64::from(entry);
        let end = start.saturating_add(used);
        if end > file.size() / SECTOR {
            return Err(invalid(format!(
                "the grain table {index} refers to sector {entry}, behind the end of the file"
            )));
        }
        if overlaps(&self.reserved, &(start..end)) {
            return Err(invalid(format!(
                "the grain table {index} refers to sector {entry}, where metadata lies"
            )));
        }
        Ok(())
    }

    /// Makes room at the end of the file for `count` grains of one table, the first being `grain`, and enters them. Until they
    /// are written they read as zeros, as before. Returns the first sector.
    pub(super) fn allocate(&mut self, file: &Raw, grain: u64, count: u64) -> io::Result<u64> {
        let (index, slot) = split(grain)?;
        self.add_missing_tables(file, index)?;
        self.load_table(file, index)?;
        let start = (file.size() / SECTOR)
            .checked_next_multiple_of(self.grain)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.extend(file, start, count.saturating_mul(self.grain))?;
        let table = self.cached.get_mut(&index).ok_or(io::ErrorKind::NotFound)?;
        let mut sector = start;
        for entry in table.entries.iter_mut().skip(slot).take(count as usize) {
            *entry = sector as u32;
            sector = sector.saturating_add(self.grain);
        }
        if table.state != State::Changed {
            table.state = State::Changed;
            self.changed = self.changed.saturating_add(1);
        }
        Ok(start)
    }

    fn add_missing_tables(&mut self, file: &Raw, index: u32) -> io::Result<()> {
        for number in 0..self.directories.len() {
            let missing = |directory: &Directory| directory.entries.get(index as usize) == Some(&0);
            if !self.directories.get(number).is_some_and(missing) {
                continue;
            }
            let sector = file.size() / SECTOR;
            self.extend(file, sector, TABLE_SECTORS)?;
            self.reserved
                .push(sector..sector.saturating_add(TABLE_SECTORS));
            if let Some(directory) = self.directories.get_mut(number)
                && let Some(entry) = directory.entries.get_mut(index as usize)
            {
                *entry = sector as u32;
                directory.changed.insert(index);
            }
        }
        Ok(())
    }

    /// Makes the file end `length` sectors behind `start`. The new bytes are zeros.
    fn extend(&self, file: &Raw, start: u64, length: u64) -> io::Result<()> {
        let end = start.saturating_add(length);
        // Entries have 32 bits.
        if end > u32::MAX.into() {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the file has no room for more grains: grain tables reach 2 TiB",
            ));
        }
        file.resize(end.saturating_mul(SECTOR))
    }

    /// Whether there are so many changed tables that they have to be written first.
    pub(super) fn full(&self) -> bool {
        self.changed >= MAX_CHANGED
    }

    /// What has changed since the last batch.
    pub(super) fn take_changes(&mut self) -> Batch {
        let mut batch = Batch::default();
        if self.changed > 0 {
            for (&index, table) in &mut self.cached {
                if table.state == State::Changed {
                    table.state = State::Leaving;
                    batch.indexes.push(index);
                }
            }
        }
        self.changed = 0;
        // In the order of the file, first all of the first copy.
        batch.indexes.sort_unstable();
        for directory in &self.directories {
            for index in &batch.indexes {
                let sector = directory.entries.get(*index as usize);
                if let (Some(&sector), Some(table)) = (sector, self.cached.get(index)) {
                    let bytes = table.entries.iter().flat_map(|entry| entry.to_le_bytes());
                    batch
                        .tables
                        .push((u64::from(sector).saturating_mul(SECTOR), bytes.collect()));
                }
            }
        }
        for (number, directory) in self.directories.iter_mut().enumerate() {
            for index in std::mem::take(&mut directory.changed) {
                let entry = directory.entries.get(index as usize).copied();
                let at = directory
                    .at
                    .saturating_mul(SECTOR)
                    .saturating_add(u64::from(index).saturating_mul(4));
                batch
                    .directories
                    .push((at, entry.unwrap_or(0).to_le_bytes().to_vec()));
                batch.directory_indexes.push((number, index));
            }
        }
        batch
    }

    /// The batch is in the file, or could not be written.
    pub(super) fn settle(&mut self, batch: &Batch, written: bool) {
        for index in &batch.indexes {
            let Some(table) = self.cached.get_mut(index) else {
                continue;
            };
            if table.state == State::Leaving {
                if written {
                    table.state = State::Same;
                } else {
                    table.state = State::Changed;
                    self.changed = self.changed.saturating_add(1);
                }
            }
        }
        if !written {
            for &(number, index) in &batch.directory_indexes {
                if let Some(directory) = self.directories.get_mut(number) {
                    directory.changed.insert(index);
                }
            }
        }
    }

    /// Brings a table into memory. `false` if there is none.
    fn load_table(&mut self, file: &Raw, index: u32) -> io::Result<bool> {
        if self.cached.contains_key(&index) {
            return Ok(true);
        }
        let first = self.directories.first();
        let sector = first
            .and_then(|directory| directory.entries.get(index as usize))
            .copied()
            .unwrap_or(0);
        if sector == 0 {
            return Ok(false);
        }
        let entries = read_numbers(file, sector.into(), TABLE_ENTRIES as usize)?;
        self.make_room();
        let table = Table {
            entries: entries.into(),
            state: State::Same,
            used: self.clock,
        };
        self.cached.insert(index, table);
        Ok(true)
    }

    fn make_room(&mut self) {
        if self.cached.len() < CACHED {
            return;
        }
        let oldest = self
            .cached
            .iter()
            .filter(|(_, table)| table.state == State::Same)
            .min_by_key(|(_, table)| table.used)
            .map(|(&index, _)| index);
        if let Some(index) = oldest {
            self.cached.remove(&index);
        }
    }

    /// Every grain, and its first sector or what is wrong with the entry.
    pub(super) fn for_each_grain(
        &mut self,
        file: &Raw,
        mut each: impl FnMut(u64, io::Result<u64>),
    ) -> io::Result<()> {
        let first = self.directories.first();
        let tables = first.map_or(0, |directory| directory.entries.len());
        for index in 0..tables as u32 {
            if !self.load_table(file, index)? {
                continue;
            }
            for slot in 0..TABLE_ENTRIES {
                let grain = u64::from(index)
                    .saturating_mul(TABLE_ENTRIES)
                    .saturating_add(slot);
                if grain.saturating_mul(self.grain) >= self.capacity {
                    break;
                }
                match self.find_loaded(file, index, slot as usize) {
                    Ok(Grain::Absent) => {}
                    Ok(Grain::At(sector)) => each(grain, Ok(sector)),
                    Err(error) => each(grain, Err(error)),
                }
            }
        }
        Ok(())
    }

    /// Makes a grain one that was never written.
    pub(super) fn forget(&mut self, file: &Raw, grain: u64) -> io::Result<()> {
        let (index, slot) = split(grain)?;
        self.rewrite(file, index)?;
        if let Some(table) = self.cached.get_mut(&index)
            && let Some(entry) = table.entries.get_mut(slot)
        {
            *entry = 0;
        }
        Ok(())
    }

    /// Tables of the second copy that differ from the first.
    pub(super) fn differing_tables(&self, file: &Raw) -> io::Result<Vec<Differing>> {
        let [first, second] = self.directories.as_slice() else {
            return Ok(Vec::new());
        };
        let entries = |sector: u32| match sector {
            0 => Ok(vec![0; TABLE_ENTRIES as usize]),
            _ => read_numbers(file, sector.into(), TABLE_ENTRIES as usize),
        };
        let mut differing = Vec::new();
        for (index, pair) in first.entries.iter().zip(&second.entries).enumerate() {
            if let (0, 0) = pair {
                continue;
            }
            let (one, other) = (entries(*pair.0)?, entries(*pair.1)?);
            if one != other || *pair.0 == 0 || *pair.1 == 0 {
                let mut pairs = one.iter().zip(&other);
                differing.push(Differing {
                    index: index as u32,
                    incomplete: pairs.all(|(one, other)| one == other || *one == 0 || *other == 0),
                });
            }
        }
        Ok(differing)
    }

    /// Has a table written anew to all copies with the next batch.
    pub(super) fn rewrite(&mut self, file: &Raw, index: u32) -> io::Result<()> {
        self.add_missing_tables(file, index)?;
        self.load_table(file, index)?;
        if let Some(table) = self.cached.get_mut(&index)
            && table.state != State::Changed
        {
            table.state = State::Changed;
            self.changed = self.changed.saturating_add(1);
        }
        Ok(())
    }

    /// Sectors of metadata, in order.
    pub(super) fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }
}

/// Table and place in it.
fn split(grain: u64) -> io::Result<(u32, usize)> {
    let index = u32::try_from(grain / TABLE_ENTRIES)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok((index, (grain % TABLE_ENTRIES) as usize))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The sectors of a piece of metadata, if they are in the file.
fn place_in(sectors: u64, at: u64, size: u64, what: &str) -> Result<Range<u64>, Refusal> {
    match at.checked_add(size) {
        Some(end) if at != 0 && end <= sectors => Ok(at..end),
        _ => Err(Refusal::invalid(format!(
            "its {what} at sector {at} does not lie in the file, which has {sectors} sectors"
        ))),
    }
}

fn merge(mut places: Vec<Range<u64>>) -> Result<Vec<Range<u64>>, Refusal> {
    places.retain(|place| !place.is_empty());
    places.sort_unstable_by_key(|place| place.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for place in places {
        match merged.last_mut() {
            Some(last) if place.start < last.end => {
                return Err(Refusal::invalid(format!(
                    "two pieces of its metadata lie at sector {}",
                    place.start
                )));
            }
            Some(last) if place.start == last.end => last.end = place.end,
            _ => merged.push(place),
        }
    }
    Ok(merged)
}

/// `reserved` is in order and without overlaps.
fn overlaps(reserved: &[Range<u64>], place: &Range<u64>) -> bool {
    let behind = reserved.partition_point(|other| other.end <= place.start);
    reserved
        .get(behind)
        .is_some_and(|other| other.start < place.end)
}

/// Little-endian numbers of 32 bits from the file.
fn read_numbers(file: &Raw, sector: u64, count: usize) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; count.saturating_mul(4)];
    file.read(
        sector.saturating_mul(SECTOR),
        &Buffers::of_slice(&mut bytes),
    )?;
    Ok(bytes
        .as_chunks()
        .0
        .iter()
        .map(|&number| u32::from_le_bytes(number))
        .collect())
}

const _: () = assert!(TABLE_BYTES == TABLE_SECTORS * SECTOR);
