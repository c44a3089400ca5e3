//! Durations: `500ms`, `5s`, `2m`, `1h30m`, `5` (seconds).

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    /// No number, or an unknown unit.
    #[error(
        "a duration is a number with ms, s, m or h behind it, or several of them (1h30m); a bare number counts seconds"
    )]
    Format,
    /// Zero.
    #[error("a duration of 0 is over at once")]
    Zero,
    /// More milliseconds than 64 bits hold.
    #[error("the duration is too long")]
    TooLong,
}

/// Units with their milliseconds, in the order in which a duration has them.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let is_digit = |c: char| c.is_ascii_digit();
    if text.is_empty() {
        return Err(DurationError::Format);
    }
    let seconds = text.chars().all(is_digit).then(|| format!("{text}s"));
    let mut rest = seconds.as_deref().unwrap_or(text);
    let mut units = UNITS.into_iter();
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let (name, behind) = behind.split_at(behind.find(is_digit).unwrap_or(behind.len()));
        // Where this one was found the search for the next goes on: each comes once.
        let unit = units.find(|(unit, _)| *unit == name && !number.is_empty());
        let (_, milliseconds) = unit.ok_or(DurationError::Format)?;
        // Nothing but digits: the only possible error is one of size.
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        sum = number
            .checked_mul(milliseconds)
            .and_then(|part| sum.checked_add(part))
            .ok_or(DurationError::TooLong)?;
        rest = behind;
    }
    match sum {
        0 => Err(DurationError::Zero),
        milliseconds => Ok(Duration::from_millis(milliseconds)),
    }
}

/// Reads how long something is waited for, where 0 means not at all.
pub(crate) fn parse_grace(text: &str) -> Result<Duration, DurationError> {
    match parse_duration(text) {
        Err(DurationError::Zero) => Ok(Duration::ZERO),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, milliseconds) in [
            ("5", 5000),
            ("5s", 5000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("2m0s250ms", 120_250),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration() {
        for text in [
            "", "s", "-1s", "1.5s", "1 s", "1d", "1sec", "1m1h", "1s1s", "1m30", "h1",
        ] {
            assert_eq!(parse_duration(text), Err(DurationError::Format), "{text}");
        }
        assert_eq!(parse_duration("0"), Err(DurationError::Zero));
        assert_eq!(parse_grace("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_grace("x"), Err(DurationError::Format));
        assert_eq!(
            parse_duration("18446744073709551615h"),
            Err(DurationError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = parse_duration(&text);
        }
    }
}
