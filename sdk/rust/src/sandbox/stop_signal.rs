//! The signal that asks a sandbox's own process to end.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The first real-time signal that programs use, and the last (signal(7)): of the C libraries, which keep those below for
/// themselves, and of container images.
const REAL_TIME: std::ops::RangeInclusive<u8> = 34..=64;

/// The signal that asks a sandbox's own process to end. Its text is what container images have: a name with or without `SIG`, as
/// in signal(7), a number, or a real-time signal as `SIGRTMIN+3` or `SIGRTMAX-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopSignal(u8);

/// It is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no signal: SIGTERM, QUIT, SIGRTMIN+3 and 15 are some")]
pub struct NoSignal {
    text: String,
}

impl StopSignal {
    /// Its number, 1 to 64.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for StopSignal {
    type Err = NoSignal;

    fn from_str(text: &str) -> Result<StopSignal, NoSignal> {
        parse(&text.to_ascii_uppercase())
            .map(StopSignal)
            .ok_or_else(|| NoSignal {
                text: text.to_owned(),
            })
    }
}

fn parse(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let real_time = |offset: &str, sign: char| match offset.strip_prefix(sign) {
        Some(digits) => digits.parse().ok(),
        None => offset.is_empty().then_some(0),
    };
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        REAL_TIME.start().checked_add(real_time(offset, '+')?)?
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        REAL_TIME.end().checked_sub(real_time(offset, '-')?)?
    } else {
        let signal: Signal = format!("SIG{name}").parse().ok()?;
        return u8::try_from(signal as i32).ok();
    };
    REAL_TIME.contains(&number).then_some(number)
}

impl fmt::Display for StopSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (Signal::try_from(i32::from(self.0)), REAL_TIME.start()) {
            (Ok(signal), _) => formatter.write_str(signal.as_str()),
            (Err(_), first) if self.0 >= *first => write!(formatter, "SIGRTMIN+{}", self.0 - first),
            (Err(_), _) => self.0.fmt(formatter),
        }
    }
}

impl TryFrom<String> for StopSignal {
    type Error = NoSignal;

    fn try_from(text: String) -> Result<StopSignal, NoSignal> {
        text.parse()
    }
}

impl From<StopSignal> for String {
    fn from(signal: StopSignal) -> String {
        signal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_names_that_images_use() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            let signal: StopSignal = text.parse().unwrap();
            assert_eq!(signal.number(), number, "{text}");
            // What is recorded means the same.
            let json = serde_json::to_string(&signal).unwrap();
            assert_eq!(serde_json::from_str::<StopSignal>(&json).unwrap(), signal);
        }
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "SIGNONE",
            "SIGRTMIN+31",
            "SIGRTMIN-1",
            "SIGRTMAX-31",
            "RTMIN3",
            "RTMIN+",
            "SIGSIGTERM",
        ] {
            assert!(text.parse::<StopSignal>().is_err(), "{text}");
        }
    }
}
