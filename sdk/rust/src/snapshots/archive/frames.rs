//! Data as a row of frames of Zstandard (RFC 8878): each is compressed by itself, so that memory is bounded on both sides.

use std::io::{self, BufRead, Read, Write};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// Bytes of a frame before compression.
const FRAME: usize = 4 << 20;

/// What a frame begins with.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Compresses what is written to it.
pub(in crate::snapshots) struct FrameWriter<W> {
    output: W,
    frame: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    pub(in crate::snapshots) fn new(output: W) -> FrameWriter<W> {
        FrameWriter {
            output,
            frame: Vec::new(),
        }
    }

    /// Writes what is left, and returns where to.
    ///
    /// # Errors
    /// As write(2).
    pub(in crate::snapshots) fn finish(mut self) -> io::Result<W> {
        self.end_frame()?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let compressed = compress_to_vec(&self.frame[..], CompressionLevel::Fastest);
        self.frame.clear();
        self.output.write_all(&compressed)
    }
}

impl<W: Write> Write for FrameWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = FRAME - self.frame.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.frame.extend_from_slice(taken);
        if self.frame.len() == FRAME {
            self.end_frame()?;
        }
        Ok(taken.len())
    }

    /// What is not a whole frame yet waits for [`finish`](Self::finish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decompresses a row of frames.
pub(in crate::snapshots) struct FrameReader<R: Read> {
    state: State<R>,
}

type Decoder<R> = StreamingDecoder<Frame<R>, ruzstd::decoding::FrameDecoder>;

/// A frame whose first bytes were taken already.
type Frame<R> = io::Chain<io::Cursor<[u8; 4]>, R>;

enum State<R: Read> {
    Between(R),
    Within(Box<Decoder<R>>),
    Over,
}

impl<R: BufRead> FrameReader<R> {
    pub(in crate::snapshots) fn new(input: R) -> FrameReader<R> {
        FrameReader {
            state: State::Between(input),
        }
    }

    /// Begins the next frame; the end, if there is none.
    fn begin(mut input: R) -> io::Result<State<R>> {
        if input.fill_buf()?.is_empty() {
            return Ok(State::Over);
        }
        let mut magic = [0; 4];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(io::Error::other("it is not compressed by Zstandard"));
        }
        let frame = io::Cursor::new(magic).chain(input);
        let decoder = StreamingDecoder::new(frame).map_err(io::Error::other)?;
        Ok(State::Within(Box::new(decoder)))
    }

    fn end(decoder: Decoder<R>) -> io::Result<State<R>> {
        let (frame, decoder) = decoder.into_parts();
        let stored = decoder.get_checksum_from_data();
        if stored.is_some() && stored != decoder.get_calculated_checksum() {
            return Err(io::Error::other("a checksum is wrong"));
        }
        Ok(State::Between(frame.into_inner().1))
    }
}

impl<R: BufRead> Read for FrameReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // After an error it is over.
            self.state = match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Ok(0),
                State::Between(input) => Self::begin(input)?,
                State::Within(mut decoder) => {
                    let count = decoder.read(buffer)?;
                    if count > 0 {
                        self.state = State::Within(decoder);
                        return Ok(count);
                    }
                    Self::end(*decoder)?
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn compress(bytes: &[u8]) -> Vec<u8> {
        let mut compressed = Vec::new();
        let mut writer = FrameWriter::new(&mut compressed);
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
        compressed
    }

    fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut decompressed = Vec::new();
        FrameReader::new(bytes).read_to_end(&mut decompressed)?;
        Ok(decompressed)
    }

    #[test]
    fn several_frames_are_one_row_of_bytes() {
        let pattern = (0..9_000_000_u32).map(|number| (number / 1000) as u8);
        let bytes: Vec<u8> = pattern.collect();
        let compressed = compress(&bytes);
        assert!(compressed.len() < bytes.len() / 10);
        assert!(decompress(&compressed).unwrap() == bytes);
        assert_eq!(decompress(&compress(b"")).unwrap(), b"");
    }

    #[test]
    fn zstd_reads_it_too() {
        let program = std::env::current_exe().unwrap();
        let bytes = std::fs::read(program).unwrap();
        let bytes = bytes.get(..6_000_000).unwrap_or(&bytes);
        let mut zstd = Command::new("zstd")
            .args(["-d", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = zstd.stdin.take().unwrap();
        let compressed = compress(bytes);
        let writer = std::thread::spawn(move || input.write_all(&compressed));
        let output = zstd.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == bytes);
    }

    #[test]
    fn what_is_damaged_or_cut_off_is_noticed() {
        let compressed = compress(&vec![7; 100_000]);
        for length in 1..compressed.len() {
            assert!(decompress(&compressed[..length]).is_err(), "{length}");
        }
        assert!(decompress(b"no Zstandard at all").is_err());
        let mut trailing = compressed;
        trailing.push(0);
        assert!(decompress(&trailing).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_was_compressed_comes_back(
            parts in prop::collection::vec((any::<u8>(), 1_usize..4000, prop::collection::vec(any::<u8>(), 0..2000)), 0..20)
        ) {
            let mut bytes = Vec::new();
            for (byte, count, random) in parts {
                bytes.extend(std::iter::repeat_n(byte, count));
                bytes.extend(random);
            }
            prop_assert!(decompress(&compress(&bytes)).unwrap() == bytes);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decompress(&bytes);
            bytes.splice(..0, MAGIC);
            let _ = decompress(&bytes);
        }
    }
}
