//! Machines' processes that nobody waits for in particular: somebody must reap them when they end.

use std::mem::ManuallyDrop;
use std::thread;
use std::time::Duration;

use tokio::time::timeout;

use super::DEFAULT_STOP_TIMEOUT;
use super::machine::{SYNC, blocking};
use super::pidfd::Pidfd;
use crate::control::{ControlClient, ControlError, ControlRequest};
use crate::launch::MachineProcess;
use crate::names::Name;
use crate::run_directory::RunDirectory;

/// Stack of a thread that does nothing but wait.
const STACK: usize = 64 << 10;

/// How long a machine's process may take to do what it is asked.
const ANSWER: Duration = Duration::from_secs(2);

/// Waits for the end of `process` in the background. If this process ends before, init(1) reaps it.
pub(super) fn adopt(process: MachineProcess) {
    // Without a thread it goes on, too, and stays a zombie until this process ends.
    let process = ManuallyDrop::new(process);
    spawn(move || {
        let mut process = ManuallyDrop::into_inner(process);
        let _ = process.wait();
    });
}

/// Ends `process` in the background. If this process ends before, the machine ends because its creator did.
pub(super) fn end(mut process: MachineProcess, directory: RunDirectory, name: Name) {
    // Without a thread, dropping the process kills it.
    spawn(move || {
        // It can tell then that it was asked to. If it has ended by itself, another machine may have its name.
        let asked = ControlClient::connect(&directory, &name, ANSWER).and_then(|mut machine| {
            match u32::try_from(machine.pid()) {
                Ok(pid) if pid == process.pid() => machine.ask(&ControlRequest::Kill, ANSWER),
                _ => Err(ControlError::Gone),
            }
        });
        if asked.is_err() {
            process.kill();
        }
        let _ = process.wait();
    });
}

/// Stops the guest of `process` in good order and waits for its end, as its creator can without the database and the sockets.
/// What does not stop is killed.
pub(super) async fn stop(process: MachineProcess) {
    process.shutdown(DEFAULT_STOP_TIMEOUT);
    let pid = i32::try_from(process.pid()).unwrap_or(0);
    if let Ok(Some(running)) = Pidfd::open(pid) {
        let limit = DEFAULT_STOP_TIMEOUT.saturating_add(SYNC);
        let _ = timeout(limit, running.gone()).await;
    }
    // Fails when the thread does, and with that the process is dropped, too.
    let _ = blocking(move || {
        drop(process);
        Ok(())
    })
    .await;
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new()
        .name("reaper".to_owned())
        .stack_size(STACK);
    let _ = thread.spawn(work);
}
