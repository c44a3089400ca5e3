//! The end of the machine by those who ask the kernel to switch it off.

use std::fs;
use std::io;

use crate::kernel_log;

/// The driver that carries out a power-off as a restart, which ends the machine (Linux `drivers/power/reset/restart-poweroff.c`).
const DRIVER: &str = "poweroff-restart";

/// A device that every kernel for PCs without ACPI shows, and that nobody drives here.
const DEVICE: &str = "rtc_cmos";

/// Binds the driver. A kernel without it halts for ever when it is told to switch the machine off.
pub(crate) fn make_it_end_the_machine() {
    if let Err(error) = bind() {
        kernel_log::debug(format_args!("power-off will not end the machine: {error}"));
    }
}

fn bind() -> io::Result<()> {
    let bus = "/sys/bus/platform";
    fs::write(format!("{bus}/devices/{DEVICE}/driver_override"), DRIVER)?;
    fs::write(format!("{bus}/drivers/{DRIVER}/bind"), DEVICE)
}
