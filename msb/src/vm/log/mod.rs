//! What goes from a machine into its sandbox's log: the output of sessions, which a tap on each connection copies out of the
//! guest's frames, what happens to the machine, and warnings of the guest's kernel.
//!
//! ```text
//! vsock thread --tap--> queue (bounded) --log thread--> segments on disk
//! other threads --system lines--'
//! ```
//! A disk that is slow holds sessions back for a moment and then costs entries, one that is full costs entries at once; neither
//! disturbs the machine.

mod frames;
mod kernel_lines;
mod queue;
mod tap;
mod thread;

pub(super) use kernel_lines::KernelLines;
pub(super) use thread::{Log, LogLines};
