//! The driver's half of virtio-mmio: reset, initialisation, queues (sections 3.1 and 4.2 of the virtio specification 1.2).

use crate::memory;
use crate::registers::*;
use crate::ring::{Queue, Rings};

pub(crate) const ACKNOWLEDGE: u32 = 1;
pub(crate) const DRIVER: u32 = 2;
pub(crate) const DRIVER_OK: u32 = 4;
pub(crate) const FEATURES_OK: u32 = 8;
pub(crate) const NEEDS_RESET: u32 = 64;
pub(crate) const FAILED: u32 = 128;

/// `VIRTIO_F_INDIRECT_DESC`.
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;

/// InterruptStatus: the device used a buffer, or its status changed.
pub(crate) const USED_BUFFER: u32 = 1;
pub(crate) const CONFIGURATION_CHANGE: u32 = 2;

/// "virt".
const MAGIC: u32 = 0x7472_6976;

/// More than any device here has.
const MAX_QUEUES: usize = 4;

/// How often a register is read until something is given up: many seconds, which only a broken device takes.
const PATIENCE: u32 = 200_000;
/// How often without a pause between.
const QUICK: u32 = 20;
/// Length of the pause, so that a host with one processor has time for others.
const PAUSE: u32 = 1000;

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Block,
    Entropy,
    Vsock,
    FileSystem,
    Unknown(u32),
}

impl Kind {
    /// The device type, section 5.
    pub(crate) fn number(self) -> u32 {
        match self {
            Kind::Block => 2,
            Kind::Entropy => 4,
            Kind::Vsock => 19,
            Kind::FileSystem => 26,
            Kind::Unknown(number) => number,
        }
    }

    fn from_number(number: u32) -> Kind {
        match number {
            2 => Kind::Block,
            4 => Kind::Entropy,
            19 => Kind::Vsock,
            26 => Kind::FileSystem,
            other => Kind::Unknown(other),
        }
    }

    pub(crate) fn queues(self) -> u32 {
        match self {
            Kind::Block | Kind::Entropy | Kind::Unknown(_) => 1,
            Kind::Vsock => 3,
            Kind::FileSystem => 2,
        }
    }

    /// Queues that the device reads as soon as they are kicked. The others it reads when it has something to tell.
    pub(crate) fn served_queues(self) -> &'static [u32] {
        match self {
            Kind::Block | Kind::Entropy | Kind::Unknown(_) => &[0],
            Kind::Vsock => &[1],
            Kind::FileSystem => &[0, 1],
        }
    }
}

/// One device.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    pub(crate) kind: Kind,
    pub(crate) registers: Registers,
    /// The features that it offers.
    pub(crate) offered: u64,
    /// Largest sizes of its queues.
    largest: [u16; MAX_QUEUES],
}

impl Device {
    /// The device with registers at `base`.
    pub(crate) fn find(base: u64) -> Device {
        let registers = Registers::new(base);
        let kind = Kind::from_number(registers.read(DEVICE_ID));
        let mut offered = 0;
        for half in [1, 0] {
            registers.write(DEVICE_FEATURES_SEL, half);
            offered = offered << 32 | u64::from(registers.read(DEVICE_FEATURES));
        }
        let mut largest = [0; MAX_QUEUES];
        for (queue, largest) in (0..).zip(&mut largest) {
            registers.write(QUEUE_SEL, queue);
            *largest = registers.read(QUEUE_NUM_MAX) as u16;
        }
        Device {
            kind,
            registers,
            offered,
            largest,
        }
    }

    pub(crate) fn status(&self) -> u32 {
        self.registers.read(STATUS)
    }

    pub(crate) fn set_status(&self, status: u32) {
        self.registers.write(STATUS, status);
    }

    /// Resets the device and looks whether that is what it did.
    pub(crate) fn reset(&self) -> Result<(), &'static str> {
        self.set_status(0);
        if self.registers.read(MAGIC_VALUE) != MAGIC {
            return Err("its magic value is wrong");
        }
        if self.status() != 0 {
            return Err("its status is not 0 after a reset");
        }
        if self.registers.read(INTERRUPT_STATUS) != 0 {
            return Err("an interrupt is pending after a reset");
        }
        for queue in 0..self.kind.queues() {
            self.registers.write(QUEUE_SEL, queue);
            if self.registers.read(QUEUE_READY) != 0 {
                return Err("a queue is ready after a reset");
            }
        }
        Ok(())
    }

    /// From a reset to FEATURES_OK, with what the device offers of `wanted`.
    pub(crate) fn negotiate(&self, wanted: u64) -> Result<u64, &'static str> {
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        let features = self.offered & (wanted | VERSION_1);
        self.accept(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() != ACKNOWLEDGE | DRIVER | FEATURES_OK {
            return Err("it refuses the features that it offers");
        }
        Ok(features)
    }

    /// Tells the device which features the driver takes.
    pub(crate) fn accept(&self, features: u64) {
        for half in [0, 1] {
            self.registers.write(DRIVER_FEATURES_SEL, half);
            let word = (features >> (32 * half)) as u32;
            self.registers.write(DRIVER_FEATURES, word);
        }
    }

    /// Largest size of a queue; 0 when there is no such queue.
    pub(crate) fn largest_queue(&self, index: u32) -> u16 {
        self.largest.get(index as usize).copied().unwrap_or(0)
    }

    /// Tells the device where the rings of a queue are, and that it may use them. A reset has cleared the addresses, so
    /// their upper halves need not be written when they are 0; each access of a register takes time.
    pub(crate) fn set_rings(&self, index: u32, rings: &Rings) {
        self.registers.write(QUEUE_SEL, index);
        self.registers.write(QUEUE_NUM, rings.size);
        for (register, address) in [
            (QUEUE_DESC, rings.descriptors),
            (QUEUE_DRIVER, rings.driver),
            (QUEUE_DEVICE, rings.device),
        ] {
            self.registers.write(register, address as u32);
            if address >> 32 != 0 {
                self.registers.write(register + 4, (address >> 32) as u32);
            }
        }
        self.registers.write(QUEUE_READY, 1);
    }

    /// Sets up an empty queue as it should be, of at most `size`.
    pub(crate) fn add_queue(&self, index: u32, size: u16) -> Queue {
        let rings = Rings::proper(index, size.min(self.largest_queue(index)));
        memory::fill(rings.descriptors, rings.extent(), 0);
        self.set_rings(index, &rings);
        Queue::new(rings)
    }

    /// Tells the device that the driver is ready.
    pub(crate) fn start(&self) {
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// From a reset to DRIVER_OK with all queues empty; gives out queue `index`.
    pub(crate) fn start_with(
        &self,
        index: u32,
        features: u64,
        size: u16,
    ) -> Result<Queue, &'static str> {
        self.negotiate(features)?;
        for other in (0..self.kind.queues()).filter(|other| *other != index) {
            self.add_queue(other, size);
        }
        let queue = self.add_queue(index, size);
        self.start();
        Ok(queue)
    }

    /// Tells the device to look at a queue.
    pub(crate) fn kick(&self, index: u32) {
        self.registers.write(QUEUE_NOTIFY, index);
    }

    /// Waits until `done` holds; returns whether it does. Each look at a register lets the monitor's threads run.
    pub(crate) fn wait(&self, mut done: impl FnMut() -> bool) -> bool {
        for attempt in 0..PATIENCE {
            if done() {
                return true;
            }
            self.registers.read(INTERRUPT_STATUS);
            for _ in 0..if attempt < QUICK { 0 } else { PAUSE } {
                core::hint::spin_loop();
            }
        }
        false
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    /// Waits until the device asks for a reset, in the status and by an interrupt (section 2.1.2).
    pub(crate) fn expect_needs_reset(&self) -> Result<(), &'static str> {
        if !self.wait(|| self.needs_reset()) {
            return Err("it does not ask for a reset");
        }
        let told = || self.registers.read(INTERRUPT_STATUS) & CONFIGURATION_CHANGE != 0;
        if !self.wait(told) {
            return Err("no interrupt tells that it asks for a reset");
        }
        Ok(())
    }
}
