//! Lines, put together from the pieces in which they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use microsandbox::logs::{LogEntry, LogSource};

/// Bytes of a line that are waited for.
const MAX_LINE: usize = 64 << 10;

/// A line of one session and source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it comes from.
    pub(super) source: LogSource,
    /// Its session; `None` for lines of the machine itself.
    pub(super) session: Option<u64>,
    /// When its beginning was written.
    pub(super) timestamp: SystemTime,
    /// Its bytes, without the newline.
    pub(super) bytes: Vec<u8>,
    /// Its beginning was seen: a line before it was.
    pub(super) is_whole: bool,
}

/// Lines that are not complete yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    incomplete: BTreeMap<(Option<u64>, LogSource), Line>,
    /// Sessions and sources of which the end of a line was seen.
    begun: BTreeSet<(Option<u64>, LogSource)>,
}

impl Lines {
    /// Calls `complete` with each line that `entry` completes.
    pub(super) fn feed<E>(
        &mut self,
        entry: &LogEntry,
        mut complete: impl FnMut(Line) -> Result<(), E>,
    ) -> Result<(), E> {
        for piece in entry.data.split_inclusive(|&byte| byte == b'\n') {
            let key = (entry.session_id, entry.source);
            let line = self.incomplete.entry(key).or_insert_with(|| Line {
                source: entry.source,
                session: entry.session_id,
                timestamp: entry.timestamp,
                bytes: Vec::new(),
                is_whole: self.begun.contains(&key),
            });
            let whole = piece.strip_suffix(b"\n");
            line.bytes.extend_from_slice(whole.unwrap_or(piece));
            if (whole.is_some() || line.bytes.len() >= MAX_LINE)
                && let Some(line) = self.incomplete.remove(&key)
            {
                self.begun.insert(key);
                complete(line)?;
            }
        }
        Ok(())
    }

    /// Whether the beginnings of all lines that are not complete were seen.
    pub(super) fn are_whole(&self) -> bool {
        self.incomplete.values().all(|line| line.is_whole)
    }

    /// What is left at the end.
    pub(super) fn rest(&mut self) -> Vec<Line> {
        let mut rest: Vec<_> = std::mem::take(&mut self.incomplete).into_values().collect();
        rest.sort_by_key(|line| line.timestamp);
        rest
    }
}
