//! What a machine uses of its host.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use vm_memory::GuestMemory as _;

use crate::memory::GuestMemory;
use crate::traffic::Traffic;
use crate::vcpu::Gate;

/// Reads what a machine has used so far, from any thread, also while it is paused. All clones are of the same machine.
#[derive(Clone)]
pub struct Meter {
    gate: Arc<Gate>,
    memory: Weak<GuestMemory>,
    /// Of each device.
    traffic: Arc<[Traffic]>,
}

impl Meter {
    pub(crate) fn new(gate: Arc<Gate>, memory: &Arc<GuestMemory>, traffic: Vec<Traffic>) -> Meter {
        Meter {
            gate,
            memory: Arc::downgrade(memory),
            traffic: traffic.into(),
        }
    }

    /// Processor time of all virtual processors together since the machine started: in the guest, and in the host on
    /// behalf of it. Time while a processor was idle or paused is not in it. It stays what it was when the machine has ended.
    pub fn vcpu_time(&self) -> Duration {
        self.gate.time()
    }

    /// Bytes of the host's memory that stand behind the guest's: what the guest has ever touched and the host has not swapped
    /// out. `None` when the machine has ended.
    ///
    /// This walks the page tables (mincore(2)), so its cost grows with the guest's memory, and less so in huge pages.
    pub fn resident_memory(&self) -> Option<u64> {
        let memory = self.memory.upgrade()?;
        memory
            .iter()
            .try_fold(0u64, |sum, region| Some(sum + region.resident().ok()?))
    }

    /// Bytes that the guest has read from files of the host: through block devices and shared folders.
    pub fn disk_read(&self) -> u64 {
        self.sum(Traffic::read)
    }

    /// Bytes that the guest has written to files of the host: through block devices and shared folders. The host may have
    /// some of them in its page cache only.
    pub fn disk_written(&self) -> u64 {
        self.sum(Traffic::written)
    }

    fn sum(&self, count: impl Fn(&Traffic) -> u64) -> u64 {
        self.traffic.iter().map(count).fold(0, u64::saturating_add)
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Meter")
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}
