//! Bytes that a device moves between the guest and files of the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a device has moved since it was made. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    counts: Arc<Counts>,
}

// They order nothing, so they are relaxed.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    /// The guest got `bytes` of a file.
    pub(crate) fn count_read(&self, bytes: u64) {
        self.counts.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` of the guest were written to a file.
    pub(crate) fn count_written(&self, bytes: u64) {
        self.counts.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that the guest got.
    pub(crate) fn read(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed)
    }

    /// Bytes that were written.
    pub(crate) fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }
}
