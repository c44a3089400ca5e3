//! Bytes as a stream of frames in either direction, in pieces; what is decoded survives the way back.
#![no_main]

use std::fmt::Debug;

use protocol::{FrameDecoder, FrameReader, GuestMessage, HostMessage, encode};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else {
        return;
    };
    let piece = usize::from(piece) + 1;
    for (text, frame) in host_messages(stream, piece) {
        let mut reader = FrameReader::new(&frame[..]);
        let message: HostMessage = reader.read().expect("our own frame").expect("a message");
        assert_eq!(format!("{message:?}"), text);
    }
    for (text, frame) in guest_messages(stream, piece) {
        let mut reader = FrameReader::new(&frame[..]);
        let message: GuestMessage = reader.read().expect("our own frame").expect("a message");
        assert_eq!(format!("{message:?}"), text);
    }
});

/// A message as text, and as a frame of ours.
type Seen = (String, Vec<u8>);

/// What a host message decoder takes from the stream up to the first error.
fn host_messages(stream: &[u8], piece: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    in_pieces(stream, piece, |decoder| {
        while let Some(message) = decoder.next_frame::<HostMessage>().ok()? {
            if let HostMessage::Hello(hello) = &message {
                let _ = hello.check();
            }
            seen.push(again(&message));
        }
        Some(())
    });
    seen
}

/// The same for the other direction.
fn guest_messages(stream: &[u8], piece: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    in_pieces(stream, piece, |decoder| {
        while let Some(message) = decoder.next_frame::<GuestMessage>().ok()? {
            seen.push(again(&message));
        }
        Some(())
    });
    seen
}

/// Gives a decoder the stream in pieces, and calls `take` after each read until it returns nothing.
fn in_pieces(stream: &[u8], piece: usize, mut take: impl FnMut(&mut FrameDecoder) -> Option<()>) {
    let mut decoder = FrameDecoder::new();
    for mut piece in stream.chunks(piece) {
        while !piece.is_empty() {
            decoder.read_from(&mut piece).expect("room for a piece");
            if take(&mut decoder).is_none() {
                return;
            }
        }
    }
    let _ = decoder.finish();
}

fn again(message: &(impl Debug + serde::Serialize)) -> Seen {
    let mut frame = Vec::new();
    encode(message, &mut frame).expect("what was a frame fits into one");
    (format!("{message:?}"), frame)
}
