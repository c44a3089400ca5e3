//! The seed of the kernel's random generator, so that a guest has random numbers from its first instruction on, whatever its processor
//! can do, and needs no device for them.
//!
//! Source: Linux/x86 boot protocol, "setup_data"; Linux `arch/x86/include/uapi/asm/setup_data.h`, SETUP_RNG_SEED: kernels
//! from 6.0 credit it and then clear it, older ones pass it over.

use std::io;

use linux_loader::loader::bootparam::SETUP_RNG_SEED;
use vm_memory::{Bytes, GuestAddress};

use super::KernelError;
use crate::layout;
use crate::virtio::GuestMemory;

/// What the generator takes at most: its key (Linux `drivers/char/random.c`, BLAKE2S_HASH_SIZE).
const SEED_SIZE: usize = 32;
/// Address of the next entry, type, length.
const HEADER_SIZE: usize = 16;

/// Writes the one entry of the list that the boot parameters point to.
pub(super) fn write(memory: &GuestMemory) -> Result<(), KernelError> {
    let mut entry = [0; HEADER_SIZE + SEED_SIZE];
    entry[8..12].copy_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    entry[12..HEADER_SIZE].copy_from_slice(&(SEED_SIZE as u32).to_le_bytes());
    fill(&mut entry[HEADER_SIZE..]).map_err(KernelError::Random)?;
    memory
        .write_slice(&entry, GuestAddress(layout::RANDOM_SEED))
        .map_err(KernelError::Write)
}

/// getrandom(2) gives up to 256 bytes in one piece.
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the buffer is as long as it is said to be.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(count) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn every_machine_has_a_seed_of_its_own() {
        let seed = || {
            let memory = memory::create(memory::MIN_MEMORY).unwrap();
            write(&memory).unwrap();
            let mut entry = [0; HEADER_SIZE + SEED_SIZE];
            memory
                .read_slice(&mut entry, GuestAddress(layout::RANDOM_SEED))
                .unwrap();
            assert_eq!(entry[..8], [0; 8], "it is the last entry");
            assert_eq!(entry[8..HEADER_SIZE], [9, 0, 0, 0, 32, 0, 0, 0]);
            entry[HEADER_SIZE..].to_vec()
        };
        let (first, second) = (seed(), seed());
        assert_ne!(first, [0; SEED_SIZE]);
        assert_ne!(first, second);
    }
}
