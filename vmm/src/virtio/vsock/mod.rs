//! Sockets between the guest and the host: the vsock device, section 5.10 of the virtio specification 1.2.
//!
//! Stream connections, entirely in the monitor. The host's end of every connection is a Unix stream socket: one that the
//! monitor hands out when the guest connects to a port of the host, or one that a listener accepted and that is joined to
//! a port of the guest. The kernel copies between those sockets and the buffers of the guest; the monitor keeps only what a
//! slow host program did not take yet, bounded by the credit that the guest was granted.
//!
//! ```text
//!  guest          tx queue    +----------+  send   +-------------+
//!  program  <-->  rx queue    | executor | ------> | Unix socket | <--> host program
//!  AF_VSOCK                   |          | <------ |             |
//!                             +----------+  recv   +-------------+
//!
//!  protocol      packet, credit, turns (who is granted credit)
//!  conversation  connection; host_end is its half towards the host
//!  all of them   connections (table, ports, turns), switchboard (their events, deadlines and resets)
//!  bytes         socket (system calls on guest memory)
//!  who watches   observer
//! ```
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod connection;
mod connections;
mod credit;
mod deadline;
mod executor;
mod host_end;
mod observer;
mod packet;
mod socket;
mod switchboard;
#[cfg(test)]
mod tests;
mod token;
mod turns;

use std::collections::HashMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use self::deadline::Timer;
use self::executor::{Listener, VsockExecutor};
pub use self::observer::{Flow, MAX_SHOWN, Observer, Tap};
use self::switchboard::{Limits, Switchboard};
use super::{DeviceDescription, Traffic, WorkerDescription};

/// Device type, section 5.10.1.
const DEVICE_TYPE: u32 = 19;

/// `VIRTIO_VSOCK_F_STREAM`, section 5.10.3.
const FEATURE_STREAM: u64 = 1 << 0;

// Queue 2 takes events for the driver.
const QUEUE_RX: usize = 0;
const QUEUE_TX: usize = 1;

/// Size of the receive and of the transmit queue. Linux fills the receive queue with buffers of 4 KiB: 1 MiB, four times
/// the window of one of its sockets, is under way at most, and a burst of small packets of many connections fits.
const QUEUE_SIZE: u16 = 256;

/// Size of the event queue; Linux keeps 8 buffers in it.
const EVENT_QUEUE_SIZE: u16 = 16;

/// Taking connections from listeners, giving out those of the guest, moving bytes, the timer of unfinished ends.
const SYSTEM_CALLS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_ioctl,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    libc::SYS_timerfd_settime,
];

/// Gives the device its end of a new connection.
pub type Accept = Box<dyn FnMut() -> io::Result<UnixStream> + Send>;

/// What a vsock device is made of.
pub struct VsockConfig {
    /// Address of the guest, 3 to 2^32 - 2. It only has to differ from other guests' when they can see each other, which
    /// they cannot here.
    pub guest_cid: u64,
    /// Where connections lead.
    pub routes: Vec<Route>,
}

/// Where connections of one port lead. The guest's connections to ports without a route are refused.
pub enum Route {
    /// Connections that the guest opens to this port of the host.
    FromGuest {
        /// Port of the host.
        port: u32,
        /// Called for every connection, on the thread of the device: it must not block. It returns the device's end of a
        /// socket pair, or a connected socket, and whoever serves the other end learns of it there (for instance through
        /// a channel that it waits on, or by accepting from a listener). An error refuses the connection. The guest may
        /// open connections as fast as it can: hand-over must be bounded, an error when the bound is reached.
        accept: Accept,
    },
    /// Connections that host programs open to a Unix socket.
    ToGuest {
        /// Listening socket. Connections wait in its backlog until the driver of the guest is up and the observer admits
        /// them. When nobody listens in the guest, the accepted socket is closed.
        listener: UnixListener,
        /// Port of the guest.
        port: u32,
        /// Who is told of the connections and sees what the guest sends on them. Costs a copy of those bytes; nothing
        /// where there is none.
        observer: Option<Box<dyn Observer>>,
    },
}

/// A vsock device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The address of the guest is reserved, section 5.10.4.
    #[error("The vsock address {cid} is reserved; a guest has one from 3 to 4294967294")]
    ReservedCid {
        /// The address.
        cid: u64,
    },
    /// The port means any port.
    #[error("The vsock port {port} is reserved")]
    ReservedPort {
        /// The port.
        port: u32,
    },
    /// Two routes for connections of the guest have the same port.
    #[error("There are two routes for connections of the guest to vsock port {port}")]
    DuplicatePort {
        /// The port.
        port: u32,
    },
    /// A listener cannot be made nonblocking.
    #[error("Cannot use the listener for vsock port {port} of the guest")]
    Listener {
        /// The port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// The timer cannot be made.
    #[error("Cannot create the timer of the vsock device")]
    Timer(#[source] io::Error),
}

/// Describes a vsock device.
///
/// # Errors
/// When an address or port is reserved or used twice, or the kernel refuses a timer or a listener.
pub fn vsock_device(config: VsockConfig) -> Result<DeviceDescription, VsockError> {
    let guest_cid = config.guest_cid;
    let executor = executor(config, Limits::DEVICE)?;
    Ok(DeviceDescription {
        device_type: DEVICE_TYPE,
        features: FEATURE_STREAM,
        config: guest_cid.to_le_bytes().to_vec().into(),
        workers: vec![WorkerDescription {
            name: "vsock".to_owned(),
            queue_sizes: vec![QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE],
            system_calls: SYSTEM_CALLS,
            executor: Box::new(executor),
            gathers: false,
            helpers: Vec::new(),
        }],
        traffic: Traffic::default(),
    })
}

fn executor(config: VsockConfig, limits: Limits) -> Result<VsockExecutor, VsockError> {
    // 0 to 2 and 2^32 - 1 are reserved, and the upper 32 bits are zero.
    if !(3..u64::from(u32::MAX)).contains(&config.guest_cid) {
        return Err(VsockError::ReservedCid {
            cid: config.guest_cid,
        });
    }
    let mut accepts = HashMap::new();
    let mut listeners = Vec::new();
    for route in config.routes {
        let (Route::FromGuest { port, .. } | Route::ToGuest { port, .. }) = route;
        // VMADDR_PORT_ANY
        if port == u32::MAX {
            return Err(VsockError::ReservedPort { port });
        }
        match route {
            Route::FromGuest { port, accept } => {
                if accepts.insert(port, accept).is_some() {
                    return Err(VsockError::DuplicatePort { port });
                }
            }
            Route::ToGuest {
                listener: socket,
                port,
                observer,
            } => {
                socket
                    .set_nonblocking(true)
                    .map_err(|source| VsockError::Listener { port, source })?;
                listeners.push(Listener {
                    socket,
                    port,
                    pending: false,
                    observer,
                });
            }
        }
    }
    let timer = Timer::new().map_err(VsockError::Timer)?;
    let switchboard = Switchboard::new(timer, limits);
    Ok(VsockExecutor::new(
        config.guest_cid,
        accepts,
        listeners,
        switchboard,
    ))
}
