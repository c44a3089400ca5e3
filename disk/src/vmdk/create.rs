//! New disks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::descriptor::{Descriptor, ExtentLine, ExtentPlace, Subformat};
use super::header::{DirectoryAt, Header, TABLE_SECTORS};
use super::new_content_id;
use super::refusal::Refusal;
use crate::{DiskError, SECTOR};

/// Sectors of a new disk's grain: 64 KiB.
const GRAIN: u64 = 128;

/// Sectors of a new disk's embedded descriptor.
const DESCRIPTOR_SECTORS: u64 = 20;

/// Makes an empty disk of `size` bytes: `path`, and where the subformat wants it a second file beside it. Neither may exist.
/// Both are durable when this returns; their folder is not.
pub(crate) fn create(path: &Path, size: u64, subformat: Subformat) -> Result<(), DiskError> {
    let failed = |source| DiskError::Io {
        what: "create",
        path: path.to_owned(),
        source,
    };
    let name = file_name(path).map_err(|refusal| refusal.of(path))?;
    match subformat {
        Subformat::MonolithicSparse => {
            let header = sparse_header(size / SECTOR).map_err(|refusal| refusal.of(path))?;
            create_sparse(path, name, &header).map_err(failed)
        }
        Subformat::MonolithicFlat => {
            let flat = format!("{}-flat.vmdk", name.strip_suffix(".vmdk").unwrap_or(name));
            let file = File::create_new(path.with_file_name(&flat)).map_err(failed)?;
            file.set_len(size).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            let text = one_extent(
                subformat,
                size / SECTOR,
                ExtentPlace::Flat {
                    name: flat,
                    offset: 0,
                },
            );
            let file = File::create_new(path).map_err(failed)?;
            file.write_all_at(text.as_bytes(), 0).map_err(failed)?;
            file.sync_all().map_err(failed)
        }
        other => Err(Refusal::unsupported(format!(
            "empty disks of the type {} cannot be made",
            other.name()
        ))
        .of(path)),
    }
}

/// The name as it can stand in a descriptor.
fn file_name(path: &Path) -> Result<&str, Refusal> {
    path.file_name()
        .and_then(|name| name.to_str())
        .filter(|name| !name.contains('"') && !name.contains(char::is_control))
        .ok_or_else(|| {
            Refusal::unsupported(
                "a descriptor cannot hold its name: it has a quotation mark or a control character, or is no UTF-8",
            )
        })
}

fn one_extent(subformat: Subformat, sectors: u64, place: ExtentPlace) -> String {
    let descriptor = Descriptor {
        subformat,
        extents: vec![ExtentLine {
            sectors,
            writable: true,
            place,
        }],
        content_id: None,
    };
    descriptor.render(new_content_id())
}

/// Header, descriptor, both directories each with its tables, then grains.
fn sparse_header(capacity: u64) -> Result<Header, Refusal> {
    let mut header = Header {
        version: 1,
        capacity,
        grain: GRAIN,
        descriptor_at: 1,
        descriptor_size: DESCRIPTOR_SECTORS,
        directory_at: DirectoryAt::Sector(0),
        redundant_at: None,
        overhead: 0,
        zeroed_grains: false,
        compressed: false,
        unclean: false,
    };
    let copy =
        directory_sectors(&header).saturating_add(header.tables().saturating_mul(TABLE_SECTORS));
    let redundant_at = DESCRIPTOR_SECTORS.saturating_add(1);
    let directory_at = redundant_at.saturating_add(copy);
    header.redundant_at = Some(redundant_at);
    header.directory_at = DirectoryAt::Sector(directory_at);
    header.overhead = directory_at.saturating_add(copy).next_multiple_of(GRAIN);
    // Entries have 32 bits, so that no more than this can ever be written.
    if capacity.saturating_add(header.overhead) > u32::MAX.into() {
        return Err(Refusal::unsupported("a sparse disk holds less than 2 TiB"));
    }
    Ok(header)
}

fn directory_sectors(header: &Header) -> u64 {
    header.tables().saturating_mul(4).div_ceil(SECTOR)
}

fn create_sparse(path: &Path, name: &str, header: &Header) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(header.overhead.saturating_mul(SECTOR))?;
    let place = ExtentPlace::Sparse {
        name: name.to_owned(),
    };
    let text = one_extent(Subformat::MonolithicSparse, header.capacity, place);
    if text.len() as u64 > DESCRIPTOR_SECTORS.saturating_mul(SECTOR) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let DirectoryAt::Sector(directory_at) = header.directory_at else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    for at in [header.redundant_at, Some(directory_at)]
        .into_iter()
        .flatten()
    {
        let first = at.saturating_add(directory_sectors(header));
        let entries = (0..header.tables())
            .map(|index| first.saturating_add(index.saturating_mul(TABLE_SECTORS)))
            .flat_map(|sector| (sector as u32).to_le_bytes());
        let bytes: Vec<u8> = entries.collect();
        file.write_all_at(&bytes, at.saturating_mul(SECTOR))?;
    }
    file.write_all_at(text.as_bytes(), header.descriptor_at.saturating_mul(SECTOR))?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()
}
