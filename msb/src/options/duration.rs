//! Durations: `500ms`, `5s`, `2m`, `1h`, `5` (seconds).

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    /// No number, or an unknown unit.
    #[error("a duration is a number with ms, s, m or h behind it; without, it counts seconds")]
    Format,
    /// Zero.
    #[error("a duration of 0 is over at once")]
    Zero,
    /// More milliseconds than 64 bits hold.
    #[error("the duration is too long")]
    TooLong,
}

/// Reads a duration.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(DurationError::Format);
    }
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(DurationError::Format),
    };
    // Nothing but digits: the only possible error is one of size.
    let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
    match number.checked_mul(milliseconds) {
        Some(0) => Err(DurationError::Zero),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
        None => Err(DurationError::TooLong),
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
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "1sec"] {
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
