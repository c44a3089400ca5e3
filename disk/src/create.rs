//! New images.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::staging::Staging;
use crate::vmdk::{self, Subformat};
use crate::{DiskError, Format, SECTOR, qcow2};

/// An image to be made. Sizes of disks are in bytes, multiples of [`SECTOR`] and not 0.
#[derive(Clone, Debug)]
pub enum CreateOptions {
    /// One sector after the other.
    Raw {
        /// Size of the disk.
        size: u64,
        /// How much of its storage is taken right away.
        preallocation: Preallocation,
    },
    /// QEMU's format.
    Qcow2(qcow2::CreateOptions),
    /// VMware's format.
    Vmdk {
        /// Size of the disk.
        size: u64,
        /// How it lies in files.
        subformat: Subformat,
    },
}

/// How much of a raw image's storage is taken right away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// None: the file is one hole.
    #[default]
    Off,
    /// All of it, without writing (fallocate(2)).
    Falloc,
    /// All of it, by writing zeros.
    Full,
}

impl CreateOptions {
    /// The format.
    pub fn format(&self) -> Format {
        match self {
            CreateOptions::Raw { .. } => Format::Raw,
            CreateOptions::Qcow2(_) => Format::Qcow2,
            CreateOptions::Vmdk { .. } => Format::Vmdk,
        }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        match self {
            CreateOptions::Raw { size, .. } | CreateOptions::Vmdk { size, .. } => *size,
            CreateOptions::Qcow2(options) => options.size,
        }
    }
}

/// Makes an image at `path`, which appears when it is complete and durable.
///
/// # Errors
/// When `path` exists, when the format cannot hold such a disk, or when the file cannot be written. Nothing is left then.
pub fn create(path: &Path, options: &CreateOptions) -> Result<(), DiskError> {
    create_with(path, options, || ControlFlow::Continue(()))
}

/// The same, which takes long if all storage is to be written: `go_on` is asked again and again, and may end it.
///
/// # Errors
/// As [`create`]. `go_on` ending it is an error of the kind `Interrupted`.
pub fn create_with(
    path: &Path,
    options: &CreateOptions,
    mut go_on: impl FnMut() -> ControlFlow<()>,
) -> Result<(), DiskError> {
    let staging = Staging::new(path)?;
    create_files(&staging.path(), options, &mut go_on)
        .map_err(|error| staging.name_target(error))?;
    staging.publish()
}

/// Makes the files of an image, which are durable then.
pub(crate) fn create_files(
    path: &Path,
    options: &CreateOptions,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(), DiskError> {
    let size = options.size();
    if size == 0 || !size.is_multiple_of(SECTOR) || i64::try_from(size).is_err() {
        return Err(DiskError::Unsupported {
            path: path.to_owned(),
            format: options.format(),
            reason: format!("a disk cannot have {size} bytes: sectors have {SECTOR}"),
        });
    }
    match options {
        CreateOptions::Raw { preallocation, .. } => create_raw(path, size, *preallocation, go_on)
            .map_err(|source| DiskError::Io {
                what: "create",
                path: path.to_owned(),
                source,
            }),
        CreateOptions::Qcow2(options) => qcow2::create(path, options),
        CreateOptions::Vmdk { subformat, .. } => vmdk::create(path, size, *subformat),
    }
}

fn create_raw(
    path: &Path,
    size: u64,
    preallocation: Preallocation,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    match preallocation {
        Preallocation::Off => {}
        Preallocation::Falloc => {
            let length = i64::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
            fallocate(&file, FallocateFlags::empty(), 0, length)?;
        }
        Preallocation::Full => {
            let zeros = vec![0; 1 << 20];
            let mut done = 0_u64;
            while done < size {
                if go_on().is_break() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let left = size.saturating_sub(done).min(zeros.len() as u64);
                let piece = zeros.get(..left as usize).unwrap_or_default();
                file.write_all_at(piece, done)?;
                done = done.saturating_add(left);
            }
        }
    }
    file.sync_all()
}
