//! Where the guest kernel's log goes: its last lines into memory, for error messages, and all of it
//! to a file if one is given.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::log::{LimitedLines, LogLines};

/// Bytes that are kept. They travel in one report through a pipe, which holds 64 KiB.
const CAPACITY: usize = 32 * 1024;

/// The last bytes of the log, shared between who writes and who asks.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLines {
    bytes: Arc<Mutex<VecDeque<u8>>>,
}

impl LastLines {
    /// What was written last, from the beginning of a line.
    pub(super) fn get(&self) -> Vec<u8> {
        let bytes = self.lock();
        let full = bytes.len() == CAPACITY;
        let bytes: Vec<u8> = bytes.iter().copied().collect();
        match bytes.iter().position(|&byte| byte == b'\n') {
            Some(newline) if full => bytes.get(newline + 1..).unwrap_or_default().to_vec(),
            _ => bytes,
        }
    }

    fn push(&self, data: &[u8]) {
        let data = data
            .get(data.len().saturating_sub(CAPACITY)..)
            .unwrap_or_default();
        let mut bytes = self.lock();
        let excess = (bytes.len() + data.len()).saturating_sub(CAPACITY);
        bytes.drain(..excess);
        bytes.extend(data);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the log.
#[derive(Debug)]
pub(super) struct ConsoleLog {
    last_lines: LastLines,
    file: Option<File>,
    /// Warnings, into the sandbox's log: without a file the kernel is quiet, so that all of it is warnings.
    warnings: LimitedLines,
}

impl ConsoleLog {
    /// A log that keeps its end in `last_lines` and goes to `file` as well, or without one to `lines`.
    pub(super) fn new(last_lines: LastLines, file: Option<File>, lines: LogLines) -> ConsoleLog {
        ConsoleLog {
            last_lines,
            file,
            warnings: LimitedLines::new("kernel", lines),
        }
    }

    /// Whether somebody reads all of it.
    pub(super) fn has_reader(&self) -> bool {
        self.file.is_some()
    }
}

impl Write for ConsoleLog {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.last_lines.push(data);
        match &mut self.file {
            None => self.warnings.write(data),
            Some(file) => {
                if let Err(error) = file.write_all(data) {
                    tracing::warn!("the log of the guest's kernel is no longer written: {error}");
                    self.file = None;
                }
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        let last_lines = LastLines::default();
        let mut log = ConsoleLog::new(last_lines.clone(), None, LogLines::default());
        log.write_all(b"one\ntwo").unwrap();
        assert_eq!(last_lines.get(), b"one\ntwo");
        for line in 0..10_000 {
            writeln!(log, "line {line}").unwrap();
        }
        let text = String::from_utf8(last_lines.get()).unwrap();
        assert!(text.len() <= CAPACITY && text.len() > CAPACITY - 20);
        assert!(text.starts_with("line ") && text.ends_with("line 9999\n"));
    }

    #[test]
    fn one_large_write_leaves_its_end() {
        let last_lines = LastLines::default();
        let mut data = vec![b'x'; 3 * CAPACITY];
        data.extend_from_slice(b"\nend");
        ConsoleLog::new(last_lines.clone(), None, LogLines::default())
            .write_all(&data)
            .unwrap();
        assert_eq!(last_lines.get(), b"end");
    }

    #[test]
    fn the_file_gets_everything() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = ConsoleLog::new(
            LastLines::default(),
            Some(file.try_clone().unwrap()),
            LogLines::default(),
        );
        let data = vec![b'x'; 2 * CAPACITY];
        log.write_all(&data).unwrap();
        let mut written = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_end(&mut file, &mut written).unwrap();
        assert_eq!(written, data);
    }
}
