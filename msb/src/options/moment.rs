//! Moments, and how much of the end of a log is wanted.

use std::time::{Duration, SystemTime};

use super::parse_duration;
use crate::utc;

/// Why a text is no moment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a moment is a duration before now, as 10m, or a time, as 2026-11-25T20:50:07Z")]
pub(crate) struct MomentError;

/// Reads a moment.
pub(crate) fn parse_moment(text: &str) -> Result<SystemTime, MomentError> {
    if let Some(time) = utc::parse_rfc3339(text) {
        return Ok(time);
    }
    let before = match text {
        "0" | "0s" => Duration::ZERO,
        _ => parse_duration(text).map_err(|_| MomentError)?,
    };
    SystemTime::now().checked_sub(before).ok_or(MomentError)
}

/// Some of the end, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail(Option<usize>);

impl Tail {
    /// How many; `None` for all.
    pub(crate) fn count(self) -> Option<usize> {
        self.0
    }
}

/// Reads a number, or `all`.
pub(crate) fn parse_tail(text: &str) -> Result<Tail, std::num::ParseIntError> {
    match text {
        "all" => Ok(Tail(None)),
        number => Ok(Tail(Some(number.parse()?))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times_and_durations() {
        let time = parse_moment("1970-01-01T00:01:00Z").unwrap();
        assert_eq!(time, UNIX_EPOCH + Duration::from_secs(60));
        let ago = SystemTime::now()
            .duration_since(parse_moment("2h").unwrap())
            .unwrap();
        assert!((7199..7260).contains(&ago.as_secs()), "{ago:?}");
        for text in [
            "",
            "yesterday",
            "-1s",
            "2026-13-01T00:00:00Z",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_moment(text), Err(MomentError), "{text}");
        }
    }

    #[test]
    fn some_or_all() {
        assert_eq!(parse_tail("all").unwrap().count(), None);
        assert_eq!(parse_tail("3").unwrap().count(), Some(3));
        assert!(parse_tail("-1").is_err());
    }
}
