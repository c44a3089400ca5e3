//! Work on a thread that may wait, for a future that may be dropped.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The future's end of it. When it is dropped, the work is given up, and its end is waited for.
pub(super) struct Work(Arc<Shared>);

/// The thread's end of it. When it is dropped, the work is over.
pub(super) struct Worker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    given_up: bool,
    over: bool,
    /// What the thread waits for.
    stream: Option<UnixStream>,
}

impl Work {
    pub(super) fn begin() -> (Work, Worker) {
        let shared = Arc::new(Shared::default());
        (Work(Arc::clone(&shared)), Worker(shared))
    }
}

impl Worker {
    /// Notes that the thread waits for a connection from here on. Returns false if the work was given up before.
    pub(super) fn reads(&self, stream: &UnixStream) -> bool {
        let mut state = self.0.lock();
        // Without it the work goes on to its end.
        state.stream = stream.try_clone().ok();
        !state.given_up
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.lock().given_up
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.given_up = true;
        if let Some(stream) = &state.stream {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        while !state.over {
            state = self
                .0
                .over
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;

    #[test]
    fn who_gives_up_waits_for_the_end_of_what_the_thread_waits_for() {
        let (work, worker) = Work::begin();
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        assert!(worker.reads(&ours));
        let thread = thread::spawn(move || {
            let mut nothing = [0];
            let read = ours.read(&mut nothing).unwrap();
            (read, worker.is_given_up())
        });
        drop(work);
        assert_eq!(thread.join().unwrap(), (0, true));
    }

    #[test]
    fn what_is_given_up_before_does_not_begin() {
        let (work, worker) = Work::begin();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let giving_up = thread::spawn(move || drop(work));
        while !worker.is_given_up() {
            thread::yield_now();
        }
        assert!(!worker.reads(&ours));
        drop(worker);
        giving_up.join().unwrap();
    }
}
