//! PID 1 of the guest: carries out the host's boot message, then runs and controls processes for
//! the clients of the sandbox. `docs/protocol.md` describes what it hears and says.
//!
//! In the order of events: [`main`] dials the host, [`boot`] mounts, [`init`] may take the place of PID 1, [`server`] waits for events,
//! [`session`] serves one client, [`running`] its process, [`shutdown`] ends the machine.

#![deny(clippy::indexing_slicing)]

mod boot;
mod child;
mod children;
mod command;
mod connection;
mod devices;
mod directories;
mod disks;
mod failure;
mod files;
mod gauges;
mod init;
mod input;
mod kernel_log;
mod limits;
mod mount_context;
mod mount_plan;
mod mounts;
mod network;
mod output;
mod patches;
mod poller;
mod process;
mod profile;
mod program;
mod read_ahead;
mod root;
mod running;
mod scripts;
mod server;
mod session;
mod shutdown;
mod staging;
mod superblock;
mod task;
mod terminal;
mod upper;
mod users;
mod vsock;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::getpid;
use protocol::{Boot, CONTROL_PORT, GuestMessage, Hello, HostMessage, Ready, SESSION_PORT, Stage};

use crate::connection::Connection;
use crate::failure::OrFailed;
use crate::server::Server;

/// Release of agentd, as it tells its peers.
const BUILD: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let started = time_since_boot();
    if getpid().as_raw() != 1 {
        eprintln!("agentd is the first process of a guest and does nothing elsewhere");
        return ExitCode::FAILURE;
    }
    kernel_log::open();
    std::panic::set_hook(Box::new(|panic| {
        kernel_log::emergency(format_args!("{panic}"));
        // SAFETY: _exit(2) ends the process at once. For PID 1 that is a panic of the kernel,
        // which the host sees.
        unsafe { libc::_exit(101) }
    }));
    let Err(error) = live(started);
    kernel_log::emergency(format_args!("{error}"));
    ExitCode::FAILURE
}

/// From the first line to the end of the machine.
fn live(started: Duration) -> Result<Infallible, Box<dyn Error>> {
    let mut control = dial_host()?;
    let boot = hear_boot(&mut control)?;
    let prepared = boot::carry_out(&boot).and_then(|guest| {
        let listener = vsock::listen_on(SESSION_PORT)
            .or_failed(Stage::Network, || "Sessions cannot be accepted".into())?;
        if let Some(init) = &boot.init {
            init::hand_over(init, guest.profile)?;
        }
        Ok((guest, listener))
    });
    let (guest, listener) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => {
            shutdown::say_last(&mut control, &GuestMessage::Failed(failure));
            return Ok(shutdown::end_machine()?);
        }
    };
    let ready = Ready {
        kernel_ns: nanoseconds(started),
        agent_ns: nanoseconds(time_since_boot().saturating_sub(started)),
    };
    control.send(&GuestMessage::Ready(ready))?;
    poller::set_nonblocking(&control)?;
    let (control, guest) = Server::new(control, listener, guest)?.run()?;
    shutdown::leave_file_systems(guest.gauges.upper());
    if let Some(mut control) = control {
        shutdown::say_last(&mut control, &GuestMessage::Goodbye);
    }
    Ok(shutdown::end_machine()?)
}

fn dial_host() -> Result<Connection, Box<dyn Error>> {
    match vsock::dial(CONTROL_PORT) {
        Ok(socket) => Ok(Connection::new(socket)),
        Err(error) => Err(format!("The host does not answer on its vsock port: {error}").into()),
    }
}

/// Greets the host and waits for its boot message.
fn hear_boot(control: &mut Connection) -> Result<Boot, Box<dyn Error>> {
    control.send(&GuestMessage::Hello(Hello::current(BUILD)))?;
    match control.wait_for_message()? {
        Some(HostMessage::Hello(hello)) => hello.check()?,
        _ => return Err("The host did not say Hello".into()),
    }
    match control.wait_for_message()? {
        Some(HostMessage::Boot(boot)) => Ok(*boot),
        _ => Err("The host did not send its boot message".into()),
    }
}

/// Since the start of the kernel, by CLOCK_BOOTTIME.
fn time_since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
