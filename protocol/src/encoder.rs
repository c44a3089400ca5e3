use postcard::ser_flavors::Flavor;
use serde::Serialize;

use crate::{FRAME_HEADER, FrameError, MAX_MESSAGE};

/// Appends `message` to `buffer` as one frame. On an error `buffer` is as it was before.
pub fn encode<M: Serialize>(message: &M, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME_HEADER]);
    let body = buffer.len();
    let outcome = postcard::serialize_with_flavor(
        message,
        Body {
            buffer,
            start: body,
        },
    );
    let length = buffer.len().saturating_sub(body);
    match (outcome, u32::try_from(length), buffer.get_mut(start..body)) {
        (Ok(()), Ok(length), Some(header)) => {
            header.copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        (outcome, ..) => {
            buffer.truncate(start);
            Err(match outcome {
                Err(error) if error != postcard::Error::SerializeBufferFull => {
                    FrameError::Malformed(error)
                }
                _ => FrameError::TooLong,
            })
        }
    }
}

/// Where postcard puts the message: the end of a buffer, at most [`MAX_MESSAGE`] bytes.
struct Body<'a> {
    buffer: &'a mut Vec<u8>,
    /// Where the message begins in `buffer`.
    start: usize,
}

impl Flavor for Body<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        let length = self
            .buffer
            .len()
            .saturating_sub(self.start)
            .saturating_add(data.len());
        if length > MAX_MESSAGE {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.try_extend(&[data])
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GuestMessage;

    #[test]
    fn appends_frames_one_behind_the_other() {
        let mut buffer = Vec::new();
        encode(&GuestMessage::StdinClosed, &mut buffer).unwrap();
        encode(&GuestMessage::Stdout(b"ab"), &mut buffer).unwrap();
        assert_eq!(buffer, [1, 0, 0, 0, 7, 4, 0, 0, 0, 4, 2, b'a', b'b']);
    }

    #[test]
    fn refuses_a_message_over_the_limit_and_leaves_the_buffer_alone() {
        let mut buffer = vec![42];
        let data = vec![0; MAX_MESSAGE];
        let error = encode(&GuestMessage::Stdout(&data), &mut buffer).unwrap_err();
        assert!(matches!(error, FrameError::TooLong));
        assert_eq!(buffer, [42]);
    }

    #[test]
    fn takes_a_message_of_exactly_the_limit() {
        let mut buffer = Vec::new();
        // One byte of variant and three of length precede the data.
        let data = vec![0; MAX_MESSAGE - 4];
        encode(&GuestMessage::Stdout(&data), &mut buffer).unwrap();
        assert_eq!(buffer.len(), crate::MAX_FRAME);
    }
}
