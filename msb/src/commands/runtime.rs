//! The runtime of commands that use the asynchronous library.

use std::future::Future;

use anyhow::Context;

/// Most threads for calls that wait in the kernel: so many sandboxes are worked on at a time.
const MAX_BLOCKING_THREADS: usize = 32;

/// Runs `future` to its end on this thread.
///
/// # Errors
/// Its own, or when the system has no descriptors left for a runtime.
pub(super) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .context("cannot set up a runtime")?;
    let result = runtime.block_on(future);
    // A thread may still sit in a read of standard input, which nobody waits for.
    runtime.shutdown_background();
    result
}
