//! What an image says about itself.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::header::incompatible;
use super::opening::{failed, read_header};
use crate::open::open_file;
use crate::{DiskError, Format, Info};

/// Reads the header; the backing file is named and not opened.
pub(crate) fn info(path: &Path) -> Result<Info, DiskError> {
    let file = open_file(path, true)?;
    let header = read_header(path, &file)?;
    let metadata = file
        .metadata()
        .map_err(|source| failed("read", path, source))?;
    Ok(Info {
        format: Format::Qcow2,
        virtual_size: header.size,
        allocated: metadata.blocks().saturating_mul(512),
        cluster_size: Some(1 << header.geometry.cluster_bits),
        subformat: Some(match header.version {
            2 => "version 2",
            _ => "version 3",
        }),
        backing_file: header.backing.map(Into::into),
        snapshots: header.snapshots.into(),
        dirty: header.incompatible & (incompatible::DIRTY | incompatible::CORRUPT) != 0,
    })
}
