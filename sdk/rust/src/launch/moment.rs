//! Points in time on which all processes of a host agree.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use protocol::Ready;
use serde::{Deserialize, Serialize};

/// A point in time: CLOCK_MONOTONIC, which is one clock for the whole host (clock_gettime(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    monotonic_ns: u64,
}

impl Moment {
    /// The present.
    pub fn now() -> Moment {
        // The clock exists on every Linux.
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        Moment {
            monotonic_ns: nanoseconds(time),
        }
    }

    /// How long `earlier` had been over; zero if it was not.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.monotonic_ns.saturating_sub(earlier.monotonic_ns))
    }

    /// So long before.
    #[must_use]
    pub fn before(self, time: Duration) -> Moment {
        Moment {
            monotonic_ns: self.monotonic_ns.saturating_sub(nanoseconds(time)),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When a machine did what until its guest was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startup {
    /// Its process began.
    pub process: Moment,
    /// It was built, and its processors entered the guest's kernel.
    pub kernel_entry: Moment,
    /// The agent said that it is ready.
    pub ready: Moment,
    /// What the agent measured in the guest.
    pub agent: Ready,
}

impl Startup {
    /// The agent's first line.
    pub fn agent_started(&self) -> Moment {
        self.ready.before(Duration::from_nanos(self.agent.agent_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_in_order() {
        let earlier = Moment::now();
        let later = Moment::now();
        assert!(earlier <= later);
        let second = Duration::from_secs(1);
        assert_eq!(later.since(later.before(second)), second);
        assert_eq!(later.before(second).since(later), Duration::ZERO);
    }
}
