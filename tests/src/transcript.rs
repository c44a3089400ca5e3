//! What a program has written so far, to be waited for.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use crate::LIMIT;

/// Everything that came out of a descriptor so far. It is read as it comes.
#[derive(Debug, Default)]
pub struct Transcript {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    /// Reads `descriptor` to its end, on a thread.
    pub fn of(descriptor: impl Into<OwnedFd>) -> Transcript {
        let transcript = Transcript::default();
        let state = Arc::clone(&transcript.state);
        let mut file = File::from(descriptor.into());
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            // A terminal that everybody has closed reads as EIO: an end like any other.
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                state
                    .0
                    .lock()
                    .unwrap()
                    .bytes
                    .extend_from_slice(&buffer[..count]);
                state.1.notify_all();
            }
            state.0.lock().unwrap().ended = true;
            state.1.notify_all();
        });
        transcript
    }

    /// A transcript of nothing.
    pub fn empty() -> Transcript {
        let transcript = Transcript::default();
        transcript.state.0.lock().unwrap().ended = true;
        transcript
    }

    /// Waits until `text` has come.
    ///
    /// # Panics
    /// When the end or [`LIMIT`] comes first.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let state = self.wait_until(|state| state.ended || contains(&state.bytes, text));
        let bytes = state.bytes.clone();
        drop(state);
        let so_far = String::from_utf8_lossy(&bytes);
        assert!(
            contains(&bytes, text),
            "{text:?} did not come, but {so_far:?}"
        );
    }

    /// Waits until `count` lines have come. Says whether they have: not if the end or [`LIMIT`] came first.
    pub fn lines_come(&self, count: usize) -> bool {
        let lines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
        let state = self.wait_until(|state| state.ended || lines(&state.bytes) >= count);
        lines(&state.bytes) >= count
    }

    /// Waits for the end and returns everything.
    ///
    /// # Panics
    /// When [`LIMIT`] comes first.
    #[track_caller]
    pub fn to_end(&self) -> Vec<u8> {
        let state = self.wait_until(|state| state.ended);
        let (ended, bytes) = (state.ended, state.bytes.clone());
        drop(state);
        assert!(ended, "no end after {:?}", String::from_utf8_lossy(&bytes));
        bytes
    }

    /// What has come so far, as text.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.state.0.lock().unwrap().bytes).into_owned()
    }

    fn wait_until(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let (state, changed) = &*self.state;
        let guard = state.lock().unwrap();
        changed
            .wait_timeout_while(guard, LIMIT, |state| !condition(state))
            .unwrap()
            .0
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
