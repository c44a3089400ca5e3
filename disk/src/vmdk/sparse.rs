//! An extent that grows: grains of some sectors lie anywhere in the file, and [`Tables`] finds them.
//!
//! A grain is entered in its table in memory when it is first written; the table goes to the file when the grain's bytes are
//! durable, so that a crash leaves either the old zeros or the new bytes. Grains are never given back: a grain
//! that is zero again keeps its place, as a hole. So no place is used anew while a write to it is under way.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::header::{DirectoryAt, Header, UNCLEAN_AT};
use super::refusal::Refusal;
use super::tables::{Differing, Grain, Tables};
use crate::raw::Raw;
use crate::{Access, Buffers, Cache, DiskError, Image, Place, SECTOR};

/// A sparse extent without compression.
#[derive(Debug)]
pub(super) struct Sparse {
    path: PathBuf,
    file: Arc<Raw>,
    /// In bytes.
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    cache: Cache,
    /// Nobody had closed it when it was opened.
    unclean: bool,
    metadata: Mutex<Metadata>,
    /// Held during a flush: whoever comes second must not return before the changes that the first one took are durable.
    flushing: Mutex<()>,
}

#[derive(Debug)]
struct Metadata {
    tables: Tables,
    /// The file says that it is not closed.
    marked: bool,
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Use,
    /// To look at all of it.
    Check,
}

/// A stretch of the disk that lies in one piece, or nowhere.
enum Run {
    Zeros(u64),
    At { offset: u64, length: u64 },
}

impl Sparse {
    pub(super) fn open(
        path: &Path,
        file: Arc<Raw>,
        header: &Header,
        cache: Cache,
        purpose: Purpose,
    ) -> Result<Sparse, DiskError> {
        let refused = |refusal: Refusal| refusal.of(path);
        let DirectoryAt::Sector(directory_at) = header.directory_at else {
            return Err(refused(Refusal::invalid(
                "its grain directory is said to lie at the end",
            )));
        };
        let writable = !file.read_only();
        if writable && header.version > 2 {
            return Err(refused(Refusal::unsupported("version 3 can only be read")));
        }
        // Whoever only reads does not mind a second copy that is damaged.
        let copies = writable || purpose == Purpose::Check;
        if header.unclean {
            tracing::warn!("{} was not closed when it was last written", path.display());
        }
        let tables = Tables::load(&file, header, directory_at, copies).map_err(refused)?;
        let sparse = Sparse {
            path: path.to_owned(),
            size: header.capacity.saturating_mul(SECTOR),
            grain: header.grain.saturating_mul(SECTOR),
            cache,
            unclean: header.unclean,
            metadata: Mutex::new(Metadata {
                tables,
                marked: false,
            }),
            flushing: Mutex::new(()),
            file,
        };
        if writable && header.unclean && purpose == Purpose::Use {
            sparse.reconcile().map_err(|source| DiskError::Io {
                what: "repair",
                path: path.to_owned(),
                source,
            })?;
        }
        Ok(sparse)
    }

    /// Makes the two copies of each table the same again: a crash between the writes leaves one of them older, and once the
    /// extent is closed nobody could tell why.
    fn reconcile(&self) -> io::Result<()> {
        let differing = self.metadata().tables.differing_tables(&self.file)?;
        if differing.is_empty() {
            return Ok(());
        }
        self.mark()?;
        for Differing { index, .. } in differing {
            if self.metadata().tables.full() {
                self.flush()?;
            }
            self.metadata().tables.rewrite(&self.file, index)?;
        }
        self.flush()
    }

    fn metadata(&self) -> MutexGuard<'_, Metadata> {
        self.metadata.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run at `offset`, of at most `length` bytes; `find` is one of the two ways to look up a grain.
    fn run(
        &self,
        offset: u64,
        length: u64,
        mut find: impl FnMut(u64) -> io::Result<Grain>,
    ) -> io::Result<Run> {
        let (mut number, within) = self.split(offset);
        let first = find(number)?;
        let mut covered = self.grain.saturating_sub(within);
        while covered < length {
            number = number.saturating_add(1);
            let continues = match (first, find(number)) {
                (Grain::Absent, Ok(Grain::Absent)) => true,
                (Grain::At(start), Ok(Grain::At(next))) => {
                    let reached = covered.saturating_add(within) / SECTOR;
                    start.saturating_add(reached) == next
                }
                // What is wrong with the next grain is found when its turn comes.
                _ => false,
            };
            if !continues {
                break;
            }
            covered = covered.saturating_add(self.grain);
        }
        let length = covered.min(length);
        Ok(match first {
            Grain::Absent => Run::Zeros(length),
            Grain::At(sector) => Run::At {
                offset: sector.saturating_mul(SECTOR).saturating_add(within),
                length,
            },
        })
    }

    fn find_run(&self, offset: u64, length: u64) -> io::Result<Run> {
        let tables = &mut self.metadata().tables;
        self.run(offset, length, |grain| tables.find(&self.file, grain))
    }

    /// Where bytes for `offset` can be written: at most `length` of them in one piece.
    fn allocate_run(&self, offset: u64, length: u64) -> io::Result<(u64, u64)> {
        if self.metadata().tables.full() {
            self.flush()?;
        }
        let mut metadata = self.metadata();
        let Metadata { tables, marked } = &mut *metadata;
        match self.run(offset, length, |grain| tables.find(&self.file, grain))? {
            Run::At { offset, length } => Ok((offset, length)),
            Run::Zeros(absent) => {
                self.mark_once(marked)?;
                let (number, within) = self.split(offset);
                let grains = within.saturating_add(absent).div_ceil(self.grain);
                let count = grains.min(Tables::left_in_table(number));
                let sector = tables.allocate(&self.file, number, count)?;
                let room = count.saturating_mul(self.grain).saturating_sub(within);
                let offset = sector.saturating_mul(SECTOR).saturating_add(within);
                Ok((offset, room.min(absent)))
            }
        }
    }

    /// Number of the grain at `offset`, and the place in it.
    fn split(&self, offset: u64) -> (u64, u64) {
        let within = offset & self.grain.saturating_sub(1);
        let number = offset.checked_div(self.grain).unwrap_or(0);
        (number, within)
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn check_change(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.read_only() {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check(offset, length)
    }

    /// Does `change` to the parts of the range that lie somewhere.
    fn for_each_place(
        &self,
        offset: u64,
        length: u64,
        mut change: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.check_change(offset, length)?;
        let mut done = 0_u64;
        while done < length {
            let at = offset.saturating_add(done);
            let step = match self.find_run(at, length.saturating_sub(done))? {
                Run::Zeros(length) => length,
                Run::At { offset, length } => {
                    change(offset, length)?;
                    length
                }
            };
            done = done.saturating_add(step);
        }
        self.done()
    }

    fn done(&self) -> io::Result<()> {
        match self.cache {
            Cache::Writeback => Ok(()),
            Cache::Writethrough => self.flush(),
        }
    }

    /// Lets `inspect` look at the tables and change them.
    pub(super) fn with_tables<T>(&self, inspect: impl FnOnce(&mut Tables, &Raw) -> T) -> T {
        inspect(&mut self.metadata().tables, &self.file)
    }

    /// Bytes of a grain.
    pub(super) fn grain(&self) -> u64 {
        self.grain
    }

    /// Whether nobody had closed it when it was opened.
    pub(super) fn unclean(&self) -> bool {
        self.unclean
    }

    /// Marks the file as not closed before the tables change.
    pub(super) fn mark(&self) -> io::Result<()> {
        self.mark_once(&mut self.metadata().marked)
    }

    fn mark_once(&self, marked: &mut bool) -> io::Result<()> {
        if !*marked {
            self.file.write(UNCLEAN_AT, &Buffers::of_slice(&mut [1]))?;
            *marked = true;
        }
        Ok(())
    }
}

impl Image for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.file.read_only()
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check(offset, buffers.len())?;
        let mut done = 0_u64;
        while done < buffers.len() {
            let at = offset.saturating_add(done);
            let step = match self.find_run(at, buffers.len().saturating_sub(done))? {
                Run::Zeros(length) => {
                    buffers.part(done, length).fill_with_zeros();
                    length
                }
                Run::At { offset, length } => {
                    self.file.read(offset, &buffers.part(done, length))?;
                    length
                }
            };
            done = done.saturating_add(step);
        }
        Ok(())
    }

    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.check_change(offset, buffers.len())?;
        let mut done = 0_u64;
        while done < buffers.len() {
            let at = offset.saturating_add(done);
            let (place, length) = self.allocate_run(at, buffers.len().saturating_sub(done))?;
            self.file.write(place, &buffers.part(done, length))?;
            done = done.saturating_add(length);
        }
        self.done()
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.for_each_place(offset, length, |offset, length| {
            self.file.write_zeroes(offset, length, unmap)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.for_each_place(offset, length, |offset, length| {
            self.file.discard(offset, length)
        })
    }

    /// First the grains, then the tables that find them (and before a directory its new tables): an entry in the file
    /// always leads to what was written. The two copies of a table may differ after a crash, but each is right for itself, and who
    /// writes the extent next makes them the same.
    fn flush(&self) -> io::Result<()> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = self.metadata().tables.take_changes();
        let written = (|| {
            self.file.flush()?;
            if batch.is_empty() {
                return Ok(());
            }
            let write = |pieces: &[(u64, Vec<u8>)]| {
                pieces.iter().try_for_each(|(offset, bytes)| {
                    self.file
                        .write(*offset, &Buffers::of_slice(&mut bytes.clone()))
                })
            };
            write(&batch.tables)?;
            if !batch.directories.is_empty() {
                self.file.flush()?;
                write(&batch.directories)?;
            }
            self.file.flush()
        })();
        self.metadata().tables.settle(&batch, written.is_ok());
        written
    }

    /// Reads no table: only what is in memory can be used right away.
    fn place(&self, offset: u64, length: u64, access: Access) -> Option<Place<'_>> {
        if access == Access::Write && self.cache == Cache::Writethrough {
            return None;
        }
        self.check(offset, length).ok()?;
        let tables = &mut self.metadata().tables;
        let run = self.run(offset, length, |grain| {
            tables.find_cached(&self.file, grain)
        });
        match run {
            Ok(Run::At { offset, length }) => self.file.place(offset, length, access),
            _ => None,
        }
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}

impl Drop for Sparse {
    /// Closes the extent. What fails here leaves the mark that it was not closed.
    fn drop(&mut self) {
        if !self.metadata().marked {
            return;
        }
        let closed = self.flush().and_then(|()| {
            self.file.write(UNCLEAN_AT, &Buffers::of_slice(&mut [0]))?;
            self.file.flush()
        });
        if let Err(error) = closed {
            tracing::error!("cannot close {}: {error}", self.path.display());
        }
    }
}
