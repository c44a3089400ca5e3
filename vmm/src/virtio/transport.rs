//! The registers of a device on the MMIO transport, section 4.2.
//!
//! The transport owns features and queue set-up; a device only learns of a start and of a reset. What the driver reads stands in memory,
//! see `registers`.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::interrupt::{Interrupt, USED_BUFFER};
use super::queue::QueueConfig;
use super::registers::offset;
use super::status::{Status, Step};
use super::worker::{Worker, WorkerQueue};
use super::{ConfigSpace, GuestMemory, features};

/// Offset of QueueNotify, where KVM catches the driver's kicks.
pub(crate) const QUEUE_NOTIFY: u64 = offset::QUEUE_NOTIFY;

/// Offset of InterruptACK, and what is written there when buffers were used: KVM catches it, and nobody needs to know.
pub(crate) const INTERRUPT_ACK: (u64, u32) = (offset::INTERRUPT_ACK, USED_BUFFER);

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "msb" and a NUL.
const VENDOR: u32 = 0x0062_736d;

/// One device's registers and the workers behind them.
pub(crate) struct MmioTransport {
    device_features: u64,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    queues: Vec<QueueConfig>,
    kicks: Vec<Arc<EventFd>>,
    interrupt: Arc<Interrupt>,
    memory: Arc<GuestMemory>,
    workers: Vec<Worker>,
    started: bool,
}

/// What a transport is made of.
pub(crate) struct Parts {
    pub(crate) device_type: u32,
    pub(crate) features: u64,
    pub(crate) config: ConfigSpace,
    pub(crate) queue_sizes: Vec<u16>,
    /// One for each queue; KVM signals it when the driver kicks the queue.
    pub(crate) kicks: Vec<Arc<EventFd>>,
    pub(crate) interrupt: Arc<Interrupt>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) workers: Vec<Worker>,
}

impl MmioTransport {
    pub(crate) fn new(parts: Parts) -> MmioTransport {
        let registers = parts.interrupt.registers();
        registers.set(offset::MAGIC_VALUE, MAGIC);
        registers.set(offset::VERSION, VERSION);
        registers.set(offset::DEVICE_ID, parts.device_type);
        registers.set(offset::VENDOR_ID, VENDOR);
        parts.config.connect(Arc::clone(&parts.interrupt));
        let transport = MmioTransport {
            device_features: parts.features | features::RING,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            queues: parts
                .queue_sizes
                .into_iter()
                .map(QueueConfig::new)
                .collect(),
            kicks: parts.kicks,
            interrupt: parts.interrupt,
            memory: parts.memory,
            workers: parts.workers,
            started: false,
        };
        transport.show();
        transport
    }

    /// The driver reads at `place`, where KVM has not read for it. What is no register reads as all ones.
    pub(crate) fn read(&self, place: u64, data: &mut [u8]) {
        self.interrupt.registers().read(place, data);
    }

    /// Shows the driver the registers that depend on what it has selected.
    fn show(&self) {
        let registers = self.interrupt.registers();
        let features = word(self.device_features, self.device_features_select);
        registers.set(offset::DEVICE_FEATURES, features);
        let queue = usize::try_from(self.queue_select).ok();
        let queue = queue.and_then(|index| self.queues.get(index));
        // A queue that does not exist has size 0.
        let size = queue.map_or(0, |queue| u32::from(queue.max_size));
        registers.set(offset::QUEUE_NUM_MAX, size);
        let ready = queue.map_or(0, |queue| u32::from(queue.ready));
        registers.set(offset::QUEUE_READY, ready);
    }

    /// The driver writes at `place`. What is no register, or not writable now, is ignored.
    pub(crate) fn write(&mut self, place: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(word);
        match place {
            offset::DEVICE_FEATURES_SEL => self.device_features_select = value,
            offset::DRIVER_FEATURES_SEL => self.driver_features_select = value,
            offset::DRIVER_FEATURES => self.accept_features(value),
            offset::QUEUE_SEL => self.queue_select = value,
            offset::QUEUE_NOTIFY => self.kick(value),
            offset::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            offset::STATUS => self.write_status(Status::from_bits(value)),
            _ => self.write_queue(place, value),
        }
        self.show();
    }

    fn accept_features(&mut self, value: u32) {
        let status = self.interrupt.status();
        if !status.contains(Status::DRIVER) || status.contains(Status::FEATURES_OK) {
            return;
        }
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        let mask = u64::from(u32::MAX) << shift;
        self.driver_features = (self.driver_features & !mask) | (u64::from(value) << shift);
    }

    /// Queues can be set up between FEATURES_OK and DRIVER_OK only (section 3.1.1).
    fn write_queue(&mut self, place: u64, value: u32) {
        let status = self.interrupt.status();
        if !status.contains(Status::FEATURES_OK) || status.contains(Status::DRIVER_OK) {
            return;
        }
        let Some(queue) = usize::try_from(self.queue_select)
            .ok()
            .and_then(|index| self.queues.get_mut(index))
        else {
            return;
        };
        match place {
            offset::QUEUE_READY => queue.ready = value == 1,
            // A queue in use must be taken out of use first.
            _ if queue.ready => {}
            offset::QUEUE_NUM => queue.size = value,
            offset::QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            offset::QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            offset::QUEUE_DRIVER_LOW => set_low(&mut queue.driver, value),
            offset::QUEUE_DRIVER_HIGH => set_high(&mut queue.driver, value),
            offset::QUEUE_DEVICE_LOW => set_low(&mut queue.device, value),
            offset::QUEUE_DEVICE_HIGH => set_high(&mut queue.device, value),
            _ => {}
        }
    }

    fn write_status(&mut self, written: Status) {
        match self.interrupt.status().step(written) {
            None => tracing::debug!(?written, "the driver's device status is out of order"),
            Some(Step::Reset) => self.reset(),
            Some(Step::Noticed(bit)) => self.interrupt.add_status(bit),
            Some(Step::Failed) => self.interrupt.add_status(Status::FAILED),
            Some(Step::Features) => {
                // Left clear when the driver wants what was not offered, or the legacy interface (section 6.1).
                let offered = self.driver_features & !self.device_features == 0;
                if offered && self.driver_features & features::VERSION_1 != 0 {
                    self.interrupt.add_status(Status::FEATURES_OK);
                }
            }
            Some(Step::Start) => {
                self.interrupt.add_status(Status::DRIVER_OK);
                self.start();
            }
        }
    }

    /// Hands the queues to the workers.
    fn start(&mut self) {
        let event_idx = self.driver_features & features::RING_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, config) in self.queues.iter().enumerate() {
            match config.activate(index, &self.memory, event_idx) {
                Ok(queue) => queues.push(queue),
                Err(error) => return self.interrupt.needs_reset(error),
            }
        }
        let mut queues = queues.into_iter().zip(&self.kicks);
        for worker in &self.workers {
            let share = queues
                .by_ref()
                .take(worker.queue_count())
                .map(|(queue, kick)| {
                    queue.map(|queue| WorkerQueue {
                        queue,
                        kick: Arc::clone(kick),
                    })
                })
                .collect();
            worker.start(share, self.driver_features);
        }
        self.started = true;
    }

    /// Back to the state after creation; returns when the workers have let go of the rings.
    fn reset(&mut self) {
        if self.started {
            for worker in &self.workers {
                worker.reset();
            }
            self.started = false;
        }
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueConfig::new(queue.max_size);
        }
        self.interrupt.reset();
    }

    /// A kick that did not come through KVM, because its width or value was unusual.
    fn kick(&self, queue: u32) {
        let kick = usize::try_from(queue)
            .ok()
            .and_then(|index| self.kicks.get(index));
        if let Some(kick) = kick {
            // The counter refuses only at its maximum, and then the worker is awake anyway.
            let _ = kick.write(1);
        }
    }
}

/// The low or high half of a 64-bit set of features.
fn word(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = (*address & !0xffff_ffff) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = (*address & 0xffff_ffff) | (u64::from(value) << 32);
}
