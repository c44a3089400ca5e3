//! A part of a file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::ArchiveError;

/// A file of an archive: a part of the archive's file, or a file of its own.
#[derive(Debug, Clone)]
pub(super) struct Section {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

/// Reads a section, without moving the file's position: several may read one file.
#[derive(Debug)]
pub(super) struct SectionReader {
    section: Section,
    done: u64,
}

impl Section {
    pub(super) fn new(file: Arc<File>, offset: u64, size: u64) -> Section {
        Section { file, offset, size }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn reader(&self) -> SectionReader {
        SectionReader {
            section: self.clone(),
            done: 0,
        }
    }

    /// All of it, which is at most `limit` bytes.
    pub(super) fn read(&self, what: &'static str, limit: usize) -> Result<Vec<u8>, ArchiveError> {
        let limit = limit as u64;
        if self.size > limit {
            return Err(ArchiveError::TooLarge { what, limit });
        }
        let mut content = Vec::new();
        let read = self.reader().read_to_end(&mut content);
        read.map_err(|source| ArchiveError::Read { source })?;
        Ok(content)
    }
}

impl Read for SectionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.section.size.saturating_sub(self.done);
        let count = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(buffer) = buffer.get_mut(..count).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let position = self.section.offset.saturating_add(self.done);
        let count = self.section.file.read_at(buffer, position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.done = self.done.saturating_add(count as u64);
        Ok(count)
    }
}
