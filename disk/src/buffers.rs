//! Where the bytes of a request come from and go to.

use std::io;
use std::marker::PhantomData;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Stretches of memory that are read or written one after the other. They may be a guest's: it can change them at any
/// time, so nobody makes references to them.
#[derive(Clone, Debug)]
pub struct Buffers<'m> {
    vectors: Vec<libc::iovec>,
    length: u64,
    memory: PhantomData<&'m mut [u8]>,
}

// SAFETY: it is a list of addresses, and the memory stays valid for 'm on every thread. Bytes are only moved by system
// calls and raw copies, which are as good as the guest's own accesses.
unsafe impl Send for Buffers<'_> {}
// SAFETY: as above.
unsafe impl Sync for Buffers<'_> {}

impl<'m> Buffers<'m> {
    /// Memory of this process.
    pub fn of_slice(slice: &'m mut [u8]) -> Buffers<'m> {
        Buffers {
            vectors: vec![libc::iovec {
                iov_base: slice.as_mut_ptr().cast(),
                iov_len: slice.len(),
            }],
            length: slice.len() as u64,
            memory: PhantomData,
        }
    }

    /// Memory of a guest, which must stay mapped for 'm, as [`VolatileSlice`] promises.
    pub fn of_guest<'s, B: BitmapSlice + 's>(
        slices: impl IntoIterator<Item = &'s VolatileSlice<'m, B>>,
    ) -> Buffers<'m>
    where
        'm: 's,
    {
        let vectors: Vec<_> = slices
            .into_iter()
            .filter(|slice| !slice.is_empty())
            .map(|slice| libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            })
            .collect();
        let length = vectors.iter().fold(0_u64, |sum, vector| {
            sum.saturating_add(vector.iov_len as u64)
        });
        Buffers {
            vectors,
            length,
            memory: PhantomData,
        }
    }

    /// Bytes in all of them together.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// For preadv(2) and its kind. None is empty.
    pub fn vectors(&self) -> &[libc::iovec] {
        &self.vectors
    }

    /// The part from `start` that is `length` bytes long, as far as there is one.
    pub fn part(&self, start: u64, length: u64) -> Buffers<'m> {
        let mut skip = start;
        let mut left = length;
        let mut vectors = Vec::new();
        for vector in &self.vectors {
            let size = vector.iov_len as u64;
            if skip >= size {
                skip = skip.saturating_sub(size);
                continue;
            }
            let take = size.saturating_sub(skip).min(left);
            if take == 0 {
                break;
            }
            vectors.push(libc::iovec {
                iov_base: vector
                    .iov_base
                    .cast::<u8>()
                    .wrapping_add(skip as usize)
                    .cast(),
                iov_len: take as usize,
            });
            left = left.saturating_sub(take);
            skip = 0;
        }
        Buffers {
            vectors,
            length: length.saturating_sub(left),
            memory: PhantomData,
        }
    }

    /// All of several, one after the other.
    pub(crate) fn joined<'p>(parts: impl IntoIterator<Item = &'p Buffers<'m>>) -> Buffers<'m>
    where
        'm: 'p,
    {
        let mut joined = Buffers {
            vectors: Vec::new(),
            length: 0,
            memory: PhantomData,
        };
        for part in parts {
            joined.vectors.extend_from_slice(&part.vectors);
            joined.length = joined.length.saturating_add(part.length);
        }
        joined
    }

    /// Fills all of them with zeros.
    pub fn fill_with_zeros(&self) {
        for vector in &self.vectors {
            // SAFETY: the memory is mapped and writable for 'm, and nobody holds a reference to it.
            unsafe { std::ptr::write_bytes(vector.iov_base.cast::<u8>(), 0, vector.iov_len) };
        }
    }

    /// Copies `bytes` into them.
    ///
    /// # Errors
    /// `InvalidInput` if the lengths differ.
    pub fn copy_from(&self, bytes: &[u8]) -> io::Result<()> {
        self.check_length(bytes.len())?;
        let mut rest = bytes;
        for vector in &self.vectors {
            let (now, later) = rest.split_at(vector.iov_len.min(rest.len()));
            // SAFETY: the memory is mapped and writable for 'm and has `iov_len` bytes; nobody holds a reference to it.
            unsafe { std::ptr::copy(now.as_ptr(), vector.iov_base.cast::<u8>(), now.len()) };
            rest = later;
        }
        Ok(())
    }

    /// Copies them to `bytes`.
    ///
    /// # Errors
    /// `InvalidInput` if the lengths differ.
    pub fn copy_to(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.check_length(bytes.len())?;
        let mut rest = bytes;
        for vector in &self.vectors {
            let (now, later) = rest.split_at_mut(vector.iov_len.min(rest.len()));
            // SAFETY: the memory is mapped and readable for 'm and has `iov_len` bytes; nobody holds a reference to it.
            unsafe { std::ptr::copy(vector.iov_base.cast::<u8>(), now.as_mut_ptr(), now.len()) };
            rest = later;
        }
        Ok(())
    }

    /// A copy of them.
    pub fn to_vec(&self) -> Vec<u8> {
        let lengths = self.vectors.iter().map(|vector| vector.iov_len);
        let length = lengths.fold(0, usize::saturating_add);
        let mut bytes = Vec::<u8>::with_capacity(length);
        let mut place = bytes.as_mut_ptr();
        for vector in &self.vectors {
            let from = vector.iov_base.cast::<u8>();
            // SAFETY: as in `copy_to`; all vectors together fit into the capacity, which belongs to nobody else.
            unsafe { std::ptr::copy_nonoverlapping(from, place, vector.iov_len) };
            place = place.wrapping_add(vector.iov_len);
        }
        // SAFETY: the loop has initialised all of them.
        unsafe { bytes.set_len(length) };
        bytes
    }

    fn check_length(&self, length: usize) -> io::Result<()> {
        if length as u64 == self.length {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_what_a_slice_would_be() {
        let mut memory: Vec<u8> = (0..100).collect();
        let region = VolatileSlice::from(memory.as_mut_slice());
        let slices = [
            region.subslice(0, 10).unwrap(),
            region.subslice(10, 0).unwrap(),
            region.subslice(20, 5).unwrap(),
            region.subslice(50, 30).unwrap(),
        ];
        let buffers = Buffers::of_guest(&slices);
        let all: Vec<u8> = (0..10).chain(20..25).chain(50..80).collect();
        for start in 0..50_usize {
            for length in 0..50_usize {
                let part = buffers.part(start as u64, length as u64);
                let expected = all.get(start..).unwrap_or_default();
                let expected = &expected[..expected.len().min(length)];
                let mut bytes = vec![0; part.len() as usize];
                part.copy_to(&mut bytes).unwrap();
                assert_eq!(bytes, expected, "{start} {length}");
                assert_eq!(part.to_vec(), expected, "{start} {length}");
            }
        }
        buffers.part(8, 4).copy_from(&[200, 201, 202, 203]).unwrap();
        buffers.part(12, 2).fill_with_zeros();
        assert!(buffers.copy_from(&[0]).is_err());
        assert_eq!(memory[8..10], [200, 201]);
        assert_eq!(memory[20..25], [202, 203, 0, 0, 24]);
    }
}
