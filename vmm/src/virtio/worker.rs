//! The one loop that serves every device: take chains, have them executed, give them back, notify.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupt::Interrupt;
use super::{
    Chain, Completion, DeviceFailure, Events, Executor, Finished, GuestMemory, HelperDescription,
    WorkerDescription,
};
use crate::ending::EndingReporter;
use crate::threads;

/// Epoll data of the command event; queues have their index.
const COMMAND_TOKEN: u64 = u32::MAX as u64;
/// Chains of one queue that are carried out before other queues, events and commands get their turn.
const BATCH: usize = 128;
const EVENTS_PER_WAIT: usize = 32;

/// A queue in use and the event that says that the driver kicked it.
pub(crate) struct WorkerQueue {
    pub(crate) queue: Queue,
    pub(crate) kick: Arc<EventFd>,
}

enum Command {
    Start {
        queues: Vec<Option<WorkerQueue>>,
        features: u64,
    },
    Reset {
        done: SyncSender<()>,
    },
}

/// Handle of a worker thread; dropping it ends the thread.
pub(crate) struct Worker {
    queue_count: usize,
    commands: Option<Sender<Command>>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
    helpers: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, which waits for the driver.
    pub(crate) fn spawn(
        description: WorkerDescription,
        memory: Arc<GuestMemory>,
        interrupt: Arc<Interrupt>,
        ending: EndingReporter,
    ) -> io::Result<Worker> {
        let queue_count = description.queue_sizes.len();
        let (mut worker, state) =
            Worker::prepare(queue_count, description.executor, memory, interrupt)?;
        let start = |helper: HelperDescription| {
            threads::spawn(
                &helper.name,
                helper.system_calls,
                ending.clone(),
                helper.body,
            )
        };
        worker.helpers = description
            .helpers
            .into_iter()
            .map(start)
            .collect::<io::Result<_>>()?;
        let ending_for_body = ending.clone();
        let thread = threads::spawn(
            &description.name,
            description.system_calls,
            ending,
            move || {
                if let Err(error) = state.run() {
                    ending_for_body.failed(format!("a device's event loop failed: {error}"));
                }
            },
        )?;
        if description.gathers {
            threads::wake_without_preempting(&thread);
        }
        worker.thread = Some(thread);
        Ok(worker)
    }

    /// A worker without its thread: the caller gives its state turns.
    pub(crate) fn prepare(
        queue_count: usize,
        executor: Box<dyn Executor>,
        memory: Arc<GuestMemory>,
        interrupt: Arc<Interrupt>,
    ) -> io::Result<(Worker, WorkerState)> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let (sender, receiver) = channel();
        let state = WorkerState {
            epoll: Arc::new(Epoll::new()?),
            wake: wake.try_clone()?,
            commands: receiver,
            executor,
            queues: Vec::new(),
            memory,
            interrupt,
            running: false,
        };
        state.epoll.ctl(
            ControlOperation::Add,
            state.wake.as_raw_fd(),
            EpollEvent::new(EventSet::IN, COMMAND_TOKEN),
        )?;
        let worker = Worker {
            queue_count,
            commands: Some(sender),
            wake,
            thread: None,
            helpers: Vec::new(),
        };
        Ok((worker, state))
    }

    /// Number of queues that this worker serves.
    pub(crate) fn queue_count(&self) -> usize {
        self.queue_count
    }

    /// The driver is ready.
    pub(crate) fn start(&self, queues: Vec<Option<WorkerQueue>>, features: u64) {
        self.command(Command::Start { queues, features });
    }

    /// The driver resets the device; returns when no ring is touched any more.
    pub(crate) fn reset(&self) {
        // An error means that the thread is gone, and so are its rings.
        let _ = self.request_reset().recv();
    }

    /// The same without waiting: the receiver learns when no ring is touched any more.
    pub(crate) fn request_reset(&self) -> Receiver<()> {
        let (done, finished) = sync_channel(1);
        self.command(Command::Reset { done });
        finished
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread only goes away with the machine or after it reported its failure.
            let _ = commands.send(command);
            let _ = self.wake.write(1);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The executor is gone with its thread, so these end.
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

/// What the thread of a worker owns.
pub(crate) struct WorkerState {
    pub(super) epoll: Arc<Epoll>,
    wake: EventFd,
    commands: Receiver<Command>,
    executor: Box<dyn Executor>,
    queues: Vec<Option<WorkerQueue>>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    running: bool,
}

impl WorkerState {
    /// Runs until the handle is dropped.
    fn run(mut self) -> io::Result<()> {
        let mut more = false;
        while let Some(left) = self.turn(if more { 0 } else { -1 })? {
            more = left;
        }
        Ok(())
    }

    /// Waits for events for `timeout` milliseconds (-1: until there is one), handles them and serves every queue that can
    /// be. Returns whether work may be left, or `None` when the handle was dropped.
    pub(crate) fn turn(&mut self, timeout: i32) -> io::Result<Option<bool>> {
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        let count = loop {
            match self.epoll.wait(timeout, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => break other?,
            }
        };
        for event in events.iter().take(count) {
            if event.data() == COMMAND_TOKEN {
                let _ = self.wake.read();
                if !self.obey()? {
                    return Ok(None);
                }
            } else {
                self.dispatch(event);
            }
        }
        Ok(Some(self.serve()))
    }

    /// Carries out what the transport asks; false when it is gone.
    fn obey(&mut self) -> io::Result<bool> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Start { queues, features }) => self.start(queues, features)?,
                Ok(Command::Reset { done }) => {
                    self.stop()?;
                    self.executor.reset();
                    let _ = done.send(());
                }
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => {
                    self.stop()?;
                    return Ok(false);
                }
            }
        }
    }

    fn start(&mut self, queues: Vec<Option<WorkerQueue>>, features: u64) -> io::Result<()> {
        self.queues = queues;
        for (index, queue) in (0..).zip(&self.queues) {
            if let Some(queue) = queue {
                // Each kick is reported once, so nobody has to read the event, which is a system call per request.
                let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, index);
                self.epoll
                    .ctl(ControlOperation::Add, queue.kick.as_raw_fd(), event)?;
            }
        }
        self.running = true;
        let events = Events::new(Arc::clone(&self.epoll));
        // Buffers that the driver offered before this moment are found by the next round of `serve`.
        let started = self.executor.start(&self.memory, features, &events);
        self.check(started);
        Ok(())
    }

    /// Lets go of the rings.
    fn stop(&mut self) -> io::Result<()> {
        self.executor.abandon();
        for queue in self.queues.drain(..).flatten() {
            let fd = queue.kick.as_raw_fd();
            self.epoll
                .ctl(ControlOperation::Delete, fd, EpollEvent::default())?;
        }
        self.running = false;
        Ok(())
    }

    /// Hands an event of the executor to it. A kick says only that it is time to serve.
    fn dispatch(&mut self, event: &EpollEvent) {
        // An event that was reported together with a reset concerns nobody any more.
        if event.data() & Events::EXECUTOR_BIT != 0 && self.running {
            let handled = self.executor.event(event.data() as u32, event.event_set());
            self.check(handled);
        }
    }

    /// Serves every queue that can be; true when work may be left.
    fn serve(&mut self) -> bool {
        // Mostly the second pass finds nothing left, which is less work than to wait for no time.
        self.pass() && self.pass()
    }

    /// Serves every queue that can be once; true when work may be left.
    fn pass(&mut self) -> bool {
        let mut more = false;
        let mut index = 0usize;
        while self.running && index < self.queues.len() {
            match self.serve_queue(index) {
                Ok(left) => more |= left,
                Err(failure) => self.check(Err(failure)),
            }
            index = index.saturating_add(1);
        }
        more && self.running
    }

    /// Gives back what is finished of one queue, and takes up to [`BATCH`] new chains.
    fn serve_queue(&mut self, index: usize) -> Result<bool, DeviceFailure> {
        let Some(Some(WorkerQueue { queue, .. })) = self.queues.get_mut(index) else {
            return Ok(false);
        };
        let memory: &GuestMemory = &self.memory;
        let executor = &mut *self.executor;
        let mut used = give_back(queue, memory, executor, index)?;
        let mut taken = 0usize;
        let mut result = Ok(());
        let left = loop {
            if taken == BATCH {
                break true;
            }
            if !executor.ready(index) {
                queue.disable_notification(memory).map_err(ring)?;
                break false;
            }
            let Some(chain) = Chain::next_of(queue, memory).map_err(ring)? else {
                // A buffer that arrives between the last look and this switch is reported here, not lost.
                if queue.enable_notification(memory).map_err(ring)? {
                    continue;
                }
                break false;
            };
            let head = chain.head_index();
            taken = taken.saturating_add(1);
            let length = match executor.execute(memory, index, chain) {
                Ok(Completion::Later) => continue,
                Ok(Completion::Done(length)) => length,
                Err(failure) => {
                    result = Err(failure);
                    0
                }
            };
            queue.add_used(memory, head, length).map_err(ring)?;
            used = used.saturating_add(1);
            if result.is_err() {
                break false;
            }
        };
        if taken > 0 && result.is_ok() {
            result = executor.submit();
            used = used.saturating_add(give_back(queue, memory, executor, index)?);
        }
        if used > 0 && queue.needs_notification(memory).map_err(ring)? {
            self.interrupt.used_buffers();
        }
        // Other queues may have become ready by what was done here, and this one by what it gave back.
        result.map(|()| left || used > 0)
    }

    /// A device that fails stays still until the driver resets it.
    fn check(&mut self, result: Result<(), DeviceFailure>) {
        if let Err(failure) = result {
            self.running = false;
            self.executor.abandon();
            self.interrupt.needs_reset(failure);
        }
    }
}

/// Gives back the chains of a queue that its executor kept and finished; returns how many.
fn give_back(
    queue: &mut Queue,
    memory: &GuestMemory,
    executor: &mut dyn Executor,
    index: usize,
) -> Result<usize, DeviceFailure> {
    let mut count = 0usize;
    while let Some(Finished { head, length }) = executor.finished(index) {
        queue.add_used(memory, head, length).map_err(ring)?;
        count = count.saturating_add(1);
    }
    Ok(count)
}

fn ring(error: virtio_queue::Error) -> DeviceFailure {
    DeviceFailure {
        reason: format!("the driver broke the ring: {error}"),
    }
}
