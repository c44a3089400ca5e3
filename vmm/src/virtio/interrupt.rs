//! What the device side tells the driver outside the rings: the interrupt, and that it needs a reset.

use std::fmt::Display;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::status::Status;

/// InterruptStatus bits, section 4.2.2.
const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// Shared by the transport, which shows it to the driver, and the workers, which raise it.
#[derive(Debug)]
pub(crate) struct Interrupt {
    pending: AtomicU32,
    status: AtomicU32,
    line: EventFd,
    /// The device has asked for a reset before.
    warned: AtomicBool,
}

impl Interrupt {
    pub(crate) fn new() -> io::Result<Interrupt> {
        Ok(Interrupt {
            pending: AtomicU32::new(0),
            status: AtomicU32::new(0),
            line: EventFd::new(EFD_NONBLOCK)?,
            warned: AtomicBool::new(false),
        })
    }

    /// The event that KVM turns into an interrupt.
    pub(crate) fn line(&self) -> &EventFd {
        &self.line
    }

    /// Buffers were used.
    pub(crate) fn used_buffers(&self) {
        self.raise(USED_BUFFER);
    }

    /// The configuration space has other contents. A driver that is not ready yet reads it anyway.
    pub(crate) fn configuration_changed(&self) {
        if self.status().contains(Status::DRIVER_OK) {
            self.raise(CONFIGURATION_CHANGE);
        }
    }

    /// The InterruptStatus register.
    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Ordering::SeqCst)
    }

    /// The InterruptACK register.
    pub(crate) fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The device status register.
    pub(crate) fn status(&self) -> Status {
        Status::from_bits(self.status.load(Ordering::SeqCst))
    }

    /// Adds bits to the device status. Bits are only ever cleared by [`Interrupt::reset`].
    pub(crate) fn add_status(&self, status: Status) {
        self.status.fetch_or(status.bits(), Ordering::SeqCst);
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
        self.status.store(0, Ordering::SeqCst);
        self.pending.store(0, Ordering::SeqCst);
    }

    fn raise(&self, bit: u32) {
        // The bit first: the driver reads it in the handler of the interrupt.
        self.pending.fetch_or(bit, Ordering::SeqCst);
        // A non-blocking eventfd refuses only at its maximum, and then the interrupt is pending anyway.
        let _ = self.line.write(1);
    }
}
