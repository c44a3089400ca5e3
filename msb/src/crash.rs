//! What happens when `msb` itself has a bug.

use std::panic::{self, PanicHookInfo};
use std::process;

use crate::{failure, output, terminal};

/// Makes a panic of any thread end the process: the terminal is put back, one line says what
/// happened. The machine's process notices that its creator is gone and cleans up after both.
pub(crate) fn exit_on_panic() {
    panic::set_hook(Box::new(|info| {
        terminal::restore();
        report(info);
        process::exit(failure::RUN_FAILED.into());
    }));
}

/// Makes a panic say one line and go on as panics do; for the machine's process, which catches them.
pub(crate) fn report_panics() {
    panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("unknown reason");
    let place = info
        .location()
        .map(|place| format!(" ({place})"))
        .unwrap_or_default();
    let text = format!("error: internal error: {message}{place}\n  hint: please report this\n");
    output::tell(&text);
}
