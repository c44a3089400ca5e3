//! Reading a log from a place on, while it is written.

use std::path::{Path, PathBuf};

use super::LogError;
use super::entry::{LogCursor, LogEntry, LogSource, Position};
use super::options::Filter;
use super::segment::{self, RawEntry, SegmentReader};

/// Reads the entries of a log in order.
///
/// A writer that is faster than its readers removes segments that they have not read; one that is being read stays until it has been.
#[derive(Debug)]
pub(super) struct LogReader {
    directory: PathBuf,
    current: Option<SegmentReader>,
    /// There is a segment after the current one, so that nothing is written to it any more.
    superseded: bool,
    /// Where entries that were not read begin.
    position: Position,
}

impl LogReader {
    /// Begins strictly after `cursor`, or with the oldest entry.
    pub(super) fn open(directory: &Path, cursor: Option<LogCursor>) -> Result<LogReader, LogError> {
        if let Some(cursor) = cursor
            && identity(directory)?.is_some_and(|log| log != cursor.log)
        {
            return Err(LogError::ForeignCursor {
                cursor: cursor.to_string(),
            });
        }
        Ok(LogReader {
            directory: directory.to_owned(),
            current: None,
            superseded: false,
            position: cursor.map(|cursor| cursor.position).unwrap_or_default(),
        })
    }

    /// The next entry that matches; `None` if there is none yet.
    pub(super) fn next(&mut self, filter: &Filter) -> Result<Option<LogEntry>, LogError> {
        loop {
            let Some(segment) = &mut self.current else {
                if !self.open_next()? {
                    return Ok(None);
                }
                continue;
            };
            let number = segment.number;
            if let Some(entry) = segment.next()? {
                let position = Position {
                    segment: number,
                    offset: entry.end,
                };
                let read_before = position <= self.position;
                self.position = self.position.max(position);
                if !read_before && filter.matches(&entry.header) {
                    return Ok(Some(entry.to_entry(number)));
                }
            } else if self.superseded {
                // Seen before the last look for entries: there are no more.
                self.current = None;
                self.position = Position {
                    segment: number.saturating_add(1),
                    offset: 0,
                };
            } else {
                self.superseded = segment::list(&self.directory)?.last() > Some(&number);
                if !self.superseded {
                    return Ok(None);
                }
            }
        }
    }

    /// Opens the segment at the position, or the first one after it.
    fn open_next(&mut self) -> Result<bool, LogError> {
        loop {
            let segments = segment::list(&self.directory)?;
            let Some(number) = segments
                .into_iter()
                .find(|&number| number >= self.position.segment)
            else {
                return Ok(false);
            };
            self.superseded = false;
            self.current = SegmentReader::open(&self.directory, number)?;
            if self.current.is_some() {
                return Ok(true);
            }
        }
    }
}

impl RawEntry<'_> {
    /// The entry, of segment `segment`.
    pub(super) fn to_entry(&self, segment: u64) -> LogEntry {
        let source = self.header.source;
        let session = self.header.session;
        LogEntry {
            source,
            session_id: (source != LogSource::System).then_some(session),
            timestamp: self.header.timestamp(),
            data: self.data.to_vec(),
            cursor: LogCursor {
                log: self.log,
                position: Position {
                    segment,
                    offset: self.end,
                },
            },
        }
    }
}

/// Identity of the log in `directory`, if it has a segment with a whole header.
pub(super) fn identity(directory: &Path) -> Result<Option<u64>, LogError> {
    for number in segment::list(directory)?.into_iter().rev() {
        if let Some(mut segment) = SegmentReader::open(directory, number)? {
            segment.next()?;
            if segment.log().is_some() {
                return Ok(segment.log());
            }
        }
    }
    Ok(None)
}
