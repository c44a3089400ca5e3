//! A queue as the driver configures it, which cannot be popped from, and how it becomes one that can.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory as _};

use super::GuestMemory;

// Sizes of the areas of a split queue, section 2.7.
const DESCRIPTOR_SIZE: usize = 16;
const AVAILABLE_ELEMENT_SIZE: usize = 2;
const USED_ELEMENT_SIZE: usize = 8;
/// Flags and index before the elements, and the event index behind them.
const RING_FIELDS_SIZE: usize = 6;

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
        self.lies_in(memory).then_some(queue)
    }

    /// Whether every byte of the three areas is memory. `Queue::is_valid` looks at the byte behind each area instead, and
    /// so takes one that begins in the hole, and refuses one at the end of memory.
    fn lies_in(&self, memory: &GuestMemory) -> bool {
        // The size is a u16 by now, so nothing overflows.
        let size = self.size as usize;
        let areas = [
            (self.descriptors, size.saturating_mul(DESCRIPTOR_SIZE)),
            (
                self.driver,
                size.saturating_mul(AVAILABLE_ELEMENT_SIZE)
                    .saturating_add(RING_FIELDS_SIZE),
            ),
            (
                self.device,
                size.saturating_mul(USED_ELEMENT_SIZE)
                    .saturating_add(RING_FIELDS_SIZE),
            ),
        ];
        areas
            .into_iter()
            .all(|(address, length)| memory.check_range(GuestAddress(address), length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    /// A queue of 16 in memory of two pages with a hole of one page between them.
    fn activate(set: fn(&mut QueueConfig)) -> bool {
        let memory =
            crate::memory::map(&[(GuestAddress(0), 4096), (GuestAddress(2 * PAGE), 4096)]).unwrap();
        let mut config = QueueConfig {
            ready: true,
            descriptors: 0x100,
            driver: 0x400,
            device: 0x600,
            ..QueueConfig::new(16)
        };
        set(&mut config);
        let activated = config.activate(0, &memory, true);
        matches!(activated, Ok(Some(_)))
    }

    #[test]
    fn an_area_may_end_where_memory_ends() {
        assert!(activate(|_| {}));
        assert!(activate(|queue| queue.descriptors = PAGE - 16 * 16));
        assert!(activate(|queue| queue.driver = PAGE - 6 - 2 * 16));
        assert!(activate(|queue| queue.device = 3 * PAGE - 8 - 8 * 16));
    }

    #[test]
    fn an_area_that_is_not_all_memory_is_refused() {
        assert!(!activate(|queue| queue.descriptors = PAGE - 15 * 16));
        assert!(!activate(|queue| queue.driver = PAGE - 4 - 2 * 16));
        assert!(!activate(|queue| queue.device = 3 * PAGE - 4 - 8 * 16));
        // Begins in the hole and ends in memory.
        assert!(!activate(|queue| queue.descriptors = 2 * PAGE - 16));
        assert!(!activate(|queue| queue.driver = 2 * PAGE - 2));
        assert!(!activate(|queue| queue.device = 2 * PAGE - 4));
        // Beyond the end, and around the end of the address space.
        assert!(!activate(|queue| queue.descriptors = 3 * PAGE));
        assert!(!activate(|queue| queue.device = u64::MAX - 3));
    }

    #[test]
    fn size_and_alignment_are_those_of_the_specification() {
        for size in [0, 3, 12, 32, 1 << 16, u32::MAX] {
            let memory = crate::memory::map(&[(GuestAddress(0), 4096)]).unwrap();
            let mut config = QueueConfig::new(16);
            (config.ready, config.size, config.device) = (true, size, 0x600);
            assert!(config.activate(0, &memory, false).is_err(), "{size}");
        }
        assert!(!activate(|queue| queue.descriptors += 8));
        assert!(!activate(|queue| queue.driver += 1));
        assert!(!activate(|queue| queue.device += 2));
    }
}
