//! What a PC has besides processors and memory, as little of it as a kernel needs: an I/O APIC, one serial port
//! for its log, and the keyboard controller's reset line.

mod bus;
mod console;
mod console_input;
mod io_apic;
mod ports;

pub(crate) use bus::{MmioBus, VirtioSlot};
pub use console::Console;
pub(crate) use console::{ConsoleLog, ConsoleState};
pub(crate) use console_input::ConsoleInput;
pub(crate) use io_apic::IoApic;
pub(crate) use ports::Ports;
