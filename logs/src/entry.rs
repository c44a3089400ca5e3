//! Entries of a log, as they are read.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::LogError;

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// Standard output of a process without a terminal.
    Stdout,
    /// Standard error of a process without a terminal.
    Stderr,
    /// Both together, of a process with a terminal.
    Output,
    /// What happened to the sandbox, and warnings of its kernel.
    System,
}

impl LogSource {
    /// All of them.
    pub const ALL: [LogSource; 4] = [
        LogSource::Stdout,
        LogSource::Stderr,
        LogSource::Output,
        LogSource::System,
    ];

    /// Its name, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            LogSource::Stdout => "stdout",
            LogSource::Stderr => "stderr",
            LogSource::Output => "output",
            LogSource::System => "system",
        }
    }

    /// Its number in a log.
    pub(super) fn number(self) -> u8 {
        match self {
            LogSource::Stdout => 1,
            LogSource::Stderr => 2,
            LogSource::Output => 3,
            LogSource::System => 4,
        }
    }

    /// The source with this number.
    pub(super) fn from_number(number: u8) -> Option<LogSource> {
        LogSource::ALL
            .into_iter()
            .find(|source| source.number() == number)
    }
}

impl fmt::Display for LogSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A piece of what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it comes from.
    pub source: LogSource,
    /// Number of the session; `None` for entries of [`LogSource::System`].
    pub session_id: Option<u64>,
    /// When the host got it, by its wall clock, which may have been set since the entry before.
    pub timestamp: SystemTime,
    /// The bytes: not necessarily text, a line, or whole characters.
    pub data: Vec<u8>,
    /// Its place: reading goes on strictly after it.
    pub cursor: LogCursor,
}

impl LogEntry {
    /// The bytes as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.data)
    }
}

/// A place in a log. Its text means nothing to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogCursor {
    /// Identity of the log.
    pub(super) log: u64,
    /// The place.
    pub(super) position: Position,
}

/// A place in some log: places are in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    /// Number of the segment.
    pub(super) segment: u64,
    /// Bytes of the segment before the place.
    pub(super) offset: u64,
}

impl fmt::Display for LogCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { segment, offset } = self.position;
        write!(formatter, "{:016x}-{segment:x}-{offset:x}", self.log)
    }
}

impl FromStr for LogCursor {
    type Err = LogError;

    fn from_str(text: &str) -> Result<LogCursor, LogError> {
        parse_cursor(text).ok_or_else(|| LogError::InvalidCursor {
            cursor: text.to_owned(),
        })
    }
}

fn parse_cursor(text: &str) -> Option<LogCursor> {
    let mut numbers = text.split('-').map(|digits| {
        // from_str_radix takes a sign as well.
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal.then(|| u64::from_str_radix(digits, 16).ok())?
    });
    let cursor = LogCursor {
        log: numbers.next()??,
        position: Position {
            segment: numbers.next()??,
            offset: numbers.next()??,
        },
    };
    numbers.next().is_none().then_some(cursor)
}
