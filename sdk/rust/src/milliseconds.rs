//! Times as they are asked for.

use std::time::Duration;

/// Whole milliseconds, rounded up: zero means that there is no time at all.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    let whole = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let rest = !duration.subsec_nanos().is_multiple_of(1_000_000);
    whole.saturating_add(u64::from(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_time_is_not_none() {
        for (duration, expected) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(1500), 1500),
            (Duration::new(1, 500_000_001), 1501),
            (Duration::MAX, u64::MAX),
        ] {
            assert_eq!(milliseconds(duration), expected, "{duration:?}");
        }
    }
}
