//! An image's file, filled from front to back.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::ErofsError;
use super::format::BLOCK;

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// What is looked at as a whole when zeros are left out: large enough that files do not fall into pieces.
const HOLE: usize = 64 << 10;

/// Appends to an image's file, whose zeros become holes.
#[derive(Debug)]
pub struct BlockWriter<'file> {
    output: &'file File,
    buffer: Vec<u8>,
    /// Where the buffer's first byte belongs.
    start: u64,
}

impl<'file> BlockWriter<'file> {
    /// Fills this empty file; the first block is left free for the superblock.
    pub fn new(output: &'file File) -> Self {
        Self {
            output,
            buffer: Vec::with_capacity(BUFFER),
            start: BLOCK,
        }
    }

    /// How many bytes the image has now.
    pub fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Fills the block that was begun with zeros, and says which is the next.
    ///
    /// # Errors
    /// Writing fails, or there are too many blocks.
    pub fn next_block(&mut self) -> Result<u32, ErofsError> {
        let aligned = self.position().next_multiple_of(BLOCK);
        self.append_zeros(aligned - self.position())?;
        u32::try_from(aligned / BLOCK).map_err(|_| ErofsError::TooLarge)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Writing fails.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), ErofsError> {
        while !bytes.is_empty() {
            let room = BUFFER - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends zeros, which take no place if they are many.
    ///
    /// # Errors
    /// Writing fails, or the image would become larger than the format allows.
    pub fn append_zeros(&mut self, count: u64) -> Result<(), ErofsError> {
        let room = (BUFFER - self.buffer.len()) as u64;
        if count < room {
            self.buffer.resize(self.buffer.len() + count as usize, 0);
            return Ok(());
        }
        self.flush()?;
        let end = self.start.checked_add(count);
        self.start = end
            .filter(|end| *end <= u64::from(u32::MAX) * BLOCK)
            .ok_or(ErofsError::TooLarge)?;
        Ok(())
    }

    /// Writes the buffer out.
    fn flush(&mut self) -> Result<(), ErofsError> {
        for (index, piece) in self.buffer.chunks(HOLE).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                let offset = self.start + (index * HOLE) as u64;
                self.output
                    .write_all_at(piece, offset)
                    .map_err(ErofsError::Write)?;
            }
        }
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes everything, gives the file its length, and puts the first block into its place.
    pub(super) fn finish(mut self, first: &[u8; BLOCK as usize]) -> Result<u64, ErofsError> {
        self.next_block()?;
        self.flush()?;
        self.output.set_len(self.start).map_err(ErofsError::Write)?;
        self.output
            .write_all_at(first, 0)
            .map_err(ErofsError::Write)?;
        Ok(self.start)
    }
}
