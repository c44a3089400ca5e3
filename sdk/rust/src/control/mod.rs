//! Asking a sandbox's machine, over `control.sock` in its run directory.

mod client;

pub use ::control::{
    ControlReply, ControlRequest, Ended, EndedError, Exit, MachineMetrics, MachineState,
    MachineStatus, Refusal, RefusalKind, SessionOpened, StopReason,
};
pub use client::{Change, ControlClient, ControlError, ControlSession, Watch};
