//! Carries out the requests of one queue.

use std::io;
use std::sync::Arc;

use disk::{Buffers, Image};

use super::config::FEATURE_FLUSH;
use super::request::{Operation, Range, Request, Rules, SERIAL_LENGTH, Status};
use super::slot::Slot;
use crate::virtio::{Chain, DeviceFailure, Events, Executor, GuestMemory};

/// The executor of one queue.
pub(super) struct BlkExecutor {
    slot: Arc<Slot>,
    serial: [u8; SERIAL_LENGTH],
    read_only: bool,
    /// Those that the driver accepted.
    features: u64,
}

impl BlkExecutor {
    pub(super) fn new(
        slot: Arc<Slot>,
        serial: [u8; SERIAL_LENGTH],
        read_only: bool,
    ) -> BlkExecutor {
        BlkExecutor {
            slot,
            serial,
            read_only,
            features: 0,
        }
    }

    fn serve(&self, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
        let occupant = self.slot.occupant();
        let image = occupant.as_ref().map(|occupant| &*occupant.image);
        let rules = Rules {
            size: image.map(Image::size),
            read_only: self.read_only || image.is_some_and(Image::read_only),
            features: self.features,
        };
        let Some(Request { operation, answer }) = Request::parse(memory, chain, &rules) else {
            return 0;
        };
        let done = match (operation, image) {
            (Ok(Operation::Identify { into }), _) => identify(&self.serial, &into),
            (Ok(operation), Some(image)) => self.carry_out(image, operation),
            (Ok(_), None) => return answer.give(Status::Failed, 0),
            (Err(status), _) => return answer.give(status, 0),
        };
        match done {
            Ok(written) => answer.give(Status::Done, written),
            Err(error) => answer.give(status_of(&error), 0),
        }
    }

    /// Returns how many bytes were written to the guest's memory.
    fn carry_out(&self, image: &dyn Image, operation: Operation<'_>) -> io::Result<u64> {
        match operation {
            Operation::Read { offset, into } => {
                image.read(offset, &into)?;
                return Ok(into.len());
            }
            Operation::Write { offset, from } => image.write(offset, &from)?,
            Operation::Flush => return image.flush().map(|()| 0),
            Operation::Identify { into } => return identify(&self.serial, &into),
            Operation::Discard(ranges) => {
                for Range { offset, length, .. } in ranges {
                    image.discard(offset, length)?;
                }
            }
            Operation::WriteZeroes(ranges) => {
                for range in ranges {
                    image.write_zeroes(range.offset, range.length, range.unmap)?;
                }
            }
        }
        // A driver that cannot flush relies on writes that are durable when they are over (section 5.2.6.2).
        if self.features & FEATURE_FLUSH == 0 {
            image.flush()?;
        }
        Ok(0)
    }
}

/// The serial number, NUL-padded.
fn identify(serial: &[u8; SERIAL_LENGTH], into: &Buffers<'_>) -> io::Result<u64> {
    let length = SERIAL_LENGTH as u64;
    into.part(0, length).copy_from(serial)?;
    Ok(length)
}

/// What the driver is told of an error.
fn status_of(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::Unsupported => Status::Unsupported,
        _ => Status::Failed,
    }
}

impl Executor for BlkExecutor {
    fn start(
        &mut self,
        _memory: &Arc<GuestMemory>,
        features: u64,
        _events: &Events,
    ) -> Result<(), DeviceFailure> {
        self.features = features;
        Ok(())
    }

    fn execute(
        &mut self,
        memory: &GuestMemory,
        _queue: usize,
        chain: Chain<'_>,
    ) -> Result<u32, DeviceFailure> {
        Ok(self.serve(memory, chain))
    }

    fn reset(&mut self) {
        self.features = 0;
    }
}
