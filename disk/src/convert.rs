//! Copying a disk into a new image.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use nix::unistd::{Whence, lseek};

use crate::create::create_files;
use crate::staging::Staging;
use crate::{Access, Buffers, Cache, CreateOptions, DiskError, Image, OpenOptions, open};

/// Bytes that are read at a time.
const STEP: u64 = 1 << 20;

/// Zeros of this length and alignment are not written: a block of usual file systems.
const BLOCK: usize = 4096;

/// Copies the disk `source` into a new image at `target`, which appears when it is complete and durable. Zeros take up no
/// storage there. `progress` is told, again and again, how many bytes of the disk are done, and may end it.
///
/// # Errors
/// When the source cannot be read or the target not be made. `progress` ending it is an error of the kind `Interrupted`. Nothing is
/// left of the target then.
pub fn convert(
    source: &dyn Image,
    target: &Path,
    options: &CreateOptions,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<(), DiskError> {
    if options.size() < source.size() {
        return Err(DiskError::Unsupported {
            path: target.to_owned(),
            format: options.format(),
            reason: "it would be smaller than what is copied to it".to_owned(),
        });
    }
    let staging = Staging::new(target)?;
    let path = staging.path();
    create_files(&path, options, &mut || progress(0))
        .map_err(|error| staging.name_target(error))?;
    let opened = OpenOptions {
        format: options.format(),
        read_only: false,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    let image = open(&path, &opened).map_err(|error| staging.name_target(error))?;
    copy(source, &*image, &mut progress)
        .and_then(|()| image.flush())
        .map_err(|source| DiskError::Io {
            what: "convert to",
            path: target.to_owned(),
            source,
        })?;
    drop(image);
    staging.publish()
}

fn copy(
    source: &dyn Image,
    target: &dyn Image,
    progress: &mut impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<()> {
    let size = source.size();
    let mut bytes = vec![0; STEP as usize];
    let mut at = 0_u64;
    while at < size {
        let left = size.saturating_sub(at);
        let hole = hole_at(source, at, left);
        if hole > 0 {
            at = at.saturating_add(hole);
        } else {
            // Steps end at multiples of their length, so that blocks keep their alignment.
            let step = STEP.saturating_sub(at % STEP).min(left);
            let piece = bytes.get_mut(..step as usize).unwrap_or_default();
            source.read(at, &Buffers::of_slice(piece))?;
            write_data(target, at, piece)?;
            at = at.saturating_add(step);
        }
        if progress(at).is_break() {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

/// Length of the hole that the source's file has there; 0 if there is data, or it is not known.
fn hole_at(source: &dyn Image, at: u64, length: u64) -> u64 {
    let Some(place) = source.place(at, length, Access::Read) else {
        return 0;
    };
    let Ok(from) = i64::try_from(place.offset) else {
        return 0;
    };
    match lseek(place.file, from, Whence::SeekData) {
        Ok(data) => (data as u64).saturating_sub(place.offset).min(place.length),
        // There is none to the end.
        Err(nix::Error::ENXIO) => place.length,
        Err(_) => 0,
    }
}

/// Writes what is not zero.
fn write_data(target: &dyn Image, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    let zeros = [0; BLOCK];
    let mut start = at;
    let mut rest = bytes;
    while !rest.is_empty() {
        let is_zero = |block: &[u8]| zeros.get(..block.len()) == Some(block);
        let first = rest.get(..BLOCK.min(rest.len())).is_some_and(is_zero);
        let run: usize = rest
            .chunks(BLOCK)
            .take_while(|block| is_zero(block) == first)
            .map(<[u8]>::len)
            .sum();
        let (now, later) = std::mem::take(&mut rest).split_at_mut(run);
        if !first {
            target.write(start, &Buffers::of_slice(now))?;
        }
        start = start.saturating_add(run as u64);
        rest = later;
    }
    Ok(())
}
