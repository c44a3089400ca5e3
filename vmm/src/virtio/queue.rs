//! A queue as the driver configures it, which cannot be popped from, and how it becomes one that can.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::GuestMemory;

/// Registers of one queue, sections 4.2.2 and 2.7.
#[derive(Debug, Clone)]
pub(crate) struct QueueConfig {
    pub(crate) max_size: u16,
    pub(crate) size: u32,
    pub(crate) ready: bool,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
}

/// The driver's queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the driver set up queue {index} against the rules: size {size}, descriptors {descriptors:#x}, driver area {driver:#x}, device area {device:#x}"
)]
pub(crate) struct QueueError {
    index: usize,
    size: u32,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueConfig {
    pub(crate) fn new(max_size: u16) -> QueueConfig {
        QueueConfig {
            max_size,
            size: u32::from(max_size),
            ready: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    /// The running queue; `None` when the driver does not use it.
    pub(crate) fn activate(
        &self,
        index: usize,
        memory: &GuestMemory,
        event_idx: bool,
    ) -> Result<Option<Queue>, QueueError> {
        if !self.ready {
            return Ok(None);
        }
        self.build(memory, event_idx).map(Some).ok_or(QueueError {
            index,
            size: self.size,
            descriptors: self.descriptors,
            driver: self.driver,
            device: self.device,
        })
    }

    /// Checks size, alignment and that the three areas lie in memory (section 2.7).
    fn build(&self, memory: &GuestMemory, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .ok()?;
        queue
            .try_set_avail_ring_address(GuestAddress(self.driver))
            .ok()?;
        queue
            .try_set_used_ring_address(GuestAddress(self.device))
            .ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }
}
