//! The digest of a layer: of its data, wherever the file has holes.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use image::{Digest, Hasher};

use super::Progress;
use super::error::Stop;
use crate::sparse;

/// Bytes of a block, which counts unless all of it is zero.
pub(super) const BLOCK: usize = 64 << 10;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

/// The SHA-256 of the blocks of 64 KiB that are not all zero, each after its offset as 8 bytes in little endian. So files have
/// the same digest if and only if they read the same, up to zeros at their ends.
#[derive(Default)]
pub(super) struct LayerHasher(Hasher);

impl LayerHasher {
    /// Adds the block at `offset`, which is a multiple of [`BLOCK`] and greater than those before. Returns whether it counts.
    pub(super) fn update(&mut self, offset: u64, block: &[u8]) -> bool {
        if is_zero(block) {
            return false;
        }
        self.0.update(&offset.to_le_bytes());
        self.0.update(block);
        true
    }

    pub(super) fn finish(self) -> Digest {
        self.0.finish()
    }
}

/// The digest of a file.
///
/// # Errors
/// As the system calls; [`Stop`] if `progress` wants it.
pub(super) fn digest(file: &File, progress: Progress<'_>) -> io::Result<Digest> {
    let mut hasher = LayerHasher::default();
    each_block(file, progress, |offset, block| {
        hasher.update(offset, block);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Makes the empty file `to` what `from` is, durably, and returns its digest.
///
/// # Errors
/// As [`digest`].
pub(super) fn copy(from: &File, to: &File, progress: Progress<'_>) -> io::Result<Digest> {
    let digest = if sparse::share(from, to) {
        digest(to, progress)?
    } else {
        to.set_len(from.metadata()?.len())?;
        let mut hasher = LayerHasher::default();
        each_block(from, progress, |offset, block| {
            if hasher.update(offset, block) {
                to.write_all_at(block, offset)?;
            }
            Ok(())
        })?;
        hasher.finish()
    };
    to.sync_all()?;
    Ok(digest)
}

/// Shows the blocks of a file that may have data, in order.
fn each_block(
    file: &File,
    progress: Progress<'_>,
    mut show: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let size = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK];
    let mut position = 0;
    while let Some((start, stop)) = sparse::next_data(file, position)? {
        // Positions are multiples, so this is none of the blocks that were shown.
        position = start - start % BLOCK as u64;
        while position < stop.min(size) {
            let left = usize::try_from(size - position).unwrap_or(CHUNK);
            let part = chunk.get_mut(..left.min(CHUNK)).unwrap_or_default();
            // What is behind the data is a hole, or more data.
            let wanted = usize::try_from(stop - position).unwrap_or(CHUNK);
            let wanted = wanted.next_multiple_of(BLOCK).min(part.len());
            let part = part.get_mut(..wanted).unwrap_or_default();
            file.read_exact_at(part, position)?;
            for block in part.chunks(BLOCK) {
                show(position, block)?;
                position += block.len() as u64;
            }
            advance(progress, position, size)?;
        }
        if position >= size {
            break;
        }
    }
    Ok(())
}

/// Tells how far something is.
///
/// # Errors
/// [`Stop`] if that is wanted.
pub(super) fn advance(progress: Progress<'_>, done: u64, total: u64) -> io::Result<()> {
    match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(io::Error::other(Stop)),
    }
}

/// Whether all of a block is zero, so that a hole can be in its place.
pub(super) fn is_zero(block: &[u8]) -> bool {
    // In pieces, which the compiler makes vector instructions of.
    block
        .chunks(256)
        .all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshots::silent;

    /// As the format says it, of all bytes in memory.
    fn expected(bytes: &[u8]) -> Digest {
        let mut text = Vec::new();
        for (number, block) in (0_u64..).zip(bytes.chunks(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                text.extend((number * BLOCK as u64).to_le_bytes());
                text.extend(block);
            }
        }
        Digest::of(&text)
    }

    fn file(size: u64, data: &[(u64, Vec<u8>)]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file.set_len(size).unwrap();
        file
    }

    fn contents(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_file_without_data_has_the_digest_of_nothing() {
        let empty = file(0, &[]);
        let hole = file(1 << 30, &[]);
        let zeros = file(300_000, &[(0, vec![0; 300_000])]);
        for file in [empty, hole, zeros] {
            assert_eq!(digest(&file, &mut silent).unwrap(), Digest::of(b""));
        }
    }

    #[test]
    fn it_stops_when_that_is_wanted() {
        let from = file(4 << 20, &[(0, vec![1; 4 << 20])]);
        let mut calls = 0;
        let mut stop = |_, _| {
            calls += 1;
            ControlFlow::Break(())
        };
        let error = digest(&from, &mut stop).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Stop>()));
        assert_eq!(calls, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn holes_and_zeros_are_the_same(
            size in 0_u64..3_000_000,
            places in prop::collection::vec((0_u64..3_000_000, 1_usize..200_000, any::<bool>()), 0..6),
        ) {
            let data: Vec<_> = places.into_iter().map(|(offset, length, zero)| {
                (offset, vec![if zero { 0 } else { 7 }; length])
            }).collect();
            let from = file(size, &data);
            let bytes = contents(&from);
            let to = tempfile::tempfile().unwrap();
            let copied = copy(&from, &to, &mut silent).unwrap();
            prop_assert_eq!(copied, expected(&bytes));
            prop_assert!(contents(&to) == bytes);
            prop_assert_eq!(digest(&to, &mut silent).unwrap(), copied);
            let dense = file(size, &[(0, bytes)]);
            prop_assert_eq!(digest(&dense, &mut silent).unwrap(), copied);
        }
    }
}
