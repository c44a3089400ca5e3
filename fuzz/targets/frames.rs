//! Bytes as a stream of frames of each kind, in pieces; what is decoded survives the way back.
#![no_main]

mod round_trip;

use protocol::{FileReply, FileRequest, FrameDecoder, FrameError, GuestMessage, HostMessage};
use round_trip::{Seen, check, seen};

libfuzzer_sys::fuzz_target!(|input: &[u8]| check(
    input,
    &[host_message, guest_message, file_request, file_reply]
));

fn host_message(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    let message = decoder.next_frame::<HostMessage>()?;
    if let Some(HostMessage::Hello(hello)) = &message {
        let _ = hello.check();
    }
    Ok(message.map(seen))
}

fn guest_message(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<GuestMessage>()?.map(seen))
}

fn file_request(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<FileRequest>()?.map(seen))
}

fn file_reply(decoder: &mut FrameDecoder) -> Result<Option<Seen>, FrameError> {
    Ok(decoder.next_frame::<FileReply>()?.map(seen))
}
