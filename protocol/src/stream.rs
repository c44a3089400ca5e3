use std::io::{ErrorKind, Read, Write};

use serde::{Deserialize, Serialize};

use crate::{FrameDecoder, FrameError, encode};

/// Reads frames from a blocking stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    decoder: FrameDecoder,
}

impl<R: Read> FrameReader<R> {
    /// Reads ahead, so nobody else may read from `inner` afterwards.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            decoder: FrameDecoder::new(),
        }
    }

    /// As [`new`](Self::new), after what `decoder` has read already.
    pub fn resume(inner: R, decoder: FrameDecoder) -> Self {
        Self { inner, decoder }
    }

    /// Waits for the next message. `None` is the end of the stream between two frames; the end
    /// inside a frame is [`FrameError::Truncated`]. The message may borrow from the reader.
    pub fn read<'a, M: Deserialize<'a>>(&'a mut self) -> Result<Option<M>, FrameError> {
        while !self.decoder.has_frame()? {
            match self.decoder.read_from(&mut self.inner) {
                Ok(0) => return self.decoder.finish().map(|()| None),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.decoder.next_frame()
    }
}

/// Writes frames to a blocking stream, each with one call of `write` unless the stream takes less.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    /// Reused for every frame.
    buffer: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    /// A writer that owns the writing side of the stream.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
        }
    }

    /// Writes one message and flushes it. After [`FrameError::Io`] part of a frame may have gone
    /// out; after any other error nothing has.
    pub fn write<M: Serialize>(&mut self, message: &M) -> Result<(), FrameError> {
        self.buffer.clear();
        encode(message, &mut self.buffer)?;
        self.inner.write_all(&self.buffer)?;
        self.inner.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{GuestMessage, MAX_DATA};

    /// Counts calls and takes everything.
    #[derive(Default)]
    struct Sink {
        bytes: Vec<u8>,
        calls: usize,
    }

    impl Write for &mut Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            self.bytes.extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Gives one byte at a time, with an interruption before each.
    struct Trickle<'a> {
        bytes: &'a [u8],
        interrupted: bool,
    }

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = buffer.len().min(1);
            self.bytes.read(&mut buffer[..count])
        }
    }

    #[test]
    fn a_data_frame_is_one_write() {
        let mut sink = Sink::default();
        let mut writer = FrameWriter::new(&mut sink);
        writer.write(&GuestMessage::Stdout(&[1; MAX_DATA])).unwrap();
        assert_eq!((sink.calls, sink.bytes.len()), (1, 4 + 1 + 3 + MAX_DATA));
    }

    #[test]
    fn reads_what_was_written_however_it_arrives() {
        let mut sink = Sink::default();
        let mut writer = FrameWriter::new(&mut sink);
        writer.write(&GuestMessage::Stderr(b"x")).unwrap();
        writer.write(&GuestMessage::Goodbye).unwrap();
        let mut reader = FrameReader::new(Trickle {
            bytes: &sink.bytes,
            interrupted: false,
        });
        assert_eq!(reader.read().unwrap(), Some(GuestMessage::Stderr(b"x")));
        assert_eq!(reader.read().unwrap(), Some(GuestMessage::Goodbye));
        assert_eq!(reader.read::<GuestMessage>().unwrap(), None);
    }

    #[test]
    fn the_end_inside_a_frame_is_an_error() {
        let mut reader = FrameReader::new(&[2u8, 0, 0, 0, 6][..]);
        assert!(matches!(
            reader.read::<GuestMessage>(),
            Err(FrameError::Truncated)
        ));
    }
}
