//! What a device is: data that describes it to the driver, and executors that carry out its requests.
//!
//! A device knows neither its registers nor its rings. The MMIO transport owns the former, one shared queue worker the
//! latter; so a device is tested by handing chains to its executor.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Chain, ConfigSpace};
use crate::memory::GuestMemory;
use crate::traffic::Traffic;

/// A device as the driver sees it, and who serves it.
pub struct DeviceDescription {
    /// Device type, see section 5 of the specification.
    pub device_type: u32,
    /// Device-specific feature bits; the transport adds the ones that concern the rings.
    pub features: u64,
    /// Device configuration space, read-only to the driver.
    pub config: ConfigSpace,
    /// Threads that serve the queues; the queues are numbered through in this order.
    pub workers: Vec<WorkerDescription>,
    /// Counts what the device moves between the guest and files of the host.
    pub traffic: Traffic,
}

/// One thread and the queues that it serves.
pub struct WorkerDescription {
    /// Name of the thread, at most 15 bytes.
    pub name: String,
    /// Largest size of each queue, a power of two.
    pub queue_sizes: Vec<u16>,
    /// System calls that the executor makes, besides reading and writing descriptors, waiting for events and allocating.
    pub system_calls: &'static [i64],
    /// Carries out the requests.
    pub executor: Box<dyn Executor>,
    /// Whether the thread leaves the processor to a vCPU that kicks it, where they share one: the driver then submits everything before
    /// the first request is carried out, and gets one interrupt for all. Others want their answers at once.
    pub gathers: bool,
    /// Threads that work for the executor.
    pub helpers: Vec<HelperDescription>,
}

/// A thread that works for an executor. It must end when the executor is dropped.
pub struct HelperDescription {
    /// Name of the thread, at most 15 bytes.
    pub name: String,
    /// System calls that it makes, besides those that every thread may make.
    pub system_calls: &'static [i64],
    /// What it runs.
    pub body: Box<dyn FnOnce() + Send>,
}

/// What became of a chain that an executor was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It was carried out; this many bytes were written to its device-writable part.
    Done(u32),
    /// The executor keeps it, and hands it back by [`Executor::finished`].
    Later,
}

/// A chain that was kept and is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Head of the chain.
    pub head: u16,
    /// Bytes that were written to its device-writable part.
    pub length: u32,
}

/// The device cannot go on; the driver sees `DEVICE_NEEDS_RESET` until it resets the device.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DeviceFailure {
    /// What happened, as a sentence without a full stop.
    pub reason: String,
}

/// Carries out a device's requests on the thread of its worker. Queues are numbered from 0 within the worker.
pub trait Executor: Send {
    /// The driver is ready: `features` are those that it accepted. `events` stays valid until `reset`.
    ///
    /// # Errors
    /// When the device cannot start.
    fn start(
        &mut self,
        memory: &Arc<GuestMemory>,
        features: u64,
        events: &Events,
    ) -> Result<(), DeviceFailure> {
        let _ = (memory, features, events);
        Ok(())
    }

    /// Whether a chain of `queue` could be carried out now. The worker asks before it takes each chain, again after every
    /// event and after chains of its other queues; a receive queue says yes when there is something to give to the driver.
    fn ready(&mut self, queue: usize) -> bool {
        let _ = queue;
        true
    }

    /// Carries out one chain, or begins it. An executor that keeps chains must bound their number by
    /// [`ready`](Self::ready): a driver can make a chain available again before it came back.
    ///
    /// # Errors
    /// When the device cannot go on. A malformed request is no reason: it is answered as the specification says, or
    /// returned with length 0.
    fn execute(
        &mut self,
        memory: &GuestMemory,
        queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure>;

    /// No more chains are taken for now: what was collected from them begins.
    ///
    /// # Errors
    /// When the device cannot go on.
    fn submit(&mut self) -> Result<(), DeviceFailure> {
        Ok(())
    }

    /// The next chain of `queue` that was kept and is carried out. The worker asks after every event, and after
    /// [`submit`](Self::submit), until there is none.
    fn finished(&mut self, queue: usize) -> Option<Finished> {
        let _ = queue;
        None
    }

    /// A file descriptor that the executor added to `events` is ready.
    ///
    /// # Errors
    /// When the device cannot go on.
    fn event(&mut self, token: u32, ready: EventSet) -> Result<(), DeviceFailure> {
        let _ = (token, ready);
        Ok(())
    }

    /// The rings are about to be let go, or are broken: returns when nobody works any more on chains that were kept, which
    /// are forgotten.
    fn abandon(&mut self) {}

    /// The driver reset the device: back to the state before `start`, all that the driver knew forgotten.
    fn reset(&mut self) {}
}

/// The worker's event loop, as far as an executor may use it: file descriptors under tokens of the executor's choice.
#[derive(Clone)]
pub struct Events {
    epoll: Arc<Epoll>,
}

impl Events {
    /// Tokens of executors carry this bit in the epoll data; the worker's own do not.
    pub(crate) const EXECUTOR_BIT: u64 = 1 << 32;

    /// Wraps the worker's epoll instance.
    pub(crate) fn new(epoll: Arc<Epoll>) -> Events {
        Events { epoll }
    }

    /// Watches `fd`; `Executor::event` gets `token`. Combine `interest` with `EDGE_TRIGGERED` as needed.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, fd: BorrowedFd<'_>, token: u32, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, token, interest)
    }

    /// Changes what `fd` is watched for; an empty set watches for errors and hang-up only.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u32, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd, token, interest)
    }

    /// Stops watching `fd`.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd, 0, EventSet::empty())
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: BorrowedFd<'_>,
        token: u32,
        interest: EventSet,
    ) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let event = EpollEvent::new(interest, Self::EXECUTOR_BIT | u64::from(token));
        self.epoll.ctl(operation, fd.as_raw_fd(), event)
    }
}
