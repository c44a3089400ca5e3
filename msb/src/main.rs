//! The command line of microsandbox.

mod commands;
mod crash;
mod failure;
mod host;
mod kernel_files;
mod logging;
mod options;
mod output;
mod signals;
mod terminal;
mod usage;
mod utc;
mod vm;

use std::process::ExitCode;

use clap::Parser;

use commands::Cli;

fn main() -> ExitCode {
    use_one_heap();
    crash::exit_on_panic();
    let status = match Cli::try_parse() {
        Ok(cli) => cli.execute().unwrap_or_else(|error| {
            failure::report(&error);
            usage::failure_status()
        }),
        Err(error) => usage::report(&error),
    };
    ExitCode::from(status)
}

/// Makes all threads share one heap. glibc gives each its own otherwise, and opens /proc/sys/vm/overcommit_memory the first
/// time that it makes one smaller (malloc/arena.c, `shrink_heap`), which a thread of the monitor may not: after much data
/// that would end the machine. One heap is smaller, too.
fn use_one_heap() {
    // SAFETY: the call only sets a limit, and no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
