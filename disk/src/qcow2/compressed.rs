//! Reading compressed clusters.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use super::damaged;
use super::entry::Compressed;
use super::header::Compression;
use super::store::Store;
use crate::Buffers;

/// Clusters that are kept, since a reader goes through one in several requests.
const KEPT: usize = 4;

/// The largest window that a Zstandard decoder should support (RFC 8878, section 3.1.1.1.2).
const WINDOW_MAX: u64 = 8 << 20;

/// Decompresses clusters.
#[derive(Debug)]
pub(super) struct Decompressor {
    compression: Compression,
    cluster_size: usize,
    /// The last ones, by where they are in the file. They never change: nothing is written over a compressed cluster
    /// while the image is open.
    kept: Mutex<VecDeque<(Compressed, Arc<Vec<u8>>)>>,
}

impl Decompressor {
    pub(super) fn new(compression: Compression, cluster_size: u64) -> Decompressor {
        Decompressor {
            compression,
            cluster_size: cluster_size as usize,
            kept: Mutex::new(VecDeque::new()),
        }
    }

    /// The bytes of the cluster.
    pub(super) fn read(&self, store: &Store, cluster: Compressed) -> io::Result<Arc<Vec<u8>>> {
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, bytes)) = kept.iter().find(|(place, _)| *place == cluster) {
                return Ok(Arc::clone(bytes));
            }
        }
        // The last one ends where the file does, before its last sector is full.
        let there = store.length().saturating_sub(cluster.offset);
        let mut input = vec![0; cluster.length.min(there) as usize];
        store.read(cluster.offset, &Buffers::of_slice(&mut input))?;
        let bytes = match self.compression {
            Compression::Deflate => inflate(&input, self.cluster_size)?,
            Compression::Zstd => decode_zstd(&input, self.cluster_size)?,
        };
        let bytes = Arc::new(bytes);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT.saturating_sub(1));
        kept.push_front((cluster, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

fn inflate(input: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut decoder = Decompress::new(false);
    let status = decoder.decompress(input, &mut bytes, FlushDecompress::Finish);
    // The stream may be followed by other clusters, and output beyond a cluster is of no interest.
    match status {
        Ok(Status::Ok | Status::StreamEnd | Status::BufError)
            if decoder.total_out() == size as u64 =>
        {
            Ok(bytes)
        }
        _ => Err(damaged("a compressed cluster cannot be decompressed")),
    }
}

fn decode_zstd(input: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let broken = || damaged::<io::Error>("a compressed cluster cannot be decompressed");
    if window_size(input).ok_or_else(broken)? > WINDOW_MAX {
        return Err(damaged("a compressed cluster needs too much memory"));
    }
    let mut bytes = vec![0; size];
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(input).map_err(|_| broken())?;
    decoder.read_exact(&mut bytes).map_err(|_| broken())?;
    Ok(bytes)
}

/// Bytes that the decoder has to remember, from the frame's header (RFC 8878, section 3.1.1.1).
fn window_size(frame: &[u8]) -> Option<u64> {
    let (magic, rest) = frame.split_first_chunk()?;
    if u32::from_le_bytes(*magic) != 0xFD2F_B528 {
        return None;
    }
    let (descriptor, rest) = rest.split_first()?;
    if descriptor & 0x20 == 0 {
        let window = rest.first()?;
        let base = 1_u64.wrapping_shl(u32::from(window >> 3).saturating_add(10));
        return Some(base.saturating_add((base / 8).saturating_mul(u64::from(window & 7))));
    }
    // A single segment: the window is the content.
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let content = rest.get(*dictionary..)?;
    let number = |length: usize| {
        let bytes = content.get(..length)?.iter().rev();
        Some(bytes.fold(0_u64, |sum, byte| sum.wrapping_shl(8) | u64::from(*byte)))
    };
    match descriptor >> 6 {
        0 => number(1),
        1 => Some(number(2)?.saturating_add(256)),
        2 => number(4),
        _ => number(8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_compressed_cluster_is_an_error() {
        let no = [&[][..], &[0], &[0xff; 600], b"\x28\xb5\x2f\xfd"];
        for input in no {
            assert!(inflate(input, 65536).is_err());
            assert!(decode_zstd(input, 65536).is_err());
        }
    }

    #[test]
    fn a_frame_that_asks_for_much_memory_is_refused() {
        // A window of 2^41 bytes; a single segment of 2^40.
        for header in [&[0, 31 << 3][..], &[0xe0, 0, 0, 0, 0, 0, 1, 0, 0]] {
            let frame = [&[0x28, 0xb5, 0x2f, 0xfd], header, &[0; 64]].concat();
            let error = decode_zstd(&frame, 65536).unwrap_err().to_string();
            assert!(error.contains("too much memory"), "{error}");
        }
    }
}
