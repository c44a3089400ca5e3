//! Opening an image.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, RwLock};

use super::busy::Busy;
use super::check;
use super::compressed::Decompressor;
use super::header::{self, Header, HeaderError, incompatible};
use super::metadata::Metadata;
use super::refcounts::Refcounts;
use super::store::{GROWTH, Store};
use super::table::Cache;
use super::{Qcow2, damaged};
use crate::open::{Chain, LockedFile, open_chained, open_file, size_of};
use crate::reference::resolve;
use crate::transfer;
use crate::{Buffers, DiskError, Format, Image, OpenOptions};

impl Qcow2 {
    pub(crate) fn open(
        path: &Path,
        options: &OpenOptions,
        chain: &Chain<'_>,
    ) -> Result<Qcow2, DiskError> {
        let file = open_file(path, options.read_only)?;
        let mut header = read_header(path, &file)?;
        if !options.read_only {
            prepare_for_writing(path, &file, &mut header)?;
        }
        let data_file = open_data_file(path, &header, options)?;
        let backing = open_backing(path, &header, options, chain)?;
        Qcow2::new(file, &header, data_file, backing, options)
            .map_err(|source| failed("read", path, source))
    }

    fn new(
        file: LockedFile,
        header: &Header,
        data_file: Option<LockedFile>,
        backing: Option<Box<dyn Image>>,
        options: &OpenOptions,
    ) -> io::Result<Qcow2> {
        let geometry = header.geometry;
        let length = size_of(&file)?;
        let l1 = read_words(&file, length, header.l1_offset, header.l1_bytes())?;
        let table = read_words(
            &file,
            length,
            header.refcount_table_offset,
            header.refcount_table_bytes(),
        )?;
        let store = Store::new(file, geometry, length, GROWTH)?;
        let data_file = match data_file {
            Some(file) => {
                let length = size_of(&file)?;
                // Whoever reads it as a raw image sees how long it is.
                Some(Store::new(file, geometry, length, 1)?)
            }
            None => None,
        };
        let whole = geometry.offset(geometry.clusters(length));
        let metadata = Metadata {
            geometry,
            version: header.version,
            l1_offset: header.l1_offset,
            l1,
            dirty_l1: Default::default(),
            l2: Cache::new(Metadata::l2_capacity(geometry)),
            refcounts: Refcounts::new(geometry, header.refcount_table_offset, table),
            freed: Vec::new(),
            never_written_from: store.never_written_from(),
            used_end: whole,
            data_file: data_file.is_some(),
        };
        if !options.read_only && whole > length {
            store.file.set_len(whole)?;
        }
        Ok(Qcow2 {
            geometry,
            version: header.version,
            has_snapshots: header.snapshots > 0,
            size: AtomicU64::new(header.size),
            store,
            data_file,
            backing,
            decompressor: Decompressor::new(header.compression, geometry.cluster_size()),
            metadata: RwLock::new(metadata),
            busy: Busy::default(),
            flushing: Mutex::new(()),
            read_only: options.read_only,
            cache: options.cache,
        })
    }
}

/// The error of a system call on the file.
pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

pub(super) fn invalid(path: &Path, reason: impl Into<String>) -> DiskError {
    DiskError::Invalid {
        path: path.to_owned(),
        format: Format::Qcow2,
        reason: reason.into(),
    }
}

pub(super) fn unsupported(path: &Path, reason: impl Into<String>) -> DiskError {
    DiskError::Unsupported {
        path: path.to_owned(),
        format: Format::Qcow2,
        reason: reason.into(),
    }
}

/// Reads the header, and checks that what it points to is in the file.
pub(super) fn read_header(path: &Path, file: &File) -> Result<Header, DiskError> {
    let refused = |error| match error {
        HeaderError::Invalid(reason) => invalid(path, reason),
        HeaderError::Unsupported(reason) => unsupported(path, reason),
    };
    let length = size_of(file).map_err(|source| failed("read", path, source))?;
    let beginning =
        read_part(file, 0, length.min(512)).map_err(|source| failed("read", path, source))?;
    let bits = Header::cluster_bits(&beginning).map_err(refused)?;
    let cluster = read_part(file, 0, length.min(1_u64.wrapping_shl(bits)))
        .map_err(|source| failed("read", path, source))?;
    let header = Header::parse(&cluster).map_err(refused)?;
    for (name, start, bytes) in header.tables() {
        if start.saturating_add(bytes) > length {
            return Err(invalid(
                path,
                format!("the {name} lies behind the end of the file"),
            ));
        }
    }
    Ok(header)
}

/// What has to be done before the first change.
fn prepare_for_writing(path: &Path, file: &File, header: &mut Header) -> Result<(), DiskError> {
    if header.incompatible & incompatible::CORRUPT != 0 {
        return Err(invalid(
            path,
            "it is marked as corrupt, so it can only be read or repaired",
        ));
    }
    if header.geometry.extended_l2 {
        return Err(unsupported(
            path,
            "images with subclusters (extended L2 entries) can only be read",
        ));
    }
    // Bitmaps are not kept up to date here, so whoever knows them must not trust them any more. Unknown features are the
    // same.
    let known = if header.incompatible & incompatible::DATA_FILE != 0 {
        header::RAW_DATA_FILE
    } else {
        0
    };
    let had_bitmaps = header.autoclear & header::BITMAPS != 0;
    if header.autoclear & !known != 0 {
        let bits = (header.autoclear & known).to_be_bytes();
        write_durably(file, header::field::AUTOCLEAR, bits)
            .map_err(|source| failed("write", path, source))?;
    }
    if header.incompatible & incompatible::DIRTY != 0 || had_bitmaps {
        *header = read_header(path, file)?;
        let report = check::run(path, file, header, true)?;
        if report.corruptions > 0 {
            return Err(invalid(
                path,
                "it was not closed, and its reference counts cannot be repaired",
            ));
        }
        *header = read_header(path, file)?;
    }
    Ok(())
}

pub(super) fn write_durably(file: &File, offset: u64, mut bits: [u8; 8]) -> io::Result<()> {
    transfer::write_at(file, offset, &Buffers::of_slice(&mut bits))?;
    file.sync_data()
}

fn open_data_file(
    path: &Path,
    header: &Header,
    options: &OpenOptions,
) -> Result<Option<LockedFile>, DiskError> {
    match &header.data_file {
        Some(name) => {
            let file = resolve(path, name, &options.allowed)?;
            open_file(&file, options.read_only).map(Some)
        }
        None => Ok(None),
    }
}

fn open_backing(
    path: &Path,
    header: &Header,
    options: &OpenOptions,
    chain: &Chain<'_>,
) -> Result<Option<Box<dyn Image>>, DiskError> {
    let Some(name) = &header.backing else {
        return Ok(None);
    };
    let file = resolve(path, name, &options.allowed)?;
    let format = backing_format(path, name, header.backing_format.as_deref())?;
    let options = OpenOptions {
        format,
        read_only: true,
        ..options.clone()
    };
    open_chained(&file, &options, chain).map(Some)
}

/// The format that the header names or the extension tells.
fn backing_format(path: &Path, name: &OsStr, format: Option<&str>) -> Result<Format, DiskError> {
    match format {
        Some(name) => name
            .parse()
            .map_err(|_| unsupported(path, format!("its backing file has the format {name:?}"))),
        None => Format::from_extension(Path::new(name))
            .ok_or_else(|| unsupported(path, "it does not tell which format its backing file has")),
    }
}

/// Bytes of the file.
pub(super) fn read_part(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    transfer::read_at(file, offset, &Buffers::of_slice(&mut bytes))?;
    Ok(bytes)
}

/// A table of big-endian words, which must be in the file: memory is taken for what there is only.
pub(super) fn read_words(
    file: &File,
    file_length: u64,
    offset: u64,
    length: u64,
) -> io::Result<Vec<u64>> {
    if offset.saturating_add(length) > file_length {
        return Err(damaged("a table lies behind the end of the file"));
    }
    let bytes = read_part(file, offset, length)?;
    let (words, _) = bytes.as_chunks();
    Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
}
