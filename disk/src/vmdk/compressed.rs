//! An extent whose grains are compressed (streamOptimized), for reading.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use super::header::{DirectoryAt, Header, u32_at, u64_at};
use super::refusal::Refusal;
use super::tables::{Grain, Tables};
use crate::raw::Raw;
use crate::{Access, Buffers, DiskError, Image, Place, SECTOR};

/// Unpacked grains that are kept: guests read on where they stopped.
const KEPT: usize = 8;

/// `type` of the marker before the header at the end.
pub(super) const MARKER_FOOTER: u32 = 3;

/// Bytes of a grain's marker: its first sector on the disk, and the size of its compressed bytes.
pub(super) const GRAIN_MARKER: u64 = 12;

/// A compressed extent.
#[derive(Debug)]
pub(super) struct Compressed {
    file: Arc<Raw>,
    /// In bytes.
    size: u64,
    /// Bytes of a grain.
    grain: u64,
    tables: Mutex<Tables>,
    /// The last ones, with their numbers.
    unpacked: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

impl Compressed {
    pub(super) fn open(
        path: &Path,
        file: Arc<Raw>,
        header: &Header,
    ) -> Result<Compressed, DiskError> {
        let refused = |refusal: Refusal| refusal.of(path);
        if !file.read_only() {
            return Err(refused(Refusal::unsupported(
                "a streamOptimized disk can only be read",
            )));
        }
        let at_end;
        let (header, directory_at) = match header.directory_at {
            DirectoryAt::Sector(sector) => (header, sector),
            DirectoryAt::Footer => {
                at_end = read_footer(&file).map_err(refused)?;
                let DirectoryAt::Sector(sector) = at_end.directory_at else {
                    return Err(refused(Refusal::invalid(
                        "the header at its end names no grain directory",
                    )));
                };
                if (at_end.capacity, at_end.grain) != (header.capacity, header.grain) {
                    return Err(refused(Refusal::invalid(
                        "the headers at its beginning and its end differ",
                    )));
                }
                (&at_end, sector)
            }
        };
        let tables = Tables::load(&file, header, directory_at, false).map_err(refused)?;
        Ok(Compressed {
            size: header.capacity.saturating_mul(SECTOR),
            grain: header.grain.saturating_mul(SECTOR),
            tables: Mutex::new(tables),
            unpacked: Mutex::default(),
            file,
        })
    }

    /// Bytes of a grain.
    pub(super) fn grain_size(&self) -> u64 {
        self.grain
    }

    /// The bytes of a grain; `None` for zeros.
    fn grain(&self, number: u64) -> io::Result<Option<Arc<[u8]>>> {
        let kept = |unpacked: &VecDeque<(u64, Arc<[u8]>)>| {
            let found = unpacked.iter().find(|(kept, _)| *kept == number);
            found.map(|(_, bytes)| Arc::clone(bytes))
        };
        if let Some(bytes) = kept(&self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(bytes));
        }
        let found = self
            .tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .find(&self.file, number)?;
        let Grain::At(sector) = found else {
            return Ok(None);
        };
        let bytes: Arc<[u8]> = self.unpack(number, sector)?.into();
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if kept(&unpacked).is_none() {
            unpacked.truncate(KEPT.saturating_sub(1));
            unpacked.push_front((number, Arc::clone(&bytes)));
        }
        Ok(Some(bytes))
    }

    /// Unpacks the grain whose marker is at `sector`. The result has the bytes of a grain.
    fn unpack(&self, number: u64, sector: u64) -> io::Result<Vec<u8>> {
        let broken = |what: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the compressed grain at sector {sector} {what}"),
            )
        };
        let start = sector.saturating_mul(SECTOR);
        let mut marker = [0; GRAIN_MARKER as usize];
        self.read_file(start, &mut marker)
            .map_err(|_| broken("lies behind the end of the file"))?;
        let disk_sector = number.saturating_mul(self.grain) / SECTOR;
        if u64_at(&marker, 0) != disk_sector {
            return Err(broken("belongs to another part of the disk"));
        }
        let size = u64::from(u32_at(&marker, 8));
        // Deflate makes nothing larger by more than a few bytes in every block.
        if size == 0 || size > self.grain.saturating_mul(2) {
            return Err(broken("has a size that none can have"));
        }
        let mut packed = vec![0; size as usize];
        self.read_file(start.saturating_add(GRAIN_MARKER), &mut packed)
            .map_err(|_| broken("ends behind the end of the file"))?;
        let mut bytes = Vec::with_capacity(self.grain as usize);
        // The vector's capacity bounds what is unpacked.
        let status = Decompress::new(true)
            .decompress_vec(&packed, &mut bytes, FlushDecompress::Finish)
            .map_err(|_| broken("is damaged"))?;
        // The last grain may be cut where the disk ends.
        let needed = self
            .size
            .saturating_sub(number.saturating_mul(self.grain))
            .min(self.grain);
        if status != Status::StreamEnd
            || (bytes.len() as u64) < needed
            || bytes.len() as u64 > self.grain
        {
            return Err(broken("has too few or too many bytes"));
        }
        bytes.resize(self.grain as usize, 0);
        Ok(bytes)
    }

    fn read_file(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, &Buffers::of_slice(bytes))
    }
}

/// The header at the end: before it is its marker, behind it the marker of the end.
fn read_footer(file: &Raw) -> Result<Header, Refusal> {
    let missing = || Refusal::invalid("the header at its end is missing: it may be incomplete");
    let at = file
        .size()
        .checked_sub(SECTOR.saturating_mul(3))
        .filter(|&at| at > 0)
        .ok_or_else(missing)?;
    let mut sectors = [0; 3 * SECTOR as usize];
    file.read(at, &Buffers::of_slice(&mut sectors))?;
    let ([marker, header, end], _) = sectors.as_chunks::<{ SECTOR as usize }>() else {
        return Err(missing());
    };
    let is_end = end.iter().all(|&byte| byte == 0);
    // Sectors that follow, no compressed bytes, the type.
    let is_footer =
        u64_at(marker, 0) == 1 && u32_at(marker, 8) == 0 && u32_at(marker, 12) == MARKER_FOOTER;
    if !is_footer || !is_end {
        return Err(missing());
    }
    let header = Header::decode(header)?;
    if !header.compressed {
        return Err(missing());
    }
    Ok(header)
}

impl Image for Compressed {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        match offset.checked_add(buffers.len()) {
            Some(end) if end <= self.size => {}
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let mut done = 0_u64;
        while done < buffers.len() {
            let at = offset.saturating_add(done);
            let within = at & self.grain.saturating_sub(1);
            let number = at.checked_div(self.grain).unwrap_or(0);
            let part = buffers.part(done, self.grain.saturating_sub(within));
            match self.grain(number)? {
                None => part.fill_with_zeros(),
                Some(bytes) => {
                    let from = bytes.get(within as usize..).unwrap_or_default();
                    let from = from.get(..part.len() as usize).unwrap_or_default();
                    part.copy_from(from)?;
                }
            }
            done = done.saturating_add(part.len());
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _buffers: &Buffers<'_>) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn place(&self, _offset: u64, _length: u64, _access: Access) -> Option<Place<'_>> {
        None
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
}
