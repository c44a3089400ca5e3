//! Bytes as a stream of what is asked of a machine, and of what it answers, in pieces; what is decoded survives the way back.
#![no_main]

mod round_trip;

use control::{ControlReply, ControlRequest};
use protocol::{FrameDecoder, FrameError};
use round_trip::{Seen, check, seen};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(input, &[request, reply]));

fn request(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<ControlRequest>()?.map(seen))
}

fn reply(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<ControlReply>()?.map(seen))
}
