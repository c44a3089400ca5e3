//! An executor around another one that records what the worker asked and what it got.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _};
use vmm_sys_util::epoll::EventSet;

use crate::virtio::{Chain, Completion, DeviceFailure, Events, Executor, Finished, GuestMemory};

/// One chain that was taken.
pub(super) struct Executed {
    /// Index of the queue within the worker.
    pub(super) queue: usize,
    /// Head of the chain.
    pub(super) head: u16,
    /// What the executor reported; `None` when it failed, or keeps the chain.
    pub(super) length: Option<u32>,
    /// The executor keeps the chain.
    pub(super) kept: bool,
    /// It kept it until the rings were let go.
    pub(super) abandoned: bool,
    /// The device-writable pieces: address and length.
    pub(super) writable: Vec<(u64, u32)>,
    /// The writable bytes as they are after the execution, one piece after the other, as far as they are memory.
    pub(super) contents: Vec<u8>,
    /// A byte behind the reported length was changed.
    pub(super) changed_beyond: bool,
}

impl fmt::Debug for Executed {
    /// Without the contents, which are long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executed")
            .field("queue", &self.queue)
            .field("head", &self.head)
            .field("length", &self.length)
            .field("writable", &self.writable)
            .finish_non_exhaustive()
    }
}

impl Executed {
    /// Bytes that the device may write.
    pub(super) fn room(&self) -> u64 {
        self.writable
            .iter()
            .map(|(_, length)| u64::from(*length))
            .sum()
    }

    /// Whether the device may write below `limit`.
    pub(super) fn writes_below(&self, limit: u64) -> bool {
        self.writable
            .iter()
            .any(|(address, length)| *length > 0 && *address < limit)
    }

    /// Whether two writable pieces share a byte.
    pub(super) fn overlaps(&self) -> bool {
        let mut pieces = self.writable.clone();
        pieces.sort_unstable();
        pieces
            .windows(2)
            .any(|pair| pair[0].0.saturating_add(u64::from(pair[0].1)) > pair[1].0)
    }
}

/// What an executor did since somebody looked.
#[derive(Default)]
pub(super) struct Deeds {
    /// The chains that it was given, in that order.
    pub(super) executed: Vec<Executed>,
    /// The chains that it gave back, in that order: queue, head and length.
    pub(super) returned: Vec<(usize, u16, u32)>,
}

/// The same, shared between the witness and the driver.
#[derive(Clone, Default)]
pub(super) struct Record(Arc<Mutex<Deeds>>);

impl Record {
    /// Takes what was recorded since the last time.
    pub(super) fn take(&self) -> Deeds {
        std::mem::take(&mut *self.lock())
    }

    /// Whether a chain is kept.
    pub(super) fn is_waiting(&self) -> bool {
        let deeds = self.lock();
        deeds.executed.iter().any(|chain| chain.kept)
    }

    fn lock(&self) -> MutexGuard<'_, Deeds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The executor that records.
pub(super) struct Witness {
    pub(super) executor: Box<dyn Executor>,
    pub(super) record: Record,
}

impl Executor for Witness {
    fn start(
        &mut self,
        memory: &Arc<GuestMemory>,
        features: u64,
        events: &Events,
    ) -> Result<(), DeviceFailure> {
        self.executor.start(memory, features, events)
    }

    fn ready(&mut self, queue: usize) -> bool {
        self.executor.ready(queue)
    }

    fn execute(
        &mut self,
        memory: &GuestMemory,
        queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let head = chain.head_index();
        let writable = chain
            .clone()
            .filter(Descriptor::is_write_only)
            .map(|descriptor| (descriptor.addr().0, descriptor.len()))
            .collect();
        let mut executed = Executed {
            queue,
            head,
            length: None,
            kept: false,
            abandoned: false,
            writable,
            contents: Vec::new(),
            changed_beyond: false,
        };
        let before = contents(memory, &executed.writable);
        let result = self.executor.execute(memory, queue, chain);
        if let Ok(Completion::Done(length)) = result {
            let after = contents(memory, &executed.writable);
            let beyond = length as usize;
            executed.length = Some(length);
            executed.changed_beyond =
                !executed.overlaps() && before.get(beyond..) != after.get(beyond..);
            executed.contents = after;
        }
        let mut deeds = self.record.lock();
        if matches!(result, Ok(Completion::Later)) {
            executed.kept = true;
        } else {
            deeds
                .returned
                .push((queue, head, executed.length.unwrap_or(0)));
        }
        deeds.executed.push(executed);
        result
    }

    fn submit(&mut self) -> Result<(), DeviceFailure> {
        self.executor.submit()
    }

    fn finished(&mut self, queue: usize) -> Option<Finished> {
        let finished = self.executor.finished(queue)?;
        let mut deeds = self.record.lock();
        let Finished { head, length } = finished;
        let kept = deeds
            .executed
            .iter_mut()
            .find(|chain| chain.kept && (chain.queue, chain.head) == (queue, head));
        let kept = kept.expect("a chain comes back that was not kept");
        (kept.kept, kept.length) = (false, Some(length));
        deeds.returned.push((queue, head, length));
        Some(finished)
    }

    fn abandon(&mut self) {
        self.executor.abandon();
        // Nothing of it may come back any more.
        for chain in &mut self.record.lock().executed {
            chain.abandoned |= chain.kept;
            chain.kept = false;
        }
    }

    fn event(&mut self, token: u32, ready: EventSet) -> Result<(), DeviceFailure> {
        self.executor.event(token, ready)
    }

    fn reset(&mut self) {
        self.executor.reset();
    }
}

/// The bytes of these pieces up to the first that is not memory.
fn contents(memory: &GuestMemory, pieces: &[(u64, u32)]) -> Vec<u8> {
    let mut contents = Vec::new();
    for (address, length) in pieces {
        let address = GuestAddress(*address);
        if !memory.check_range(address, *length as usize) {
            break;
        }
        let start = contents.len();
        contents.resize(start + *length as usize, 0);
        memory.read_slice(&mut contents[start..], address).unwrap();
    }
    contents
}
