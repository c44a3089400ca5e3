//! Port I/O: the serial port, the keyboard controller's reset, and nothing else.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{I8042Device, Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ConsoleLog;
use crate::ending::{Ending, EndingReporter};

const SERIAL: u16 = 0x3f8;
const SERIAL_END: u16 = 0x3ff;
const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;

/// The interrupt line of the serial port.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The guest's way to end: a pulse on the processor's reset line.
struct ResetLine(EndingReporter);

impl Trigger for ResetLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.report(Ending::Reset);
        Ok(())
    }
}

/// Tells the console's reader that the guest has read all of its input.
struct InputDrained(EventFd);

impl SerialEvents for InputDrained {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // The counter refuses only at its maximum, and then the reader is awake anyway.
        let _ = self.0.write(1);
    }
}

/// Shared by the processors and the console's reader.
#[derive(Clone)]
pub(crate) struct Ports {
    serial: Arc<Mutex<Serial<Line, InputDrained, ConsoleLog>>>,
    keyboard: Arc<Mutex<I8042Device<ResetLine>>>,
    serial_line: Arc<EventFd>,
    input_drained: Arc<EventFd>,
}

impl Ports {
    pub(crate) fn new(log: ConsoleLog, ending: EndingReporter) -> io::Result<Ports> {
        let line = EventFd::new(EFD_NONBLOCK)?;
        let drained = EventFd::new(EFD_NONBLOCK)?;
        let serial_line = Arc::new(line.try_clone()?);
        let input_drained = Arc::new(drained.try_clone()?);
        let serial = Serial::with_events(Line(line), InputDrained(drained), log);
        Ok(Ports {
            serial: Arc::new(Mutex::new(serial)),
            keyboard: Arc::new(Mutex::new(I8042Device::new(ResetLine(ending)))),
            serial_line,
            input_drained,
        })
    }

    /// The event that KVM turns into the serial port's interrupt.
    pub(crate) fn serial_line(&self) -> &EventFd {
        &self.serial_line
    }

    /// Readable when the guest has read all that [`Ports::feed_serial`] took.
    pub(crate) fn input_drained(&self) -> &EventFd {
        &self.input_drained
    }

    /// The guest reads. A port without a device reads as all ones.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let [byte] = data else {
            return;
        };
        match port {
            SERIAL..=SERIAL_END => *byte = lock(&self.serial).read((port - SERIAL) as u8),
            KEYBOARD_DATA | KEYBOARD_COMMAND => {
                *byte = lock(&self.keyboard).read((port - KEYBOARD_DATA) as u8);
            }
            _ => {}
        }
    }

    /// The guest writes. A port without a device swallows it.
    pub(crate) fn write(&self, port: u16, data: &[u8]) {
        let [byte] = data else {
            return;
        };
        match port {
            SERIAL..=SERIAL_END => {
                // The log takes every byte and the line's counter cannot overflow in time: nothing to report.
                let _ = lock(&self.serial).write((port - SERIAL) as u8, *byte);
            }
            KEYBOARD_DATA | KEYBOARD_COMMAND => {
                let _ = lock(&self.keyboard).write((port - KEYBOARD_DATA) as u8, *byte);
            }
            _ => {}
        }
    }

    /// Gives bytes to the serial port's input, as many as fit; returns how many.
    pub(crate) fn feed_serial(&self, bytes: &[u8]) -> usize {
        let mut serial = lock(&self.serial);
        let fits = serial.fifo_capacity().min(bytes.len());
        serial
            .enqueue_raw_bytes(bytes.get(..fits).unwrap_or_default())
            .unwrap_or(0)
    }
}

fn lock<T>(device: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Register files have no invariant that a panic could break.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
