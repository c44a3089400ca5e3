//! The one way to start a thread of a machine: named, confined to its system calls, and a panic ends the machine instead of
//! passing unseen.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

use crate::ending::EndingReporter;
use crate::jail;

/// Stacks are small: device and processor threads neither recurse nor keep large buffers, and each machine has several.
const STACK_SIZE: usize = 256 * 1024;

/// Starts a thread that may make `system_calls` besides those of every thread. `name` is cut to the 15 bytes that Linux keeps
/// (prctl(2), PR_SET_NAME).
pub(crate) fn spawn(
    name: &str,
    system_calls: &'static [i64],
    ending: EndingReporter,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let name: String = name.chars().filter(|c| *c != '\0').take(15).collect();
    Builder::new()
        .name(name.clone())
        .stack_size(STACK_SIZE)
        .spawn(move || {
            if let Err(error) = jail::confine(system_calls) {
                return ending.failed(format!("thread {name:?}: {error}"));
            }
            // The body's state is dropped on a panic and the machine ends, so nobody sees a broken invariant.
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                ending.failed(format!("thread {name:?} panicked"));
            }
        })
}
