//! Times as they are written in text, after RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Days in 400 years, after which the calendar repeats.
const DAYS_IN_CYCLE: u64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: u64 = 719_468;

/// A time in UTC, to the second, after RFC 3339: `2026-11-25T20:50:07Z`. Times before 1970 are printed as its begin.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// As [`rfc3339`], to the nanosecond.
pub fn rfc3339_nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = rfc3339(time);
    format!(
        "{}.{:09}Z",
        seconds.trim_end_matches('Z'),
        since.subsec_nanos()
    )
}

/// Reads a time after RFC 3339, from 1970 on.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let (day, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(day, '-', [4, 2, 2])?;
    let zone = time.rfind(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at_checked(zone)?;
    let (time, fraction) = match time.split_once('.') {
        Some((time, fraction)) => (time, nanoseconds(fraction)?),
        None => (time, 0),
    };
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days_since_1970(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => seconds,
        ("+", zone) => seconds.checked_sub(offset(zone)?)?,
        ("-", zone) => seconds + offset(zone)?,
        _ => return None,
    };
    UNIX_EPOCH.checked_add(Duration::new(seconds, fraction))
}

/// Three numbers of so many digits.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (number, digits) in found.iter_mut().zip(digits) {
        *number = number_of(parts.next()?, digits)?;
    }
    parts.next().is_none().then_some(found)
}

fn number_of(text: &str, digits: usize) -> Option<u64> {
    let all = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok())?
}

/// Digits behind a point as nanoseconds; what is finer is cut off.
fn nanoseconds(digits: &str) -> Option<u32> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let nanos: String = digits.chars().chain("000000000".chars()).take(9).collect();
    valid.then(|| nanos.parse().ok())?
}

/// Seconds that a zone is ahead of UTC.
fn offset(zone: &str) -> Option<u64> {
    let (hours, minutes) = zone.split_once(':')?;
    let (hours, minutes) = (number_of(hours, 2)?, number_of(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)
}

/// The reverse of [`date`], for days that exist.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let (year_from_march, month_from_march) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let leap_days = year_from_march / 4 - year_from_march / 100 + year_from_march / 400;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    let days = (365 * year_from_march + leap_days + day_of_year).checked_sub(DAYS_TO_1970)?;
    (date(days) == (year, month, day)).then_some(days)
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01. Years are counted from March, so that
/// the day that some have more than others is their last.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + DAYS_TO_1970;
    let (cycle, day_of_cycle) = (days / DAYS_IN_CYCLE, days % DAYS_IN_CYCLE);
    let leap_days = day_of_cycle / 1460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, five months have 153 days.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = 400 * cycle + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_date_prints_them() {
        // date -u -d @SECONDS +%FT%TZ
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_639_807, "2026-11-25T20:50:07Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
            assert_eq!(parse_rfc3339(text), Some(time));
        }
    }

    #[test]
    fn zones_and_fractions() {
        let time = UNIX_EPOCH + Duration::new(1_795_639_807, 120_000_000);
        for text in [
            "2026-11-25T20:50:07.12Z",
            "2026-11-25 22:50:07.1200000009+02:00",
            "2026-11-25t15:20:07.12-05:30",
        ] {
            assert_eq!(parse_rfc3339(text), Some(time), "{text}");
        }
        assert_eq!(rfc3339_nanos(time), "2026-11-25T20:50:07.120000000Z");
        for text in [
            "2026-11-25",
            "2026-11-25T20:50Z",
            "2026-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "2026-11-25T24:00:00Z",
            "2026-11-25T20:50:07.Z",
            "2026-11-25T20:50:07",
            "+026-11-25T20:50:07Z",
            "2026-11-25T20:50:07+1:00",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = date(0);
        for day in 1..200_000 {
            let (year, month, day) = date(day);
            let next_day = (year, month) == (last.0, last.1) && day == last.2 + 1;
            let next_month = day == 1 && last.2 >= 28 && month == last.1 % 12 + 1;
            let next_year = year == last.0 + u64::from((last.1, month) == (12, 1));
            assert!(
                next_day || (next_month && next_year),
                "{year}-{month}-{day}"
            );
            last = (year, month, day);
        }
    }
}
