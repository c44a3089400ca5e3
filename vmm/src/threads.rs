//! The one way to start a thread of a machine: named, confined to its system calls, and a panic ends the machine instead of
//! passing unseen.

use std::io;
use std::os::unix::thread::JoinHandleExt;
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

/// Lets the thread wait for its turn when it is woken, instead of taking the processor from whoever woke it (SCHED_BATCH, sched(7)).
pub(crate) fn wake_without_preempting(thread: &JoinHandle<()>) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the thread has not been joined, and the parameters are read during the call only.
    // Where a host forbids it, requests are carried out as before, in smaller groups.
    unsafe {
        libc::pthread_setschedparam(
            thread.as_pthread_t(),
            libc::SCHED_BATCH,
            &raw const parameters,
        )
    };
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_does_not_preempt_is_a_batch_thread() {
        let (go, gone) = channel::<()>();
        let (tell, told) = channel();
        let thread = Builder::new()
            .spawn(move || {
                gone.recv().unwrap();
                // SAFETY: it reads the policy of the calling thread.
                tell.send(unsafe { libc::sched_getscheduler(0) }).unwrap();
            })
            .unwrap();
        wake_without_preempting(&thread);
        go.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), libc::SCHED_BATCH);
        thread.join().unwrap();
    }
}
