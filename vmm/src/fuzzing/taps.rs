//! Taps that hold back half of what they see, and an account of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::virtio::vsock::{Flow, MAX_SHOWN, Observer, Tap};

/// Watches connections.
pub(super) struct Watcher {
    event: EventFd,
    taps: Arc<AtomicUsize>,
}

/// The taps of a watcher.
pub(super) struct Taps {
    event: EventFd,
    taps: Arc<AtomicUsize>,
}

/// A watcher and what there is to know of its taps.
pub(super) fn watcher() -> io::Result<(Watcher, Taps)> {
    let event = EventFd::new(0)?;
    let taps = Arc::new(AtomicUsize::new(0));
    let watcher = Watcher {
        event: event.try_clone()?,
        taps: Arc::clone(&taps),
    };
    Ok((watcher, Taps { event, taps }))
}

impl Taps {
    /// Lets all of them go on.
    pub(super) fn resume(&self) {
        self.event.write(1).unwrap();
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.taps.load(Ordering::Relaxed)
    }
}

struct Miser {
    taps: Arc<AtomicUsize>,
}

impl Observer for Watcher {
    fn connected(&mut self) -> Box<dyn Tap> {
        self.taps.fetch_add(1, Ordering::Relaxed);
        let taps = Arc::clone(&self.taps);
        Box::new(Miser { taps })
    }

    fn resumption(&self) -> BorrowedFd<'_> {
        // SAFETY: the event is open as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

impl Tap for Miser {
    fn data(&mut self, bytes: &[u8]) -> Flow {
        assert!((1..=MAX_SHOWN).contains(&bytes.len()));
        if bytes.len().is_multiple_of(2) {
            return Flow::Passed;
        }
        Flow::Stalled {
            taken: bytes.len() / 2,
            until: Instant::now() + Duration::from_secs(3600),
        }
    }
}

impl Drop for Miser {
    fn drop(&mut self) {
        self.taps.fetch_sub(1, Ordering::Relaxed);
    }
}
