//! The guest's memory: regions around the hole for devices, committed as the guest touches them.

mod region;

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemory as _, GuestMemoryRegion, GuestRegionCollection,
    GuestRegionCollectionError, MemoryRegionAddress, VolatileSlice,
};

use crate::layout;
pub use region::MemoryRegion;

/// All memory of a guest.
pub type GuestMemory = GuestRegionCollection<MemoryRegion>;

/// Smallest memory of a machine in bytes.
pub const MIN_MEMORY: u64 = 64 << 20;
/// Largest memory of a machine in bytes.
pub const MAX_MEMORY: u64 = 64 << 30;

const PAGE: u64 = 4096;

/// What can go wrong with the guest's memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is out of range or no multiple of the page size.
    #[error("a machine cannot have {0} bytes of memory: give 64 MiB to 64 GiB in whole pages")]
    Size(u64),
    /// The host gives no address space.
    #[error("cannot map {0} bytes of guest memory")]
    Map(u64, #[source] io::Error),
    /// The regions do not stand side by side.
    #[error("the guest's memory has no order")]
    Arrange(#[source] GuestRegionCollectionError),
    /// KVM refuses the memory.
    #[error("cannot give the memory at {0:#x} to KVM")]
    Register(u64, #[source] kvm_ioctls::Error),
    /// The range is not all memory.
    #[error("{size} bytes at {address:#x} are outside the guest's memory")]
    OutOfRange {
        /// Guest physical address.
        address: u64,
        /// Length in bytes.
        size: u64,
    },
}

/// Guest physical ranges of `size` bytes of memory, around the hole for devices.
pub(crate) fn ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(layout::HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(layout::HOLE_END), size - low));
    }
    ranges
}

/// Maps `size` bytes of guest memory; nothing is committed before the guest touches it.
pub(crate) fn create(size: u64) -> Result<GuestMemory, MemoryError> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) || !size.is_multiple_of(PAGE) {
        return Err(MemoryError::Size(size));
    }
    map(&ranges(size))
}

/// Maps ranges of memory, each a guest address and a size in bytes.
pub(crate) fn map(ranges: &[(GuestAddress, u64)]) -> Result<GuestMemory, MemoryError> {
    let regions = ranges
        .iter()
        .map(|(start, size)| {
            MemoryRegion::new(*start, *size as usize)
                .map_err(|error| MemoryError::Map(*size, error))
        })
        .collect::<Result<Vec<_>, _>>()?;
    GuestMemory::from_regions(regions).map_err(MemoryError::Arrange)
}

/// Makes the memory the machine's.
pub(crate) fn register(vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let start = region.start_addr().raw_value();
        let address = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|_| MemoryError::OutOfRange {
                address: start,
                size: region.len(),
            })?;
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: address as u64,
        };
        // SAFETY: the mapping belongs to `memory`, which the machine keeps for longer than its processors, and nobody else reaches it through the VM.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(|error| MemoryError::Register(start, error))?;
    }
    Ok(())
}

/// `size` bytes of guest memory at `address`, in one piece.
pub(crate) fn slice(
    memory: &GuestMemory,
    address: u64,
    size: u64,
) -> Result<VolatileSlice<'_>, MemoryError> {
    let out_of_range = || MemoryError::OutOfRange { address, size };
    let start = GuestAddress(address);
    let region = memory.find_region(start).ok_or_else(out_of_range)?;
    let offset = MemoryRegionAddress(start.unchecked_offset_from(region.start_addr()));
    region
        .get_slice(offset, size as usize)
        .map_err(|_| out_of_range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lies_around_the_hole() {
        assert_eq!(ranges(1 << 30), [(GuestAddress(0), 1 << 30)]);
        assert_eq!(
            ranges(4 << 30),
            [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 30)]
        );
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for size in [0, MIN_MEMORY - PAGE, MIN_MEMORY + 1, MAX_MEMORY + PAGE] {
            assert!(matches!(create(size), Err(MemoryError::Size(_))), "{size}");
        }
    }

    #[test]
    fn a_slice_beyond_memory_is_an_error() {
        let memory = create(MIN_MEMORY).unwrap();
        assert!(slice(&memory, MIN_MEMORY - 10, 11).is_err());
        assert!(slice(&memory, layout::HOLE_START, 1).is_err());
        assert!(slice(&memory, u64::MAX, 1).is_err());
    }
}
