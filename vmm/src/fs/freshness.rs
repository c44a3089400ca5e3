//! Whether the contents of a file that the guest has cached still hold when it opens the file again.
//!
//! Without word from here the guest drops them at every open, which makes it read a file that it opens often (a
//! header, a module) from the host each time. If size and times of the file are what they were at the last open, then
//! all that the guest read since belongs to this state of the file. The times of a file that was changed just now say
//! too little: they are as coarse as a timer tick, and another change may follow within it. Nor do they tell of every
//! change that a program on the host makes through a mapping, see mmap(2).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuse_backend_rs::abi::fuse_abi::stat64;

/// How long after the second of its last change a file's times tell: that second, and one more.
const SETTLED: Duration = Duration::from_secs(2);

/// What changes with the contents.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The state in which the guest last opened a file.
#[derive(Default)]
pub(super) struct LastOpen(Mutex<Option<Version>>);

impl LastOpen {
    /// Notes that the guest opens the file, which has `status`, at the time `now`. Returns whether it may keep what it
    /// has cached.
    pub(super) fn is_unchanged(&self, status: &stat64, now: SystemTime) -> bool {
        let version = Version {
            size: status.st_size,
            modified: (status.st_mtime, status.st_mtime_nsec),
            changed: (status.st_ctime, status.st_ctime_nsec),
        };
        let settled = u64::try_from(status.st_ctime)
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .and_then(|changed| changed.checked_add(SETTLED))
            .is_some_and(|settled| settled <= now);
        let version = settled.then_some(version);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = version.is_some() && *last == version;
        *last = version;
        unchanged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_kept_only_if_the_file_was_left_alone_before_and_since() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let later = now + Duration::from_secs(10);
        // SAFETY: stat64 is plain data, for which all zeros is a valid value.
        let mut status: stat64 = unsafe { std::mem::zeroed() };
        status.st_size = 10;
        status.st_ctime = 900_000;
        let last = LastOpen::default();
        assert!(!last.is_unchanged(&status, now), "the first time");
        assert!(last.is_unchanged(&status, now));
        assert!(last.is_unchanged(&status, later));

        status.st_ctime = 999_999;
        status.st_size = 11;
        assert!(!last.is_unchanged(&status, now), "it changed");
        assert!(
            !last.is_unchanged(&status, now),
            "and may change unnoticed in the same tick"
        );
        assert!(
            !last.is_unchanged(&status, later),
            "what was read since may be older"
        );
        assert!(last.is_unchanged(&status, later));
    }
}
