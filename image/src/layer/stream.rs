//! A layer's archive as it is when it is decompressed, with its hash.
//!
//! A thread reads and decompresses; the caller's thread hashes and works on what comes of it. Between them are a few
//! chunks, which go round.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::{LayerError, Limits};
use crate::digest::{Digest, Hasher};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// Chunks that wait for the caller's thread.
const WAITING: usize = 8;

/// Bytes of the compressed layer that are read at once.
const INPUT: usize = 256 << 10;

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// How a blob is compressed that begins with these bytes, of which 4 are enough.
    pub fn of(beginning: &[u8]) -> Self {
        if beginning.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if beginning.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(beginning) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "Zstandard",
        })
    }
}

/// Whether a frame of Zstandard has nothing for the decompressed stream (RFC 8878, section 3.1.2).
fn is_skippable(beginning: &[u8]) -> bool {
    matches!(beginning, [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50)
}

/// The decompressed archive.
pub(super) struct Stream {
    chunks: Receiver<Result<Vec<u8>, LayerError>>,
    used: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    /// What of the chunk is used up.
    at: usize,
    hasher: Hasher,
    /// Bytes that came so far.
    received: u64,
    limit: u64,
}

/// The other end of a [`Stream`], which fills it.
pub(super) struct Source {
    chunks: SyncSender<Result<Vec<u8>, LayerError>>,
    used: Receiver<Vec<u8>>,
}

/// A stream and what fills it.
pub(super) fn stream(limits: &Limits) -> (Source, Stream) {
    let (chunks, incoming) = sync_channel(WAITING);
    let (used, reusable) = channel();
    let source = Source {
        chunks,
        used: reusable,
    };
    let stream = Stream {
        chunks: incoming,
        used,
        chunk: Vec::new(),
        at: 0,
        hasher: Hasher::new(),
        received: 0,
        limit: limits.tar_bytes,
    };
    (source, stream)
}

impl Source {
    /// Decompresses a blob until it ends or the stream is dropped.
    pub(super) fn fill(&self, blob: impl Read, compression: Compression) {
        if let Err(error) = self.decompress(blob, compression) {
            // Nobody waits any more if this fails.
            let _ = self.chunks.send(Err(error));
        }
    }

    fn decompress(&self, blob: impl Read, declared: Compression) -> Result<(), LayerError> {
        let mut beginning = Vec::with_capacity(4);
        let mut blob = blob;
        blob.by_ref()
            .take(4)
            .read_to_end(&mut beginning)
            .map_err(LayerError::Read)?;
        let found = Compression::of(&beginning);
        if found != declared {
            return Err(LayerError::Compression { declared, found });
        }
        let mut blob = BufReader::with_capacity(INPUT, io::Cursor::new(beginning).chain(blob));
        match declared {
            Compression::None => self.pump(blob, declared),
            Compression::Gzip => self.pump(flate2::bufread::MultiGzDecoder::new(blob), declared),
            Compression::Zstd => {
                while let Some(magic) =
                    next_frame(&mut blob).map_err(|source| failure(declared, source))?
                {
                    self.frame(magic.chain(&mut blob))?;
                }
                Ok(())
            }
        }
    }

    /// Decompresses one frame of Zstandard.
    fn frame(&self, frame: impl Read) -> Result<(), LayerError> {
        let failed = |reason: String| failure(Compression::Zstd, io::Error::other(reason));
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(frame)
            .map_err(|error| failed(error.to_string()))?;
        self.pump(&mut decoder, Compression::Zstd)?;
        let decoder = decoder.into_frame_decoder();
        let stored = decoder.get_checksum_from_data();
        if stored.is_some() && stored != decoder.get_calculated_checksum() {
            return Err(failed("a frame's checksum is wrong".to_owned()));
        }
        Ok(())
    }

    /// Sends everything that a reader yields.
    fn pump(&self, mut reader: impl Read, compression: Compression) -> Result<(), LayerError> {
        loop {
            let mut chunk = self.used.try_recv().unwrap_or_default();
            chunk.resize(CHUNK, 0);
            let mut filled = 0;
            while let Some(room @ [_, ..]) = chunk.get_mut(filled..) {
                match reader.read(room) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        // What came before is in order; the caller may find its own fault in it first.
                        chunk.truncate(filled);
                        let _ = self.chunks.send(Ok(chunk));
                        return Err(failure(compression, error));
                    }
                }
            }
            chunk.truncate(filled);
            let is_last = filled < CHUNK;
            if filled > 0 && self.chunks.send(Ok(chunk)).is_err() || is_last {
                return Ok(());
            }
        }
    }
}

/// Goes to the next frame of Zstandard that has data, and returns its first bytes, if there is one.
fn next_frame(blob: &mut impl BufRead) -> io::Result<Option<io::Cursor<[u8; 4]>>> {
    while !blob.fill_buf()?.is_empty() {
        let mut magic = [0; 4];
        blob.read_exact(&mut magic)?;
        if !is_skippable(&magic) {
            return Ok(Some(io::Cursor::new(magic)));
        }
        let mut length = [0; 4];
        blob.read_exact(&mut length)?;
        let length = u64::from(u32::from_le_bytes(length));
        let skipped = io::copy(&mut blob.by_ref().take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(None)
}

/// Tells failures of the storage from those of the data.
fn failure(compression: Compression, source: io::Error) -> LayerError {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match source.kind() {
        InvalidData | InvalidInput | Other | UnexpectedEof if compression != Compression::None => {
            LayerError::Decompress {
                compression,
                source,
            }
        }
        _ => LayerError::Read(source),
    }
}

impl Stream {
    /// How far the caller is.
    pub(super) fn offset(&self) -> u64 {
        self.received - (self.chunk.len() - self.at) as u64
    }

    /// Bytes that have not been used, at most so many; none at the end.
    pub(super) fn available(&mut self, most: u64) -> Result<&[u8], LayerError> {
        while self.at == self.chunk.len() {
            let used = std::mem::take(&mut self.chunk);
            // The source ends before this one.
            let _ = self.used.send(used);
            self.at = 0;
            match self.chunks.recv() {
                Ok(chunk) => self.chunk = chunk?,
                Err(_) => break,
            }
            self.received += self.chunk.len() as u64;
            if self.received > self.limit {
                return Err(LayerError::Limit {
                    what: "more bytes when it is decompressed",
                    limit: self.limit,
                });
            }
            self.hasher.update(&self.chunk);
        }
        let rest = self.chunk.get(self.at..).unwrap_or_default();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(rest.get(..most).unwrap_or(rest))
    }

    /// Marks bytes as used, of those that [`Stream::available`] gave.
    pub(super) fn consume(&mut self, count: usize) {
        self.at += count;
    }

    /// Fills a buffer, as far as there are bytes; returns how far.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let available = self.available((buffer.len() - filled) as u64)?;
            let count = available.len();
            if count == 0 {
                break;
            }
            if let Some(room) = buffer.get_mut(filled..filled + count) {
                room.copy_from_slice(available);
            }
            filled += count;
            self.consume(count);
        }
        Ok(filled)
    }

    /// Hands out this many bytes in pieces.
    pub(super) fn pieces(
        &mut self,
        mut count: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        while count > 0 {
            let available = self.available(count)?;
            let length = available.len();
            if length == 0 {
                return Err(LayerError::Truncated {
                    offset: self.offset(),
                });
            }
            take(available)?;
            self.consume(length);
            count -= length as u64;
        }
        Ok(())
    }

    /// Goes to the end, and returns the hash of everything and how many bytes it was.
    pub(super) fn finish(mut self) -> Result<(Digest, u64), LayerError> {
        loop {
            let count = self.available(u64::MAX)?.len();
            if count == 0 {
                return Ok((self.hasher.finish(), self.received));
            }
            self.consume(count);
        }
    }
}
