//! Making an image.

use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Qcow2;
use super::geometry::Geometry;
use super::header::{self, LAZY_REFCOUNTS, MAGIC, V3_LENGTH, extension};
use super::opening::failed;
use super::refcounts::set_in;
use crate::open::Chain;
use crate::{Cache, DiskError, Format, OpenOptions, SECTOR};

/// What is allocated when an image is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Every cluster has its place; the file is a hole there.
    Metadata,
}

/// What an image is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Size of the disk in bytes, a multiple of [`SECTOR`].
    pub size: u64,
    /// Bytes in a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// What the image holds no sectors of, and the format of that. The name is kept as it is, and is relative to the
    /// image's folder.
    pub backing: Option<(PathBuf, Format)>,
    /// What is allocated.
    pub preallocation: Preallocation,
    /// Permit those who write the image to update reference counts lazily.
    pub lazy_refcounts: bool,
}

impl CreateOptions {
    /// An empty disk with the usual clusters.
    pub fn of_size(size: u64) -> CreateOptions {
        CreateOptions {
            size,
            cluster_size: 64 << 10,
            backing: None,
            preallocation: Preallocation::Off,
            lazy_refcounts: false,
        }
    }
}

/// Writes a new image to `path`, where nothing may be. It is durable when this returns. After an error a part of it may
/// lie there: [`crate::create`] makes images that appear when they are complete.
///
/// # Errors
/// When the options make no sense, there is something at `path` already, or the file cannot be written.
pub fn create(path: &Path, options: &CreateOptions) -> Result<(), DiskError> {
    let beginning = beginning(path, options)?;
    let write = |source| failed("create", path, source);
    let mut file = File::create_new(path).map_err(write)?;
    file.write_all(&beginning).map_err(write)?;
    if options.preallocation == Preallocation::Metadata {
        // It is locked while it is open as an image.
        drop(file);
        preallocate(path, options.size)?;
        file = File::open(path).map_err(write)?;
    }
    file.sync_all().map_err(write)
}

/// Gives every cluster of the disk a place.
fn preallocate(path: &Path, size: u64) -> Result<(), DiskError> {
    let options = OpenOptions {
        format: Format::Qcow2,
        read_only: false,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    };
    let image = Qcow2::open(path, &options, &Chain::default())?;
    image
        .preallocate(size)
        .map_err(|source| failed("create", path, source))
}

/// The header, an empty L1 table and the reference counts of both.
fn beginning(path: &Path, options: &CreateOptions) -> Result<Vec<u8>, DiskError> {
    let invalid = |reason: String| super::opening::invalid(path, reason);
    if !options.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&options.cluster_size) {
        return Err(invalid(format!(
            "clusters of {} bytes are no power of two from 512 to 2 MiB",
            options.cluster_size
        )));
    }
    if options.size == 0 || !options.size.is_multiple_of(SECTOR) {
        return Err(invalid(format!(
            "a size of {} bytes is no number of sectors of {SECTOR}",
            options.size
        )));
    }
    if options.backing.is_some() && options.preallocation != Preallocation::Off {
        return Err(invalid(
            "preallocated clusters would hide the backing file".to_owned(),
        ));
    }
    let geometry = Geometry {
        cluster_bits: options.cluster_size.trailing_zeros(),
        refcount_order: 4,
        extended_l2: false,
    };
    let l1_entries = geometry.l1_entries(options.size);
    if l1_entries.saturating_mul(8) > header::L1_BYTES_MAX || options.size > i64::MAX as u64 {
        return Err(invalid(format!(
            "a disk of {} bytes is too large for clusters of {} bytes",
            options.size, options.cluster_size
        )));
    }
    // The header, the refcount table, its blocks, the L1 table.
    let l1_clusters = geometry.clusters(l1_entries.saturating_mul(8));
    let (mut table_clusters, mut blocks) = (1_u64, 1_u64);
    let count = loop {
        let count = table_clusters
            .saturating_add(blocks)
            .saturating_add(l1_clusters)
            .saturating_add(1);
        let needed = count.div_ceil(geometry.refcounts_per_block());
        let needed_table = geometry.clusters(needed.saturating_mul(8));
        if needed <= blocks && needed_table <= table_clusters {
            break count;
        }
        (blocks, table_clusters) = (needed, needed_table);
    };
    let size = geometry.cluster_size() as usize;
    let first_block = table_clusters.saturating_add(1);
    let l1_offset = geometry.offset(first_block.saturating_add(blocks));
    let mut bytes =
        header_cluster(options, geometry, table_clusters, l1_offset).map_err(invalid)?;
    let mut table = vec![0; geometry.offset(table_clusters) as usize];
    let mut counts = Vec::new();
    for at in 0..blocks {
        let offset = geometry.offset(first_block.saturating_add(at));
        set_in(&mut table, 6, at, offset);
        let mut block = vec![0; size];
        let counted = at.saturating_mul(geometry.refcounts_per_block());
        let left = count.saturating_sub(counted);
        for index in 0..left.min(geometry.refcounts_per_block()) {
            set_in(&mut block, geometry.refcount_order, index, 1);
        }
        counts.extend(block);
    }
    bytes.extend(table);
    bytes.extend(counts);
    bytes.resize(geometry.offset(count) as usize, 0);
    Ok(bytes)
}

fn header_cluster(
    options: &CreateOptions,
    geometry: Geometry,
    table_clusters: u64,
    l1_offset: u64,
) -> Result<Vec<u8>, String> {
    let mut extensions = Vec::new();
    let mut name = &b""[..];
    if let Some((backing, format)) = &options.backing {
        name = backing.as_os_str().as_bytes();
        let format = format.name().as_bytes();
        extensions.extend(extension::BACKING_FORMAT.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format);
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name_offset = u64::from(V3_LENGTH).saturating_add(extensions.len() as u64);
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(if name.is_empty() { 0 } else { name_offset }.to_be_bytes());
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(geometry.cluster_bits.to_be_bytes());
    bytes.extend(options.size.to_be_bytes());
    // No encryption.
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend((geometry.l1_entries(options.size) as u32).to_be_bytes());
    bytes.extend(l1_offset.to_be_bytes());
    bytes.extend(geometry.cluster_size().to_be_bytes());
    bytes.extend((table_clusters as u32).to_be_bytes());
    // No snapshots, no incompatible features.
    bytes.extend([0; 12]);
    bytes.extend(0_u64.to_be_bytes());
    let compatible = if options.lazy_refcounts {
        LAZY_REFCOUNTS
    } else {
        0
    };
    bytes.extend(compatible.to_be_bytes());
    bytes.extend(0_u64.to_be_bytes());
    bytes.extend(geometry.refcount_order.to_be_bytes());
    bytes.extend(V3_LENGTH.to_be_bytes());
    bytes.extend(extensions);
    bytes.extend(name);
    let size = geometry.cluster_size() as usize;
    if bytes.len() > size || name.len() > 1023 {
        return Err("the name of the backing file is too long".to_owned());
    }
    bytes.resize(size, 0);
    Ok(bytes)
}
