//! What clients ask of a sandbox's machine, which is a process of its own, and what it answers and leaves.
//!
//! Both sides greet with [`Hello`](protocol::Hello) first, in frames of [`protocol`]; then a client asks, one request at a
//! time, and reads the reply. After [`ControlReply::Session`] the connection carries that session's
//! [`HostMessage`](protocol::HostMessage)s and [`GuestMessage`](protocol::GuestMessage)s, and nothing else any more.

mod ended;
mod messages;
mod status;

pub use ended::{Ended, EndedError, Exit, StopReason};
pub use messages::{
    ControlReply, ControlRequest, MachineMetrics, Refusal, RefusalKind, SessionOpened,
};
pub use status::{MachineState, MachineStatus};
