//! Reading what a log holds now.

use std::collections::VecDeque;
use std::path::Path;

use super::LogError;
use super::entry::{LogEntry, Position};
use super::options::{Filter, LogOptions};
use super::reader::LogReader;
use super::segment::{self, SegmentReader};

/// The entries in the log of `directory` at this moment that match `options`, in the order in which they were written. A
/// directory that does not exist has none.
///
/// # Errors
/// [`LogError::Io`].
pub fn read_logs(directory: &Path, options: &LogOptions) -> Result<Vec<LogEntry>, LogError> {
    let filter = Filter::from(options);
    match options.tail {
        Some(count) => tail(directory, &filter, count),
        None => all(directory, &filter),
    }
}

fn all(directory: &Path, filter: &Filter) -> Result<Vec<LogEntry>, LogError> {
    let end = end(directory)?;
    let mut reader = LogReader::open(directory, None)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next(filter)? {
        // Behind a writer that is fast enough there would be no end.
        if entry.cursor.position > end {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Place where the log ends now, or one in the same segment that it has not reached yet.
pub(super) fn end(directory: &Path) -> Result<Position, LogError> {
    for number in segment::list(directory)?.into_iter().rev() {
        if let Some(reader) = SegmentReader::open(directory, number)? {
            return Ok(Position {
                segment: number,
                offset: reader.length()?,
            });
        }
    }
    Ok(Position::default())
}

/// Reads segments from the last one backwards, as many as hold so many entries.
fn tail(directory: &Path, filter: &Filter, count: usize) -> Result<Vec<LogEntry>, LogError> {
    let mut found = VecDeque::new();
    for number in segment::list(directory)?.into_iter().rev() {
        let missing = count.saturating_sub(found.len());
        if missing == 0 {
            break;
        }
        // Older ones have been removed before this one.
        let Some(reader) = SegmentReader::open(directory, number)? else {
            break;
        };
        let mut last = last_entries(reader, filter, missing)?;
        last.append(&mut found);
        found = last;
    }
    Ok(found.into())
}

fn last_entries(
    mut reader: SegmentReader,
    filter: &Filter,
    count: usize,
) -> Result<VecDeque<LogEntry>, LogError> {
    let end = reader.length()?;
    let number = reader.number;
    let mut last = VecDeque::new();
    while let Some(entry) = reader.next()?.filter(|entry| entry.end <= end) {
        if filter.matches(&entry.header) {
            if last.len() == count {
                last.pop_front();
            }
            last.push_back(entry.to_entry(number));
        }
    }
    Ok(last)
}
