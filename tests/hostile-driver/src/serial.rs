//! Lines on the serial port.

use core::fmt::{self, Write};

use crate::machine;

const TRANSMIT: u16 = 0x3f8;

/// The serial port; the monitor's takes every byte at once.
pub(crate) struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            machine::write_port(TRANSMIT, byte);
        }
        Ok(())
    }
}

/// Writes a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write as _;
        // The port refuses nothing.
        let _ = writeln!($crate::serial::Serial, $($text)*);
    }};
}
