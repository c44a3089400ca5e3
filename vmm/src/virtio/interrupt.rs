//! What the device side tells the driver outside the rings: the interrupt, and that it needs a reset.
//!
//! InterruptStatus says that buffers were used as long as the driver runs, so its answer to that need not arrive here, and takes no more
//! than KVM's own time. A handler that finds no used buffer has done nothing, as where devices share a line.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::registers::{Registers, offset};
use super::status::Status;

/// InterruptStatus bits, section 4.2.2.
pub(super) const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// Shared by the transport, which shows it to the driver, and the workers, which raise it.
#[derive(Debug)]
pub(crate) struct Interrupt {
    registers: Registers,
    line: EventFd,
    /// The device has asked for a reset before.
    warned: AtomicBool,
}

impl Interrupt {
    /// For the device with these registers.
    ///
    /// # Errors
    /// As eventfd(2).
    pub(crate) fn new(registers: Registers) -> io::Result<Interrupt> {
        let interrupt = Interrupt {
            registers,
            line: EventFd::new(EFD_NONBLOCK)?,
            warned: AtomicBool::new(false),
        };
        interrupt.reset();
        Ok(interrupt)
    }

    /// Where it is told.
    pub(crate) fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The event that KVM turns into an interrupt.
    pub(crate) fn line(&self) -> &EventFd {
        &self.line
    }

    /// Buffers were used.
    pub(crate) fn used_buffers(&self) {
        self.raise();
    }

    /// The configuration space has other contents. A driver that is not ready yet reads it anyway.
    pub(crate) fn configuration_changed(&self) {
        if self.status().contains(Status::DRIVER_OK) {
            // The bit first: the driver reads it in the handler of the interrupt.
            self.add(offset::INTERRUPT_STATUS, CONFIGURATION_CHANGE);
            self.raise();
        }
    }

    /// The InterruptACK register.
    pub(crate) fn acknowledge(&self, bits: u32) {
        if let Some(pending) = self.registers.word(offset::INTERRUPT_STATUS) {
            pending.fetch_and(!(bits & CONFIGURATION_CHANGE), Ordering::SeqCst);
        }
    }

    /// The device status register.
    pub(crate) fn status(&self) -> Status {
        let status = self.registers.word(offset::STATUS);
        Status::from_bits(status.map_or(0, |status| status.load(Ordering::SeqCst)))
    }

    /// Adds bits to the device status. Bits are only ever cleared by [`Interrupt::reset`].
    pub(crate) fn add_status(&self, status: Status) {
        if status.contains(Status::DRIVER_OK) {
            self.add(offset::INTERRUPT_STATUS, USED_BUFFER);
        }
        self.add(offset::STATUS, status.bits());
    }

    /// The device cannot go on before the driver resets it (section 2.1.2). The first `reason` is a warning, later ones
    /// are not: a guest could fill the host's log with them.
    pub(crate) fn needs_reset(&self, reason: impl Display) {
        if self.warned.swap(true, Ordering::Relaxed) {
            tracing::debug!("a device needs a reset again: {reason}");
        } else {
            tracing::warn!("a device needs a reset: {reason}");
        }
        self.add_status(Status::NEEDS_RESET);
        self.configuration_changed();
    }

    /// The driver reset the device.
    pub(crate) fn reset(&self) {
        self.registers.set(offset::STATUS, 0);
        self.registers.set(offset::INTERRUPT_STATUS, 0);
    }

    /// Of a device that is in no machine.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_lone_device() -> io::Result<Interrupt> {
        let registers = super::RegisterPages::new(1).of_device(0);
        Interrupt::new(registers.ok_or(io::ErrorKind::NotFound)?)
    }

    fn add(&self, place: u64, bits: u32) {
        if let Some(word) = self.registers.word(place) {
            word.fetch_or(bits, Ordering::SeqCst);
        }
    }

    fn raise(&self) {
        // A non-blocking eventfd refuses only at its maximum, and then the interrupt is pending anyway.
        let _ = self.line.write(1);
    }
}
