//! A driver for tests: one queue, its worker's thread confined as in a machine, and requests in any shape.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use disk::{Cache, Format, Image, OpenOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{BlkConfig, BlkHandle, Engine, WorkerDescription, device_with};
use crate::ending::{EndingReporter, Endings};
use crate::virtio::{
    GuestMemory, Interrupt, QueueConfig, Traffic, Worker, WorkerQueue, WorkerState,
};

const QUEUE_SIZE: u16 = 256;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Indirect tables.
const TABLE: u64 = 0x8000;
/// Where requests stand, one after the other.
pub(super) const BUFFERS: u64 = 0x1_0000;
pub(super) const MEMORY: u64 = 16 << 20;
/// Longer than anything takes on a busy machine; only a failing test waits for it.
const PATIENCE: u16 = 20_000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Everything that a driver can accept.
pub(super) const ALL_FEATURES: u64 = u64::MAX;

/// A piece of a chain: address, length, whether the device may write it.
pub(super) type Piece = (u64, u32, bool);

/// What came back for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u8,
    pub(super) data: Vec<u8>,
    pub(super) used: u32,
}

/// A guest with one disk.
pub(super) struct Guest {
    pub(super) memory: Arc<GuestMemory>,
    pub(super) handle: BlkHandle,
    pub(super) traffic: Traffic,
    worker: Worker,
    /// Of a worker without a thread.
    turns: Option<WorkerState>,
    interrupt: Arc<Interrupt>,
    kick: Arc<EventFd>,
    pub(super) endings: Endings,
    available: u16,
    used: u16,
    next_descriptor: u16,
    next_buffer: u64,
}

/// Opens a raw image.
pub(super) fn raw(path: &Path, read_only: bool) -> Arc<dyn Image> {
    open(path, Format::Raw, read_only)
}

/// Opens an image.
pub(super) fn open(path: &Path, format: Format, read_only: bool) -> Arc<dyn Image> {
    let options = OpenOptions {
        format,
        read_only,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    disk::open(path, &options).unwrap().into()
}

impl Guest {
    /// With a disk of this image that was started with all features.
    pub(super) fn new(engine: Engine, image: Option<Arc<dyn Image>>) -> Guest {
        let mut guest = Guest::stopped(engine, image);
        guest.start(ALL_FEATURES);
        guest
    }

    pub(super) fn stopped(engine: Engine, image: Option<Arc<dyn Image>>) -> Guest {
        // glibc opens a file before it shrinks a heap, which the worker must not, and the tests' threads share heaps with it.
        // SAFETY: a number for the allocator.
        unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX) };
        Guest::with(engine, image, |description, memory, interrupt| {
            let (ending, endings) = EndingReporter::new();
            let worker = Worker::spawn(description, memory, interrupt, ending).unwrap();
            (worker, None, endings)
        })
    }

    /// The same, with a worker that has no thread: [`turn`](Self::turn) lets it work. Its helper has none, either, so there
    /// are only reads and writes.
    pub(super) fn by_turns(engine: Engine, image: Arc<dyn Image>) -> Guest {
        Guest::with(engine, Some(image), |description, memory, interrupt| {
            let (worker, turns) =
                Worker::prepare(1, description.executor, memory, interrupt).unwrap();
            (worker, Some(turns), EndingReporter::new().1)
        })
    }

    fn with(
        engine: Engine,
        image: Option<Arc<dyn Image>>,
        worker: impl FnOnce(
            WorkerDescription,
            Arc<GuestMemory>,
            Arc<Interrupt>,
        ) -> (Worker, Option<WorkerState>, Endings),
    ) -> Guest {
        let memory = Arc::new(crate::memory::map(&[(GuestAddress(0), MEMORY)]).unwrap());
        let interrupt = Arc::new(Interrupt::of_lone_device().unwrap());
        let config = BlkConfig {
            image,
            read_only: false,
            serial: "serial-of-a-test".to_owned(),
            queues: 1,
        };
        let (mut description, handle) = device_with(config, engine).unwrap();
        let (worker, turns, endings) = worker(
            description.workers.remove(0),
            Arc::clone(&memory),
            Arc::clone(&interrupt),
        );
        Guest {
            memory,
            handle,
            traffic: description.traffic,
            worker,
            turns,
            interrupt,
            kick: Arc::new(EventFd::new(EFD_NONBLOCK).unwrap()),
            endings,
            available: 0,
            used: 0,
            next_descriptor: 0,
            next_buffer: BUFFERS,
        }
    }

    pub(super) fn start(&mut self, features: u64) {
        self.start_with(features, false);
    }

    /// Starts the device, with VIRTIO_F_EVENT_IDX or without.
    pub(super) fn start_with(&mut self, features: u64, event_idx: bool) {
        let zeroes = vec![0; BUFFERS as usize];
        self.memory.write_slice(&zeroes, GuestAddress(0)).unwrap();
        (self.available, self.used, self.next_descriptor) = (0, 0, 0);
        let config = QueueConfig {
            ready: true,
            driver: AVAIL,
            device: USED,
            ..QueueConfig::new(QUEUE_SIZE)
        };
        let queue = config
            .activate(0, &self.memory, event_idx)
            .unwrap()
            .unwrap();
        let kick = Arc::clone(&self.kick);
        self.worker
            .start(vec![Some(WorkerQueue { queue, kick })], features);
    }

    /// Has the worker do all that there is to do.
    pub(super) fn turn(&mut self) {
        let turns = self.turns.as_mut().expect("it has no thread");
        while turns.turn(0).unwrap() == Some(true) {}
    }

    /// Interrupts since the last call.
    pub(super) fn interrupts(&self) -> u64 {
        self.interrupt.line().read().unwrap_or(0)
    }

    /// Sets the flags of the available ring.
    pub(super) fn set_flags(&self, flags: u16) {
        self.memory.write_obj(flags, GuestAddress(AVAIL)).unwrap();
    }

    /// Asks for an interrupt when the device has used the buffer with this index (section 2.7.7).
    pub(super) fn set_used_event(&self, index: u16) {
        let place = AVAIL + 4 + u64::from(QUEUE_SIZE) * 2;
        self.memory.write_obj(index, GuestAddress(place)).unwrap();
    }

    /// The index at which the device wants to be kicked (section 2.7.10).
    pub(super) fn available_event(&self) -> u16 {
        let place = USED + 4 + u64::from(QUEUE_SIZE) * 8;
        self.memory.read_obj(GuestAddress(place)).unwrap()
    }

    pub(super) fn reset(&mut self) {
        self.worker.reset();
    }

    /// Room for a request's bytes, which stay there until 12 MiB of others were made.
    pub(super) fn room(&mut self, length: usize) -> u64 {
        if self.next_buffer + length as u64 > MEMORY {
            self.next_buffer = BUFFERS;
        }
        let address = self.next_buffer;
        self.next_buffer += length as u64;
        address
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = self.room(bytes.len());
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
        address
    }

    pub(super) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn store(&self, table: u64, index: u16, (address, length): (u64, u32), flags: u16, next: u16) {
        let at = table + u64::from(index) * 16;
        let low = (address, length, flags, next);
        self.memory.write_obj(low.0, GuestAddress(at)).unwrap();
        self.memory.write_obj(low.1, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(low.2, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(low.3, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain of these pieces available; returns its head.
    pub(super) fn offer(&mut self, pieces: &[Piece]) -> u16 {
        let head = self.next_descriptor;
        for (position, (address, length, writable)) in pieces.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % QUEUE_SIZE;
            let mut flags = if *writable { WRITE } else { 0 };
            if position + 1 < pieces.len() {
                flags |= NEXT;
            }
            self.store(0, index, (*address, *length), flags, self.next_descriptor);
        }
        self.publish(head);
        head
    }

    /// Makes a chain available that lies in an indirect table.
    pub(super) fn offer_indirect(&mut self, pieces: &[Piece]) -> u16 {
        for (index, (address, length, writable)) in (0u16..).zip(pieces) {
            let mut flags = if *writable { WRITE } else { 0 };
            if usize::from(index) + 1 < pieces.len() {
                flags |= NEXT;
            }
            self.store(TABLE, index, (*address, *length), flags, index + 1);
        }
        self.offer_descriptor((TABLE, pieces.len() as u32 * 16), INDIRECT, 0)
    }

    /// Makes a chain available that begins with this descriptor.
    pub(super) fn offer_descriptor(&mut self, buffer: (u64, u32), flags: u16, next: u16) -> u16 {
        let head = self.next_descriptor;
        self.next_descriptor = (head + 1) % QUEUE_SIZE;
        self.store(0, head, buffer, flags, next);
        self.publish(head);
        head
    }

    fn publish(&mut self, head: u16) {
        let entry = AVAIL + 4 + u64::from(self.available % QUEUE_SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.available = self.available.wrapping_add(1);
        let index = GuestAddress(AVAIL + 2);
        self.memory.write_obj(self.available, index).unwrap();
    }

    /// Breaks the available ring, so that the device asks for a reset.
    pub(super) fn break_ring(&self) {
        let index = self.available.wrapping_add(QUEUE_SIZE + 1);
        self.memory
            .write_obj(index, GuestAddress(AVAIL + 2))
            .unwrap();
        self.kick();
    }

    pub(super) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Waits for the next chain that comes back: head and used length.
    pub(super) fn wait(&mut self) -> (u32, u32) {
        while self.used_index() == self.used {
            // SAFETY: the event outlives the call.
            let line = unsafe { BorrowedFd::borrow_raw(self.interrupt.line().as_raw_fd()) };
            let ready = poll(
                &mut [PollFd::new(line, PollFlags::POLLIN)],
                PollTimeout::from(PATIENCE),
            );
            assert_eq!(
                ready,
                Ok(1),
                "no interrupt came: {:?}",
                self.endings.try_recv()
            );
            self.interrupt.line().read().unwrap();
        }
        let entry = USED + 4 + u64::from(self.used % QUEUE_SIZE) * 8;
        self.used = self.used.wrapping_add(1);
        let [head, length]: [u32; 2] = self.memory.read_obj(GuestAddress(entry)).unwrap();
        (head, length)
    }

    /// Index of the used ring.
    pub(super) fn used_index(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Carries out a chain alone; returns the used length.
    pub(super) fn run(&mut self, pieces: &[Piece]) -> u32 {
        let head = self.offer(pieces);
        self.kick();
        let (returned, length) = self.wait();
        assert_eq!(returned, u32::from(head));
        length
    }

    /// A request with `out` behind its header and room for `room` bytes before the status.
    pub(super) fn request(&mut self, kind: u32, sector: u64, out: &[u8], room: usize) -> Reply {
        let mut bytes = header(kind, sector);
        bytes.extend(out);
        let request = self.put(&bytes);
        let answer = self.put(&vec![0xaa; room + 1]);
        let used = self.run(&[
            (request, bytes.len() as u32, false),
            (answer, room as u32 + 1, true),
        ]);
        let mut data = self.get(answer, room + 1);
        let status = data.pop().unwrap();
        Reply { status, data, used }
    }
}

/// The header of a request.
pub(super) fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// A range to discard or to zero.
pub(super) fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}
