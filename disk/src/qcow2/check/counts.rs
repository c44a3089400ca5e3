//! Reference counts that are counted.

use std::collections::BTreeMap;
use std::io;

/// Clusters whose counts are kept together.
const CHUNK: u64 = 64;
/// Chunks that are kept: a file of 16 TiB in clusters of 64 KiB has that many, and they are 1.2 GiB of memory.
const CHUNKS_MAX: usize = 4 << 20;

/// A number for each cluster of a file that may be mostly holes.
#[derive(Debug, Default)]
pub(super) struct Counts {
    chunks: BTreeMap<u64, [u32; CHUNK as usize]>,
}

impl Counts {
    /// # Errors
    /// When that would take too much memory.
    pub(super) fn add(&mut self, cluster: u64, times: u64) -> io::Result<()> {
        let (chunk, at) = (cluster / CHUNK, cluster % CHUNK);
        if self.chunks.len() >= CHUNKS_MAX && !self.chunks.contains_key(&chunk) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let counts = self.chunks.entry(chunk).or_insert([0; CHUNK as usize]);
        if let Some(count) = counts.get_mut(at as usize) {
            *count = count.saturating_add(u32::try_from(times).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    pub(super) fn get(&self, cluster: u64) -> u64 {
        let chunk = self.chunks.get(&(cluster / CHUNK));
        chunk
            .and_then(|counts| counts.get((cluster % CHUNK) as usize))
            .map_or(0, |count| u64::from(*count))
    }

    /// Clusters that are counted at all, in order.
    pub(super) fn clusters(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().flat_map(|(chunk, counts)| {
            let first = chunk.saturating_mul(CHUNK);
            let counted = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            counted.map(move |(at, _)| first.saturating_add(at as u64))
        })
    }
}
