//! Bytes as a stream of what is asked of a machine, and of what it answers, in pieces; what is decoded survives the way back.
#![no_main]

use std::fmt::Debug;

use control::{ControlReply, ControlRequest};
use protocol::{FrameDecoder, FrameError, encode};
use serde::Serialize;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else {
        return;
    };
    let kinds: [Next; 2] = [request, reply];
    for next in kinds {
        for Seen { text, frame } in messages(stream, usize::from(piece) + 1, next) {
            let again = messages(&frame, frame.len(), next);
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].text, text);
        }
    }
});

/// A message as text, and as a frame of ours.
struct Seen {
    text: String,
    frame: Vec<u8>,
}

/// Takes the next message of one kind.
type Next = fn(&mut FrameDecoder) -> Result<Option<Seen>, FrameError>;

fn request(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<ControlRequest>()?.map(seen))
}

fn reply(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<ControlReply>()?.map(seen))
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

fn seen(message: impl Debug + Serialize) -> Seen {
    let mut frame = Vec::new();
    encode(&message, &mut frame).expect("what was a frame fits into one");
    Seen {
        text: format!("{message:?}"),
        frame,
    }
}
