//! Carries out the requests of one queue.
//!
//! ```text
//! transfers whose bytes lie in a file      --> ring    (many at a time, one system call for a batch)
//! flushes, discards, zeroes                --> helper  (a thread)
//! other transfers, and all without a ring  --> the image, at once
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use disk::{Access, Buffers, Image};
use vmm_sys_util::epoll::EventSet;

use super::config::FEATURE_FLUSH;
use super::helper::{Helper, Job, Task};
use super::pending::{Pending, PendingRequests};
use super::request::{Answer, Operation, Request, Rules, SERIAL_LENGTH, Status};
use super::ring::{Ring, Transfer};
use super::slot::{Occupant, Slot};
use crate::virtio::{
    Chain, Completion, DeviceFailure, Events, Executor, Finished, GuestMemory, Traffic,
};

// Tokens of the events.
const RING_EVENT: u32 = 0;
const HELPER_EVENT: u32 = 1;

/// What the queues of a device have in common.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) slot: Arc<Slot>,
    pub(super) serial: [u8; SERIAL_LENGTH],
    /// Every change is refused, whatever the image permits.
    pub(super) read_only: bool,
    /// Counts what reads and writes move, whoever carries them out.
    pub(super) traffic: Traffic,
}

/// Who carries out a request.
enum Plan {
    /// Nobody: it is over, and the guest's memory got this many bytes.
    Over(io::Result<u64>),
    /// Somebody else.
    Begin(Work),
}

/// What somebody else carries out.
enum Work {
    /// The ring: at least one part. The guest's memory gets this many bytes.
    Transfers(Vec<Transfer>, u64),
    /// The helper; whether what it changes must be durable.
    Job(Task, Arc<Occupant>, bool),
}

impl Work {
    fn data(&self) -> u64 {
        match self {
            Work::Transfers(_, data) => *data,
            Work::Job(..) => 0,
        }
    }

    fn parts(&self) -> usize {
        match self {
            Work::Transfers(parts, _) => parts.len(),
            Work::Job(..) => 1,
        }
    }
}

/// The executor of one queue.
pub(super) struct BlkExecutor {
    disk: Disk,
    /// `None` where io_uring is not to be had. Dropped first: it waits for the kernel, which uses the requests' buffers.
    ring: Option<Ring>,
    helper: Helper,
    pending: PendingRequests,
    finished: VecDeque<Finished>,
    running: Option<Running>,
}

/// From the start of the device to its reset.
struct Running {
    memory: Arc<GuestMemory>,
    events: Events,
    /// Those that the driver accepted.
    features: u64,
}

impl BlkExecutor {
    pub(super) fn new(disk: Disk, ring: Option<Ring>, helper: Helper) -> BlkExecutor {
        BlkExecutor {
            disk,
            ring,
            helper,
            pending: PendingRequests::new(),
            finished: VecDeque::new(),
            running: None,
        }
    }

    /// Answers a request, or begins it.
    fn begin(&mut self, running: &Running, chain: Chain<'_>) -> Completion {
        let head = chain.head_index();
        let occupant = self.disk.slot.occupant();
        let image = occupant.as_ref().map(|occupant| &*occupant.image);
        let rules = Rules {
            size: image.map(Image::size),
            read_only: self.disk.read_only || image.is_some_and(Image::read_only),
            features: running.features,
        };
        // SAFETY: what refers to the memory is either gone when this function returns or in a `Pending`, which holds the
        // memory until nobody uses its buffers any more.
        let memory: &'static GuestMemory = unsafe { &*Arc::as_ptr(&running.memory) };
        let Some(Request { operation, answer }) = Request::parse(memory, chain, &rules) else {
            return Completion::Done(0);
        };
        let operation = match operation {
            Ok(Operation::Identify { into }) => {
                return done(answer, identify(&self.disk.serial, &into));
            }
            Ok(operation) => operation,
            Err(status) => return Completion::Done(answer.give(status, 0)),
        };
        let Some(occupant) = occupant else {
            return Completion::Done(answer.give(Status::Failed, 0));
        };
        let work = match self.plan(&occupant, operation, running.features) {
            Plan::Over(result) => return done(answer, result),
            Plan::Begin(work) => work,
        };
        let request = Pending {
            head,
            answer,
            data: work.data(),
            parts: work.parts(),
            status: Status::Done,
            _occupant: occupant,
            _memory: Arc::clone(&running.memory),
        };
        match self.pending.insert(request) {
            Ok(number) => self.hand_over(number, work),
            // `ready` said that there is room.
            Err(request) => Completion::Done(request.answer.give(Status::Failed, 0)),
        }
    }

    /// Decides who carries out a request, and carries out what is the executor's own work.
    fn plan(&self, occupant: &Arc<Occupant>, operation: Operation<'static>, features: u64) -> Plan {
        // A driver that cannot flush relies on writes that are durable when they are over (section 5.2.6.2).
        let durable = features & FEATURE_FLUSH == 0;
        let image = &*occupant.image;
        let task = match operation {
            Operation::Read { offset, into } => {
                return match self.transfers(image, Access::Read, offset, &into) {
                    Some(parts) => Plan::Begin(Work::Transfers(parts, into.len())),
                    None => Plan::Over(self.read(image, offset, &into)),
                };
            }
            Operation::Write { offset, from } if durable => {
                let written = self.write(image, offset, &from);
                return Plan::Over(written.and_then(|_| image.flush()).map(|()| 0));
            }
            Operation::Write { offset, from } => {
                return match self.transfers(image, Access::Write, offset, &from) {
                    Some(parts) => Plan::Begin(Work::Transfers(parts, 0)),
                    None => Plan::Over(self.write(image, offset, &from)),
                };
            }
            Operation::Identify { into } => {
                return Plan::Over(identify(&self.disk.serial, &into));
            }
            Operation::Flush => Task::Flush,
            Operation::Discard(ranges) => Task::Discard(ranges),
            Operation::WriteZeroes(ranges) => Task::WriteZeroes(ranges),
        };
        Plan::Begin(Work::Job(task, Arc::clone(occupant), durable))
    }

    /// Reads at once; returns how many bytes the guest's memory got.
    fn read(&self, image: &dyn Image, offset: u64, into: &Buffers<'_>) -> io::Result<u64> {
        image.read(offset, into)?;
        self.disk.traffic.count_read(into.len());
        Ok(into.len())
    }

    /// Writes at once; the guest's memory gets nothing.
    fn write(&self, image: &dyn Image, offset: u64, from: &Buffers<'_>) -> io::Result<u64> {
        image.write(offset, from)?;
        self.disk.traffic.count_written(from.len());
        Ok(0)
    }

    fn hand_over(&mut self, number: usize, work: Work) -> Completion {
        let accepted = match (work, &mut self.ring) {
            (Work::Transfers(parts, _), Some(ring)) => {
                for part in parts {
                    ring.push(Transfer {
                        request: number,
                        ..part
                    });
                }
                true
            }
            (Work::Job(task, occupant, durable), _) => self.helper.begin(Job {
                request: number,
                occupant,
                task,
                durable,
            }),
            // Without a ring nobody plans for it.
            (Work::Transfers(..), None) => false,
        };
        if accepted {
            return Completion::Later;
        }
        let failed = self.pending.part_is_over(number, Status::Failed);
        Completion::Done(failed.map_or(0, |failed| failed.length))
    }

    /// Where all bytes of a transfer lie, if the ring can be used: at least one place.
    fn transfers(
        &self,
        image: &dyn Image,
        access: Access,
        offset: u64,
        buffers: &Buffers<'static>,
    ) -> Option<Vec<Transfer>> {
        self.ring.as_ref()?;
        let mut parts = Vec::with_capacity(1);
        let mut begun = 0_u64;
        while begun < buffers.len() {
            let left = buffers.len().saturating_sub(begun);
            let place = image.place(offset.saturating_add(begun), left, access)?;
            let length = place.length.min(left);
            if length == 0 {
                return None;
            }
            parts.push(Transfer {
                request: 0,
                access,
                file: place.file.as_raw_fd(),
                offset: place.offset,
                buffers: buffers.part(begun, length),
            });
            begun = begun.saturating_add(length);
        }
        (!parts.is_empty()).then_some(parts)
    }

    /// Takes what the ring has finished, and has it go on with what it did in part.
    fn reap_ring(&mut self) -> Result<(), DeviceFailure> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        while ring.has_results() {
            while let Some(transferred) = ring.next_over() {
                let status = status_of(&transferred.result);
                let finished = self.pending.part_is_over(transferred.request, status);
                self.finished.extend(finished);
            }
            if ring.is_behind() {
                ring.submit().map_err(no_io)?;
            }
        }
        Ok(())
    }
}

/// The end of a request that was carried out at once; `result` is the number of bytes that the guest's memory got.
fn done(answer: Answer<'_>, result: io::Result<u64>) -> Completion {
    let status = status_of(&result);
    Completion::Done(answer.give(status, result.unwrap_or(0)))
}

/// The serial number, NUL-padded.
fn identify(serial: &[u8; SERIAL_LENGTH], into: &Buffers<'_>) -> io::Result<u64> {
    let length = SERIAL_LENGTH as u64;
    into.part(0, length).copy_from(serial)?;
    Ok(length)
}

/// What the driver is told.
fn status_of<T>(result: &io::Result<T>) -> Status {
    match result {
        Ok(_) => Status::Done,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Status::Unsupported,
        Err(_) => Status::Failed,
    }
}

fn no_io(error: io::Error) -> DeviceFailure {
    DeviceFailure {
        reason: format!("the host carries out no transfer: {error}"),
    }
}

impl Executor for BlkExecutor {
    fn start(
        &mut self,
        memory: &Arc<GuestMemory>,
        features: u64,
        events: &Events,
    ) -> Result<(), DeviceFailure> {
        let interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let ring = self.ring.as_ref().map(|ring| (ring.event(), RING_EVENT));
        for (event, token) in ring
            .into_iter()
            .chain([(self.helper.event(), HELPER_EVENT)])
        {
            events
                .add(event, token, interest)
                .map_err(|error| DeviceFailure {
                    reason: format!("cannot watch for the end of transfers: {error}"),
                })?;
        }
        self.running = Some(Running {
            memory: Arc::clone(memory),
            events: events.clone(),
            features,
        });
        Ok(())
    }

    fn ready(&mut self, _queue: usize) -> bool {
        self.pending.has_room() && self.ring.as_ref().is_none_or(Ring::has_room)
    }

    fn execute(
        &mut self,
        _memory: &GuestMemory,
        _queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let Some(running) = self.running.take() else {
            return Ok(Completion::Done(0));
        };
        let completion = self.begin(&running, chain);
        self.running = Some(running);
        Ok(completion)
    }

    fn submit(&mut self) -> Result<(), DeviceFailure> {
        if let Some(ring) = &mut self.ring {
            ring.submit().map_err(no_io)?;
        }
        self.reap_ring()
    }

    fn finished(&mut self, _queue: usize) -> Option<Finished> {
        self.finished.pop_front()
    }

    fn event(&mut self, token: u32, _ready: EventSet) -> Result<(), DeviceFailure> {
        if token == RING_EVENT {
            return self.reap_ring();
        }
        while let Some(over) = self.helper.next_over() {
            let status = status_of(&over.result);
            let finished = self.pending.part_is_over(over.request, status);
            self.finished.extend(finished);
        }
        Ok(())
    }

    fn abandon(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.drain();
        }
        self.helper.drain();
        self.pending.clear();
        self.finished.clear();
    }

    fn reset(&mut self) {
        let Some(Running { events, .. }) = self.running.take() else {
            return;
        };
        // Nothing is left to be done when one was not watched.
        if let Some(ring) = &self.ring {
            let _ = events.remove(ring.event());
        }
        let _ = events.remove(self.helper.event());
    }
}
