//! Loading a bzImage, whose own decompressor unpacks, relocates and starts the kernel.
//!
//! Source: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), "64-bit boot protocol".

use std::fs::File;

use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::GuestAddress;

use super::{KernelError, LoadedKernel};
use crate::layout;
use crate::memory;
use crate::virtio::GuestMemory;

/// `xloadflags`: the image has a 64-bit entry point 0x200 behind its start.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64_OFFSET: u64 = 0x200;

/// Loads the image at 1 MiB.
pub(super) fn load(memory: &GuestMemory, kernel: &mut File) -> Result<LoadedKernel, KernelError> {
    let start = layout::HIGH_MEMORY;
    let loaded = BzImage::load(memory, Some(GuestAddress(start)), kernel, None).map_err(
        |error| match error {
            linux_loader::loader::Error::Bzimage(
                linux_loader::loader::bzimage::Error::InvalidBzImage
                | linux_loader::loader::bzimage::Error::ReadBzImageHeader,
            ) => KernelError::UnknownFormat,
            linux_loader::loader::Error::Bzimage(
                linux_loader::loader::bzimage::Error::ReadBzImageCompressedKernel,
            ) => KernelError::Truncated("the compressed kernel"),
            linux_loader::loader::Error::Bzimage(
                linux_loader::loader::bzimage::Error::Underflow,
            ) => KernelError::Truncated("the setup code"),
            other => KernelError::BzImage(other),
        },
    )?;
    let header = loaded.setup_header.ok_or(KernelError::UnknownFormat)?;
    // A decompressor that lacks its data does not say so. `syssize` counts 16 bytes.
    let present = loaded.kernel_end.saturating_sub(loaded.kernel_load.0);
    if present < u64::from(header.syssize) * 16 {
        return Err(KernelError::Truncated("the compressed kernel"));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::No64BitEntry);
    }
    // The decompressor moves to pref_address (or beyond, when it randomises) and takes init_size bytes from there.
    let end = loaded.kernel_end.max(
        header
            .pref_address
            .saturating_add(u64::from(header.init_size)),
    );
    memory::slice(memory, start, end.saturating_sub(start)).map_err(KernelError::DoesNotFit)?;
    Ok(LoadedKernel {
        entry: loaded.kernel_load.0 + ENTRY_64_OFFSET,
        end,
        setup_header: Some(header),
    })
}
