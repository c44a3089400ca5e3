//! The driver's side of one worker: rings in memory that hold whatever the script says, and the rules that the device
//! keeps all the same.
//!
//! ```text
//! 0           0x4000 * queues   TABLES          BUFFERS             LOW_END      ISLAND
//! | rings of each queue | ...  | indirect tables | buffers | a hole | 64 KiB more |
//! ```

use std::sync::Arc;

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::choices::Choices;
use super::witness::{Deeds, Executed, Record, Witness};
use crate::virtio::{
    Executor, GuestMemory, Interrupt, QueueConfig, Status, Worker, WorkerQueue, WorkerState,
};

const RING_SPACE: u64 = 0x4000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLES: u64 = 0x1_0000;
/// Below are the structures of the driver, from here on there is data.
pub(super) const BUFFERS: u64 = 0x1_4000;
const LOW_END: u64 = 0x4_0000;
const ISLAND: u64 = 0x10_0000;
const ISLAND_LENGTH: u64 = 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Turns after which a worker that still has work to do is considered to run in circles.
const MANY_TURNS: usize = 10_000;

/// Milliseconds to wait for a chain that was kept; if it never comes back, the turns run out.
const PATIENCE: i32 = 1000;

/// Address of one of few buffers, so that chains meet in them.
pub(super) fn buffer(number: u8) -> u64 {
    BUFFERS + u64::from(number % 16) * 0x100
}

/// What a device promises besides the rules of the rings.
#[derive(Clone, Copy)]
pub(super) struct Promises {
    /// Every chain is taken at once: the executor is always ready.
    pub(super) always_ready: bool,
    /// Nothing behind the used length is touched.
    pub(super) exact: bool,
}

/// The driver's view of one queue.
struct Ring {
    base: u64,
    size: u16,
    avail: u16,
    /// Chains that the device has taken.
    taken: u16,
    used: u16,
    /// Where the next descriptors and indirect tables go.
    next_descriptor: u16,
    next_table: u64,
}

impl Ring {
    fn new(index: usize, size: u16) -> Ring {
        Ring {
            base: index as u64 * RING_SPACE,
            size,
            avail: 0,
            taken: 0,
            used: 0,
            next_descriptor: 0,
            next_table: 0,
        }
    }

    fn avail_entry(&self, position: u16) -> GuestAddress {
        GuestAddress(self.base + AVAIL + 4 + u64::from(position % self.size) * 2)
    }
}

/// A hostile driver and the worker that serves it.
pub(super) struct Driver {
    pub(super) memory: Arc<GuestMemory>,
    worker: Worker,
    state: WorkerState,
    interrupt: Arc<Interrupt>,
    record: Record,
    promises: Promises,
    kicks: Vec<Arc<EventFd>>,
    rings: Vec<Ring>,
    /// The device may have been told to write over the driver's structures: what stands in them means nothing any more.
    tainted: bool,
}

impl Driver {
    /// A worker with `queues` queues for `executor`, not started.
    pub(super) fn new(queues: usize, executor: Box<dyn Executor>, promises: Promises) -> Driver {
        let memory = crate::memory::map(&[
            (GuestAddress(0), LOW_END),
            (GuestAddress(ISLAND), ISLAND_LENGTH),
        ]);
        let memory = Arc::new(memory.unwrap());
        let record = Record::default();
        let witness = Witness {
            executor,
            record: record.clone(),
        };
        let interrupt = Arc::new(Interrupt::of_lone_device().unwrap());
        let (worker, state) = Worker::prepare(
            queues,
            Box::new(witness),
            Arc::clone(&memory),
            Arc::clone(&interrupt),
        )
        .unwrap();
        let kick = |_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        Driver {
            memory,
            worker,
            state,
            interrupt,
            record,
            promises,
            kicks: (0..queues).map(kick).collect(),
            rings: Vec::new(),
            tainted: false,
        }
    }

    /// Sets up queues of `size`, a power of two of at most 64, and starts the device; after a reset if it runs.
    pub(super) fn start(&mut self, size: u16, event_idx: bool) {
        let finished = self.worker.request_reset();
        self.turn();
        finished.try_recv().expect("the worker resets");
        self.record.take();
        self.interrupt.reset();
        self.interrupt.add_status(Status::DRIVER_OK);
        self.tainted = false;
        let zeroes = vec![0; BUFFERS as usize];
        self.memory.write_slice(&zeroes, GuestAddress(0)).unwrap();
        self.rings = (0..self.kicks.len())
            .map(|index| Ring::new(index, size))
            .collect();
        let queues = (0..).zip(self.rings.iter().zip(&self.kicks));
        let queues = queues.map(|(index, (ring, kick))| {
            let mut config = QueueConfig::new(1024);
            config.size = u32::from(size);
            config.ready = true;
            config.descriptors = ring.base;
            config.driver = ring.base + AVAIL;
            config.device = ring.base + USED;
            let queue = config.activate(index, &self.memory, event_idx).unwrap()?;
            let kick = Arc::clone(kick);
            Some(WorkerQueue { queue, kick })
        });
        self.worker.start(queues.collect(), 0);
        self.turn();
    }

    /// Whether the device asks for a reset.
    pub(super) fn needs_reset(&self) -> bool {
        self.interrupt.status().contains(Status::NEEDS_RESET)
    }

    /// Makes a chain of these pieces available, as a decent driver does: false if the queue is full.
    pub(super) fn offer(&mut self, queue: usize, pieces: &[(u64, u32, bool)]) -> bool {
        let ring = &self.rings[queue];
        if pieces.is_empty() || ring.avail.wrapping_sub(ring.used) >= ring.size {
            return false;
        }
        let mut descriptors = Vec::new();
        for (address, length, writable) in pieces {
            let flags = if *writable { WRITE } else { 0 };
            descriptors.push(Descriptor::new(*address, *length, flags, 0));
        }
        self.publish_chain(queue, &descriptors);
        true
    }

    /// Makes a chain available of which the script decides everything.
    pub(super) fn offer_any(&mut self, queue: usize, choices: &mut Choices<'_>) {
        let count = choices.below(8) + 1;
        let descriptors: Vec<_> = (0..count).map(|_| self.any_descriptor(choices)).collect();
        if choices.rarely(4) {
            self.offer_indirect(queue, &descriptors, choices);
        } else {
            self.publish_chain(queue, &descriptors);
        }
    }

    /// Writes anything into the structures of a queue.
    pub(super) fn scribble(&mut self, queue: usize, choices: &mut Choices<'_>) {
        let ring = &mut self.rings[queue];
        match choices.below(5) {
            // The available index.
            0 => {
                ring.avail = ring.avail.wrapping_add(choices.short());
                let avail = ring.avail;
                self.store_avail_index(queue, avail);
            }
            // An entry of the available ring.
            1 => {
                let entry = ring.avail_entry(choices.short());
                self.memory.write_obj(choices.short(), entry).unwrap();
            }
            // Flags, or the event that is waited for.
            2 => {
                let used_event = AVAIL + 4 + u64::from(ring.size) * 2;
                let offset = choices.one_of(&[AVAIL, used_event]);
                let address = GuestAddress(ring.base + offset);
                self.memory.write_obj(choices.short(), address).unwrap();
            }
            // A descriptor that may be in use.
            3 => {
                let descriptor = Descriptor::new(
                    choices.long(),
                    choices.word(),
                    choices.short(),
                    choices.short(),
                );
                let slot = choices.short() % ring.size;
                self.tainted = true;
                self.store_descriptor(queue, slot, descriptor);
            }
            // The device's own area.
            _ => {
                let offset = u64::from(choices.short() % 0x200);
                let address = GuestAddress(ring.base + USED + offset);
                self.tainted = true;
                self.memory.write_obj(choices.byte(), address).unwrap();
            }
        }
    }

    /// Kicks every queue, lets the device work until it rests, checks what it did and returns it.
    pub(super) fn settle(&mut self) -> Vec<Executed> {
        let stopped = self.needs_reset();
        let offered: Vec<_> = (0..self.rings.len())
            .map(|queue| self.offered(queue))
            .collect();
        for kick in &self.kicks {
            kick.write(1).unwrap();
        }
        let mut turns = 0;
        while self.turn_or_wait() && turns < MANY_TURNS {
            turns += 1;
        }
        let Deeds { executed, returned } = self.record.take();
        self.tainted |= executed.iter().any(|chain| chain.writes_below(BUFFERS));
        assert!(
            !stopped || executed.is_empty(),
            "a device that needs a reset went on"
        );
        let failure = executed
            .iter()
            .position(|chain| chain.length.is_none() && !chain.abandoned);
        assert!(
            failure.is_none_or(|failure| failure + 1 == executed.len()),
            "a device that failed went on"
        );
        for chain in &executed {
            self.check_length(chain);
        }
        if !self.tainted {
            assert!(turns < MANY_TURNS, "the worker runs in circles");
            for (queue, offered) in offered.iter().enumerate() {
                let executed: Vec<_> = executed
                    .iter()
                    .filter(|chain| chain.queue == queue)
                    .collect();
                self.check_ring(queue, offered.as_deref(), &executed, &returned);
            }
        }
        executed
    }

    /// The same until all chains that the executor keeps came back.
    fn turn_or_wait(&mut self) -> bool {
        if self.turn() {
            return true;
        }
        let waits = self.record.is_waiting();
        if waits {
            self.state.turn(PATIENCE).unwrap();
        }
        waits
    }

    fn turn(&mut self) -> bool {
        let left = self.state.turn(0).unwrap();
        left.expect("the handle is held")
    }

    /// Heads that were made available and not taken yet; `None` when the index leaves the ring.
    fn offered(&self, queue: usize) -> Option<Vec<u16>> {
        let ring = &self.rings[queue];
        let count = ring.avail.wrapping_sub(ring.taken);
        let head = |position: u16| {
            let entry = ring.avail_entry(ring.taken.wrapping_add(position));
            self.memory.read_obj(entry).unwrap()
        };
        (count <= ring.size).then(|| (0..count).map(head).collect())
    }

    fn check_length(&self, chain: &Executed) {
        let Some(length) = chain.length else {
            return;
        };
        assert!(
            u64::from(length) <= chain.room() || self.tainted,
            "more was used than there is: {chain:?}"
        );
        assert!(
            !self.promises.exact || !chain.changed_beyond || self.tainted,
            "more was written than reported: {chain:?}"
        );
    }

    /// Every chain that was taken was offered, in that order, and came back once with what the executor reported.
    fn check_ring(
        &mut self,
        queue: usize,
        offered: Option<&[u16]>,
        executed: &[&Executed],
        returned: &[(usize, u16, u32)],
    ) {
        let failed = self.needs_reset();
        let ring = &mut self.rings[queue];
        let heads: Vec<_> = executed.iter().map(|chain| chain.head).collect();
        let Some(offered) = offered else {
            assert!(heads.is_empty(), "a broken ring was used");
            return;
        };
        assert!(
            offered.starts_with(&heads),
            "{heads:?} were taken of {offered:?}"
        );
        if self.promises.always_ready && !failed {
            assert_eq!(heads, offered, "not everything was taken");
        }
        ring.taken = ring.taken.wrapping_add(heads.len() as u16);
        // A head that is none cannot be given back: the device fails.
        let size = ring.size;
        let returned = returned
            .iter()
            .filter(|(of, head, _)| *of == queue && *head < size);
        for (_, head, length) in returned.clone() {
            let entry = ring.base + USED + 4 + u64::from(ring.used % ring.size) * 8;
            let entry: [u32; 2] = self.memory.read_obj(GuestAddress(entry)).unwrap();
            let expected = [u32::from(*head), *length];
            assert_eq!(entry, expected, "another chain came back than {head}");
            ring.used = ring.used.wrapping_add(1);
        }
        let used: u16 = self
            .memory
            .read_obj(GuestAddress(ring.base + USED + 2))
            .unwrap();
        assert_eq!(used, ring.used, "a chain came back twice or not at all");
        assert!(
            failed || returned.count() == executed.len(),
            "a head that does not exist"
        );
    }

    fn any_descriptor(&mut self, choices: &mut Choices<'_>) -> Descriptor {
        let shape = choices.byte();
        let address = match shape & 3 {
            0 | 1 => buffer(choices.byte()),
            2 => ISLAND + u64::from(choices.byte()) * 0x10,
            _ => {
                let edges = [
                    BUFFERS + 128,
                    LOW_END,
                    ISLAND,
                    ISLAND + ISLAND_LENGTH,
                    1 << 40,
                ];
                let edge = choices.one_of(&edges);
                let edge = if choices.rarely(16) { 0 } else { edge };
                edge.wrapping_add(u64::from(choices.byte()))
                    .wrapping_sub(128)
            }
        };
        let length = match shape >> 2 & 3 {
            0 | 1 => u32::from(choices.byte()),
            2 => u32::from(choices.short()),
            _ => choices.one_of(&[0, 1, u32::MAX, 1 << 20, 1 << 31]),
        };
        let mut flags = if shape & 0x10 == 0 { 0 } else { WRITE };
        if choices.rarely(32) {
            flags = choices.short();
            // A table may lie where the device writes.
            self.tainted |= flags & INDIRECT != 0;
        }
        Descriptor::new(address, length, flags, 0)
    }

    /// Puts a table with these descriptors into memory and makes a chain that refers to it available.
    fn offer_indirect(
        &mut self,
        queue: usize,
        descriptors: &[Descriptor],
        choices: &mut Choices<'_>,
    ) {
        let ring = &mut self.rings[queue];
        let table = TABLES + queue as u64 * 0x1000 + ring.next_table * 0x100;
        ring.next_table = (ring.next_table + 1) % 16;
        for (slot, descriptor) in descriptors.iter().enumerate() {
            let last = slot + 1 == descriptors.len();
            let next = if choices.rarely(16) {
                choices.short()
            } else {
                slot as u16 + 1
            };
            let flags = descriptor.flags() | if last { 0 } else { NEXT };
            let linked = Descriptor::new(descriptor.addr().0, descriptor.len(), flags, next);
            let address = GuestAddress(table + slot as u64 * 16);
            self.memory
                .write_obj(RawDescriptor::from(linked), address)
                .unwrap();
        }
        let mut length = descriptors.len() as u32 * 16;
        if choices.rarely(8) {
            length = choices.one_of(&[0, 1, 15, 17, 4096, u32::MAX]);
        }
        let flags = INDIRECT | if choices.rarely(8) { WRITE } else { 0 };
        self.publish_chain(queue, &[Descriptor::new(table, length, flags, 0)]);
    }

    /// Writes the descriptors one after the other into the table, linked unless they have flags of their own, and makes
    /// the first available.
    fn publish_chain(&mut self, queue: usize, descriptors: &[Descriptor]) {
        let ring = &mut self.rings[queue];
        let (size, first) = (ring.size, ring.next_descriptor % ring.size);
        ring.next_descriptor = ring.next_descriptor.wrapping_add(descriptors.len() as u16);
        for (position, descriptor) in (0_u16..).zip(descriptors) {
            let last = usize::from(position) + 1 == descriptors.len();
            let slot = first.wrapping_add(position) % size;
            let next = slot.wrapping_add(1) % size;
            let flags = descriptor.flags() | if last { 0 } else { NEXT };
            let linked = Descriptor::new(descriptor.addr().0, descriptor.len(), flags, next);
            self.store_descriptor(queue, slot, linked);
        }
        self.publish_head(queue, first);
    }

    fn store_descriptor(&self, queue: usize, slot: u16, descriptor: Descriptor) {
        let address = GuestAddress(self.rings[queue].base + u64::from(slot) * 16);
        self.memory
            .write_obj(RawDescriptor::from(descriptor), address)
            .unwrap();
    }

    fn publish_head(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        self.memory
            .write_obj(head, ring.avail_entry(ring.avail))
            .unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        let avail = ring.avail;
        self.store_avail_index(queue, avail);
    }

    fn store_avail_index(&self, queue: usize, index: u16) {
        let address = GuestAddress(self.rings[queue].base + AVAIL + 2);
        self.memory.write_obj(index, address).unwrap();
    }
}
