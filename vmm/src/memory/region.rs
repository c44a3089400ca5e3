//! One range of guest memory: an anonymous mapping whose place suits huge pages.

use std::io;
use std::ptr::{self, NonNull};

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result;
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize,
    MemoryRegionAddress, VolatileMemoryError, VolatileSlice,
};

/// Size of a page.
const PAGE: usize = 4096;
/// Pages that one mincore(2) is asked for: 64 MiB.
const PAGES_AT_ONCE: usize = 16 << 10;
/// Size of a huge page of x86-64.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// A range of guest memory, committed as it is touched.
///
/// KVM maps a huge page only where guest address and host address agree in their lower 21 bits (Linux
/// `kvm_mmu_max_mapping_level`), which `mmap` does not promise, so the mapping is cut out of a larger one.
#[derive(Debug)]
pub struct MemoryRegion {
    start: GuestAddress,
    address: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping belongs to the region, and all access goes through volatile slices.
unsafe impl Send for MemoryRegion {}
// SAFETY: as for Send; what the guest writes at the same time, volatile access copes with.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Maps `size` bytes, whole pages and not zero, for guest address `start`; huge pages need a multiple of 2 MiB.
    pub(crate) fn new(start: GuestAddress, size: usize) -> io::Result<MemoryRegion> {
        let reserved = size
            .checked_add(HUGE_PAGE)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserved,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = base.cast::<u8>().align_offset(HUGE_PAGE);
        let address = base.cast::<u8>().wrapping_add(before);
        // SAFETY: both ends lie inside the new mapping, which nobody has seen yet.
        unsafe {
            unmap(base.cast(), before);
            unmap(address.wrapping_add(size), HUGE_PAGE - before);
            // Only advice: a host without huge pages gives small ones.
            libc::madvise(address.cast(), size, libc::MADV_HUGEPAGE);
        }
        let address = NonNull::new(address).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(MemoryRegion {
            start,
            address,
            size,
        })
    }
}

impl MemoryRegion {
    /// Bytes of the region that the host's memory holds.
    ///
    /// mincore(2) sees the page tables of the region and of nothing else, whatever the size of the pages; the process's figures
    /// in /proc have its own memory and the page cache's in them, or take as long and are text.
    ///
    /// # Errors
    /// As mincore(2).
    pub(crate) fn resident(&self) -> io::Result<u64> {
        let mut pages = vec![0u8; PAGES_AT_ONCE];
        let mut count = 0u64;
        let mut offset = 0;
        while offset < self.size {
            let length = (self.size - offset).min(PAGES_AT_ONCE * PAGE);
            let part = self.address.as_ptr().wrapping_add(offset);
            // SAFETY: the range lies inside the mapping, and there is a byte for each of its pages.
            let result = unsafe { libc::mincore(part.cast(), length, pages.as_mut_ptr()) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
            let asked = pages.iter().take(length.div_ceil(PAGE));
            count += asked.filter(|page| **page & 1 != 0).count() as u64;
            offset += length;
        }
        Ok(count * PAGE as u64)
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: the mapping is this region's own, and every slice of it borrows the region.
        unsafe { unmap(self.address.as_ptr(), self.size) }
    }
}

/// # Safety
/// Nothing refers to these pages any more.
unsafe fn unmap(address: *mut u8, size: usize) {
    if size > 0 {
        // SAFETY: the caller's promise. It fails only for a range that is no range of pages.
        unsafe { libc::munmap(address.cast(), size) };
    }
}

impl GuestMemoryRegion for MemoryRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.size as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, ()> {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8> {
        let address = self
            .check_address(address)
            .ok_or(GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.address.as_ptr().wrapping_add(address.0 as usize))
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, ()>>> {
        let start = offset.0 as usize;
        let end = start.checked_add(count).filter(|end| *end <= self.size);
        let Some(end) = end else {
            let error = VolatileMemoryError::OutOfBounds {
                addr: start.saturating_add(count),
            };
            return Err(error.into());
        };
        // SAFETY: [start, end) lies inside the mapping, which lives as long as the slice borrows the region.
        Ok(unsafe { VolatileSlice::new(self.address.as_ptr().add(start), end - start) })
    }
}

impl GuestMemoryRegionBytes for MemoryRegion {}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn a_region_suits_huge_pages_and_is_zero() {
        for size in [4096, HUGE_PAGE, HUGE_PAGE + 4096, 8 * HUGE_PAGE] {
            let region = MemoryRegion::new(GuestAddress(0), size).unwrap();
            let first = region.get_host_address(MemoryRegionAddress(0)).unwrap();
            assert_eq!(first.align_offset(HUGE_PAGE), 0);
            let last = MemoryRegionAddress(size as u64 - 1);
            assert_eq!(region.read_obj::<u8>(last).unwrap(), 0);
            region.write_obj(7u8, last).unwrap();
            assert_eq!(region.read_obj::<u8>(last).unwrap(), 7);
        }
    }

    #[test]
    fn memory_that_was_touched_is_resident() {
        let region = MemoryRegion::new(GuestAddress(0), 200 << 20).unwrap();
        assert_eq!(region.resident().unwrap(), 0);
        for touched in [0, 150 << 20] {
            region.write_obj(7u8, MemoryRegionAddress(touched)).unwrap();
        }
        let resident = region.resident().unwrap();
        assert!(resident >= 2 * PAGE as u64);
        assert!(resident <= 2 * HUGE_PAGE as u64);
    }

    #[test]
    fn nothing_beyond_the_end_is_reachable() {
        let region = MemoryRegion::new(GuestAddress(0), 8192).unwrap();
        assert!(region.get_slice(MemoryRegionAddress(8192), 0).is_ok());
        for (offset, count) in [(8192, 1), (8191, 2), (u64::MAX, 1), (1, usize::MAX)] {
            assert!(
                region
                    .get_slice(MemoryRegionAddress(offset), count)
                    .is_err()
            );
        }
        assert!(region.get_host_address(MemoryRegionAddress(8192)).is_err());
        assert!(region.write_obj(1u16, MemoryRegionAddress(8191)).is_err());
    }
}
