//! The files of a log.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LogError;
use super::error::failed;
use super::format::{ENTRY_HEADER, EntryHeader, MAX_DATA, SEGMENT_HEADER, parse_segment_header};

/// Ends the names of segments, which are their numbers.
const SUFFIX: &str = ".log";

/// Bytes that are read at once: any entry fits.
const CHUNK: usize = 2 * (MAX_DATA + ENTRY_HEADER);

/// Where a segment is.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}{SUFFIX}"))
}

/// Numbers of the segments that there are, in order. None if there is no such directory.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, LogError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed("read", directory))?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", directory))?.file_name();
        numbers.extend(name.to_str().and_then(number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Number of the segment with this file name.
fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// A segment that is read from its beginning.
#[derive(Debug)]
pub(super) struct SegmentReader {
    path: PathBuf,
    file: File,
    /// Number of the segment.
    pub(super) number: u64,
    /// Identity of the log, once it was read.
    log: Option<u64>,
    /// Place in the file of the first byte of the buffer's unread part.
    offset: u64,
    buffer: Vec<u8>,
    /// Where the unread part of the buffer begins.
    start: usize,
}

/// An entry in a reader's buffer.
#[derive(Debug)]
pub(super) struct RawEntry<'a> {
    /// Identity of the log.
    pub(super) log: u64,
    /// Bytes of the segment up to the end of the entry.
    pub(super) end: u64,
    /// What it says of its data.
    pub(super) header: EntryHeader,
    /// Its data.
    pub(super) data: &'a [u8],
}

impl SegmentReader {
    /// Opens a segment; `None` if it has been removed.
    pub(super) fn open(directory: &Path, number: u64) -> Result<Option<SegmentReader>, LogError> {
        let path = path(directory, number);
        let file = OpenOptions::new()
            .read(true)
            // Whatever a stranger has put there: no waiting for the other end of a pipe, no following.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(failed("open", &path))?,
        };
        Ok(Some(SegmentReader {
            path,
            file,
            number,
            log: None,
            offset: 0,
            buffer: Vec::new(),
            start: 0,
        }))
    }

    /// Bytes that it has now.
    pub(super) fn length(&self) -> Result<u64, LogError> {
        let metadata = self.file.metadata().map_err(failed("read", &self.path))?;
        Ok(metadata.len())
    }

    /// Place after the entry that was read last.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Identity of the log that it belongs to, if so much was read of it.
    pub(super) fn log(&self) -> Option<u64> {
        self.log
    }

    /// The next entry; `None` if there is no whole one yet.
    pub(super) fn next(&mut self) -> Result<Option<RawEntry<'_>>, LogError> {
        let Some((log, header)) = self.begin_entry()? else {
            // What is there instead is about to be written over, and may have been seen in part.
            self.buffer.clear();
            self.start = 0;
            return Ok(None);
        };
        let from = self.start;
        self.skip(header.entry_length());
        Ok(Some(RawEntry {
            log,
            end: self.offset,
            header,
            data: self
                .buffer
                .get(from + ENTRY_HEADER..self.start)
                .unwrap_or_default(),
        }))
    }

    /// Identity of the log, and header of the entry at the beginning of the buffer, if all of it is there and as it was written.
    fn begin_entry(&mut self) -> Result<Option<(u64, EntryHeader)>, LogError> {
        let Some(log) = self.identity()? else {
            return Ok(None);
        };
        if !self.fill(ENTRY_HEADER)? {
            return Ok(None);
        }
        let Some(header) = self.unread().first_chunk().and_then(EntryHeader::parse) else {
            return Ok(None);
        };
        if !self.fill(header.entry_length())? {
            return Ok(None);
        }
        let entry = self.unread().get(..header.entry_length());
        let is_whole = entry.is_some_and(|entry| header.matches(entry, self.number));
        Ok(is_whole.then_some((log, header)))
    }

    fn identity(&mut self) -> Result<Option<u64>, LogError> {
        if self.log.is_none() && self.fill(SEGMENT_HEADER)? {
            self.log = self.unread().first_chunk().and_then(parse_segment_header);
            if self.log.is_some() {
                self.skip(SEGMENT_HEADER);
            }
        }
        Ok(self.log)
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Reads until `wanted` bytes, at most [`CHUNK`], are unread in the buffer. Returns whether the file has so many.
    fn fill(&mut self, wanted: usize) -> Result<bool, LogError> {
        while self.unread().len() < wanted {
            self.buffer.drain(..self.start);
            self.start = 0;
            let filled = self.buffer.len();
            self.buffer.resize(CHUNK.max(wanted), 0);
            let place = self.offset.saturating_add(filled as u64);
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let result = self.file.read_at(room, place);
            self.buffer
                .truncate(filled + result.as_ref().map_or(0, |count| *count));
            match result {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &self.path)(error)),
            }
        }
        Ok(true)
    }
}
