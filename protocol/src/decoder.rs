use std::io::{self, Read};

use serde::Deserialize;

use crate::{FRAME_HEADER, FrameError, MAX_FRAME, MAX_MESSAGE};

/// Size of the buffer until a frame needs more.
const INITIAL_BUFFER: usize = 8 * 1024;

/// Cuts a stream of bytes into frames.
///
/// Feed it with [`read_from`](Self::read_from) and take what has arrived with
/// [`next_frame`](Self::next_frame) until there is nothing more. The buffer is reused; it grows
/// with the bytes that have arrived, never ahead of them on the word of a length field, and at
/// most to [`MAX_FRAME`].
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// Initialised storage; what has arrived and is not yet taken is `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameDecoder {
    /// An empty decoder; the first read allocates the buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `reader.read` once and keeps what it gives. Returns the number of bytes, 0 at the end
    /// of the stream; errors (`WouldBlock`, `Interrupted`) are passed on and lose nothing.
    ///
    /// Take all frames with [`next_frame`](Self::next_frame) before the next call: a decoder that
    /// is full of frames nobody took answers `InvalidInput`.
    pub fn read_from(&mut self, reader: &mut impl Read) -> io::Result<usize> {
        self.make_room();
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "frames are waiting",
            ));
        }
        let count = reader.read(room)?.min(room.len());
        self.end = self.end.saturating_add(count);
        Ok(count)
    }

    /// Takes the next message, or `None` when its frame has not arrived completely.
    ///
    /// The message may borrow from the decoder. After an error the stream cannot be followed any
    /// more.
    pub fn next_frame<'a, M: Deserialize<'a>>(&'a mut self) -> Result<Option<M>, FrameError> {
        let Some(length) = self.complete_frame()? else {
            return Ok(None);
        };
        let body = self.start.saturating_add(FRAME_HEADER);
        self.start = body.saturating_add(length);
        let bytes = self.buffer.get(body..self.start).unwrap_or_default();
        let (message, rest) = postcard::take_from_bytes(bytes).map_err(FrameError::Malformed)?;
        match rest.len() {
            0 => Ok(Some(message)),
            count => Err(FrameError::TrailingBytes { count }),
        }
    }

    /// Whether a whole frame waits for [`next_frame`](Self::next_frame).
    pub fn has_frame(&self) -> Result<bool, FrameError> {
        Ok(self.complete_frame()?.is_some())
    }

    /// To be called at the end of the stream: an error if it came inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.start == self.end {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }

    /// Length of the next message if all of it is here.
    fn complete_frame(&self) -> Result<Option<usize>, FrameError> {
        let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((header, body)) = pending.split_first_chunk::<FRAME_HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLong);
        }
        Ok((body.len() >= length).then_some(length))
    }

    /// Makes the next read worth its call: moves what is left to the front, and only when that
    /// fills the whole buffer doubles it.
    fn make_room(&mut self) {
        let room = self.buffer.len().saturating_sub(self.end);
        if self.start > 0 && (self.start == self.end || room < INITIAL_BUFFER / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let size = self
                .buffer
                .len()
                .saturating_mul(2)
                .clamp(INITIAL_BUFFER, MAX_FRAME);
            self.buffer.resize(size, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestMessage, HostMessage, encode};

    fn frame(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat()
    }

    fn decode_one(bytes: &[u8]) -> Result<Option<u32>, FrameError> {
        let mut decoder = FrameDecoder::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            decoder.read_from(&mut rest)?;
        }
        match decoder.next_frame::<GuestMessage>()? {
            Some(GuestMessage::StdinCredit(bytes)) => Ok(Some(bytes)),
            Some(other) => panic!("{other:?}"),
            None => Ok(None),
        }
    }

    #[test]
    fn waits_for_the_last_byte() {
        let bytes = frame(&[6, 5]);
        for cut in 0..bytes.len() {
            assert!(matches!(decode_one(&bytes[..cut]), Ok(None)), "{cut}");
        }
        assert!(matches!(decode_one(&bytes), Ok(Some(5))));
    }

    #[test]
    fn tells_the_end_inside_a_frame_from_the_end_between_frames() {
        let mut decoder = FrameDecoder::new();
        assert!(decoder.finish().is_ok());
        decoder.read_from(&mut &[1u8, 0][..]).unwrap();
        assert!(matches!(decoder.finish(), Err(FrameError::Truncated)));
    }

    #[test]
    fn refuses_trailing_bytes() {
        let error = decode_one(&frame(&[6, 5, 0, 0])).unwrap_err();
        assert!(matches!(error, FrameError::TrailingBytes { count: 2 }));
    }

    #[test]
    fn refuses_unknown_variants_and_empty_frames() {
        assert!(matches!(
            decode_one(&frame(&[99])),
            Err(FrameError::Malformed(_))
        ));
        assert!(matches!(
            decode_one(&frame(&[])),
            Err(FrameError::Malformed(_))
        ));
    }

    #[test]
    fn refuses_a_hostile_length_at_once_and_allocates_nothing_for_it() {
        assert!(matches!(decode_one(&[0xff; 4]), Err(FrameError::TooLong)));
        let mut decoder = FrameDecoder::new();
        let largest = u32::try_from(MAX_MESSAGE).unwrap().to_le_bytes();
        decoder.read_from(&mut &largest[..]).unwrap();
        assert!(decoder.next_frame::<GuestMessage>().unwrap().is_none());
        decoder.make_room();
        assert_eq!(decoder.buffer.len(), INITIAL_BUFFER);
    }

    #[test]
    fn grows_for_the_largest_frame_and_not_further() {
        let data = vec![7; MAX_MESSAGE - 4];
        let mut stream = Vec::new();
        for _ in 0..3 {
            encode(&HostMessage::Stdin(&data), &mut stream).unwrap();
        }
        let mut decoder = FrameDecoder::new();
        let mut rest = &stream[..];
        let mut taken = 0;
        while !rest.is_empty() {
            decoder.read_from(&mut rest).unwrap();
            while let Some(message) = decoder.next_frame::<HostMessage>().unwrap() {
                assert_eq!(message, HostMessage::Stdin(&data));
                taken += 1;
            }
        }
        assert_eq!((taken, decoder.buffer.len()), (3, MAX_FRAME));
    }

    #[test]
    fn many_small_frames_need_no_large_buffer() {
        let mut stream = Vec::new();
        for number in 0..10_000 {
            encode(&GuestMessage::StdinCredit(number), &mut stream).unwrap();
        }
        let mut decoder = FrameDecoder::new();
        let mut rest = &stream[..];
        let mut expected = 0;
        while !rest.is_empty() {
            decoder.read_from(&mut rest).unwrap();
            while let Some(message) = decoder.next_frame::<GuestMessage>().unwrap() {
                assert_eq!(message, GuestMessage::StdinCredit(expected));
                expected += 1;
            }
        }
        assert_eq!((expected, decoder.buffer.len()), (10_000, INITIAL_BUFFER));
    }

    #[test]
    fn a_decoder_full_of_frames_says_so_instead_of_faking_the_end() {
        let stream = vec![0; 2 * MAX_FRAME];
        let mut decoder = FrameDecoder::new();
        let mut rest = &stream[..];
        let error = loop {
            if let Err(error) = decoder.read_from(&mut rest) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
