//! The budget of file descriptors that shared folders may hold.
//!
//! Every inode that the guest knows pins one descriptor of this process, and the guest decides how many inodes it
//! knows. So the folders of a process share a budget that leaves a reserve for everyone else (vsock connections,
//! sockets, disks): a guest that looks up too much gets `ENFILE`, and nobody else notices.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that no shared folder may take, as long as the limit is not very small.
const RESERVE: usize = 512;

/// More than any guest needs; keeps an unlimited `RLIMIT_NOFILE` from meaning unlimited kernel memory.
const CEILING: usize = 1 << 20;

/// What all folders of this process hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Raises this process's soft limit of open files to its hard limit, see getrlimit(2). A machine with shared folders
/// calls this before it opens them. Returns the limit that is now in force.
///
/// # Errors
/// As getrlimit(2) and setrlimit(2).
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many descriptors may be held, and how many are.
pub(super) struct Budget {
    held: &'static AtomicUsize,
    limit: usize,
}

/// One held descriptor of the budget, given back on drop.
pub(super) struct Permit {
    held: &'static AtomicUsize,
}

impl Budget {
    /// The budget of this process under its present limit of open files.
    pub(super) fn of_process() -> io::Result<Budget> {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let files = usize::try_from(soft).unwrap_or(CEILING).min(CEILING);
        let limit = files.saturating_sub(RESERVE.min(files / 2));
        Ok(Budget { held: &HELD, limit })
    }

    /// Takes one descriptor.
    ///
    /// # Errors
    /// `ENFILE` when the budget is used up.
    pub(super) fn take(&self) -> io::Result<Permit> {
        self.take_below(self.limit)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))
    }

    /// Takes one descriptor for something that only makes later requests faster, while half of the budget is free.
    pub(super) fn take_spare(&self) -> Option<Permit> {
        self.take_below(self.limit / 2)
    }

    fn take_below(&self, limit: usize) -> Option<Permit> {
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(1).filter(|now| *now <= limit)
            })
            .ok()
            .map(|_| Permit { held: self.held })
    }

    /// A budget of its own for a test.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn of(limit: usize) -> Budget {
        let held = Box::leak(Box::new(AtomicUsize::new(0)));
        Budget { held, limit }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_up_budget_says_enfile_until_something_is_given_back() {
        let budget = Budget::of(2);
        let first = budget.take().unwrap();
        assert!(
            budget.take_spare().is_none(),
            "half of the budget is in use"
        );
        let _second = budget.take().unwrap();
        let error = budget.take().map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENFILE));
        drop(first);
        budget.take().unwrap();
    }
}
