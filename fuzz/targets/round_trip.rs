//! What is decoded from frames survives the way back.

use std::fmt::Debug;

use protocol::{FrameDecoder, FrameError, encode};
use serde::Serialize;

/// A message as text, and as a frame of ours.
pub(crate) struct Seen {
    text: String,
    frame: Vec<u8>,
}

/// Takes the next message of one kind.
pub(crate) type Next = fn(&mut FrameDecoder) -> Result<Option<Seen>, FrameError>;

/// Takes the first byte of the input as the length of pieces, and the rest, in such pieces, as a stream of messages of
/// each kind.
pub(crate) fn check(input: &[u8], kinds: &[Next]) {
    let Some((&piece, stream)) = input.split_first() else {
        return;
    };
    for next in kinds {
        for Seen { text, frame } in messages(stream, usize::from(piece) + 1, *next) {
            let again = messages(&frame, frame.len(), *next);
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].text, text);
        }
    }
}

/// What a decoder that is given the stream in pieces takes from it, up to the first error.
fn messages(stream: &[u8], piece: usize, next: Next) -> Vec<Seen> {
    let mut decoder = FrameDecoder::new();
    let mut seen = Vec::new();
    for mut piece in stream.chunks(piece) {
        while !piece.is_empty() {
            decoder.read_from(&mut piece).expect("room for a piece");
            loop {
                match next(&mut decoder) {
                    Ok(Some(message)) => seen.push(message),
                    Ok(None) => break,
                    Err(_) => return seen,
                }
            }
        }
    }
    let _ = decoder.finish();
    seen
}

/// What a message looks like.
pub(crate) fn seen(message: impl Debug + Serialize) -> Seen {
    let mut frame = Vec::new();
    encode(&message, &mut frame).expect("what was a frame fits into one");
    Seen {
        text: format!("{message:?}"),
        frame,
    }
}
