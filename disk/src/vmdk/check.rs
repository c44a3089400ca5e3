//! Examining grain tables.

use std::io;
use std::path::Path;

use nix::unistd::{Whence, lseek};

use super::sparse::{Purpose, Sparse};
use super::tables::Differing;
use super::{Compressed, Kind, Vmdk};
use crate::raw::Raw;
use crate::{Access, Buffers, CheckReport, DiskError, Image, OpenOptions, Repair, SECTOR};

/// Examines every extent of the disk.
pub(crate) fn check(
    path: &Path,
    options: &OpenOptions,
    repair: Repair,
) -> Result<CheckReport, DiskError> {
    // Compressed grains cannot be repaired, but looked at.
    let disk = Vmdk::open_for(Purpose::Check, path, options)?;
    let mut report = CheckReport::default();
    for extent in &disk.extents {
        match &extent.image {
            Kind::Sparse(sparse) => check_sparse(sparse, repair, &mut report),
            Kind::Compressed(compressed) => check_compressed(compressed, &mut report),
            Kind::Flat(_) | Kind::Zeros(_) => Ok(()),
        }
        .map_err(|source| DiskError::Io {
            what: "check",
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(report)
}

/// Which grain-sized pieces of a file are in use: one bit each, at most 64 MiB for the 2 TiB that an entry reaches.
struct Pieces {
    bits: Vec<u8>,
}

impl Pieces {
    fn new(count: u64) -> Pieces {
        Pieces {
            bits: vec![0; count.div_ceil(8) as usize],
        }
    }

    /// Marks a piece. Returns whether it was marked before.
    fn mark(&mut self, piece: u64) -> bool {
        let bit = 1 << (piece % 8);
        let Some(byte) = self.bits.get_mut((piece / 8) as usize) else {
            return false;
        };
        let before = *byte & bit != 0;
        *byte |= bit;
        before
    }

    fn is_marked(&self, piece: u64) -> bool {
        let byte = self.bits.get((piece / 8) as usize).copied();
        byte.unwrap_or(0) & (1 << (piece % 8)) != 0
    }
}

fn check_sparse(sparse: &Sparse, repair: Repair, report: &mut CheckReport) -> io::Result<()> {
    if repair != Repair::Nothing {
        sparse.mark()?;
    }
    let grain = sparse.grain();
    let sectors = grain / SECTOR;
    sparse.with_tables(|tables, file| -> io::Result<()> {
        let count = (file.size().min(u64::from(u32::MAX).saturating_mul(SECTOR)))
            .div_ceil(grain.max(SECTOR));
        let (mut starts, mut used) = (Pieces::new(count), Pieces::new(count));
        let piece_of = |sector: u64| sector.checked_div(sectors).unwrap_or(0);
        for place in tables.reserved() {
            for piece in piece_of(place.start)..=piece_of(place.end.saturating_sub(1)) {
                used.mark(piece);
            }
        }
        let mut wrong = Vec::new();
        tables.for_each_grain(file, |number, found| match found {
            Ok(sector) => {
                // Two grains that begin in one piece share sectors.
                if starts.mark(piece_of(sector)) {
                    report.corruption(format_args!(
                        "grain {number} shares sector {sector} with another one"
                    ));
                }
                used.mark(piece_of(sector));
                used.mark(piece_of(sector.saturating_add(sectors).saturating_sub(1)));
            }
            Err(error) if repair == Repair::All => {
                report.say(format_args!("grain {number} is lost: {error}"));
                wrong.push(number);
            }
            Err(error) => report.corruption(format_args!("grain {number}: {error}")),
        })?;
        for number in wrong {
            tables.forget(file, number)?;
            report.corruptions_fixed = report.corruptions_fixed.saturating_add(1);
        }
        for Differing { index, incomplete } in tables.differing_tables(file)? {
            report.say(format_args!("the two copies of grain table {index} differ"));
            // A crash between the writes of both leaves that, and nothing that was flushed is concerned.
            let unfinished = incomplete && sparse.unclean();
            let (found, fixed) = if unfinished {
                (&mut report.leaks, &mut report.leaks_fixed)
            } else {
                (&mut report.corruptions, &mut report.corruptions_fixed)
            };
            if repair == Repair::All || unfinished && repair == Repair::Leaks {
                tables.rewrite(file, index)?;
                *fixed = fixed.saturating_add(1);
            } else {
                *found = found.saturating_add(1);
            }
        }
        check_leaks(file, grain, count, &used, repair, report)
    })?;
    sparse.flush()
}

/// Pieces that nothing refers to, and that take up storage.
fn check_leaks(
    file: &Raw,
    grain: u64,
    count: u64,
    used: &Pieces,
    repair: Repair,
    report: &mut CheckReport,
) -> io::Result<()> {
    for piece in (0..count).filter(|&piece| !used.is_marked(piece)) {
        let start = piece.saturating_mul(grain);
        let length = grain.min(file.size().saturating_sub(start));
        if !has_storage(file, start, length)? {
            continue;
        }
        if repair == Repair::Nothing {
            report.leak(format_args!(
                "nothing refers to the grain at sector {}",
                start / SECTOR
            ));
        } else {
            file.discard(start, length)?;
            report.leaks_fixed = report.leaks_fixed.saturating_add(1);
        }
    }
    Ok(())
}

/// Whether the file has anything but holes there.
fn has_storage(file: &Raw, start: u64, length: u64) -> io::Result<bool> {
    let Some(place) = file.place(start, length, Access::Read) else {
        return Ok(false);
    };
    let from = i64::try_from(start).map_err(|_| io::ErrorKind::InvalidInput)?;
    match lseek(place.file, from, Whence::SeekData) {
        Ok(data) => Ok((data as u64) < start.saturating_add(length)),
        // There is none to the end.
        Err(nix::Error::ENXIO) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn check_compressed(compressed: &Compressed, report: &mut CheckReport) -> io::Result<()> {
    let (size, grain) = (compressed.size(), compressed.grain_size());
    let mut bytes = vec![0; grain as usize];
    for number in 0..size.div_ceil(grain.max(SECTOR)) {
        let start = number.saturating_mul(grain);
        let length = grain.min(size.saturating_sub(start));
        let part = bytes.get_mut(..length as usize).unwrap_or_default();
        match compressed.read(start, &Buffers::of_slice(part)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                report.corruption(format_args!("grain {number}: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
