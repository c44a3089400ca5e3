//! The simplest device: what the driver wrote comes back.

use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;

use crate::virtio::{Chain, Completion, DeviceFailure, Executor, GuestMemory};

/// Longest text that is returned.
const LONGEST: usize = 4096;

/// First bytes from here on make it fail.
const FAILURE: u8 = 0xe0;

/// Copies the readable part of a chain to its writable part.
pub(super) struct Echo;

impl Executor for Echo {
    fn execute(
        &mut self,
        memory: &GuestMemory,
        _queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let mut text = Vec::new();
        for descriptor in chain
            .clone()
            .filter(|descriptor| !descriptor.is_write_only())
        {
            let length = (descriptor.len() as usize).min(LONGEST - text.len());
            let mut piece = vec![0; length];
            if memory.read_slice(&mut piece, descriptor.addr()).is_err() {
                return Ok(Completion::Done(0));
            }
            text.extend(piece);
        }
        if text.first().is_some_and(|first| *first >= FAILURE) {
            return Err(DeviceFailure {
                reason: "asked to fail".to_owned(),
            });
        }
        let mut written = 0;
        for descriptor in chain.filter(Descriptor::is_write_only) {
            let length = (descriptor.len() as usize).min(text.len() - written);
            let piece = &text[written..written + length];
            if memory.write_slice(piece, descriptor.addr()).is_err() {
                break;
            }
            written += length;
        }
        Ok(Completion::Done(written as u32))
    }
}
