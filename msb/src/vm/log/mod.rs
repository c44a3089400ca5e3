//! What goes from a machine into its sandbox's log: the output of sessions, which a tap on each connection copies out of the
//! guest's frames, what happens to the machine, warnings of the guest's kernel, and this process's own log lines.
//!
//! ```text
//! vsock thread --tap--> queue (bounded) --log thread--> segments on disk
//! other threads --system lines--'
//! ```
//! A disk that is slow holds sessions back for a moment and then costs entries, one that is full costs entries at once; neither
//! disturbs the machine.

mod frames;
mod limited_lines;
mod queue;
mod tap;
mod thread;

pub(super) use limited_lines::LimitedLines;
pub(super) use thread::{Log, LogLines};
