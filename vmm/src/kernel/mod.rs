//! Loading a kernel, its initial file system and its command line into guest memory.

pub(crate) mod boot_config;
mod boot_params;
mod bzimage;
mod elf;
mod seed;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress, ReadVolatile};

use crate::layout;
use crate::memory::{self, MemoryError};
use crate::virtio::GuestMemory;

pub(crate) use boot_params::write_boot_params;

/// Why a kernel or its initramfs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Reading failed.
    #[error("cannot read the {file}")]
    Read {
        /// Which file: "kernel" or "initramfs".
        file: &'static str,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Neither of the two formats.
    #[error("the kernel is neither an ELF vmlinux nor a bzImage")]
    UnknownFormat,
    /// ELF for another machine.
    #[error("the kernel is no 64-bit ELF executable for x86_64 ({0})")]
    WrongMachine(&'static str),
    /// The file ends before what its headers promise.
    #[error("the kernel is cut short: {0} lies beyond its end")]
    Truncated(&'static str),
    /// The ELF file has nothing to load.
    #[error("the kernel has no segment to load")]
    NoSegments,
    /// A segment does not fit.
    #[error("the kernel does not fit into the guest's memory")]
    DoesNotFit(#[source] MemoryError),
    /// A segment would overwrite what stands below 1 MiB.
    #[error("the kernel wants to be loaded at {0:#x}, below 1 MiB")]
    TooLow(u64),
    /// The bzImage lacks the 64-bit entry point.
    #[error("the bzImage has no 64-bit entry point (boot protocol 2.12 or later is needed)")]
    No64BitEntry,
    /// linux-loader refused the bzImage.
    #[error("the bzImage cannot be loaded")]
    BzImage(#[source] linux_loader::loader::Error),
    /// The initramfs is no archive.
    #[error("the initramfs is empty")]
    EmptyInitramfs,
    /// No room for the initramfs.
    #[error("an initramfs of {size} bytes does not fit into the guest's memory beside the kernel")]
    InitramfsTooLarge {
        /// Its length.
        size: u64,
    },
    /// The command line is longer than Linux takes.
    #[error("the kernel command line has {length} bytes, at most {maximum} fit")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        maximum: usize,
    },
    /// NUL in the command line.
    #[error("the kernel command line contains a NUL byte")]
    CommandLineNul,
    /// Writing a boot structure failed.
    #[error("cannot write the boot parameters")]
    Write(#[source] vm_memory::GuestMemoryError),
    /// The host gives no random bytes.
    #[error("cannot seed the kernel's random generator")]
    Random(#[source] io::Error),
}

/// A kernel in guest memory.
pub(crate) struct LoadedKernel {
    /// Where the boot processor starts, in 64-bit mode.
    pub(crate) entry: u64,
    /// First byte behind the kernel and the memory that it takes before it knows the memory map.
    pub(crate) end: u64,
    /// Setup header of a bzImage, to be handed back in the boot parameters.
    pub(crate) setup_header: Option<setup_header>,
}

/// Loads an ELF `vmlinux` or a bzImage.
pub(crate) fn load(memory: &GuestMemory, mut kernel: File) -> Result<LoadedKernel, KernelError> {
    let mut magic = [0; 4];
    kernel
        .read_exact_at(&mut magic, 0)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => KernelError::UnknownFormat,
            _ => KernelError::Read {
                file: "kernel",
                error,
            },
        })?;
    if magic == elf::MAGIC {
        elf::load(memory, &kernel)
    } else {
        bzimage::load(memory, &mut kernel)
    }
}

/// An initramfs in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadedInitramfs {
    pub(crate) address: u64,
    pub(crate) size: u64,
}

/// Copies the initramfs, and what `trailer` makes for its length, to the end of the memory below the hole, where the kernel frees it after
/// unpacking.
pub(crate) fn load_initramfs(
    memory: &GuestMemory,
    mut file: File,
    trailer: impl FnOnce(u64) -> Vec<u8>,
    kernel_end: u64,
    low_memory_end: u64,
) -> Result<LoadedInitramfs, KernelError> {
    let read = |error| KernelError::Read {
        file: "initramfs",
        error,
    };
    let length = file.metadata().map_err(read)?.len();
    if length == 0 {
        return Err(KernelError::EmptyInitramfs);
    }
    let trailer = trailer(length);
    let size = length.saturating_add(trailer.len() as u64);
    let address = low_memory_end
        .checked_sub(size)
        .map(|address| address & !0xfff)
        .filter(|address| *address >= kernel_end)
        .ok_or(KernelError::InitramfsTooLarge { size: length })?;
    let mut slice = memory::slice(memory, address, length).map_err(KernelError::DoesNotFit)?;
    file.read_exact_volatile(&mut slice)
        .map_err(|error| read(io::Error::other(error)))?;
    memory
        .write_slice(&trailer, GuestAddress(address.saturating_add(length)))
        .map_err(KernelError::Write)?;
    Ok(LoadedInitramfs { address, size })
}

/// Writes the command line where the boot parameters point.
pub(crate) fn write_command_line(memory: &GuestMemory, line: &str) -> Result<(), KernelError> {
    let maximum = layout::COMMAND_LINE_SIZE - 1;
    if line.len() > maximum {
        return Err(KernelError::CommandLineTooLong {
            length: line.len(),
            maximum,
        });
    }
    if line.contains('\0') {
        return Err(KernelError::CommandLineNul);
    }
    let bytes: Vec<u8> = line.bytes().chain([0]).collect();
    memory
        .write_slice(&bytes, GuestAddress(layout::COMMAND_LINE))
        .map_err(KernelError::Write)
}
