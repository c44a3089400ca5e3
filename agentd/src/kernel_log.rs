//! Messages of agentd itself. They go to the kernel's log, where the host's console shows only
//! emergencies; a guest that works prints nothing.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

static LOG: OnceLock<File> = OnceLock::new();

/// Opens `/dev/kmsg` of the initramfs. Without it agentd works all the same, silently.
pub(crate) fn open() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = LOG.set(file);
    }
}

/// For whoever looks for the cause of something odd.
pub(crate) fn debug(message: Arguments) {
    write(7, message);
}

/// The guest cannot go on.
pub(crate) fn emergency(message: Arguments) {
    write(0, message);
}

/// One record: priority as in syslog(2), then the text, in a single write.
fn write(priority: u8, message: Arguments) {
    if let Some(mut log) = LOG.get() {
        let record = format!("<{priority}>agentd: {message}");
        let _ = log.write(record.as_bytes());
    }
}
