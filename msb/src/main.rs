//! The command line of microsandbox.

#![deny(
    clippy::print_stderr,
    reason = "it panics where standard error is closed: there is `output::tell`"
)]

mod boot_files;
mod commands;
mod crash;
mod failure;
mod host;
mod logging;
mod operand;
mod options;
mod output;
mod signals;
mod table;
mod terminal;
mod usage;
mod vm;

use std::env;
use std::ffi::{OsString, c_char, c_int};
use std::os::fd::RawFd;
use std::process::ExitCode;

use microsandbox::utc;

use commands::Cli;

fn main() -> ExitCode {
    use_one_heap();
    look_hosts_up_without_libraries();
    crash::exit_on_panic();
    let outcome = match launch_descriptor(env::args_os()) {
        Some(launch) => vm::serve_sandbox(launch),
        None => match Cli::read() {
            Ok(cli) => cli.execute(),
            Err(error) => return ExitCode::from(usage::report(&error)),
        },
    };
    let status = outcome.unwrap_or_else(|error| {
        failure::report(&error);
        usage::failure_status()
    });
    ExitCode::from(status)
}

/// The descriptor in `msb vm --launch-fd NUMBER`, by which the SDK starts a sandbox's machine. It is no option for people, and
/// a sandbox does not wait until the command line's grammar has been built.
fn launch_descriptor(mut arguments: impl Iterator<Item = OsString>) -> Option<RawFd> {
    let expected = [arguments.nth(1)?, arguments.next()?] == ["vm", "--launch-fd"];
    let number = arguments.next()?;
    if !expected || arguments.next().is_some() {
        return None;
    }
    number.to_str()?.parse().ok()
}

/// Makes all threads share one heap. glibc gives each its own otherwise, and opens /proc/sys/vm/overcommit_memory the first
/// time that it makes one smaller (malloc/arena.c, `shrink_heap`), which a thread of the monitor may not: after much data
/// that would end the machine. One heap is smaller, too.
fn use_one_heap() {
    // SAFETY: the call only sets a limit, and no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Lets names of registries be looked up in /etc/hosts and by DNS. Whatever else nsswitch.conf(5) names are libraries, with a C
/// library of their own, which a program that is linked statically must not load.
fn look_hosts_up_without_libraries() {
    unsafe extern "C" {
        /// nss.h of glibc; returns 0, or -1 when a service is unknown.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    // SAFETY: both are strings that end with a zero byte and live as long as the program, and no other thread exists yet.
    unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sdks_own_call_starts_a_sandboxs_machine() {
        let descriptor = |line: &str| launch_descriptor(line.split(' ').map(OsString::from));
        assert_eq!(descriptor("msb vm --launch-fd 7"), Some(7));
        for other in [
            "msb",
            "msb vm --launch-fd",
            "msb vm --launch-fd x",
            "msb vm --launch-fd 7 --rng",
            "msb run --launch-fd 7",
        ] {
            assert_eq!(descriptor(other), None, "{other}");
        }
    }
}
