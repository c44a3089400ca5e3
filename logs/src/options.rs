//! What of a log is read.

use std::time::SystemTime;

use super::entry::{LogCursor, LogSource};
use super::format::EntryHeader;

/// What [`read_logs`](super::read_logs) returns; by default all that was written to standard output and standard error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last so many entries of those that match.
    pub tail: Option<usize>,
    /// Only entries of this moment or later.
    pub since: Option<SystemTime>,
    /// Only entries from before this moment.
    pub until: Option<SystemTime>,
    /// Only entries of these sources; empty for [`LogSource::Stdout`] and [`LogSource::Stderr`].
    pub sources: Vec<LogSource>,
}

/// What a [`LogStream`](super::LogStream) yields; by default all output that there is, also that of terminals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStreamOptions {
    /// Only entries of these sources; empty for [`LogSource::Stdout`], [`LogSource::Stderr`] and [`LogSource::Output`].
    pub sources: Vec<LogSource>,
    /// Only entries of this moment or later; with `follow`, all from the first of them on. Not together with `from_cursor`.
    pub since: Option<SystemTime>,
    /// Begins strictly after the entry with this cursor; with the oldest that there is if that has been removed.
    pub from_cursor: Option<LogCursor>,
    /// Only entries from before this moment; with `follow`, it ends before the first that is not.
    pub until: Option<SystemTime>,
    /// Goes on with entries as they are written, until the sandbox has ended.
    pub follow: bool,
}

/// Sources and moments that are wanted.
#[derive(Debug)]
pub(super) struct Filter {
    sources: Vec<LogSource>,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
}

impl Filter {
    /// For entries of `sources`, or of `default` if there are none.
    pub(super) fn of_sources(sources: &[LogSource], default: &[LogSource]) -> Filter {
        let sources = match sources {
            [] => default.to_vec(),
            sources => sources.to_vec(),
        };
        Filter {
            sources,
            since: None,
            until: None,
        }
    }

    /// The same, of these moments only.
    pub(super) fn of_moments(self, since: Option<SystemTime>, until: Option<SystemTime>) -> Filter {
        Filter {
            since,
            until,
            ..self
        }
    }

    pub(super) fn matches(&self, header: &EntryHeader) -> bool {
        let time = header.timestamp();
        self.sources.contains(&header.source)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
    }
}

impl From<&LogOptions> for Filter {
    fn from(options: &LogOptions) -> Filter {
        Filter::of_sources(&options.sources, &[LogSource::Stdout, LogSource::Stderr])
            .of_moments(options.since, options.until)
    }
}
